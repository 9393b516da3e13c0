"""WAV files read for the line, and recordings that survive what happens to files."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_runtime.audio.frames import SILENCE_FRAME
from voice_runtime.audio.g711 import alaw_to_ulaw, pcm16_to_alaw, pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.levels import rms_dbfs
from voice_runtime.audio.wav import HEADER_BYTES, AudioFormatError, UlawWavWriter, read_ulaw, ulaw_wav_header
from voice_runtime.exceptions import VoiceRuntimeError

SPEECHLIKE = bytes((n * 37) % 256 for n in range(4000)).replace(b"\x7f", b"\xff")


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def fmt(tag: int, channels: int = 1, rate: int = 8000, bits: int = 8, more: bytes = b"") -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits) + more)


def little(pcm16: bytes) -> bytes:
    values = struct.unpack(f"={len(pcm16) // 2}h", pcm16)
    return struct.pack(f"<{len(values)}h", *values)


def declared(path: Path) -> tuple[int, int, int]:
    """What another reader believes: the sizes in the RIFF, ``fact`` and ``data`` chunks."""
    header = path.read_bytes()[:HEADER_BYTES]
    riff_size = struct.unpack_from("<I", header, 4)[0]
    fact = struct.unpack_from("<I", header, header.index(b"fact") + 8)[0]
    data = struct.unpack_from("<I", header, header.index(b"data") + 4)[0]
    return riff_size, fact, data


# -- reading ----------------------------------------------------------------------------------------------------


def test_ulaw_comes_back_byte_for_byte() -> None:
    """A file that already fits the line is not touched."""
    assert read_ulaw(riff(fmt(7, more=b"\0\0"), chunk(b"fact", bytes(4)), chunk(b"data", SPEECHLIKE))) == SPEECHLIKE


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pcm_of_every_width(bits: int) -> None:
    """PCM of 8 (unsigned), 16, 24 and 32 bits gives the same audio, as exactly as its width allows."""
    values = struct.unpack(f"={len(SPEECHLIKE)}h", ulaw_to_pcm16(SPEECHLIKE))
    if bits == 8:
        data = bytes((v >> 8) + 128 for v in values)
        expected = pcm16_to_ulaw(struct.pack(f"={len(values)}h", *((v >> 8) << 8 for v in values)))
    else:
        data = b"".join((v << (bits - 16)).to_bytes(bits // 8, "little", signed=True) for v in values)
        expected = SPEECHLIKE
    assert read_ulaw(riff(fmt(1, bits=bits), chunk(b"data", data))) == expected


def test_alaw() -> None:
    """A-law is converted to μ-law."""
    alaw = pcm16_to_alaw(ulaw_to_pcm16(SPEECHLIKE))
    assert read_ulaw(riff(fmt(6, more=b"\0\0"), chunk(b"data", alaw))) == alaw_to_ulaw(alaw)


def test_extensible_header() -> None:
    """WAVE_FORMAT_EXTENSIBLE tells its format in the sub-format field."""
    guid = struct.pack("<HIH", 22, 16 << 16 | 16, 0) + struct.pack("<H", 1) + bytes(14)
    data = little(ulaw_to_pcm16(SPEECHLIKE))
    assert read_ulaw(riff(fmt(0xFFFE, bits=16, more=guid), chunk(b"data", data))) == SPEECHLIKE


def test_stereo_is_averaged() -> None:
    """Two channels become one: half of each."""
    left = ulaw_to_pcm16(SPEECHLIKE)
    pairs = b"".join(left[n : n + 2] * 2 for n in range(0, len(left), 2))
    assert read_ulaw(riff(fmt(1, channels=2, bits=16), chunk(b"data", little(pairs)))) == SPEECHLIKE
    one_sided = b"".join(left[n : n + 2] + b"\0\0" for n in range(0, len(left), 2))
    halved = read_ulaw(riff(fmt(1, channels=2, bits=16), chunk(b"data", little(one_sided))))
    assert rms_dbfs(halved) == pytest.approx(rms_dbfs(SPEECHLIKE) - 6.02, abs=0.2)


@pytest.mark.parametrize("rate", [11025, 16000, 22050, 24000, 44100, 48000])
def test_any_rate_keeps_length_and_place(rate: int) -> None:
    """A file of another rate keeps its length to the sample, and a click stays where it was."""
    values = [0] * rate
    values[rate // 2] = 32000
    ulaw = read_ulaw(riff(fmt(1, rate=rate, bits=16), chunk(b"data", struct.pack(f"<{rate}h", *values))))
    assert len(ulaw) == 8000
    loudest = max(range(8000), key=lambda n: abs(struct.unpack_from("=h", ulaw_to_pcm16(ulaw[n : n + 1]))[0]))
    assert abs(loudest - 4000) <= 1


def test_other_chunks_are_skipped() -> None:
    """Chunks before, between and after, of odd sizes too, do not matter; nor does half a frame at the end."""
    odd = chunk(b"LIST", b"INFOx")
    assert read_ulaw(riff(odd, fmt(7), odd, chunk(b"data", SPEECHLIKE), odd)) == SPEECHLIKE
    assert read_ulaw(riff(fmt(1, bits=16), chunk(b"data", little(ulaw_to_pcm16(SPEECHLIKE)) + b"x"))) == SPEECHLIKE


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_a_size_that_was_never_known(size: int) -> None:
    """Files written to a pipe announce an impossible size; what is there is read."""
    content = riff(fmt(7)) + b"data" + struct.pack("<I", size) + SPEECHLIKE
    assert read_ulaw(content) == SPEECHLIKE


def test_a_prompt_is_read_as_the_standard_library_reads_it(
    prompt_path: Callable[[str], Path], prompt: Callable[[str], bytes]
) -> None:
    """Human speech from a 16-bit file, by path or by content."""
    path = prompt_path("vm-goodbye")
    expected = pcm16_to_ulaw(prompt("vm-goodbye"))
    assert read_ulaw(path) == read_ulaw(str(path)) == read_ulaw(path.read_bytes()) == expected


WHOLE = riff(fmt(1, bits=16), chunk(b"data", bytes(1000)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"not a WAV file.*nothing.*sox"),
        (b"ID3\x04" + bytes(100), r"not a WAV file.*ID3.*sox"),
        (b"RIFF\x10\0\0\0AVI " + bytes(100), r"not a WAV file"),
        (WHOLE[:-1], r"cut short.*1000 bytes.*999"),
        (WHOLE[:40], r"cut short.*'data' chunk"),
        (WHOLE[:12], r"cut short.*'fmt ' chunk"),
        (WHOLE[:20], r"cut short.*'fmt ' chunk"),
        (WHOLE[:30], r"'fmt ' chunk has 10 bytes"),
        (riff(chunk(b"data", bytes(4)), fmt(1)), r"before the 'fmt '"),
        (riff(fmt(3, bits=32), chunk(b"data", bytes(4))), r"floating-point.*PCM, A-law or μ-law.*sox"),
        (riff(fmt(0x55), chunk(b"data", bytes(4))), r"format 0x0055"),
        (riff(fmt(0xFFFE), chunk(b"data", bytes(4))), r"format 0xfffe"),
        (riff(fmt(1, bits=12), chunk(b"data", bytes(4))), r"12 bits.*8 or 16 or 24 or 32"),
        (riff(fmt(7, bits=16), chunk(b"data", bytes(4))), r"16 bits a sample; 8 were"),
        (riff(fmt(1, channels=6, bits=16), chunk(b"data", bytes(12))), r"6 channels; 1 or 2"),
        (riff(fmt(1, channels=0, bits=16), chunk(b"data", bytes(12))), r"0 channels"),
        (riff(fmt(1, rate=0, bits=16), chunk(b"data", bytes(12))), r"rate of 0 Hz; 1000 to 384000"),
    ],
)
def test_what_cannot_be_read_is_explained(content: bytes, says: str, tmp_path: Path) -> None:
    """Each unreadable file is one kind of error that says what came, what was expected and, by path, which file."""
    with pytest.raises(AudioFormatError, match=says):
        read_ulaw(content)
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    with pytest.raises(AudioFormatError, match=r"voice\.wav") as caught:
        read_ulaw(path)
    assert isinstance(caught.value, VoiceRuntimeError)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    """The operating system's own error comes through."""
    with pytest.raises(FileNotFoundError):
        read_ulaw(tmp_path / "none.wav")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_damaged_files_raise_nothing_else(garbage: bytes, at: int) -> None:
    """Whatever is wrong with the bytes, the answer is audio or AudioFormatError."""
    content = WHOLE[:at] + garbage + WHOLE[at + len(garbage) :]
    try:
        assert isinstance(read_ulaw(content), bytes)
    except AudioFormatError:
        pass


# -- writing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_the_header(channels: int, tmp_path: Path) -> None:
    """58 bytes: format 7, a ``fact`` chunk with the samples per channel, sizes that agree with the file."""
    path = tmp_path / "call.wav"
    with UlawWavWriter(path, channels) as writer:
        assert writer.write(SPEECHLIKE)
        assert writer.samples == len(SPEECHLIKE) // channels
    content = path.read_bytes()
    assert content[HEADER_BYTES:] == SPEECHLIKE
    assert content[:4] + content[8:16] == b"RIFFWAVEfmt "
    assert struct.unpack_from("<IHHIIHHH", content, 16) == (18, 7, channels, 8000, 8000 * channels, channels, 8, 0)
    assert declared(path) == (len(content) - 8, len(SPEECHLIKE) // channels, len(SPEECHLIKE))
    assert ulaw_wav_header(len(SPEECHLIKE) // channels, channels) == content[:HEADER_BYTES]


def test_an_odd_length_is_padded(tmp_path: Path) -> None:
    """A chunk of odd size is followed by one byte that its size does not count."""
    path = tmp_path / "call.wav"
    with UlawWavWriter(path) as writer:
        writer.write(b"\x10\x20\x30")
    assert declared(path) == (54, 3, 3)
    assert path.stat().st_size == 62
    assert read_ulaw(path) == b"\x10\x20\x30"


def test_sizes_beyond_32_bits_stay_a_header() -> None:
    """A recording longer than RIFF can say keeps a header that can be written."""
    header = ulaw_wav_header(1 << 33, 2)
    assert len(header) == HEADER_BYTES
    assert header.endswith(b"\xff" * 4)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """The file has mode 0600, whatever the umask and whatever was there before."""
    path = tmp_path / "call.wav"
    path.write_bytes(b"an older recording, readable by all" * 100)
    path.chmod(0o666)
    before = os.umask(0)
    try:
        UlawWavWriter(path).close()
        UlawWavWriter(tmp_path / "other.wav").close()
    finally:
        os.umask(before)
    assert path.stat().st_size == HEADER_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other.wav").stat().st_mode) == 0o600


@pytest.mark.skipif(shutil.which("sox") is None, reason="SoX is missing: apt-get install sox")
@pytest.mark.parametrize("channels", [1, 2])
def test_sox_reads_it(channels: int, tmp_path: Path) -> None:
    """Another program hears the same bytes in as many channels, and finds nothing to warn about."""
    path = tmp_path / "call.wav"
    with UlawWavWriter(path, channels) as writer:
        for _ in range(10):
            writer.write(SPEECHLIKE)
    raw = subprocess.run(
        ["sox", str(path), "-t", "raw", "-e", "mu-law", "-b", "8", "-"], capture_output=True, check=True, timeout=60
    )
    assert raw.stdout == SPEECHLIKE * 10
    assert raw.stderr == b""
    info = subprocess.run(["sox", "--i", str(path)], capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"Channels       : {channels}" in info
    assert "u-law" in info


def test_the_file_is_valid_at_every_moment(tmp_path: Path) -> None:
    """While it is written, the header never tells of more than there is nor lags by a second."""
    path = tmp_path / "call.wav"
    with UlawWavWriter(path, 2) as writer:
        for n in range(1, 200):
            writer.write(SILENCE_FRAME * 2)
            seconds = declared(path)[2] / 16000
            assert n * 0.02 - 1 < seconds <= n * 0.02
            assert len(read_ulaw(path)) == declared(path)[1]
        writer.sync_header()
        assert declared(path)[1] == writer.samples == 199 * 160


def test_what_is_there_can_be_read_and_replaced(tmp_path: Path) -> None:
    """A passage inside is overwritten in place; what reaches beyond the end makes the file longer."""
    path = tmp_path / "call.wav"
    with UlawWavWriter(path, 2) as writer:
        writer.write(b"\x01\x02" * 100)
        assert writer.rewrite(90, b"\x03\x04" * 20)
        assert writer.samples == 110
        assert writer.read(88, 4) == b"\x01\x02\x01\x02\x03\x04\x03\x04"
        assert writer.read(108, 10) == b"\x03\x04" * 2
        assert writer.read(110, 10) == b""
    assert path.read_bytes()[HEADER_BYTES:] == b"\x01\x02" * 90 + b"\x03\x04" * 20


def test_closed_is_closed(tmp_path: Path) -> None:
    """After closing, nothing is written, nothing is read and nothing raises."""
    writer = UlawWavWriter(tmp_path / "call.wav")
    writer.write(b"\x10" * 100)
    writer.close()
    writer.close()
    assert not writer.write(b"\x20")
    assert not writer.rewrite(0, b"\x20")
    assert writer.read(0, 1) == b""
    writer.sync_header()
    assert read_ulaw(tmp_path / "call.wav") == b"\x10" * 100
    assert not writer.truncated


def test_what_cannot_begin_says_so(tmp_path: Path) -> None:
    """A missing folder and three channels are errors at once, not in the middle of a call."""
    with pytest.raises(FileNotFoundError):
        UlawWavWriter(tmp_path / "none" / "call.wav")
    with pytest.raises(ValueError, match="1 or 2 channels; 3 came"):
        UlawWavWriter(tmp_path / "call.wav", 3)


KILLED = """
import sys
from voice_runtime.audio.wav import UlawWavWriter
writer = UlawWavWriter(sys.argv[1], 2)
written = 0
while True:
    writer.write(bytes([written // 320 % 200]) * 320)
    written += 320
    print(written, flush=True)
"""


def test_kill_9_loses_at_most_a_second(tmp_path: Path) -> None:
    """A process killed in mid-write leaves a file that opens and lacks under a second of what was written."""
    path = tmp_path / "call.wav"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > 16000 * 7.3:
                process.kill()
                break
        written = max((int(line) for line in process.stdout if line.endswith("\n")), default=int(line))
    *_, data = declared(path)
    assert written - 16000 <= data <= path.stat().st_size - HEADER_BYTES
    content = path.read_bytes()[HEADER_BYTES : HEADER_BYTES + data]
    assert all(content[n] == n // 320 % 200 for n in range(0, data, 160))
    assert len(read_ulaw(path)) == data // 2


FULL = """
import errno, resource, sys
from voice_runtime.audio.wav import UlawWavWriter
writer = UlawWavWriter(sys.argv[1], 2)
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, 100_001))
answers = [writer.write(bytes([n % 200]) * 3200) for n in range(200)]
stopped = answers.index(False)
assert not any(answers[stopped:]), "it went on after a hole"
assert not writer.rewrite(0, b"xx") and writer.read(0, 1) == b""
writer.close()
assert writer.truncated and writer.error.errno in (errno.ENOSPC, errno.EFBIG), writer.error
print(stopped)
"""


@pytest.fixture(params=["limit", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A place where about 100 to 256 kB fit: under a file-size limit, or on a file system of that size."""
    if request.param == "limit":
        yield "limit", tmp_path
        return
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tempfile.mkdtemp()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode:
        os.rmdir(folder)
        pytest.skip("mounting is not allowed here")
    try:
        yield "tmpfs", Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def test_a_full_disk_ends_the_recording_and_nothing_else(small_disk: tuple[str, Path]) -> None:
    """No method raises; the reason is kept; what fitted is a valid file, to the last whole sample."""
    kind, folder = small_disk
    path = folder / "call.wav"
    ran = subprocess.run([sys.executable, "-c", FULL, str(path), kind], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    *_, data = declared(path)
    assert data == (path.stat().st_size - HEADER_BYTES) // 2 * 2
    assert int(ran.stdout) * 3200 <= data < (int(ran.stdout) + 1) * 3200
    content = path.read_bytes()[HEADER_BYTES : HEADER_BYTES + data]
    assert all(content[n] == n // 3200 % 200 for n in range(0, data, 80))
    assert len(read_ulaw(path)) == data // 2


def test_an_error_on_closing_is_kept(tmp_path: Path) -> None:
    """When the file system reports only at the end that it could not keep the audio, closing says so and goes on."""
    writer = UlawWavWriter(tmp_path / "call.wav")
    writer.write(SPEECHLIKE)
    os.close(writer._file.fileno())
    writer.close()
    assert isinstance(writer.error, OSError)
    assert writer.truncated
    writer.close()


def test_the_standard_library_agrees_on_pcm(tmp_path: Path) -> None:
    """A 16-bit file written by ``wave`` is read to the sample."""
    path = tmp_path / "stdlib.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(little(ulaw_to_pcm16(SPEECHLIKE)))
    assert read_ulaw(path) == SPEECHLIKE
