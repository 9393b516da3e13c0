"""The beep of an answering machine, and the silence that may stand in its place.

A machine that wants a message plays one steady tone and then listens. Frequency, length and level differ from machine
to machine; what beeps have in common is that they are of one frequency, keep it and their level, follow no other tone
and give way to quiet. That is what is looked for here. So speech, keys (two tones), ringback and busy tones of two
frequencies, and special information tones (three in a row, ITU-T E.180) are no beeps.

Two things cannot be told from a beep by ear: one pulse of a busy tone of a single frequency (425 Hz in most of
Europe), which only its repetition gives away, and a note of music that stands alone.
"""

from __future__ import annotations

import collections
import math
import statistics
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .frames import BYTES_PER_MS, FRAME_BYTES, FRAME_MS, SAMPLE_RATE, Framer
from .g711 import ulaw_to_pcm16
from .levels import SILENCE_DBFS

__all__ = ["BeepDetector"]

_WINDOW = (
    512  # samples that one look covers (64 ms): tells apart tones that lie 40 Hz from each other, as in ringback
)
_HOP = 80  # samples from one look to the next
_HOP_MS = _HOP / BYTES_PER_MS
_LOOKS = FRAME_BYTES // _HOP  # in a frame
_CARRIED = _WINDOW - _HOP  # samples of the past that the first look of a frame covers
_BIN_HZ = SAMPLE_RATE / _WINDOW

_MIN_HZ, _MAX_HZ = 345.0, 2210.0
_FIRST_BIN, _LAST_BIN = math.floor(_MIN_HZ / _BIN_HZ) - 1, math.ceil(_MAX_HZ / _BIN_HZ) + 1
_LOWEST_BIN = 6  # below 90 Hz is hum, which does not count
_LOBE = 2  # bins to each side that a steady tone fills under a Hann window
_MIN_PEAK = 0.3  # of all power, in the strongest bin: at least this much when a tone dominates
_MIN_SHARE = 0.7  # of all power, in the tone and its overtones: 0.83 with noise of -7 dB
_MAX_OTHER = 10**-1.2  # the next strongest tone: it is at -8 dB in a key that is as unequal as it may be
_OVERTONES = (2, 3, 4, 5)
_OVERTONES_FROM_HZ = 550.0  # a cheap loudspeaker adds overtones; below, a vowel may look like a tone that has them
_MIN_DBFS = -46.0

_SAME_HZ, _SAME = 10.0, 0.012  # how far (absolute, or relative) a look may be off the tone's first one
_EDGE = 10**-0.6  # of the loudest look: so much has a look that is half filled
_PLATEAU = 10**-0.2
_MIN_PLATEAU = 0.7  # of the looks between the edges
_MAX_WOBBLE_HZ, _MAX_WOBBLE = 2.0, 0.001  # standard deviation on the plateau; a voice slides
_MIN_TONE_MS = 40.0
_MIN_MS, _MAX_MS = 105.0, 1515.0  # of a beep, as measured: 10 ms too short in noise, and more when it fades
_RINGING_HZ = (395.0, 455.0)  # ringing tone of one frequency is of 400 to 450 Hz and of 0.67 s and more (E.180) ...
_RINGING_MS = 650.0  # ... and busy tone is shorter
_MELODY_MS = 150.0  # a tone that follows another one so closely belongs to it
_SETTLE_HOPS = 2  # behind the end, which may hold an echo ...
_QUIET_HOPS = 4  # ... and those behind, which must be quiet
_QUIET = 10**-0.6  # against the tone
_REMEMBERED_HOPS = 16

_FLOOR_FRAMES = 10  # the quietest frame is kept per 200 ms ...
_FLOOR_BLOCKS = 15  # ... for 3 s, longer than fluent speech goes without a gap
_OVER_FLOOR_DB = 6.0
_LOUDEST_QUIET_DBFS = -35.0  # however loud the line's own noise: speech begins here
_MIN_SOUND_FRAMES = 2  # one frame is a click

_Floats = NDArray[np.float64]

_PCM: _Floats = np.frombuffer(ulaw_to_pcm16(bytes(range(256))), np.int16).astype(np.float64)
_TAPER: _Floats = np.hanning(_WINDOW + 2)[1:-1]
# The squared magnitudes of one side of the spectrum then add up to the mean power.
_TAPER *= math.sqrt(2 / (_WINDOW * np.sum(np.square(_TAPER))))
_COUNTED: _Floats = np.where(np.arange(_WINDOW // 2 + 1) < _LOWEST_BIN, 0.0, 1.0)
_FULL_SCALE = 32768.0**2
_MIN_POWER = _FULL_SCALE * 10 ** (_MIN_DBFS / 10)


class _Look(NamedTuple):
    """One look that saw a tone and little else."""

    at_ms: float  # its middle
    hz: float
    power: float


class _Tone(NamedTuple):
    start_ms: float
    end_ms: float
    hz: float


class _Candidate(NamedTuple):
    """A beep, if it is quiet now."""

    end_ms: float
    quiet_power: float
    quiet_hop: int  # the last that must be quiet


class BeepDetector:
    """Hears where an answering machine's beep ends, and for how long it has been quiet. For one thread at a time.

    A beep is a tone of 350 to 2200 Hz that lasts 120 ms to 1.5 s, 400 to 450 Hz at most 0.65 s (longer is ringing
    tone), at -30 dBm0 or louder and at least 8 dB above the noise of the line. It is told about 70 ms after its end.

    Some machines have no beep, or one that is lost on the way: let :attr:`silence_ms` decide as well. In call code::

        while detector.feed(frame) is None and detector.silence_ms < 2500: ...

    Pure: no clock, no threads. What is found does not depend on how the stream is cut into chunks. About 50 µs of one
    core for 20 ms of audio.
    """

    def __init__(self) -> None:
        self._framer = Framer()
        self._line = np.zeros(_CARRIED + FRAME_BYTES)
        self._looks = np.ndarray((_LOOKS, _WINDOW), np.float64, self._line, 0, (8 * _HOP, 8))
        self._tapered = np.zeros((_LOOKS, _WINDOW))
        self._parts = np.zeros((_LOOKS, _WINDOW // 2 + 1), np.complex128)
        self._hop = 0
        self._recent: collections.deque[float] = collections.deque(maxlen=_REMEMBERED_HOPS)
        self._tone: list[_Look] = []
        self._before: _Tone | None = None
        self._candidate: _Candidate | None = None
        self._silence = _Silence()

    @property
    def silence_ms(self) -> float:
        """For how long it has been quiet by now, in ms of audio, whole frames of 20 ms; 0 while there is sound.

        Quiet is below -50 dBFS or within 6 dB of the line's own noise, but not above -35 dBFS. A click is no sound.
        """
        return self._silence.ms

    def feed(self, ulaw: bytes) -> float | None:
        """Take the next piece of any length; where a beep ended (ms on all audio fed, within 15), or ``None``.

        Of several beeps in one piece it is the last.
        """
        ended = None
        for frame in self._framer.push(ulaw):
            end_ms = self._frame(frame)
            ended = end_ms if end_ms is not None else ended
        return ended

    def _frame(self, frame: bytes) -> float | None:
        line = self._line
        line[:_CARRIED] = line[FRAME_BYTES:]
        line[_CARRIED:] = _PCM[np.frombuffer(frame, np.uint8)]
        blocks = [line[at : at + _HOP] for at in range(_CARRIED, _CARRIED + FRAME_BYTES, _HOP)]
        hops = [float(np.dot(block, block)) / _HOP for block in blocks]
        self._silence.frame(sum(hops) / _LOOKS)
        seen: list[tuple[float, float] | None] = [None] * _LOOKS
        if max(hops) >= _MIN_POWER or self._tone:
            np.multiply(self._looks, _TAPER, out=self._tapered)
            np.fft.rfft(self._tapered, axis=1, out=self._parts)
            powers = np.square(np.abs(self._parts))
            totals = np.dot(powers, _COUNTED).tolist()
            peaks = powers[:, _FIRST_BIN:_LAST_BIN].argmax(axis=1).tolist()
            seen = [
                _tone_in(power, total, _FIRST_BIN + peak)
                for power, total, peak in zip(powers, totals, peaks, strict=True)
            ]
        ended = None
        for power, look in zip(hops, seen, strict=True):
            self._hop += 1
            self._recent.append(power)
            self._follow(look)
            end_ms = self._judge()
            ended = end_ms if end_ms is not None else ended
        return ended

    def _follow(self, seen: tuple[float, float] | None) -> None:
        """Take what the current look sees: its frequency and power."""
        tone = self._tone
        if tone and (seen is None or not _same(seen[0], tone[0].hz)):
            self._over(tone)
            tone = self._tone = []
        if seen is not None:
            tone.append(_Look(self._hop * _HOP_MS - _WINDOW / BYTES_PER_MS / 2, *seen))

    def _over(self, looks: list[_Look]) -> None:
        """A tone is over; it may have been a beep."""
        loudest = max(look.power for look in looks)
        inside = [look for look in looks if look.power >= _EDGE * loudest]
        start_ms, end_ms = inside[0].at_ms - _HOP_MS / 2, inside[-1].at_ms + _HOP_MS / 2
        if end_ms - start_ms < _MIN_TONE_MS:
            return
        plateau = [look for look in inside if look.power >= _PLATEAU * loudest]
        hz = statistics.fmean(look.hz for look in plateau)
        long_enough = end_ms - start_ms >= _MIN_MS
        steady = (
            len(plateau) >= _MIN_PLATEAU * len(inside)
            and statistics.pstdev(look.hz for look in plateau) <= _MAX_WOBBLE_HZ + _MAX_WOBBLE * hz
        )
        alone = True
        if self._before is not None and start_ms - self._before.end_ms < _MELODY_MS:
            alone = _same(hz, self._before.hz)
            if alone:  # the same tone behind a gap, such as a lost packet makes
                start_ms = self._before.start_ms
        self._before = _Tone(start_ms, end_ms, hz)
        ringing = _RINGING_HZ[0] <= hz <= _RINGING_HZ[1]
        if long_enough and steady and alone and end_ms - start_ms <= (_RINGING_MS if ringing else _MAX_MS):
            quiet_hop = round(end_ms / _HOP_MS) + _SETTLE_HOPS + _QUIET_HOPS
            self._candidate = _Candidate(end_ms, _QUIET * loudest, quiet_hop)

    def _judge(self) -> float | None:
        candidate = self._candidate
        if candidate is None or self._hop < candidate.quiet_hop:
            return None
        self._candidate = None
        end = len(self._recent) - (self._hop - candidate.quiet_hop)
        after = list(self._recent)[max(0, end - _QUIET_HOPS) : max(0, end)]
        # A tone that dies away for longer than is remembered does not give way to quiet.
        return candidate.end_ms if after and statistics.fmean(after) <= candidate.quiet_power else None


def _same(hz: float, other_hz: float) -> bool:
    return abs(hz - other_hz) <= max(_SAME_HZ, _SAME * other_hz)


def _tone_in(powers: _Floats, total: float, peak: int) -> tuple[float, float] | None:
    """Frequency and power of the tone in a spectrum; ``None`` if there is more than a tone and some noise."""
    if total < _MIN_POWER or powers.item(peak) < _MIN_PEAK * total:
        return None
    below, at, above = powers[peak - 1 : peak + 2].tolist()
    # What a Hann window makes of a sine between two bins gives away where it lies.
    ratio = math.sqrt(max(below, above) / at)
    offset = (2 * ratio - 1) / (ratio + 1)
    place = peak + offset if above > below else peak - offset
    hz = place * _BIN_HZ
    if not _MIN_HZ <= hz <= _MAX_HZ:
        return None
    rest = powers.copy()
    rest[:_LOWEST_BIN] = 0
    power = _take(rest, peak)
    with_overtones = power
    if hz >= _OVERTONES_FROM_HZ:
        for overtone in _OVERTONES:
            if overtone * hz < SAMPLE_RATE / 2:
                with_overtones += _take(rest, round(overtone * place))
    if with_overtones < _MIN_SHARE * total or float(rest.max()) > _MAX_OTHER * at:
        return None
    return hz, power


def _take(powers: _Floats, peak: int) -> float:
    """Take a tone out of a spectrum; return its power. What it leaves at its skirts goes with it."""
    power = float(powers[peak - _LOBE : peak + _LOBE + 1].sum())
    powers[peak - _LOBE - 1 : peak + _LOBE + 2] = 0
    return power


class _Silence:
    """For how long it has been quiet, against the minimum of the level over the last seconds."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._sound_frames = 0
        self._minima: collections.deque[float] = collections.deque(maxlen=_FLOOR_BLOCKS)
        self._minimum = math.inf
        self._frames = 0

    def frame(self, power: float) -> None:
        level_dbfs = 10 * math.log10(power / _FULL_SCALE) if power else -math.inf
        self._minimum = min(self._minimum, level_dbfs)
        floor_dbfs = min(self._minimum, *self._minima) if self._minima else self._minimum
        self._frames += 1
        if self._frames == _FLOOR_FRAMES:
            self._minima.append(self._minimum)
            self._minimum = math.inf
            self._frames = 0
        quiet_dbfs = min(max(SILENCE_DBFS, floor_dbfs + _OVER_FLOOR_DB), _LOUDEST_QUIET_DBFS)
        self.ms += FRAME_MS
        if level_dbfs < quiet_dbfs:
            self._sound_frames = 0
        else:
            self._sound_frames += 1
            if self._sound_frames >= _MIN_SOUND_FRAMES:
                self.ms = 0.0
