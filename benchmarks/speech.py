"""Something to play that is never silent."""

from __future__ import annotations

__all__ = ["SPEECH_S", "speech"]

SPEECH_S = 10.0


def speech(seconds: float = SPEECH_S) -> bytes:
    """μ-law bytes in which every sample is audible and no two neighbouring frames are alike.

    The far end counts bytes, not words, so any signal will do; this one is a sawtooth over the loud half of the
    positive and negative codes (0x00-0x3F and 0x80-0xBF, ITU-T G.711 table 2).
    """
    loud = bytes((*range(0x40), *range(0x80, 0xC0)))
    size = int(seconds * 8000)
    return (loud * (size // len(loud) + 1))[:size]
