"""Both voices of a call together: recorded to a WAV file, and played live through ffplay.

::

    mixer = AudioMixer(record_path=Path("recordings/call_001.wav"), stereo=True)
    mixer.start()
    session.set_mixer(mixer)            # the session writes both voices from here on
    ...
    mixer.shutdown()

**One timeline.** It counts bytes of μ-law, 8 a millisecond. The caller's frames are its clock: each continues where
the one before ended. The agent's audio stands at the position where it was heard. Both tracks only go forward, each
at its own pace, and each is laid into the file at its place: audio of one that is ahead of the other is on disk, not
in memory, and meets the other when that arrives. Nothing has to wait and nothing is thrown away.

**Threads.** ``write_*`` append to a list and return (about a microsecond); a thread of the mixer's own does
everything that may block.
"""

from __future__ import annotations

import collections
import logging
import math
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType

from ..clock import Clock, ClockThread, SystemClock
from .frames import FRAME_BYTES, FRAME_INTERVAL, SAMPLE_RATE, bytes_to_ms, ms_to_bytes
from .g711 import ULAW_SILENCE
from .wav import UlawWavWriter

with warnings.catch_warnings():
    # As in g711: deprecated in the standard library of 3.11 and 3.12, a package of its own afterwards.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["CATCHUP_LIMIT", "MAX_FRAMES", "AudioMixer", "mix_frames"]

logger = logging.getLogger(__name__)

MAX_FRAMES = 400
"""Frames that may wait in memory before the writer is woken early (8 s of one voice)."""
CATCHUP_LIMIT = 0.1
"""Seconds. Agent audio written without a position joins what was written before when no more than this has passed
since; and a live monitor that lags by more skips ahead."""

_CALLER, _AGENT = 0, 1  # also the channels of a stereo file: left and right
_CATCHUP_BYTES = round(CATCHUP_LIMIT * SAMPLE_RATE)
_WRITE_INTERVAL = 0.25  # seconds between writes: few wake-ups, and little lost when the process is killed
_PENDING_LIMIT = 8 << 20  # bytes that wait for a disk that hangs: eight minutes of both voices
_AHEAD_LIMIT = 600 * SAMPLE_RATE  # agent audio the monitor holds until its time: as much as Twilio buffers
_GAP_LIMIT = 3600 * SAMPLE_RATE  # a position further ahead than this is a mistake, not a pause
_SLICE = 1 << 16  # bytes laid into the file at a time
_SILENCE = bytes([ULAW_SILENCE])

_FFPLAY = (
    *("-nodisp", "-loglevel", "quiet", "-autoexit"),
    *("-fflags", "nobuffer", "-probesize", "32", "-analyzeduration", "0"),
    *("-f", "mulaw", "-sample_rate", str(SAMPLE_RATE), "-i", "-"),
)


def mix_frames(caller: bytes, agent: bytes) -> bytes:
    """Two pieces of μ-law heard at the same time, clipped at full scale; as long as the longer one.

    Any lengths; the shorter one is followed by silence. Pure, from any thread.
    """
    if not agent:
        return bytes(caller)
    if not caller:
        return bytes(agent)
    if len(caller) != len(agent):
        longest = max(len(caller), len(agent))
        caller = caller.ljust(longest, _SILENCE)
        agent = agent.ljust(longest, _SILENCE)
    return audioop.lin2ulaw(audioop.add(audioop.ulaw2lin(caller, 2), audioop.ulaw2lin(agent, 2), 2), 2)


class AudioMixer:
    """Records a call, or lets somebody listen to it, or both.

    The recording is a WAV file, 8,000 Hz μ-law: one channel with both voices mixed, or two with the caller on the
    left and the agent on the right. It is complete at every moment: a killed process loses under a second. It needs
    neither ffplay nor a sound card.

    A disk that fills up or fails ends the recording and never the call: ``error`` and ``truncated`` tell, and the log
    does once. A disk that hangs makes audio wait in memory, up to 8 MiB; what comes then becomes silence and is
    counted in ``dropped_ms``.

    One mixer makes one recording. All methods may be called from any thread; ``start`` and ``shutdown`` may block for
    as long as the file system does.

    Args:
        record_path: the file to write, replaced when it exists. Missing folders are made. None records nothing.
        stereo: two channels instead of one.
        monitor: whether to play live through ffplay. None leaves it to the environment variable ``VOICE_MONITOR``
            (on: 1, true, yes, on); where that is not set, a mixer without a ``record_path`` plays, one with it does
            not.
        clock: whose time the mixer's thread waits by; real time by default.
    """

    def __init__(
        self,
        record_path: Path | str | None = None,
        stereo: bool = False,
        monitor: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.record_path = Path(record_path) if record_path is not None else None
        self.stereo = stereo
        self.monitor = monitor
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._condition = self._clock.condition(threading.Lock())
        # Guarded by the condition:
        self._running = False
        self._used = False
        self._idle = False  # the writer waits for something to do, however long
        self._ends = [0, 0]  # where each track goes on, in bytes
        self._origin_ms = 0.0  # where the recording begins, on the time line of at_ms
        self._pending: list[tuple[int, int, bytes]] = []  # track, position, audio
        self._pending_bytes = 0
        self._dropped_bytes = 0
        self._misplaced = False
        # The writer thread's own:
        self._tape: _Tape | None = None
        self._monitor: _Monitor | None = None
        self._error: OSError | None = None
        self._thread: ClockThread | None = None

    # -- facts --------------------------------------------------------------------------------------------------

    @property
    def recorded_ms(self) -> float:
        """How long the timeline is: where the track that is further ahead ends."""
        return bytes_to_ms(max(self._ends))

    @property
    def error(self) -> OSError | None:
        """What ended the recording early, or None."""
        return self._error

    @property
    def truncated(self) -> bool:
        """Whether something is missing in the recording: it ended early, or audio had to be dropped."""
        return self._error is not None or self._dropped_bytes > 0

    @property
    def dropped_ms(self) -> float:
        """Audio that became silence because the disk hung, in ms."""
        return bytes_to_ms(self._dropped_bytes)

    @property
    def monitoring(self) -> bool:
        """Whether somebody can listen right now."""
        return self._monitor is not None and self._monitor.alive

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Between :meth:`start` and :meth:`shutdown`."""
        return self._running

    def start(self) -> None:
        """Open the file, start the monitor where one is wanted. Calling it again while running does nothing.

        Raises:
            OSError: the file cannot be created.
            RuntimeError: this mixer has already made its recording.
        """
        with self._condition:
            if self._running:
                return
            if self._used:
                raise RuntimeError(
                    "AudioMixer.start() after shutdown() would replace the finished recording. "
                    "Make a new AudioMixer for each call."
                )
            self._used = True
        if self.record_path is not None:
            try:
                self.record_path.parent.mkdir(parents=True, exist_ok=True)
                self._tape = _Tape(UlawWavWriter(self.record_path, channels=2 if self.stereo else 1))
            except OSError:
                self._used = False
                raise
        if self._wants_monitor():
            self._monitor = _Monitor.start()
        with self._condition:
            self._running = True
        if self._tape is not None or self._monitor is not None:
            self._thread = self._clock.start_thread(self._run, "audio-mixer")

    def shutdown(self, timeout: float = 5.0) -> None:
        """Write what is left, complete the file, end the monitor. May be called again, and without ``start``.

        Waits at most ``timeout`` seconds for a disk that hangs; the thread then ends by itself when the disk does.
        """
        with self._condition:
            self._running = False
            thread = self._thread
            self._condition.notify_all()
        if thread is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            logger.warning(
                "The recording %s could not be completed within %.0f s: the disk hangs", self.record_path, timeout
            )
        elif self._dropped_bytes:
            logger.warning(
                "The recording %s lacks %.1f s because the disk hung", self.record_path, self.dropped_ms / 1000
            )

    def __enter__(self) -> AudioMixer:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.shutdown()

    # -- both voices --------------------------------------------------------------------------------------------

    def write_caller(self, frame: bytes, at_ms: float | None = None) -> None:
        """The caller's next audio: μ-law of any length, usually a frame of 20 ms. Never blocks.

        Ignored before ``start`` and after ``shutdown``.

        Args:
            frame: the audio. It continues where the caller's last audio ended.
            at_ms: where it begins, in ms on any time line the call has: audio counted from its beginning, or the
                stream's own timestamps; not the time of arrival, since a late burst is not a gap. The first frame's
                position is where the recording begins, so a mixer that joins a call late is right too. When more than
                one frame's time is missing before a later one, the gap becomes silence. Going back is ignored.
        """
        self._write(_CALLER, frame, at_ms)

    def write_agent(self, audio: bytes, at_ms: float | None = None) -> None:
        """What the caller heard of the agent: μ-law of any length, as early or as late as it is known. Never blocks.

        Ignored before ``start`` and after ``shutdown``.

        Args:
            audio: what was heard, and only that: after a clear, the part before it.
            at_ms: where it began to be heard, in ms on the time line of the caller's positions; where the caller's
                frames are written without positions, from the first of them. When that is at most one frame after the
                end of the agent's audio before, or earlier, it follows on without a gap. Without a position it begins
                where the caller's audio ends now, or follows on when the agent's audio before ended less than
                ``CATCHUP_LIMIT`` ago.
        """
        self._write(_AGENT, audio, at_ms)

    def _write(self, track: int, audio: bytes, at_ms: float | None) -> None:
        if not audio:
            return
        audio = bytes(audio)
        with self._condition:
            if not self._running:
                return
            ends = self._ends
            start = ends[track]
            if track == _CALLER and start == 0 and at_ms is not None and math.isfinite(at_ms):
                self._origin_ms = at_ms
            if at_ms is not None:
                asked = self._position(at_ms)
                if asked > start + FRAME_BYTES or start == 0:
                    start = max(start, asked)
            elif track == _AGENT and (ends[_CALLER] > start + _CATCHUP_BYTES or start == 0):
                start = ends[_CALLER]
            ends[track] = start + len(audio)
            if self._tape is None and self._monitor is None:
                return
            if self._pending_bytes >= _PENDING_LIMIT:
                self._dropped_bytes += len(audio)
                return
            self._pending.append((track, start, audio))
            before = self._pending_bytes
            self._pending_bytes = before + len(audio)
            if self._idle or before < MAX_FRAMES * FRAME_BYTES <= self._pending_bytes:
                self._idle = False
                self._condition.notify_all()

    def _position(self, at_ms: float) -> int:
        if math.isfinite(at_ms):
            asked = ms_to_bytes(at_ms - self._origin_ms)
            if asked <= max(self._ends) + _GAP_LIMIT:
                return asked
        if not self._misplaced:
            self._misplaced = True
            logger.warning(
                "Audio at %r ms of a recording that has reached %.0f ms: taken as following on. "
                "at_ms counts milliseconds on the time line of the caller's frames.",
                at_ms,
                bytes_to_ms(max(self._ends)),
            )
        return 0

    # -- the writer thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        interval = _WRITE_INTERVAL if self._monitor is None else FRAME_INTERVAL
        try:
            going = True
            while going:
                with self._condition:
                    if not self._pending and self._running:
                        self._idle = True
                        self._condition.wait_for(lambda: self._pending or not self._running)
                        self._idle = False
                    self._condition.wait_for(self._is_urgent, interval)
                    going = self._running
                    batch, self._pending = self._pending, []
                    self._pending_bytes = 0
                if self._tape is not None:
                    self._record(self._tape, batch)
                if self._monitor is not None:
                    self._monitor.play(batch)
        finally:
            with self._condition:
                self._running = False
                self._pending = []
            if self._tape is not None:
                self._tape.close()
                self._note_error(self._tape)
            if self._monitor is not None:
                self._monitor.stop()

    def _is_urgent(self) -> bool:
        return not self._running or self._pending_bytes >= MAX_FRAMES * FRAME_BYTES

    def _record(self, tape: _Tape, batch: list[tuple[int, int, bytes]]) -> None:
        for track in (_CALLER, _AGENT):
            for position, audio in _joined(batch, track):
                tape.lay(track, position, audio)
        tape.sync()
        self._note_error(tape)

    def _note_error(self, tape: _Tape) -> None:
        if tape.error is not None and self._error is None:
            self._error = tape.error
            logger.warning(
                "The recording %s ends after %.1f s, the call goes on: %s",
                self.record_path,
                tape.seconds,
                tape.error,
            )

    def _wants_monitor(self) -> bool:
        if self.monitor is not None:
            return self.monitor
        setting = os.environ.get("VOICE_MONITOR", "").strip().lower()
        if setting:
            return setting in ("1", "true", "yes", "on")
        return self.record_path is None


def _joined(batch: list[tuple[int, int, bytes]], track: int) -> list[tuple[int, bytes]]:
    """The audio of one track, with neighbours made one piece."""
    pieces: list[tuple[int, list[bytes]]] = []
    end = -1
    for its_track, position, audio in batch:
        if its_track != track:
            continue
        if position == end:
            pieces[-1][1].append(audio)
        else:
            pieces.append((position, [audio]))
        end = position + len(audio)
    return [(position, b"".join(parts)) for position, parts in pieces]


class _Tape:
    """A WAV file in which each track is laid at its place, over what the other track has left there."""

    def __init__(self, writer: UlawWavWriter) -> None:
        self._writer = writer

    @property
    def error(self) -> OSError | None:
        return self._writer.error

    @property
    def seconds(self) -> float:
        return self._writer.samples / SAMPLE_RATE

    def lay(self, track: int, position: int, audio: bytes) -> None:
        writer = self._writer
        while writer.samples < position and writer.error is None:
            writer.write(_SILENCE * (writer.channels * min(_SLICE, position - writer.samples)))
        for at in range(0, len(audio), _SLICE):
            if writer.error is not None:
                return
            piece = audio[at : at + _SLICE]
            there = writer.read(position + at, len(piece))
            if writer.channels == 1:
                writer.rewrite(position + at, mix_frames(there, piece))
            else:
                both = bytearray(there.ljust(2 * len(piece), _SILENCE))
                both[track::2] = piece
                writer.rewrite(position + at, bytes(both))

    def sync(self) -> None:
        self._writer.sync_header()

    def close(self) -> None:
        self._writer.close()


class _Monitor:
    """Live audio into ffplay's standard input, which is never waited for.

    Each of the caller's frames is played as it comes, mixed with what the agent says at that place; agent audio that
    is known only afterwards is played from then on.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        self._process = process
        self._pipe = process.stdin
        self._ahead: collections.deque[tuple[int, memoryview]] = collections.deque()  # agent audio not yet due
        self._ahead_bytes = 0
        self._unsent = b""
        self.alive = True

    @staticmethod
    def start() -> _Monitor | None:
        """The monitor, or None (and one warning) where there can be none."""
        player = shutil.which("ffplay")
        if player is None:
            logger.warning("Nobody can listen to the call: ffplay was not found. It is part of FFmpeg.")
            return None
        try:
            process = subprocess.Popen(
                [player, *_FFPLAY],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the server; the player ends with the mixer
            )
        except OSError as error:
            logger.warning("Nobody can listen to the call: ffplay does not start: %s", error)
            return None
        monitor = _Monitor(process)
        try:
            _make_short_and_nonblocking(monitor._pipe.fileno())
        except (OSError, AttributeError) as error:  # Windows before Python 3.12
            logger.warning("Nobody can listen to the call: pipes cannot be non-blocking here: %s", error)
            monitor.stop()
            return None
        return monitor

    def play(self, batch: list[tuple[int, int, bytes]]) -> None:
        for track, position, audio in batch:
            if not self.alive:
                return
            if track == _CALLER:
                self._send(mix_frames(audio, self._agent_at(position, len(audio))))
            elif self._ahead_bytes < _AHEAD_LIMIT:
                self._ahead.append((position, memoryview(audio)))
                self._ahead_bytes += len(audio)

    def stop(self) -> None:
        """End ffplay at once."""
        self.alive = False
        self._ahead.clear()
        self._process.kill()
        try:
            self._pipe.close()
        except OSError:
            pass  # it is gone already
        self._process.wait()

    def _agent_at(self, position: int, length: int) -> bytes:
        """What the agent says during the next ``length`` bytes, and what it said before that was not yet played."""
        parts: list[bytes] = []
        filled = 0
        while self._ahead and filled < length:
            begins, audio = self._ahead[0]
            pause = min(begins - position - filled, length - filled)
            if pause > 0:
                parts.append(_SILENCE * pause)
                filled += pause
                continue
            piece = audio[: length - filled]
            parts.append(bytes(piece))
            filled += len(piece)
            self._ahead_bytes -= len(piece)
            if len(piece) == len(audio):
                self._ahead.popleft()
            else:
                self._ahead[0] = (begins + len(piece), audio[len(piece) :])
        return b"".join(parts)

    def _send(self, audio: bytes) -> None:
        unsent = self._unsent + audio
        try:
            unsent = unsent[os.write(self._pipe.fileno(), unsent) :]
        except BlockingIOError:
            pass  # it plays slowly or not at all: skip below
        except OSError:
            logger.warning("Nobody can listen to the call any more: ffplay has ended")
            self.stop()
            return
        self._unsent = unsent[-_CATCHUP_BYTES:]


def _make_short_and_nonblocking(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    if sys.platform == "linux":
        import fcntl

        # A page is half a second of audio; the usual 64 KiB would let the listener lag by eight.
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)
