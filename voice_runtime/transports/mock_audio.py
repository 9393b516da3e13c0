"""The far end's mouth and ear: what is said on a mock line, and what is heard, each on a time line.

Not thread-safe; everything belongs to one asyncio loop, whose ``time()`` is the only clock.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable
from typing import Protocol

import msgspec

__all__ = [
    "FRAME_BYTES",
    "FRAME_S",
    "SAMPLES_PER_SECOND",
    "Alarm",
    "AudioSource",
    "Ear",
    "HeardAudio",
    "HeardSpan",
    "Mouth",
]

SAMPLES_PER_SECOND = 8000
FRAME_BYTES = 160
"""20 ms of μ-law; Twilio has never been seen to send another size."""

FRAME_S = 0.02
_SILENCE_BYTE = b"\xff"


class AudioSource(Protocol):
    """Where the frames of a track come from."""

    def read(self, sample: int, count: int) -> bytes:
        """``count`` bytes of μ-law from sample number ``sample`` of the loop's time on (8,000 a second).

        Empty bytes stand for silence throughout.
        """


class Mouth:
    """What the person at the phone says, laid out on the time line of the loop: a source of audio.

    Speech goes on whether or not a stream listens; what is said between two streams of a call is lost, as it is on
    the real line.
    """

    def __init__(self) -> None:
        self._speech: collections.deque[tuple[int, bytes]] = collections.deque()
        self._end = 0
        self._alarms: set[Alarm] = set()

    def say(self, ulaw: bytes) -> float:
        """Say this after what is being said, or now. Returns the loop's time at which the last sample is spoken."""
        now = round(asyncio.get_running_loop().time() * SAMPLES_PER_SECOND)
        # Two streams of one call may read at slightly different positions; a second covers them.
        while self._speech and self._speech[0][0] + len(self._speech[0][1]) < now - SAMPLES_PER_SECOND:
            self._speech.popleft()
        begin = max(now, self._end)
        self._speech.append((begin, ulaw))
        self._end = begin + len(ulaw)
        return self._end / SAMPLES_PER_SECOND

    def stop(self) -> int:
        """Fall silent at once. Returns how many bytes stay unsaid."""
        now = round(asyncio.get_running_loop().time() * SAMPLES_PER_SECOND)
        unsaid = max(0, self._end - now)
        while self._speech and self._speech[-1][0] >= now:
            self._speech.pop()
        if self._speech:
            begin, ulaw = self._speech[-1]
            self._speech[-1] = (begin, ulaw[: now - begin])
        self._end = min(self._end, now)
        for alarm in self._alarms:
            alarm.ring()
        return unsaid

    @property
    def talking(self) -> bool:
        """Whether something is being said now."""
        # Compared as spoken() sleeps, in seconds: multiplied back, the time may fall short of its own sample.
        return self._end / SAMPLES_PER_SECOND > asyncio.get_running_loop().time()

    async def spoken(self) -> None:
        """Wait until everything is said, or :meth:`stop` is called."""
        alarm = Alarm()
        self._alarms.add(alarm)
        try:
            while self.talking:
                await alarm.sleep_until(self._end / SAMPLES_PER_SECOND)
            # The frame that holds the last sample leaves at its own end.
            await asyncio.sleep(FRAME_S)
        finally:
            self._alarms.discard(alarm)

    def read(self, sample: int, count: int) -> bytes:
        if self._end <= sample:
            return b""
        out = bytearray(_SILENCE_BYTE * count)
        spoken = False
        for begin, ulaw in reversed(self._speech):
            first = max(begin, sample)
            last = min(begin + len(ulaw), sample + count)
            if first < last:
                out[first - sample : last - sample] = ulaw[first - begin : last - begin]
                spoken = True
            elif begin + len(ulaw) <= sample:
                break
        return bytes(out) if spoken else b""


class HeardSpan(msgspec.Struct, frozen=True):
    """Audio that reached the ear without a gap: its first sample at ``at_ms``."""

    at_ms: float
    data: bytes

    @property
    def end_ms(self) -> float:
        return self.at_ms + len(self.data) / 8


class HeardAudio:
    """Everything the far end heard, with times: ms since ``origin_s`` (a time of the loop).

    Written on the loop; may be read from any thread.
    """

    def __init__(self, origin_s: float) -> None:
        self.origin_s = origin_s
        self._audio = bytearray()
        self._runs: list[tuple[float, int]] = []  # (at ms, where it begins in the audio)
        self._end_ms = float("-inf")

    def add(self, at_ms: float, data: bytes) -> None:
        """Audio that begins at ``at_ms``; joined to the previous run when it follows within half a sample."""
        if abs(self._end_ms - at_ms) >= 1 / 16:
            self._runs.append((at_ms, len(self._audio)))
        self._audio += data
        begin_ms, offset = self._runs[-1]
        self._end_ms = begin_ms + (len(self._audio) - offset) / 8

    @property
    def spans(self) -> list[HeardSpan]:
        """The runs, in order."""
        runs = list(self._runs)
        if not runs:
            return []
        ends = [offset for _, offset in runs[1:]] + [len(self._audio)]
        return [
            HeardSpan(at_ms, bytes(self._audio[offset:end])) for (at_ms, offset), end in zip(runs, ends, strict=True)
        ]

    def heard_bytes(self) -> int:
        """How much audio was heard, gaps not counted."""
        return len(self._audio)

    def heard_ms(self) -> float:
        """The same in ms."""
        return len(self._audio) / 8

    def heard_ulaw(self, with_gaps: bool = False) -> bytes:
        """The audio in one piece; ``with_gaps`` puts silence where nothing was played, from the first sound on."""
        if not with_gaps:
            return bytes(self._audio)
        out = bytearray()
        spans = self.spans
        for span in spans:
            out += _SILENCE_BYTE * max(0, round((span.at_ms - spans[0].at_ms) * 8) - len(out))
            out += span.data
        return bytes(out)

    def find(self, ulaw: bytes, start: int = 0) -> int:
        """Where this audio begins among all that was heard, in bytes; -1 when it was not heard in one piece."""
        return self._audio.find(ulaw, start)

    def gaps(self) -> list[tuple[float, float]]:
        """The pauses between runs, as (begin ms, length ms)."""
        return [(one.end_ms, other.at_ms - one.end_ms) for one, other in itertools.pairwise(self.spans)]

    def last_ms(self) -> float | None:
        """When the last sound that was heard ended; None when nothing was heard."""
        return self._end_ms if self._runs else None

    def between(self, from_ms: float, to_ms: float) -> bytes:
        """What was heard in an interval, without gaps."""
        pieces: list[bytes] = []
        end = len(self._audio)
        for at_ms, offset in reversed(self._runs):
            first = offset + max(0, round((from_ms - at_ms) * 8))
            last = min(end, offset + max(0, round((to_ms - at_ms) * 8)))
            if first < last:
                pieces.append(bytes(self._audio[first:last]))
            if at_ms <= from_ms:
                break
            end = offset
        return b"".join(reversed(pieces))

    def window(self, from_ms: float, count: int) -> bytes:
        """``count`` bytes from a moment on, with silence where nothing was played; empty when all of it is."""
        out: bytearray | None = None
        end = len(self._audio)
        for at_ms, offset in reversed(self._runs):
            place = round((at_ms - from_ms) * 8)  # of the run within the window
            first, last = max(0, place), min(count, place + end - offset)
            if first < last:
                out = out or bytearray(_SILENCE_BYTE * count)
                out[first:last] = self._audio[offset + first - place : offset + last - place]
            if at_ms <= from_ms:
                break
            end = offset
        return bytes(out) if out is not None else b""


class Ear:
    """What one far end hears, as a source of audio for another.

    ``sync`` is called before each frame, to bring the record up to now.
    """

    def __init__(self, heard: HeardAudio, sync: Callable[[], None] | None = None) -> None:
        self._heard = heard
        self._sync = sync

    def read(self, sample: int, count: int) -> bytes:
        if self._sync is not None:
            self._sync()
        return self._heard.window(sample / 8 - self._heard.origin_s * 1000, count)


class Alarm:
    """Sleep until a time or until rung, whichever is first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._rung = False

    def ring(self) -> None:
        self._rung = True
        self._go_on(self._future)

    @staticmethod
    def _go_on(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)

    async def sleep_until(self, when: float | None) -> None:
        """None: only until rung. A ring before the call counts."""
        if not self._rung:
            self._future = future = self._loop.create_future()
            handle = None if when is None else self._loop.call_at(when, self._go_on, future)
            try:
                await future
            finally:
                self._future = None
                if handle is not None:
                    handle.cancel()
        self._rung = False
