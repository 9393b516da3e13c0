"""Speech recognition that hears what a test injects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["MockStt"]


class MockStt:
    """An :class:`~voice_runtime.stt.SttProvider` whose transcripts come from :meth:`inject`.

    It takes the audio from the queue and counts it, so a stream runs as with a real provider. Keyword arguments are
    accepted and kept in ``options``, so that it can stand in for any provider.

    Attributes:
        started: it is between ``start`` and ``stop``.
        speaking: what ``set_speaking`` said last.
        fed_bytes: audio taken from the queue since ``start`` (μ-law bytes; 8 are a millisecond).
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.on_committed: Callable[[str], None] | None = None
        self.on_recognizing: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self.started = False
        self.speaking = False
        self.fed_bytes = 0
        self._feeding: asyncio.Task[None] | None = None

    def inject(self, text: str) -> None:
        """The caller has said ``text``. From any thread; ``on_committed`` is called on it, before this returns."""
        if self.on_committed is not None:
            self.on_committed(text)

    def inject_interim(self, text: str) -> None:
        """The caller seems to be saying ``text``. From any thread, as :meth:`inject`."""
        if self.on_recognizing is not None:
            self.on_recognizing(text)

    def fail(self, reason: str) -> None:
        """Recognition has failed for good. From any thread, as :meth:`inject`."""
        if self.on_error is not None:
            self.on_error(reason)

    def set_speaking(self, speaking: bool) -> None:
        self.speaking = speaking

    async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
        """Drop what an earlier stream left in the queue, then take frames until None or :meth:`stop`."""
        await self.stop()
        while not inbound_queue.empty():
            inbound_queue.get_nowait()
        self.fed_bytes = 0
        self.started = True
        self._feeding = asyncio.get_running_loop().create_task(self._take(inbound_queue))

    async def _take(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
        while (frame := await inbound_queue.get()) is not None:
            self.fed_bytes += len(frame)

    async def stop(self) -> None:
        """Stop taking frames. May be repeated."""
        self.started = False
        feeding, self._feeding = self._feeding, None
        if feeding is not None and not feeding.done():
            feeding.cancel()
            await asyncio.wait([feeding])
