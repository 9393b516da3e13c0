"""G.711: one byte per sample, 8,000 samples a second (ITU-T G.711; RFC 3551 §4.5.14, PCMU and PCMA).

PCM16 here is signed 16-bit in the machine's byte order, one channel, 2 bytes a sample. All functions are pure, take
any length and may be called from any thread.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Python 3.11 and 3.12 announce its removal; from 3.13 on the same name is the audioop-lts package.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = [
    "ALAW_SILENCE",
    "ULAW_SILENCE",
    "alaw_to_pcm16",
    "alaw_to_ulaw",
    "pcm16_to_alaw",
    "pcm16_to_ulaw",
    "ulaw_to_alaw",
    "ulaw_to_pcm16",
]

ULAW_SILENCE = 0xFF
"""The μ-law byte of zero. The byte 0x00 is the opposite: the loudest negative sample."""
ALAW_SILENCE = 0xD5
"""The A-law byte of the smallest positive value (A-law has no zero)."""


def ulaw_to_pcm16(ulaw: bytes) -> bytes:
    """μ-law bytes to PCM16: twice as many bytes."""
    return audioop.ulaw2lin(ulaw, 2)


def pcm16_to_ulaw(pcm16: bytes) -> bytes:
    """PCM16 to μ-law bytes: half as many bytes.

    Raises:
        ValueError: the number of bytes is odd.
    """
    _require_whole_samples(pcm16)
    return audioop.lin2ulaw(pcm16, 2)


def alaw_to_pcm16(alaw: bytes) -> bytes:
    """A-law bytes to PCM16: twice as many bytes."""
    return audioop.alaw2lin(alaw, 2)


def pcm16_to_alaw(pcm16: bytes) -> bytes:
    """PCM16 to A-law bytes: half as many bytes.

    Raises:
        ValueError: the number of bytes is odd.
    """
    _require_whole_samples(pcm16)
    return audioop.lin2alaw(pcm16, 2)


def alaw_to_ulaw(alaw: bytes) -> bytes:
    """A-law bytes to μ-law bytes, as many."""
    return audioop.lin2ulaw(audioop.alaw2lin(alaw, 2), 2)


def ulaw_to_alaw(ulaw: bytes) -> bytes:
    """μ-law bytes to A-law bytes, as many."""
    return audioop.lin2alaw(audioop.ulaw2lin(ulaw, 2), 2)


def _require_whole_samples(pcm16: bytes) -> None:
    if len(pcm16) % 2:
        raise ValueError(
            f"PCM16 has 2 bytes a sample, so an even number of bytes was expected; {len(pcm16)} came. "
            f"Keep the last byte and put it in front of the next chunk."
        )
