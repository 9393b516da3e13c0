"""The caller's frames for a speech provider, in a queue that cannot grow without end."""

from __future__ import annotations

import asyncio

__all__ = ["INBOUND_FRAMES", "InboundQueue"]

INBOUND_FRAMES = 1500
"""30 s of 20 ms frames."""


class InboundQueue(asyncio.Queue["bytes | None"]):
    """30 s at most, then the oldest frame goes, counted in ``dropped``. None is the end."""

    def __init__(self, frames: int = INBOUND_FRAMES) -> None:
        super().__init__()
        self._frames = frames
        self.dropped = 0

    def push(self, item: bytes | None) -> None:
        """Loop thread."""
        if self.qsize() >= self._frames:
            self.get_nowait()
            self.dropped += 1
        self.put_nowait(item)
