"""Waiting for an answering machine to be ready for a message."""

from __future__ import annotations

from .exceptions import CallHangupError
from .live_call import LiveCall

__all__ = ["wait_for_beep"]

_GREETING_OVER_MS = 2500.0
"""Silence that ends a greeting without a beep."""
_AFTER_VERDICT_MS = 1200.0
"""The same, when Twilio's detection has said that the greeting is over."""


def wait_for_beep(live: LiveCall, answered_by: str, timeout: float) -> None:
    """Block until a message will be recorded: the beep has ended, or it has been silent for long enough, or
    ``timeout`` seconds have passed. At once when the detection has heard the beep itself.

    Raises:
        CallHangupError: the call ended.
    """
    if answered_by == "machine_end_beep":
        return
    from .audio.beep import BeepDetector  # and numpy, which most calls need not load

    silence_ms = _AFTER_VERDICT_MS if answered_by.startswith("machine_end") else _GREETING_OVER_MS
    detector = BeepDetector()
    deadline = live.clock.monotonic() + timeout
    try:
        for frame in live.hearing.frames(timeout):
            if detector.feed(frame) is not None or detector.silence_ms >= silence_ms:
                return
            if live.clock.monotonic() >= deadline:
                return
    except TimeoutError:
        return  # no audio at all: nothing to wait for
    raise CallHangupError(reason=live.ended)
