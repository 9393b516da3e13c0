"""Waiting for an answering machine to be ready for a message."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .audio.frames import BYTES_PER_MS
from .exceptions import CallHangupError
from .live_call import LiveCall

__all__ = ["MachineEar", "listening", "wait_for_beep"]

_GREETING_OVER_MS = 2500.0
"""Silence that ends a greeting without a beep: longer than most pauses between two sentences of one."""
_AFTER_VERDICT_MS = 1200.0
"""The same, when Twilio has said that the greeting is over: its own MachineDetectionSpeechEndThreshold."""
_TALK_MS = 400.0
"""Sound of the machine while we speak to it that is more than a click: a syllable or two."""


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


class MachineEar:
    """What the machine does while the message is being said.

    Attributes:
        beeped: set as soon as a beep has ended: the greeting had gone on, and the recording begins now.
    """

    def __init__(self) -> None:
        self.beeped = threading.Event()
        self._sound_ms = 0.0

    @property
    def talked(self) -> bool:
        """Whether it has been speaking: the recording has not begun."""
        return self._sound_ms >= _TALK_MS

    def listen(self, frames: Iterator[bytes], done: threading.Event) -> None:
        """Until there are no more frames, or ``done``."""
        from .audio.beep import BeepDetector

        detector = BeepDetector()
        for frame in frames:
            if done.is_set():
                return
            if detector.feed(frame) is not None:
                self.beeped.set()
                return
            if detector.silence_ms == 0:
                self._sound_ms += len(frame) / BYTES_PER_MS


@contextlib.contextmanager
def listening(live: LiveCall) -> Iterator[MachineEar]:
    """An ear for the machine, while the block runs."""
    ear, done = MachineEar(), threading.Event()
    frames = live.hearing.frames()
    live.clock.start_thread(lambda: ear.listen(frames, done), f"machine of call {live.call_sid}")
    try:
        yield ear
    finally:
        done.set()
