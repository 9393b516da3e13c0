"""The documented face of speech synthesis."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from voice_runtime import registry
from voice_runtime.events import Outcome
from voice_runtime.exceptions import CallHangupError, ProviderError, WrongThreadError
from voice_runtime.tts import (
    SpeechChunk,
    Synthesizer,
    SynthesizerCapabilities,
    SynthesizerTts,
    TtsProvider,
    create_tts,
    get_tts_class,
)


class Whistle(Synthesizer):
    """A synthesiser that makes one byte per letter."""

    name = "whistle"
    capabilities = SynthesizerCapabilities(streamed_text=True)

    def __init__(self, *, pitch: int = 1) -> None:
        self.pitch = pitch

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        yield SpeechChunk(b"\xff" * len(text))


@dataclass
class Told:
    """What a session tells about something said."""

    text: str = "Hello there"
    heard_text: str = "Hello there"
    heard_ms: float = 900.0
    outcome: Outcome = Outcome.PLAYED
    error: str | None = None


@dataclass
class Line:
    """A session that says what it was told to say about the saying."""

    result: Told | Exception
    asked: list[tuple[Synthesizer, str, Any]] = field(default_factory=list)

    def speak_with(self, synthesizer: Synthesizer, text: str, *, stop_event: Any = None) -> Told:
        self.asked.append((synthesizer, text, stop_event))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Told(), {"last_spoken": "Hello there"}),
        (
            Told(heard_text="Hello", outcome=Outcome.INTERRUPTED),
            {"last_spoken": "Hello", "interrupted": True},
        ),
        (
            Told(heard_text="Hello", outcome=Outcome.HUNG_UP),
            {"last_spoken": "Hello", "call_disconnected": True},
        ),
        (
            CallHangupError(partial=Told(heard_text="Hel", outcome=Outcome.HUNG_UP)),
            {"last_spoken": "Hel", "call_disconnected": True},
        ),
        (CallHangupError(), {"last_spoken": "", "call_disconnected": True}),
        (
            Told(heard_text="Hello", outcome=Outcome.FAILED, error="no voice"),
            {"last_spoken": "Hello", "error": "no voice"},
        ),
        (ProviderError("quota", "used up", provider="whistle"), {"last_spoken": "", "error": "whistle: used up"}),
    ],
)
def test_speak_tells_what_was_heard(result: Told | Exception, expected: dict[str, Any]) -> None:
    """The documented keys, and only those that apply; a provider's failure is told, not raised."""
    tts = SynthesizerTts(Whistle())
    reasons: list[str] = []
    tts.on_error = reasons.append
    stop = threading.Event()
    line = Line(result)
    assert tts.speak("Hello there", line, stop) == expected
    assert line.asked == [(tts.synthesizer, "Hello there", stop)]
    assert reasons == ([expected["error"]] if "error" in expected else [])


def test_misuse_is_raised() -> None:
    """An error of the caller's own is not a provider's failure."""
    with pytest.raises(WrongThreadError):
        SynthesizerTts(Whistle()).speak("Hello", Line(WrongThreadError("say()")))


def test_on_error_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged and speak() still returns."""
    tts = SynthesizerTts(Whistle())

    def fail(reason: str) -> None:
        raise LookupError(reason)

    tts.on_error = fail
    assert tts.speak("Hi", Line(ProviderError("auth", "wrong key")))["error"] == "wrong key"
    assert "LookupError: wrong key" in caplog.text


def test_create_passes_arguments_to_the_synthesizer() -> None:
    """A registered synthesiser gets the documented face; keyword arguments reach it."""
    registry.register_provider("tts", "whistle", f"{__name__}:Whistle")
    try:
        tts = create_tts("whistle", pitch=7)
        assert isinstance(tts, TtsProvider)
        assert isinstance(tts, get_tts_class("whistle"))
        assert isinstance(tts, SynthesizerTts)
        assert isinstance(tts.synthesizer, Whistle)
        assert tts.synthesizer.pitch == 7
        assert tts.capabilities.streamed_text
        assert type(tts).__name__ == "WhistleTts"
        with pytest.raises(TypeError, match="loudness"):
            create_tts("whistle", loudness=1)
    finally:
        registry.unregister_provider("tts", "whistle")


def test_documented_providers_are_used_as_they_are() -> None:
    """A class that already has the documented face is not wrapped."""
    assert get_tts_class("mock").__name__ == "MockTts"
    assert not isinstance(create_tts("mock"), SynthesizerTts)


def test_folder_hands_on_the_documented_names() -> None:
    """The protocols can be imported from the providers' folder too, and nothing else by accident."""
    from voice_runtime import providers, stt, tts

    assert providers.TtsProvider is tts.TtsProvider
    assert providers.SttProvider is stt.SttProvider
    with pytest.raises(AttributeError):
        providers.NoSuchProvider  # noqa: B018
