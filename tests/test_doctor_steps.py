"""Deadlines for what has none."""

from __future__ import annotations

import threading

import pytest

from voice_runtime.clock import SystemClock
from voice_runtime.doctor_steps import Steps
from voice_runtime.testing.clock import VirtualClock


def test_results_and_errors_come_through() -> None:
    """As if the work had been done here."""
    steps = Steps(SystemClock(), 5)
    assert steps.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        steps.run(lambda: 1 // 0)


def test_nothing_is_waited_for_longer() -> None:
    """TimeoutError, while the work goes on in its thread."""
    with VirtualClock() as clock:
        over = clock.event()
        began = clock.monotonic()
        with pytest.raises(TimeoutError, match=r"within 3 s"):
            Steps(clock, 3).run(lambda: over.wait(100))
        assert clock.monotonic() - began == pytest.approx(3)
        over.set()


def test_the_thread_does_not_keep_the_process() -> None:
    """It is a daemon."""
    steps = Steps(SystemClock(), 5)
    assert steps.run(lambda: threading.current_thread().daemon)
