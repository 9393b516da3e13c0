"""Blocking work for the event loop, each piece in a short-lived thread of its own.

Not in the loop's executor: that has a few threads for everything, and ten slow requests would keep the eleventh
caller waiting. Here one call's slow SDK is that call's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from .clock import Clock

__all__ = ["run_in_thread"]

T = TypeVar("T")


async def run_in_thread(clock: Clock, work: Callable[[], T], name: str) -> T:
    """The result of ``work``. Cancelling stops the waiting, not the work.

    Raises:
        RuntimeError: it ended with SystemExit or its like, which would end the loop and with it every call, or with
            StopIteration, which no coroutine can raise.
        Exception: any other that it raised.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any longer
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (work(), None)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            outcome = (None, _bearable(error, name))
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:
            pass  # the loop is closed, and with it everybody who could have wanted this

    clock.start_thread(body, name)
    return await future


def _bearable(error: BaseException, name: str) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    instead = RuntimeError(f"{name} ended with {error!r}")
    instead.__cause__ = error
    return instead
