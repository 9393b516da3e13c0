"""Blocking work for the loop, in threads of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.call_line import LoopThread
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.workers import run_in_thread


def test_result_and_error_come_back() -> None:
    """Whatever the work returns or raises."""

    def fail() -> None:
        raise KeyError("mine")

    with VirtualClock() as clock:
        loop = LoopThread(clock)
        assert (
            loop.run(run_in_thread(clock, lambda: threading.current_thread().name, "worker of mine"))
            == "worker of mine"
        )
        with pytest.raises(KeyError, match="mine"):
            loop.run(run_in_thread(clock, fail, "failing"))
        loop.close()


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), StopIteration()])
def test_what_would_end_the_loop_or_hang_it_becomes_an_error(error: BaseException) -> None:
    """A task that ends with SystemExit takes its loop with it, and nobody can await a StopIteration."""

    def fail() -> None:
        raise error

    with VirtualClock() as clock:
        loop = LoopThread(clock)
        with pytest.raises(RuntimeError, match="leaving ended with") as caught:
            loop.run(run_in_thread(clock, fail, "leaving"), timeout=5)
        assert caught.value.__cause__ is error
        assert loop.run(run_in_thread(clock, lambda: "still here", "next")) == "still here"
        loop.close()


def test_fifty_slow_ones_keep_nobody_waiting() -> None:
    """There is no pool to fill."""
    with VirtualClock() as clock:
        loop = LoopThread(clock)

        async def all_at_once() -> None:
            await asyncio.gather(*(run_in_thread(clock, lambda: clock.sleep(20), f"slow {n}") for n in range(50)))

        loop.run(all_at_once())
        assert clock.monotonic() == 20
        loop.close()


def test_cancelling_stops_the_waiting() -> None:
    """The work itself goes on; its result is nobody's."""
    with VirtualClock() as clock:
        loop = LoopThread(clock)
        done = clock.event()

        def slow() -> None:
            clock.sleep(5)
            done.set()

        async def give_up() -> None:
            async with asyncio.timeout(1):
                await run_in_thread(clock, slow, "slow")

        with pytest.raises(TimeoutError):
            loop.run(give_up())
        assert done.wait(10)
        loop.close()
