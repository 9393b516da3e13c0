"""How loud audio is, and making it louder or quieter.

Levels are dBFS: 0 is a constant at full scale of 16 bits, so a sine at full scale has a peak of 0 and an RMS of -3,
and digital silence has -inf. (The loudest μ-law sample is 32,124 of 32,768, -0.2 dBFS.) All functions are pure and
may be called from any thread.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

from .g711 import pcm16_to_ulaw, ulaw_to_pcm16

with warnings.catch_warnings():
    # As in g711: deprecated in the standard library of 3.11 and 3.12, a package of its own afterwards.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["SILENCE_DBFS", "Encoding", "apply_gain", "is_silence", "peak_dbfs", "rms_dbfs"]

Encoding = Literal["ulaw", "pcm16"]
"""``ulaw``: one byte a sample. ``pcm16``: signed 16-bit in the machine's byte order."""

SILENCE_DBFS = -50.0
"""Speech on a telephone line lies between about -35 and -15 dBFS, comfort noise at -50 and below."""

_FULL_SCALE_32 = float(1 << 31)


def rms_dbfs(audio: bytes, encoding: Encoding = "ulaw") -> float:
    """Root mean square level in dBFS; ``-inf`` for silence and for no audio.

    Raises:
        ValueError: the encoding is unknown, or PCM16 has an odd number of bytes.
    """
    # audioop answers in whole units; in 32 bits the unit is 65,536 times finer, so quiet audio is measured well.
    return _dbfs(audioop.rms(audioop.lin2lin(_pcm16(audio, encoding), 2, 4), 4))


def peak_dbfs(audio: bytes, encoding: Encoding = "ulaw") -> float:
    """Level of the largest sample in dBFS; ``-inf`` for silence and for no audio.

    Raises:
        ValueError: the encoding is unknown, or PCM16 has an odd number of bytes.
    """
    return _dbfs(audioop.max(_pcm16(audio, encoding), 2) << 16)


def is_silence(audio: bytes, encoding: Encoding = "ulaw", threshold_dbfs: float = SILENCE_DBFS) -> bool:
    """Whether the RMS level stays under ``threshold_dbfs``. A level test, not a speech detector.

    Raises:
        ValueError: the encoding is unknown, or PCM16 has an odd number of bytes.
    """
    return rms_dbfs(audio, encoding) < threshold_dbfs


def apply_gain(audio: bytes, gain_db: float, encoding: Encoding = "ulaw") -> bytes:
    """The same audio ``gain_db`` decibels louder (negative: quieter), clipped at full scale.

    Raises:
        ValueError: the encoding is unknown, or PCM16 has an odd number of bytes.
    """
    pcm16 = _pcm16(audio, encoding)
    if gain_db == 0:
        return audio
    louder = audioop.mul(pcm16, 2, 10 ** (gain_db / 20))
    return pcm16_to_ulaw(louder) if encoding == "ulaw" else louder


def _pcm16(audio: bytes, encoding: Encoding) -> bytes:
    if encoding == "ulaw":
        return ulaw_to_pcm16(audio)
    if encoding != "pcm16":
        raise ValueError(f"encoding is 'ulaw' or 'pcm16'; {encoding!r} came.")
    if len(audio) % 2:
        raise ValueError(f"PCM16 has 2 bytes a sample, so an even number of bytes was expected; {len(audio)} came.")
    return audio


def _dbfs(value_32: int) -> float:
    return 20 * math.log10(value_32 / _FULL_SCALE_32) if value_32 else -math.inf
