"""A deadline for work that has none of its own: looking up a name, a server that sends a byte a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .clock import Clock

__all__ = ["Steps"]

T = TypeVar("T")


class Steps:
    """Runs one step at a time, each in a thread of its own that is not waited for longer than the deadline.

    Args:
        seconds: how long a step may take.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises.

        Raises:
            TimeoutError: it takes longer; its thread is left behind and ends with the process at the latest.
        """
        done = self.clock.event()
        outcome: list[tuple[bool, Any]] = []

        def body() -> None:
            try:
                outcome.append((True, work()))
            except Exception as failure:  # noqa: BLE001 - raised again, where it is waited for
                outcome.append((False, failure))
            finally:
                done.set()

        self.clock.start_thread(body, "doctor-step")
        if not done.wait(self.seconds) or not outcome:
            raise TimeoutError(f"no answer within {self.seconds:g} s")
        good, value = outcome[0]
        if not good:
            raise value
        result: T = value
        return result
