"""Voice activity from loudness alone: always there, costs a few microseconds, good on quiet lines.

The noise floor is the minimum of the level over the last seconds (minimum statistics: R. Martin, "Noise power
spectral density estimation based on optimal smoothing and minimum statistics", 2001, without its smoothing).
Anything loud is speech to it: ringback, DTMF and music on hold too.
"""

from __future__ import annotations

import array
import collections
import math
import sys

from ..audio.g711 import ulaw_to_pcm16
from ..vad import FRAME_BYTES, VoiceActivityDetector

__all__ = ["EnergyVad"]

_QUIETEST_DB = -59.0
"""No floor below this (dB of full scale): comfort noise after digital silence must not look like speech."""
_BLOCK_FRAMES = 10  # the minimum is kept per 200 ms ...
_BLOCKS = 15  # ... for 3 s, longer than fluent speech goes without a gap
_SLOPE_DB = 1.5  # how far from the threshold the probability is 0.73


def _squares() -> tuple[float, ...]:
    samples = array.array("h", ulaw_to_pcm16(bytes(range(256))))
    if sys.byteorder == "big":
        samples.byteswap()
    return tuple(float(sample) * sample for sample in samples)


_SQUARES = _squares()
_FULL_SCALE = 32768.0**2 * FRAME_BYTES


class EnergyVad(VoiceActivityDetector):
    """Speech is what stands ``threshold_db`` above the noise floor; there the probability is 0.5."""

    name = "energy"

    def __init__(self, *, threshold_db: float = 9.0) -> None:
        self.threshold_db = threshold_db
        self.reset()

    def reset(self) -> None:
        self._minima: collections.deque[float] = collections.deque(maxlen=_BLOCKS)
        self._block_minimum = 0.0
        self._block_frames = 0

    @property
    def floor_db(self) -> float:
        """The noise floor (dB of full scale); at a stream's beginning that of a quiet line."""
        lowest = min(self._minima) if self._minima else _QUIETEST_DB
        return max(_QUIETEST_DB, min(lowest, self._block_minimum) if self._minima else lowest)

    def process(self, ulaw_frame: bytes) -> float:
        if len(ulaw_frame) != FRAME_BYTES:
            raise ValueError(f"a frame is {FRAME_BYTES} bytes of μ-law (20 ms), not {len(ulaw_frame)}")
        power = sum(map(_SQUARES.__getitem__, ulaw_frame))
        level_db = 10 * math.log10(power / _FULL_SCALE + 1e-12)
        floor_db = self.floor_db
        self._block_minimum = min(self._block_minimum, level_db)
        self._block_frames += 1
        if self._block_frames == _BLOCK_FRAMES:
            self._minima.append(self._block_minimum)
            self._block_minimum = 0.0
            self._block_frames = 0
        excess_db = level_db - floor_db - self.threshold_db
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, excess_db)) / _SLOPE_DB))
