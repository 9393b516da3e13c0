"""Synthesis that writes down what it was asked to say."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from voice_runtime.mock.tts import MockTts
from voice_runtime.tts import TtsProvider, create_tts


def test_it_notes_what_is_spoken() -> None:
    """Every text is kept, told to on_spoken, and returned as spoken."""
    tts = create_tts("mock", voice="anna")
    assert isinstance(tts, MockTts)
    assert isinstance(tts, TtsProvider)
    assert tts.options == {"voice": "anna"}
    told: list[str] = []
    tts.on_spoken = told.append
    assert tts.speak("Hello", SimpleNamespace()) == {"last_spoken": "Hello", "interrupted": False}
    tts.speak("Goodbye", SimpleNamespace(is_disconnected=False), threading.Event())
    assert tts.spoken == told == ["Hello", "Goodbye"]


def test_an_interrupted_text_was_not_spoken() -> None:
    """With the stop event set already, nothing was heard."""
    stop = threading.Event()
    stop.set()
    tts = MockTts()
    assert tts.speak("Hello", SimpleNamespace(), stop) == {"last_spoken": "", "interrupted": True}
    assert tts.spoken == ["Hello"]


def test_after_the_call_nothing_is_heard() -> None:
    """On a session that is disconnected the result says so."""
    told = MockTts().speak("Hello", SimpleNamespace(is_disconnected=True))
    assert told == {"last_spoken": "", "interrupted": False, "call_disconnected": True}
