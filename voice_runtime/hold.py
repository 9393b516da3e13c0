"""Music for a caller who waits, while the flow does something else."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from .audio.frames import SAMPLE_RATE
from .audio.g711 import pcm16_to_ulaw
from .clock import ClockThread
from .exceptions import CallError, VoiceRuntimeError
from .live_call import LiveCall

__all__ = ["Hold", "waiting_tone"]

log = logging.getLogger(__name__)


def waiting_tone() -> bytes:
    """Two soft beeps in five seconds (μ-law 8 kHz): for who has no music at hand."""
    import numpy as np  # not loaded for calls that need it not

    at = np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    swell = np.sin(np.pi * np.arange(at.size) / at.size)
    beep = (np.sin(2 * np.pi * 440 * at) * swell * 2600).astype(np.int16)
    pause = np.zeros(int(0.15 * SAMPLE_RATE), np.int16)
    rest = np.zeros(5 * SAMPLE_RATE - 2 * (beep.size + pause.size), np.int16)
    return pcm16_to_ulaw(np.concatenate([beep, pause, beep, pause, rest]).tobytes())


class Hold:
    """Plays round after round until :meth:`end`, or the end of the ``with`` block; then what the caller said or
    pressed meanwhile is forgotten. Any thread but the event loop's; it ends with the call."""

    def __init__(self, live: LiveCall, music: bytes, name: str) -> None:
        self._live = live
        self._music = music
        self._name = name
        self._stop = threading.Event()
        live.holds.append(self.end)
        self._thread: ClockThread = live.clock.start_thread(self._play, f"hold music of {live.call_sid}")

    def _play(self) -> None:
        try:
            while not self._stop.is_set():
                self._live.speaker.play(self._music, self._name, self._stop, told=False)
        except CallError:
            pass  # the call has ended
        except VoiceRuntimeError as error:
            log.warning("Call %s: the hold music ends: %s", self._live.call_sid, error)

    def end(self) -> None:
        """The music stops at once. May be called again."""
        with self._live.bridge.lock:
            if self._stop.is_set():
                return
            self._stop.set()
            self._live.holds.remove(self.end)
        self._thread.join(5)
        self._live.hearing.clear_inbound()
        self._live.keypad.clear()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.end()
