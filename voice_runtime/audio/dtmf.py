"""Telephone keys as sound: making DTMF tones, and hearing them in a caller's audio.

Twilio tells keys in messages of their own; the detector is for lines that carry them as sound only (RTP without
telephone-events, other carriers, recordings).

A key is two sines at once, one of its row and one of its column (ITU-T Q.23):

====== ======= ======= ======= =======
Hz     1209    1336    1477    1633
====== ======= ======= ======= =======
697    1       2       3       A
770    4       5       6       B
852    7       8       9       C
941    ``*``   0       #       D
====== ======= ======= ======= =======

What a receiver must accept and refuse is in ITU-T Q.24; administrations differ a little, and this receiver takes the
widest of their values:

* frequencies: within 1.5 % accepted, 3.5 % off refused;
* level: 0 to -25 dBm0 for each tone accepted (here down to about -38);
* twist: the column up to 4 dB louder or 8 dB quieter than the row accepted;
* a tone of 40 ms accepted, one of 23 ms refused;
* a pause of 40 ms divides two keys, an interruption of 10 ms does not;
* speech and music are no keys.
"""

from __future__ import annotations

import cmath
import math
import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from .frames import BYTES_PER_MS, FRAME_BYTES, SAMPLE_RATE, Framer, ms_to_bytes
from .g711 import ULAW_SILENCE, pcm16_to_ulaw, ulaw_to_pcm16

__all__ = ["DTMF_KEYS", "DetectedKey", "DtmfDetector", "dtmf_tone"]

DTMF_KEYS = "123A456B789C*0#D"
"""The sixteen keys, row by row."""

_ROWS_HZ = (697, 770, 852, 941)
_COLUMNS_HZ = (1209, 1336, 1477, 1633)
_TONES_HZ = np.array(_ROWS_HZ + _COLUMNS_HZ, dtype=np.float64)

_AMPLITUDE_0_DBM0 = 22_651.0
"""Of a sine at 0 dBm0, in 16 bits: the 1 kHz sequence of ITU-T G.711, table 6."""
_MAX_LEVEL_DBM0 = -3.0  # two sines of this level together just fit
_MIN_LEVEL_DBM0 = -60.0
_EDGE_MS = 2.0  # a tone fades in and out, or it would click
_WAITS_MS = {"w": 500.0, "W": 1000.0}

_WINDOW = 160  # samples that one look covers: two looks fit side by side into the shortest tone
_HOP = 40  # samples from one look to the next
_HOP_MS = _HOP / BYTES_PER_MS
_LOOKS = FRAME_BYTES // _HOP  # in a frame
_CARRIED = _WINDOW - _HOP  # samples of the past that the first look of a frame covers

_SPREAD = 0.015  # of a tone's frequency: power is that of the best of three points, for tones that are a little off
_MAX_DEVIATION = 0.025  # midway between what must be accepted and what must be refused
_MIN_LEVEL_HEARD_DBM0 = -40.0
_MAX_COLUMN_OVER_ROW_DB = 6.5  # noise of -10 dB moves a twist by up to 2.5 dB
_MAX_ROW_OVER_COLUMN_DB = 10.5
_MIN_SHARE = 0.75  # of all power, in the two tones: 0.91 with noise of -10 dB, little of it in a voice
_MIN_RUN = 5  # looks one after the other that see the key: a tone of 26 to 31 ms, between the 23 and 40 of Q.24
_MAX_MISSED = 5  # looks that an interruption may cost: 3 or 4 for 10 ms, 8 or more for the pause between two keys
_LOOK_MARGIN_MS = 4.5  # a look sees a key when it covers the key but for this much at an edge, on average

_Floats = NDArray[np.float64]

_PCM: _Floats = np.frombuffer(ulaw_to_pcm16(bytes(range(256))), np.int16).astype(np.float64)


_TAPER: _Floats = np.hanning(_WINDOW + 2)[1:-1]
_TAPER /= _TAPER.sum()


def _analysis() -> _Floats:
    """[sample, 48]: 24 real parts, then 24 imaginary ones, of which 8 are below, 8 at and 8 above the tones.

    Scaled so that the squared magnitude is the tone's mean power.
    """
    points = np.concatenate([_TONES_HZ * factor for factor in (1 - _SPREAD, 1.0, 1 + _SPREAD)])
    phase = 2 * np.pi / SAMPLE_RATE * np.arange(_WINDOW)[:, None] * points
    waves: _Floats = np.hstack([np.cos(phase), -np.sin(phase)])
    return math.sqrt(2) * _TAPER[:, None] * waves


_ANALYSIS = _analysis()
_POINTS = _ANALYSIS.shape[1] // 2
_AT = len(_TONES_HZ)  # the first of the points that lie at the tones
_BACK = [cmath.exp(-2j * math.pi * hz * _HOP / SAMPLE_RATE) for hz in _TONES_HZ]  # undoes the turn of the exact tone
_MAX_TURN = [math.tan(2 * math.pi * hz * _MAX_DEVIATION * _HOP / SAMPLE_RATE) for hz in _TONES_HZ]
_MIN_POWER = _AMPLITUDE_0_DBM0**2 / 2 * 10 ** (_MIN_LEVEL_HEARD_DBM0 / 10)
_MAX_COLUMN_OVER_ROW = 10 ** (_MAX_COLUMN_OVER_ROW_DB / 10)
_MAX_ROW_OVER_COLUMN = 10 ** (_MAX_ROW_OVER_COLUMN_DB / 10)


def dtmf_tone(digits: str, *, tone_ms: float = 100, pause_ms: float = 100, level_dbm0: float = -10.0) -> bytes:
    """The keys as μ-law, each followed by a pause, so that what is appended cannot touch the last one.

    Args:
        digits: ``0-9``, ``*``, ``#``, ``A-D``. ``w`` waits half a second and ``W`` a second, as in Twilio's
            ``sendDigits``. https://www.twilio.com/docs/voice/api/call-resource
        tone_ms: how long each key sounds. Receivers must hear 40 ms; 70 and more is safe.
        pause_ms: silence behind each key. Receivers need 40 ms between two.
        level_dbm0: of each of the two tones. Together they are 3 dB louder.

    Raises:
        ValueError: a character is no key, a duration is negative, or the level does not fit into μ-law.
    """
    if stranger := re.search(f"[^{re.escape(DTMF_KEYS)}wW]", digits):
        raise ValueError(
            f"Keys are 0-9, *, #, A-D, and w or W to wait half a second or a second; "
            f"{stranger.group()!r} came at position {stranger.start()}."
        )
    if not tone_ms > 0:
        raise ValueError(f"tone_ms is more than 0 (receivers hear 40 and more); {tone_ms} came.")
    if not pause_ms >= 0:
        raise ValueError(f"pause_ms is 0 or more (receivers tell keys apart from 40 on); {pause_ms} came.")
    if not _MIN_LEVEL_DBM0 <= level_dbm0 <= _MAX_LEVEL_DBM0:
        raise ValueError(
            f"level_dbm0 is from {_MIN_LEVEL_DBM0:g} to {_MAX_LEVEL_DBM0:g}, for each of the two tones; "
            f"{level_dbm0} came."
        )
    amplitude = _AMPLITUDE_0_DBM0 * 10 ** (level_dbm0 / 20)
    pause = bytes([ULAW_SILENCE]) * ms_to_bytes(pause_ms)
    pieces = []
    for digit in digits:
        if digit in _WAITS_MS:
            pieces.append(bytes([ULAW_SILENCE]) * ms_to_bytes(_WAITS_MS[digit]))
        else:
            pieces += (_key_tone(digit, ms_to_bytes(tone_ms), amplitude), pause)
    return b"".join(pieces)


def _key_tone(digit: str, count: int, amplitude: float) -> bytes:
    row, column = divmod(DTMF_KEYS.index(digit), len(_COLUMNS_HZ))
    n = np.arange(count)
    turn = 2 * np.pi / SAMPLE_RATE * n
    from_edge = np.minimum(n, count - 1 - n) / (_EDGE_MS * BYTES_PER_MS)
    tone = np.sin(turn * _ROWS_HZ[row]) + np.sin(turn * _COLUMNS_HZ[column])
    tone *= amplitude * np.minimum(from_edge, 1.0)
    return pcm16_to_ulaw(np.rint(tone).astype(np.int16).tobytes())


class DetectedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was pressed and let go. Positions are on the audio that was fed, within about 5 ms."""

    digit: str
    """One of :data:`DTMF_KEYS`."""
    start_ms: float
    """Where it began to sound (ms)."""
    duration_ms: float
    """How long it sounded, interruptions included (ms)."""


class DtmfDetector:
    """Hears the keys in a stream of μ-law. Pure: no clock, no threads; for one thread at a time.

    Every 5 ms it looks at the last 20 ms: at how much of the power is in one row tone and one column tone, and, by
    how far their phases turned since the look before, at their exact frequencies. Five looks in agreement are a key.

    What is found does not depend on how the stream is cut into chunks. A key is told once, about 40 ms after it was
    let go; :attr:`pressed` knows it about 40 ms after it began. About 30 µs of one core for 20 ms of audio.
    """

    def __init__(self) -> None:
        self._framer = Framer()
        self._line = np.zeros(_CARRIED + FRAME_BYTES)
        self._looks = np.ndarray((_LOOKS, _WINDOW), np.float64, self._line, 0, (8 * _HOP, 8))
        self._parts = np.zeros((1 + _LOOKS, 2 * _POINTS))  # of the look before the frame and of those in it
        self._forget()

    def _forget(self) -> None:
        self._framer.clear()
        self._line[:] = 0
        self._parts[:] = 0
        self._look = -(_CARRIED // _HOP)  # number of the next look; it begins at this many hops
        self._run_key: str | None = None
        self._run = 0
        self._pressed: str | None = None
        self._first_look = 0
        self._last_look = 0

    @property
    def pressed(self) -> str | None:
        """The key that sounds now; ``None`` when none does."""
        return self._pressed

    def feed(self, ulaw: bytes) -> list[DetectedKey]:
        """Take the next piece of any length; return the keys that are over now, in order."""
        keys: list[DetectedKey] = []
        for frame in self._framer.push(ulaw):
            for seen in self._see(frame):
                if (key := self._follow(seen)) is not None:
                    keys.append(key)
                self._look += 1
        return keys

    def flush(self) -> list[DetectedKey]:
        """The end of the stream: the key that still sounded. Afterwards a new stream may begin, at 0 ms."""
        # Long enough to be a pause, and to move the last incomplete frame along.
        keys = self.feed(bytes([ULAW_SILENCE]) * (4 * FRAME_BYTES))
        self._forget()
        return keys

    def _see(self, frame: bytes) -> list[str | None]:
        """The key that each look of this frame sees."""
        line, parts = self._line, self._parts
        line[:_CARRIED] = line[FRAME_BYTES:]
        line[_CARRIED:] = _PCM[np.frombuffer(frame, np.uint8)]
        parts[0] = parts[_LOOKS]
        looks = self._looks.copy()
        powers: list[float] = np.dot(np.square(looks), _TAPER).tolist()
        if max(powers) < _MIN_POWER:
            parts[_LOOKS] = 0
            return [None] * _LOOKS
        np.dot(looks, _ANALYSIS, out=parts[1:])
        squares = np.square(parts[1:])
        tones = (squares[:, :_POINTS] + squares[:, _POINTS:]).reshape(_LOOKS, 3, len(_TONES_HZ)).max(axis=1)
        return [self._key_in(look, *seen) for look, seen in enumerate(zip(tones.tolist(), powers, strict=True))]

    def _key_in(self, look: int, tones: list[float], power: float) -> str | None:
        """The key in one look of the frame, given the mean power of each tone and of everything."""
        rows, columns = tones[: len(_ROWS_HZ)], tones[len(_ROWS_HZ) :]
        row, column = max(rows), max(columns)
        if (
            row + column < _MIN_SHARE * power
            or min(row, column) < _MIN_POWER
            or column > row * _MAX_COLUMN_OVER_ROW
            or row > column * _MAX_ROW_OVER_COLUMN
        ):
            return None
        which_row, which_column = rows.index(row), columns.index(column)
        if not self._on_frequency(look, which_row) or not self._on_frequency(look, len(_ROWS_HZ) + which_column):
            return None
        return DTMF_KEYS[which_row * len(_COLUMNS_HZ) + which_column]

    def _on_frequency(self, look: int, tone: int) -> bool:
        """Whether the tone's phase turned as far as it may since the look before."""
        part, real, imag = self._parts.item, _AT + tone, _POINTS + _AT + tone
        before, now = complex(part(look, real), part(look, imag)), complex(part(look + 1, real), part(look + 1, imag))
        turn = now * before.conjugate() * _BACK[tone]
        return turn.real > 0 and abs(turn.imag) <= turn.real * _MAX_TURN[tone]

    def _follow(self, seen: str | None) -> DetectedKey | None:
        """Take what the current look sees; return the key that is over by that."""
        self._run = self._run + 1 if seen is not None and seen == self._run_key else int(seen is not None)
        self._run_key = seen
        over = None
        if self._pressed is not None:
            if seen == self._pressed:
                self._last_look = self._look
            elif self._run >= _MIN_RUN or self._look - self._last_look > _MAX_MISSED:
                over = self._key_over(self._pressed)
                self._pressed = None
        if self._pressed is None and self._run >= _MIN_RUN:
            self._pressed = seen
            self._first_look = self._look - _MIN_RUN + 1
            self._last_look = self._look
        return over

    def _key_over(self, digit: str) -> DetectedKey:
        start_ms = max(0.0, self._first_look * _HOP_MS + _LOOK_MARGIN_MS)
        end_ms = self._last_look * _HOP_MS + _WINDOW / BYTES_PER_MS - _LOOK_MARGIN_MS
        return DetectedKey(digit=digit, start_ms=start_ms, duration_ms=end_ms - start_ms)
