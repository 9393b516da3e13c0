"""Frames: the 20 ms pieces in which a telephone line moves.

Twilio sends and plays μ-law at 8,000 Hz (``audio/x-mulaw``, rate 8000, one channel): 8 bytes a millisecond and 160
bytes in each frame of 20 ms. https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from __future__ import annotations

from .g711 import ULAW_SILENCE

__all__ = [
    "BYTES_PER_MS",
    "FRAME_BYTES",
    "FRAME_INTERVAL",
    "FRAME_MS",
    "SAMPLE_RATE",
    "SILENCE_FRAME",
    "Framer",
    "bytes_to_ms",
    "ms_to_bytes",
]

SAMPLE_RATE = 8000
"""Samples a second on a telephone line (Hz)."""
BYTES_PER_MS = 8
"""μ-law bytes a millisecond."""
FRAME_MS = 20
"""Milliseconds in a frame."""
FRAME_INTERVAL = 0.020
"""Seconds from one frame to the next."""
FRAME_BYTES = 160
"""μ-law bytes in a frame."""
SILENCE_FRAME = bytes([ULAW_SILENCE]) * FRAME_BYTES
"""A frame of digital silence."""


def bytes_to_ms(count: int) -> float:
    """How long ``count`` bytes of μ-law sound, in ms."""
    return count / BYTES_PER_MS


def ms_to_bytes(ms: float) -> int:
    """How many bytes of μ-law sound for ``ms`` milliseconds, to the nearest whole byte."""
    return round(ms * BYTES_PER_MS)


class Framer:
    """Cuts chunks of any size into frames of exactly ``size`` bytes and carries the rest over.

    The frames of a byte stream do not depend on how the stream was cut into chunks. For one thread at a time.

    Raises:
        ValueError: ``size`` is not positive.
    """

    def __init__(self, size: int = FRAME_BYTES) -> None:
        if size <= 0:
            raise ValueError(
                f"A frame has at least 1 byte; size={size} came. 20 ms of μ-law are {FRAME_BYTES} bytes."
            )
        self.size = size
        self._rest = b""

    @property
    def pending(self) -> int:
        """Bytes carried over, fewer than ``size``."""
        return len(self._rest)

    def push(self, chunk: bytes) -> list[bytes]:
        """Take a chunk of any size; return the frames that are complete now, in order."""
        size = self.size
        if not self._rest and len(chunk) == size:
            return [bytes(chunk)]
        data = self._rest + chunk
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        return [data[at : at + size] for at in range(0, whole, size)]

    def flush(self, pad: int = ULAW_SILENCE) -> bytes:
        """The carried rest as one last frame, filled up with the byte ``pad``; ``b""`` when nothing is carried."""
        rest, self._rest = self._rest, b""
        return rest.ljust(self.size, bytes([pad])) if rest else b""

    def clear(self) -> None:
        """Forget what is carried."""
        self._rest = b""
