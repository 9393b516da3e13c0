"""The timeline for transports that fetch audio and marks in separate tasks, as 0.1.0's interface has them do.

Both come from the one ordered queue: a mark becomes available when the audio before it has been fetched, so it cannot
overtake it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .bridge import Bridge
from .playout import Clear, Mark
from .speaking import Speaker

__all__ = ["OutboundPull"]


class OutboundPull:
    """One per call, made when such a transport first asks. Its coroutines run on the loop's thread; ``on_clear`` is
    called there when everything fetched and not yet played shall be dropped."""

    def __init__(self, speaker: Speaker, bridge: Bridge, on_clear: Callable[[], None]) -> None:
        self._speaker = speaker
        self._bridge = bridge
        self._marks: deque[str] = deque()
        self._changed = asyncio.Event()
        self._on_clear = on_clear
        speaker.attach(self.wake)

    def wake(self) -> None:
        """There is something new; any thread."""
        self._bridge.call_soon(self._changed.set)

    async def audio(self) -> bytes:
        """The next audio, as it was queued (pieces of 100 ms at most)."""
        while True:
            self._changed.clear()
            item = self._pull(audio=True)
            if isinstance(item, bytes):
                self._changed.set()  # a mark may stand at the head now
                return item
            if item is None:
                await self._changed.wait()
            elif isinstance(item, Mark):
                self._marks.append(item.name)
                self._changed.set()

    async def mark(self) -> str:
        """The wire name of the next mark whose audio has all been fetched."""
        while not self._marks:
            self._changed.clear()
            item = self._pull(audio=False)
            if isinstance(item, Mark):
                self._marks.append(item.name)
            elif item is None:
                await self._changed.wait()
        return self._marks.popleft()

    def _pull(self, *, audio: bool) -> object:
        with self._bridge.lock:
            item = self._speaker.timeline.pull(self._speaker.now_ms(), audio=audio)
        if isinstance(item, Clear):
            self._on_clear()
        return item
