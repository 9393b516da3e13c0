"""Warning 31930 in time: a stream whose app does not read, perhaps never again.

https://www.twilio.com/docs/api/errors/31930
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..transports.mock_wire import TextWire

__all__ = ["WatchedWire"]


class WatchedWire:
    """Another wire; tells, once, that a message has waited ``limit_s`` seconds for room on its way to the app."""

    def __init__(self, wire: TextWire, limit_s: float, on_congested: Callable[[float], None]) -> None:
        self._wire = wire
        self._limit_s = limit_s
        self._on_congested = on_congested
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(limit_s, self._look)

    @property
    def close_code(self) -> int | None:
        return self._wire.close_code

    @close_code.setter
    def close_code(self, code: int | None) -> None:
        self._wire.close_code = code

    async def send(self, text: str) -> None:
        self._waiting_since = self._loop.time()
        try:
            await self._wire.send(text)
        finally:
            self._waiting_since = None

    async def receive(self) -> str | bytes | None:
        return await self._wire.receive()

    async def close(self, code: int = 1000) -> None:
        self._stop_looking()
        await self._wire.close(code)

    def abort(self) -> None:
        self._stop_looking()
        self._wire.abort()

    def _look(self) -> None:
        # One timer for all messages, instead of one for each of the fifty a second.
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        due = since + self._limit_s
        if due <= now:
            self._timer = None
            self._on_congested(now - since)
        else:
            self._timer = self._loop.call_at(due, self._look)

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
