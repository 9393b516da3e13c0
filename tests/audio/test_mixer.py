"""Both voices on one timeline: nothing lost, nothing late, nothing in the call's way."""

from __future__ import annotations

import logging
import os
import random
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_runtime.audio.frames import FRAME_BYTES, SILENCE_FRAME
from voice_runtime.audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.mixer import AudioMixer, mix_frames
from voice_runtime.audio.wav import HEADER_BYTES, read_ulaw
from voice_runtime.clock import ClockThread, SystemClock
from voice_runtime.testing.clock import VirtualClock

SECOND = 8000


@pytest.fixture(autouse=True)
def no_monitor_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOICE_MONITOR", raising=False)


def voice(seed: int, seconds: float) -> bytes:
    """μ-law in which every place can be told from every other; never the negative zero, which mixing rewrites."""
    return random.Random(seed).randbytes(round(seconds * SECOND)).replace(b"\x7f", b"\xff")


def channels(path: Path) -> tuple[bytes, bytes]:
    """The two channels of a stereo recording: left, right."""
    content = path.read_bytes()
    assert struct.unpack_from("<HHI", content, 20) == (7, 2, 8000)
    size = struct.unpack_from("<I", content, HEADER_BYTES - 4)[0]
    assert size == len(content) - HEADER_BYTES
    return content[HEADER_BYTES::2], content[HEADER_BYTES + 1 :: 2]


def laid(length: int, *pieces: tuple[float, bytes]) -> bytes:
    """Silence with audio at given places (ms)."""
    track = bytearray(b"\xff" * length)
    for at_ms, audio in pieces:
        track[round(at_ms * 8) : round(at_ms * 8) + len(audio)] = audio
    return bytes(track)


def frames(audio: bytes, size: int = FRAME_BYTES) -> list[bytes]:
    return [audio[at : at + size] for at in range(0, len(audio), size)]


# -- mixing -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_mixing_is_the_clipped_sum(caller: bytes, agent: bytes) -> None:
    """Each sample is the sum of both, clipped; the shorter one goes on as silence; the order does not matter."""
    mixed = mix_frames(caller, agent)
    assert len(mixed) == max(len(caller), len(agent))
    if not caller or not agent:
        assert mixed == caller + agent
        return
    length = len(mixed)
    left = struct.unpack(f"={length}h", ulaw_to_pcm16(caller.ljust(length, b"\xff")))
    right = struct.unpack(f"={length}h", ulaw_to_pcm16(agent.ljust(length, b"\xff")))
    summed = [max(-32768, min(32767, a + b)) for a, b in zip(left, right, strict=True)]
    assert mixed == pcm16_to_ulaw(struct.pack(f"={length}h", *summed))
    assert mixed == mix_frames(agent, caller)


def test_silence_adds_nothing() -> None:
    """Mixing with silence gives the same bytes back, frame by frame."""
    frame = voice(1, 0.02)
    assert mix_frames(frame, SILENCE_FRAME) == mix_frames(SILENCE_FRAME, frame) == frame
    assert mix_frames(b"", b"") == b""


# -- the timeline -----------------------------------------------------------------------------------------------


def test_a_minute_with_interruptions(tmp_path: Path) -> None:
    """Every word stands where it was heard: known late, in bits, cut by the caller, spoken over or in one burst."""
    caller = voice(1, 60)
    greeting, cut_off, long_text, farewell = voice(2, 20), voice(3, 3.113), voice(4, 18.5), voice(5, 2)
    said = [(1_000.0, greeting), (25_000.0, cut_off), (30_500.0, long_text), (57_000.0, farewell)]
    due: list[tuple[float, float, bytes]] = []  # when it is known, where it was heard, what
    for at_ms, audio in said:
        for n, piece in enumerate(frames(audio, 2400)):
            heard = at_ms + 300 * n
            due.append((heard + len(piece) / 8 + 180, heard, piece))  # its mark comes back 180 ms after its end
    due.sort()
    path = tmp_path / "call.wav"
    with VirtualClock() as clock:
        mixer = AudioMixer(path, stereo=True, clock=clock)
        mixer.start()
        for n, frame in enumerate(frames(caller)):
            while due and due[0][0] <= n * 20:
                _, heard, piece = due.pop(0)
                mixer.write_agent(piece, at_ms=heard)
            mixer.write_caller(frame)
            clock.sleep(0.02)
        for _, heard, piece in due:
            mixer.write_agent(piece, at_ms=heard)
        mixer.shutdown()
    left, right = channels(path)
    assert left == caller
    assert right == laid(len(caller), *said)
    assert mixer.recorded_ms == 60_000
    assert not mixer.truncated


@pytest.mark.parametrize("shift_ms", [-15_000, -400, 0, 700, 9_000])
def test_mono_is_the_mix_of_both_channels(shift_ms: int, tmp_path: Path) -> None:
    """One channel holds exactly what two would, mixed; whichever voice is known earlier, by seconds."""
    caller, agent = voice(1, 20), voice(2, 8)
    path = tmp_path / "call.wav"
    pieces = [(20 * n, 0, frame) for n, frame in enumerate(frames(caller))]
    pieces += [(5_000 + 100 * n + shift_ms, 1, piece) for n, piece in enumerate(frames(agent, 800))]
    pieces.sort(key=lambda piece: piece[0])
    with VirtualClock() as clock:
        mixer = AudioMixer(path, clock=clock)
        mixer.start()
        agent_at = 5_000.0
        for when, track, piece in pieces:
            clock.sleep(max(0.0, when / 1000 - clock.monotonic()))
            if track == 0:
                mixer.write_caller(piece)
            else:
                mixer.write_agent(piece, at_ms=agent_at)
                agent_at += 100
        mixer.shutdown()
    assert read_ulaw(path) == mix_frames(caller, laid(len(caller), (5_000, agent)))


@pytest.mark.parametrize("stereo", [False, True])
def test_a_burst_is_recorded_whole(stereo: bool, tmp_path: Path) -> None:
    """20 s of speech handed over in 2 s are 20 s in the recording, without a gap."""
    caller, agent = voice(1, 25), voice(2, 20)
    path = tmp_path / "call.wav"
    with VirtualClock() as clock:
        mixer = AudioMixer(path, stereo=stereo, clock=clock)
        mixer.start()
        chunks = frames(agent, 1600)
        for n, frame in enumerate(frames(caller)):
            mixer.write_caller(frame)
            if n >= 49 and chunks:
                mixer.write_agent(chunks.pop(0))
            clock.sleep(0.02)
        mixer.shutdown()
    expected = laid(len(caller), (1_000, agent))
    if stereo:
        assert channels(path) == (caller, expected)
    else:
        assert read_ulaw(path) == mix_frames(caller, expected)


def test_eleven_minutes_of_speech_at_once(tmp_path: Path) -> None:
    """Audio of any size in one call is recorded whole, more than ten minutes too."""
    agent = voice(2, 660)
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        mixer.write_caller(SILENCE_FRAME)
        mixer.write_agent(agent)
    left, right = channels(path)
    assert right == b"\xff" * FRAME_BYTES + agent
    assert left == b"\xff" * len(right)
    assert not mixer.truncated


def test_no_caller_for_a_while_loses_nothing_of_the_agent(tmp_path: Path) -> None:
    """When the caller's audio stops, the agent's goes on; when it comes back later, it stands where it belongs."""
    before, after, agent = voice(1, 2), voice(2, 1), voice(3, 12)
    path = tmp_path / "call.wav"
    with VirtualClock() as clock:
        mixer = AudioMixer(path, stereo=True, clock=clock)
        mixer.start()
        for frame in frames(before):
            mixer.write_caller(frame)
        for piece in frames(agent, 1600):
            mixer.write_agent(piece)
            clock.sleep(0.2)
        mixer.write_caller(after, at_ms=14_000)
        mixer.shutdown()
    left, right = channels(path)
    assert left == laid(15 * SECOND, (0, before), (14_000, after))
    assert right == laid(15 * SECOND, (2_000, agent))


def test_joining_a_call_late(tmp_path: Path) -> None:
    """When the caller's frames tell their place, the recording begins with the first of them, the agent beside it."""
    path = tmp_path / "call.wav"
    caller, agent, earlier = voice(1, 4), voice(2, 1), voice(3, 0.5)
    with AudioMixer(path, stereo=True) as mixer:
        for n, frame in enumerate(frames(caller)):
            mixer.write_caller(frame, at_ms=3_600_000 + 20 * n)
            if n == 100:
                mixer.write_agent(earlier, at_ms=3_599_990)
                mixer.write_agent(agent, at_ms=3_601_500)
    left, right = channels(path)
    assert left == caller
    assert right == laid(4 * SECOND, (0, earlier), (1_500, agent))


def test_positions_never_go_backwards(tmp_path: Path) -> None:
    """Audio that claims a place already taken follows on; no byte of it is lost."""
    one, two, three = voice(1, 1), voice(2, 1), voice(3, 1)
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        mixer.write_agent(one, at_ms=500)
        mixer.write_agent(two, at_ms=900)
        mixer.write_agent(three, at_ms=-100)
        mixer.write_caller(one, at_ms=0)
        mixer.write_caller(two, at_ms=500)
    left, right = channels(path)
    assert right == laid(round(3.5 * SECOND), (500, one + two + three))
    assert left == laid(round(3.5 * SECOND), (0, one + two))


def test_uneven_positions_leave_no_gap_and_no_drift(tmp_path: Path) -> None:
    """Positions off by up to a frame join without a hole, and after a minute the place is still right to a frame."""
    rng = random.Random(7)
    agent = voice(2, 60)
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        for n, piece in enumerate(frames(agent, 1600)):
            mixer.write_agent(piece, at_ms=200 * n + rng.uniform(-9.9, 9.9))
    _, right = channels(path)
    assert right.strip(b"\xff") == agent.strip(b"\xff")
    assert abs(len(right) - len(agent)) <= FRAME_BYTES


def test_real_pauses_are_kept(tmp_path: Path) -> None:
    """A pause between two sentences is as long as it was, when positions are given and when they are not."""
    path = tmp_path / "call.wav"
    one, two, three = voice(1, 1), voice(2, 1), voice(3, 1)
    with AudioMixer(path, stereo=True) as mixer:
        mixer.write_agent(one, at_ms=0)
        mixer.write_agent(two, at_ms=1_060)
        mixer.write_caller(bytes(round(2.5 * SECOND)))
        mixer.write_agent(three)
    _, right = channels(path)
    assert right == laid(round(3.5 * SECOND), (0, one), (1_060, two), (2_500, three))


def test_frame_by_frame_without_positions(tmp_path: Path) -> None:
    """Two voices written in turn, frame by frame with jitter, stay aligned and whole for a minute."""
    rng = random.Random(3)
    caller, agent = frames(voice(1, 60)), frames(voice(2, 60))
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        written = 0
        for n, frame in enumerate(caller):
            mixer.write_caller(frame)
            while written < min(n + 1, len(agent)) and rng.random() < 0.8:
                mixer.write_agent(agent[written])
                written += 1
        for frame in agent[written:]:
            mixer.write_agent(frame)
    left, right = channels(path)
    assert left[: 60 * SECOND] == b"".join(caller)
    assert right.strip(b"\xff") == b"".join(agent).strip(b"\xff")
    assert len(right) - 60 * SECOND <= 6 * FRAME_BYTES


def test_a_mistaken_position_does_not_fill_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A time of day, infinity or NaN for a position is one warning, and the audio follows on."""
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        for at_ms in (1_790_000_000_000.0, float("inf"), float("nan")):
            mixer.write_agent(b"\x10" * 80, at_ms=at_ms)
    assert channels(path)[1] == b"\x10" * 240
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "at_ms counts milliseconds on the time line of the caller's frames" in caplog.text


def test_a_reused_buffer_is_copied(tmp_path: Path) -> None:
    """What the writer of a buffer does to it afterwards is not recorded."""
    path = tmp_path / "call.wav"
    buffer = bytearray(b"\x10" * 160)
    with AudioMixer(path) as mixer:
        mixer.write_caller(buffer)  # type: ignore[arg-type]
        mixer.write_caller(memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = b"\x20" * 160
    assert read_ulaw(path) == b"\x10" * 320


def test_speech_is_recorded_as_it_was_said(tmp_path: Path, prompt: Callable[[str], bytes]) -> None:
    """Two human voices keep their bytes in a stereo recording."""
    caller, agent = pcm16_to_ulaw(prompt("vm-goodbye")), pcm16_to_ulaw(prompt("cannot-complete-as-dialed"))
    path = tmp_path / "call.wav"
    with AudioMixer(path, stereo=True) as mixer:
        for frame in frames(caller):
            mixer.write_caller(frame)
        mixer.write_agent(agent, at_ms=0)
    left, right = channels(path)
    assert left[: len(caller)] == caller
    assert right[: len(agent)] == agent


# -- life -------------------------------------------------------------------------------------------------------


def test_the_documented_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """With a path, it records: no ffplay, no sound card, no warning; missing folders are made; mode 0600."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "recordings" / "call_001.wav"
    mixer = AudioMixer(record_path=path)
    mixer.start()
    mixer.start()
    for frame in frames(voice(1, 5)):
        mixer.write_caller(frame)
    mixer.shutdown()
    mixer.shutdown()
    assert read_ulaw(path) == voice(1, 5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not caplog.records
    assert (mixer.error, mixer.truncated, mixer.dropped_ms, mixer.monitoring) == (None, False, 0.0, False)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """After shutdown there is no thread and no open file, and what is written late is ignored."""
    path = tmp_path / "call.wav"
    mixer = AudioMixer(path)
    mixer.write_caller(SILENCE_FRAME)
    mixer.shutdown()
    before = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    mixer.start()
    mixer.write_caller(SILENCE_FRAME)
    mixer.shutdown()
    mixer.write_caller(SILENCE_FRAME)
    mixer.write_agent(SILENCE_FRAME)
    after = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
    assert mixer.recorded_ms == 20
    assert read_ulaw(path) == SILENCE_FRAME


def test_a_recording_is_not_replaced_by_its_own_mixer(tmp_path: Path) -> None:
    """Starting again after shutdown is an error that says what to do; the recording stays."""
    path = tmp_path / "call.wav"
    mixer = AudioMixer(path)
    with mixer:
        mixer.write_caller(b"\x10" * 160)
    with pytest.raises(RuntimeError, match="new AudioMixer for each call"):
        mixer.start()
    assert read_ulaw(path) == b"\x10" * 160


def test_a_place_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    """``start`` raises the operating system's error; after it is put right, the same mixer starts."""
    path = tmp_path / "call.wav"
    path.mkdir()
    mixer = AudioMixer(path)
    with pytest.raises(IsADirectoryError):
        mixer.start()
    path.rmdir()
    with mixer:
        mixer.write_caller(SILENCE_FRAME)
    assert read_ulaw(path) == SILENCE_FRAME


def test_an_idle_mixer_sleeps(tmp_path: Path) -> None:
    """In an hour without audio its thread does not wake up at all; with audio, four times a second."""
    with VirtualClock() as clock:
        mixer = AudioMixer(tmp_path / "call.wav", clock=clock)
        mixer.start()
        clock.sleep(3600)
        idle = clock.jumps
        for _ in range(500):
            mixer.write_caller(SILENCE_FRAME)
            clock.sleep(0.02)
        woken = clock.jumps - idle - 500
        mixer.shutdown()
    assert idle == 1
    assert woken <= 41


def test_what_was_said_is_in_the_file_soon(tmp_path: Path) -> None:
    """A third of a second after it was written, audio can be read by anybody, however little it is."""
    path = tmp_path / "call.wav"
    with VirtualClock() as clock:
        mixer = AudioMixer(path, clock=clock)
        mixer.start()
        for n in range(1, 20):
            mixer.write_caller(SILENCE_FRAME)
            clock.sleep(0.33)
            assert read_ulaw(path) == SILENCE_FRAME * n
        mixer.shutdown()


def test_memory_does_not_grow_with_the_call(tmp_path: Path) -> None:
    """Ten minutes with speech far ahead of its time needs no more memory than a few seconds."""
    frame, minute = voice(1, 0.02), voice(2, 60)
    with VirtualClock() as clock:
        mixer = AudioMixer(tmp_path / "call.wav", clock=clock)
        mixer.start()
        tracemalloc.start()
        try:
            for n in range(50 * 60 * 10):
                mixer.write_caller(frame)
                if n % 3000 == 0:
                    mixer.write_agent(minute)
                if n % 10 == 0:
                    clock.sleep(0.2)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            mixer.shutdown()
    assert mixer.recorded_ms == 10 * 60_000 + 20
    assert peak < 3_000_000


class StuckClock(SystemClock):
    """A clock whose threads get no further than a disk that hangs, until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def start_thread(self, target: Callable[[], Any], name: str) -> ClockThread:
        def run() -> None:
            self.released.wait(60)
            target()

        return super().start_thread(run, name)


def test_a_disk_that_hangs_costs_a_bounded_hole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writing never waits; what no longer fits in memory becomes silence of the same length, counted and reported."""
    path = tmp_path / "call.wav"
    clock = StuckClock()
    mixer = AudioMixer(path, stereo=True, clock=clock)
    mixer.start()
    part = voice(1, 65.536)  # 512 KiB
    began = time.monotonic()
    for _ in range(20):
        mixer.write_agent(part)
    assert time.monotonic() - began < 5
    assert mixer.dropped_ms == 4 * 65_536
    mixer.shutdown(timeout=0.05)
    assert "could not be completed within" in caplog.text
    clock.released.set()
    mixer.shutdown()
    assert channels(path)[1] == part * 16
    assert mixer.truncated
    assert mixer.recorded_ms == 20 * 65_536
    assert "lacks 262.1 s because the disk hung" in caplog.text


def test_after_a_hole_everything_stands_where_it_belongs(tmp_path: Path) -> None:
    """What comes after the disk has recovered is not moved forward into the hole."""
    path = tmp_path / "call.wav"
    clock = StuckClock()
    mixer = AudioMixer(path, stereo=True, clock=clock)
    mixer.start()
    part, last = voice(1, 524.288), voice(2, 1)  # 4 MiB
    for _ in range(3):
        mixer.write_agent(part)
    clock.released.set()
    deadline = time.monotonic() + 30
    while mixer._pending and time.monotonic() < deadline:
        time.sleep(0.01)
    mixer.write_agent(last)
    mixer.shutdown()
    assert channels(path)[1] == part * 2 + b"\xff" * len(part) + last


FULL = """
import logging, resource, sys
from voice_runtime.audio.mixer import AudioMixer
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
mixer = AudioMixer(sys.argv[1], stereo=True)
mixer.start()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for n in range(2000):
    mixer.write_caller(bytes([n % 200]) * 160)
    mixer.write_agent(bytes([n % 100]) * 160, at_ms=20 * n)
mixer.shutdown()
assert mixer.truncated and isinstance(mixer.error, OSError), mixer.error
assert mixer.recorded_ms == 40_000
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path: Path) -> None:
    """Writing goes on as if nothing was; one warning; the reason is kept; the file is valid up to there."""
    path = tmp_path / "call.wav"
    ran = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("WARNING") == 1
    assert "ends after 3.1 s, the call goes on: [Errno 27] File too large" in ran.stdout
    assert len(read_ulaw(path)) == (50_000 - HEADER_BYTES) // 2


KILLED = """
import sys, time
from voice_runtime.audio.mixer import AudioMixer
mixer = AudioMixer(sys.argv[1], stereo=True)
mixer.start()
began = time.monotonic()
for n in range(500):
    mixer.write_caller(bytes([n % 200]) * 160)
    mixer.write_agent(bytes([n % 200]) * 160, at_ms=20 * n)
    print(n + 1, flush=True)
    time.sleep(max(0.0, began + 0.02 * (n + 1) - time.monotonic()))
"""


def test_kill_9_loses_less_than_a_second(tmp_path: Path) -> None:
    """A process killed in the middle of a call leaves a recording that opens and lacks under a second."""
    path = tmp_path / "call.wav"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 80:
                process.kill()
                break
    size = struct.unpack_from("<I", path.read_bytes(), HEADER_BYTES - 4)[0]
    assert 80 * 320 - 16000 <= size <= path.stat().st_size - HEADER_BYTES
    assert len(read_ulaw(path)) == size // 2
    content = path.read_bytes()[HEADER_BYTES : HEADER_BYTES + size]
    assert all(content[n] == n // 320 % 200 for n in range(0, size, 160))


# -- listening --------------------------------------------------------------------------------------------------

PLAYER = """#!{python} -u
import os, sys, time
mode = {mode!r}
if mode == "dies":
    sys.exit(1)
while mode == "hesitates" and not os.path.exists({heard!r} + ".go"):
    time.sleep(0.01)
open({heard!r} + ".args", "w").write(" ".join(sys.argv[1:]))
with open({heard!r}, "wb", buffering=0) as out:
    if mode == "blocks":
        time.sleep(3600)
    while chunk := os.read(0, 4096):
        out.write(chunk)
"""

needs_pipes = pytest.mark.skipif(os.name != "posix", reason="the player here is a script with a #! line")


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program named ffplay first on the PATH.

    It plays into a file, or dies at once, or never reads, or begins to read when the file ``heard.go`` appears.
    """

    def install(mode: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        heard = tmp_path / "heard"
        script = folder / "ffplay"
        script.write_text(PLAYER.format(python=sys.executable, mode=mode, heard=str(heard)))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])
        return heard

    return install


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.005)


def heard_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


@needs_pipes
def test_the_listener_hears_both_voices(player: Callable[[str], Path], tmp_path: Path) -> None:
    """Frame by frame as it comes, mixed; agent audio ahead of its time waits for it, late audio is not lost."""
    heard = player("plays")
    caller, early, late = voice(1, 0.4), voice(2, 0.1), voice(3, 0.1)
    mixer = AudioMixer(monitor=True)
    mixer.start()
    assert mixer.monitoring
    mixer.write_agent(early, at_ms=50)
    for n, frame in enumerate(frames(caller)):
        if n == 15:
            mixer.write_agent(late, at_ms=150)
        mixer.write_caller(frame)
    wait_until(lambda: heard_bytes(heard) == len(caller))
    mixer.shutdown()
    assert heard.read_bytes() == mix_frames(caller, laid(len(caller), (50, early), (300, late)))
    arguments = heard.with_name("heard.args").read_text()
    assert "-f mulaw -sample_rate 8000" in arguments
    assert arguments.endswith("-i -")


@needs_pipes
def test_a_player_that_lags_skips_to_the_present(player: Callable[[str], Path], tmp_path: Path) -> None:
    """After a minute in which it did not read, the listener hears what is said now, not the minute."""
    heard = player("hesitates")
    caller, now = voice(1, 60), voice(2, 0.4)
    with VirtualClock() as clock:
        mixer = AudioMixer(monitor=True, clock=clock)
        mixer.start()
        for frame in frames(caller):
            mixer.write_caller(frame)
            clock.sleep(0.02)
        heard.with_name("heard.go").touch()
        wait_until(lambda: heard_bytes(heard) > 0)
        mixer.write_caller(now)
        clock.sleep(1)
        wait_until(lambda: heard.read_bytes().endswith(now))
        mixer.shutdown()
    skipped = heard.read_bytes().removesuffix(now)
    assert skipped.endswith(caller[-800:])
    assert len(skipped) < 10 * SECOND


@needs_pipes
@pytest.mark.parametrize("mode", ["dies", "blocks"])
def test_a_player_that_fails_disturbs_nothing(
    mode: str, player: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead or deaf, it neither delays the call nor leaves a hole in the recording, and it is gone afterwards."""
    player(mode)
    path = tmp_path / "call.wav"
    caller, agent = voice(1, 60), voice(2, 30)
    mixer = AudioMixer(path, stereo=True, monitor=True)
    mixer.start()
    process = mixer._monitor._process  # type: ignore[union-attr]
    if mode == "dies":
        process.wait(20)
    began = time.monotonic()
    mixer.write_agent(agent)
    for frame in frames(caller):
        mixer.write_caller(frame)
    assert time.monotonic() - began < 2
    mixer.shutdown()
    assert channels(path) == (caller, agent.ljust(len(caller), b"\xff"))
    assert process.returncode is not None
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == (["Nobody can listen to the call any more: ffplay has ended"] if mode == "dies" else [])


@needs_pipes
@pytest.mark.parametrize(
    ("monitor", "setting", "records", "plays"),
    [
        (None, None, True, False),
        (None, None, False, True),
        (None, "1", True, True),
        (None, "ON", True, True),
        (None, "true", True, True),
        (None, "0", False, False),
        (None, "off", True, False),
        (True, "off", True, True),
        (False, "1", True, False),
        (False, None, False, False),
    ],
)
def test_who_may_listen(
    monitor: bool | None,
    setting: str | None,
    records: bool,
    plays: bool,
    player: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The argument decides, then VOICE_MONITOR as it is at ``start``, then whether there is anything else to do."""
    player("plays")
    mixer = AudioMixer(tmp_path / "call.wav" if records else None, monitor=monitor)
    if setting is not None:
        monkeypatch.setenv("VOICE_MONITOR", setting)
    with mixer:
        assert mixer.monitoring is plays
        mixer.write_caller(SILENCE_FRAME)
    assert not mixer.monitoring
    assert mixer.recorded_ms == 20


def test_without_ffplay_there_is_one_warning_and_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A monitor that was asked for and cannot be is said once; the recording goes on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "call.wav"
    with AudioMixer(path, monitor=True) as mixer:
        assert not mixer.monitoring
        for frame in frames(voice(1, 1)):
            mixer.write_caller(frame)
    assert read_ulaw(path) == voice(1, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "Nobody can listen to the call: ffplay was not found. It is part of FFmpeg."
    ]


def test_a_mixer_with_nothing_to_do_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither recording nor listening: no thread, and writing is accepted and forgotten."""
    before = threading.active_count()
    with AudioMixer(monitor=False) as mixer:
        mixer.write_caller(SILENCE_FRAME)
        assert threading.active_count() == before
        assert not mixer._pending
