"""Speech synthesis that writes down what it was asked to say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["MockTts"]


class MockTts:
    """A :class:`~voice_runtime.tts.TtsProvider` that plays nothing and returns at once.

    Keyword arguments are accepted and kept in ``options``, so that it can stand in for any provider.

    Attributes:
        spoken: every text it was asked to say, interrupted ones included.
        on_spoken: called with each text, on the thread of :meth:`speak`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.spoken: list[str] = []
        self.on_spoken: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None

    def speak(self, text: str, session: Any, stop_event: threading.Event | None = None) -> dict[str, Any]:
        """Note ``text``. From any thread.

        Returns:
            ``last_spoken``: the text, empty when ``stop_event`` was set already or the call is over;
            ``interrupted``: whether ``stop_event`` is set; ``call_disconnected``: True when the call is over,
            else absent.
        """
        self.spoken.append(text)
        interrupted = stop_event is not None and stop_event.is_set()
        disconnected = bool(getattr(session, "is_disconnected", False))
        if self.on_spoken is not None:
            self.on_spoken(text)
        told: dict[str, Any] = {
            "last_spoken": "" if interrupted or disconnected else text,
            "interrupted": interrupted,
        }
        if disconnected:
            told["call_disconnected"] = True
        return told
