"""Changing the sample rate of a stream, without clicks between its chunks and without folding.

A polyphase FIR filter (Crochiere & Rabiner, *Multirate Digital Signal Processing*, chapter 3): a windowed sinc at the
least common multiple of both rates, of which only the phases that are needed are ever computed. The pass band
reaches 3.4 kHz at a rate of 8 kHz (-0.5 dB); from 4.1 kHz on everything is more than 80 dB down.

The coefficients are whole numbers of 2^-26 and the samples whole numbers, so every product and every sum is exact in
64-bit floating point. The result therefore does not depend on the order of the additions: it is the same to the last
bit for any chunking, linear-algebra library or processor.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_RATE", "MIN_RATE", "Resampler"]

MIN_RATE = 1_000
MAX_RATE = 384_000

_ZERO_CROSSINGS = 24  # on each side: 3 ms of delay at 8 kHz, the price of a 700 Hz transition band
_CUTOFF = 0.91  # of half the lower rate: 6 dB down at about 3.6 kHz at a rate of 8 kHz
_KAISER_BETA = 8.2  # side lobes below -80 dB
_SCALE = float(1 << 26)
_GROUP = 8  # outputs computed by one matrix product
_FEW_PHASES = 16  # up to so many phases, a group covers all of them and one matrix serves every group
_MANY_PHASES = (
    1024  # beyond, outputs are computed one by one to keep the matrices small (rates with no common factor)
)
_SLICE_SECONDS = 0.1  # of input taken at a time, which bounds the working memory for long chunks

_Floats = NDArray[np.float64]


class _Bank(NamedTuple):
    """The filter of one ratio ``up / down`` in lowest terms."""

    up: int
    down: int
    taps: int  # input samples that one output looks back over
    group: int  # outputs in a group
    width: int  # input samples that one group looks at
    delay: int  # group delay in output samples, a whole number by construction
    matrices: _Floats  # [phase of the group's first output, width, group]


@functools.lru_cache(maxsize=16)
def _bank(up: int, down: int) -> _Bank:
    unit = max(up, down)  # one zero crossing of the sinc, at the common rate
    delay = math.ceil(_ZERO_CROSSINGS * unit / down)
    half = delay * down
    t = np.arange(-half, half + 1)
    prototype = np.sinc(t * (_CUTOFF / unit)) * np.kaiser(2 * half + 1, _KAISER_BETA)
    taps = 2 * half // up + 1
    phases = np.zeros((up, taps))
    for phase in range(up):
        tap = prototype[phase::up]
        phases[phase, taps - len(tap) :] = np.rint(tap[::-1] / tap.sum() * _SCALE)
    if up <= _FEW_PHASES:
        group = up * math.ceil(_GROUP / up)
    elif up <= _MANY_PHASES:
        group = _GROUP
    else:
        group = 1
    first = np.arange(up)
    reach = first[:, None] + np.arange(group) * down
    width = taps + int(reach.max()) // up
    matrices = np.zeros((up, width, group))
    for column in range(group):
        rows = (reach[:, column] // up)[:, None] + np.arange(taps)
        matrices[first[:, None], rows, column] = phases[reach[:, column] % up]
    return _Bank(up, down, taps, group, width, delay, matrices)


@functools.lru_cache(maxsize=16)
def _plan(up: int, down: int, position: int, groups: int) -> tuple[NDArray[np.intp], _Floats]:
    """For ratios of many phases: where each group's window starts, and each group's matrix.

    ``position`` is that of the first output at the common rate, from the first new input sample. Equal chunks, as in
    a call, need the same plan again and again.
    """
    bank = _bank(up, down)
    at = position + np.arange(groups) * (bank.group * down)
    return at // up, bank.matrices[at % up]


class Resampler:
    """A stream of PCM16 at ``from_hz`` in, the same stream at ``to_hz`` out. One channel; for one thread at a time.

    After ``n`` input samples exactly ``ceil(n * to_hz / from_hz)`` samples have come out, so every 20 ms frame of 24,
    22.05 or 44.1 kHz gives 160 samples at 8 kHz at once. What comes out is ``delay_samples`` late (3 ms at 8 kHz);
    :meth:`flush` delivers those last samples. The output is identical for any cutting of the input into chunks, even
    in the middle of a sample.

    Any two whole rates from 1,000 to 384,000 Hz. With equal rates the audio passes unchanged.

    Raises:
        ValueError: a rate is out of range or not a whole number.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        for name, rate in (("from_hz", from_hz), ("to_hz", to_hz)):
            if not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
                raise ValueError(f"{name} is a whole number of Hz from {MIN_RATE} to {MAX_RATE}; {rate!r} came.")
        self.from_hz = from_hz
        self.to_hz = to_hz
        common = math.gcd(from_hz, to_hz)
        self._bank = _bank(to_hz // common, from_hz // common) if from_hz != to_hz else None
        self._slice = 2 * max(1, int(from_hz * _SLICE_SECONDS))
        self._half_sample = b""
        self._started = False
        self._next = 0  # position of the next output, at the common rate, from the first sample not yet taken
        self._history = self._no_history()

    @property
    def delay_samples(self) -> int:
        """How late the output is, in samples at ``to_hz``."""
        return self._bank.delay if self._bank is not None else 0

    def process(self, pcm16: bytes) -> bytes:
        """Take the next piece of any length (bytes of PCM16); return what it makes, at once."""
        if self._half_sample:
            pcm16 = self._half_sample + pcm16
        if len(pcm16) % 2:
            self._half_sample = pcm16[-1:]
            pcm16 = pcm16[:-1]
        else:
            self._half_sample = b""
        if not pcm16:
            return b""
        if self._bank is None:
            return bytes(pcm16)
        if len(pcm16) <= self._slice:
            return self._convert(self._bank, pcm16)
        size = self._slice
        return b"".join(self._convert(self._bank, pcm16[at : at + size]) for at in range(0, len(pcm16), size))

    def flush(self) -> bytes:
        """The end of the stream: the last ``delay_samples`` samples. Afterwards a new stream may begin.

        Half a sample left over from an odd number of bytes is dropped.
        """
        tail = b""
        if self._bank is not None and self._started:
            self._half_sample = b""
            silence = math.ceil(self._bank.delay * self._bank.down / self._bank.up) + 1
            tail = self.process(bytes(2 * silence))[: 2 * self._bank.delay]
        self._half_sample = b""
        self._started = False
        self._next = 0
        self._history = self._no_history()
        return tail

    def _no_history(self) -> _Floats:
        return np.zeros(self._bank.taps - 1 if self._bank is not None else 0)

    def _convert(self, bank: _Bank, pcm16: bytes) -> bytes:
        up, down, taps, group, width, _, matrices = bank
        self._started = True
        new = len(pcm16) // 2
        old = taps - 1
        count = -((self._next - new * up) // down)  # outputs whose newest input sample is here
        groups = -(-count // group)
        # The last group may look past the newest sample, for outputs that are cut off below.
        line = np.zeros(old + new + width)
        line[:old] = self._history
        line[old : old + new] = np.frombuffer(pcm16, np.int16)
        if up <= _FEW_PHASES:
            first, phase = divmod(self._next, up)
            windows = np.ndarray((groups, width), np.float64, line, 8 * first, (8 * (group * down // up), 8))
            sums = np.dot(windows, matrices[phase])
        else:
            starts, chosen = _plan(up, down, self._next, groups)
            windows = np.ndarray((old + new + 1, width), np.float64, line, 0, (8, 8))
            sums = np.matmul(windows[starts][:, None, :], chosen)
        result = sums.reshape(-1)[:count]
        result *= 1 / _SCALE
        np.rint(result, out=result)
        np.minimum(result, 32767, out=result)
        np.maximum(result, -32768, out=result)
        self._history = line[new : new + old]
        self._next += count * down - new * up
        samples: NDArray[np.int16] = result.astype(np.int16)
        return samples.tobytes()
