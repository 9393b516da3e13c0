"""Sound on the time line of the fake's loop: what is said from which sample on, and what of it is heard where.

A sample's number is the loop's time times 8,000. Not thread-safe, except that what was heard may be read from any
thread.
"""

from __future__ import annotations

import asyncio
import functools
import math
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from ..audio.mixer import mix_frames
from ..transports.mock_audio import SAMPLES_PER_SECOND, HeardAudio, Mouth

__all__ = [
    "AttentiveMouth",
    "Clip",
    "DistantMouth",
    "HeardSamples",
    "Piece",
    "Sound",
    "SoundPath",
    "beep",
    "now_samples",
    "overlay",
]

_SILENCE = b"\xff"
# From one call to the other, in samples. What a stream plays begins anywhere between two samples, so the last one of
# an interval that ends now may not have been played yet.
_WAY = 8
_BEEP_HZ = 1000
_BEEP_PEAK = 12_000  # of 32,767: about -9 dB, as loud as answering machines beep


class Piece(NamedTuple):
    """Some μ-law and the number of its first sample."""

    at: int
    ulaw: bytes

    @property
    def end(self) -> int:
        return self.at + len(self.ulaw)


class Sound(Protocol):
    """Something that can be heard."""

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """What sounds from sample ``begin`` on and before ``end``, which is not later than now.

        In order, and without the silence in between.
        """


def now_samples() -> int:
    """The number of the sample that is due now."""
    return round(asyncio.get_running_loop().time() * SAMPLES_PER_SECOND)


@functools.lru_cache(maxsize=16)
def beep(ms: float) -> bytes:
    """1 kHz, as μ-law."""
    count = round(ms * SAMPLES_PER_SECOND / 1000)
    wave = [round(_BEEP_PEAK * math.sin(2 * math.pi * _BEEP_HZ * n / SAMPLES_PER_SECOND)) for n in range(count)]
    return pcm16_to_ulaw(struct.pack(f"={count}h", *wave))


class AttentiveMouth(Mouth):
    """Lets everybody who listens hear the last of what was said before it says, and forgets, something else."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[], None]] = []

    def say(self, ulaw: bytes) -> float:
        for listen in list(self.listeners):
            listen()
        return super().say(ulaw)

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """What is said in an interval; see :class:`Sound`."""
        return [
            Piece(max(at, begin), ulaw[max(0, begin - at) : end - at])
            for at, ulaw in self._speech
            if at < end and at + len(ulaw) > begin
        ]


class DistantMouth(AttentiveMouth):
    """The voice of a far end that is another call: what that one hears, a millisecond later."""

    def __init__(self, heard: HeardSamples, sync: Callable[[], None], sid: str) -> None:
        super().__init__()
        self._heard = heard
        self._sync = sync
        self._sid = sid

    def say(self, ulaw: bytes) -> float:
        raise RuntimeError(
            f"expected a person at the far end; there is another call of the account, {self._sid}, and what its app "
            f"says is what is said here"
        )

    def pieces(self, begin: int, end: int) -> list[Piece]:
        self._sync()
        return [Piece(at + _WAY, ulaw) for at, ulaw in self._heard.pieces(begin - _WAY, end - _WAY)]

    def read(self, sample: int, count: int) -> bytes:
        pieces = self.pieces(sample, sample + count)
        if not pieces:
            return b""
        out = bytearray(_SILENCE * count)
        for at, ulaw in pieces:
            out[at - sample : at - sample + len(ulaw)] = ulaw
        return bytes(out)


class HeardSamples(HeardAudio):
    """What a far end heard, by the number of the sample."""

    def put(self, piece: Piece) -> None:
        """Audio that follows what was put before."""
        self.add((piece.at / SAMPLES_PER_SECOND - self.origin_s) * 1000, piece.ulaw)

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """What was heard in an interval; see :class:`Sound`."""
        found: list[Piece] = []
        stop = len(self._audio)
        for at_ms, offset in reversed(self._runs):
            at = round((at_ms / 1000 + self.origin_s) * SAMPLES_PER_SECOND)
            first, last = max(begin, at), min(end, at + stop - offset)
            if first < last:
                found.append(Piece(first, bytes(self._audio[offset + first - at : offset + last - at])))
            if at <= begin:
                break
            stop = offset
        return found[::-1]


class Clip:
    """Recorded audio, played from sample ``begin`` on, so many times; None: for ever."""

    def __init__(self, begin: int, ulaw: bytes, times: int | None = 1) -> None:
        self._begin = begin
        self._ulaw = ulaw
        self._times = times

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """What is played in an interval; see :class:`Sound`."""
        length = len(self._ulaw)
        begin = max(begin, self._begin)
        if self._times is not None:
            end = min(end, self._begin + length * self._times)
        found: list[Piece] = []
        while begin < end and length:
            place = (begin - self._begin) % length
            ulaw = self._ulaw[place : place + end - begin]
            found.append(Piece(begin, ulaw))
            begin += len(ulaw)
        return found


class SoundPath:
    """Carries a sound into somebody's ear, from now until it is cut.

    ``sync`` brings the ear up to now; nothing is carried in between.
    """

    def __init__(self, sound: Sound, heard: HeardSamples) -> None:
        self._sound = sound
        self._heard = heard
        self._position = now_samples()

    def sync(self) -> None:
        now = now_samples()
        # Set before reading: two far ends that are each other's would otherwise ask in circles.
        begin, self._position = self._position, max(self._position, now)
        if begin < now:
            for piece in self._sound.pieces(begin, now):
                self._heard.put(piece)


def overlay(sounds: Sequence[list[Piece]]) -> list[Piece]:
    """Sounds heard at the same time: the sum of their samples, clipped at full scale."""
    sounding = [pieces for pieces in sounds if pieces]
    if len(sounding) < 2:
        return sounding[0] if sounding else []
    ordered = sorted((piece for pieces in sounding for piece in pieces), key=lambda piece: piece.at)
    found: list[Piece] = []
    together = [ordered[0]]
    end = ordered[0].end
    for piece in ordered[1:]:
        if piece.at >= end:
            found.append(_sum(together))
            together = []
        together.append(piece)
        end = max(end, piece.end)
    found.append(_sum(together))
    return found


def _sum(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    begin = pieces[0].at
    laid = [_SILENCE * (piece.at - begin) + piece.ulaw for piece in pieces]
    if len(laid) == 2:
        return Piece(begin, mix_frames(*laid))
    total = [0] * max(map(len, laid))
    for ulaw in laid:
        for place, sample in enumerate(array("h", ulaw_to_pcm16(ulaw))):
            total[place] += sample
    clipped = array("h", (max(-32768, min(32767, sample)) for sample in total))
    return Piece(begin, pcm16_to_ulaw(clipped.tobytes()))
