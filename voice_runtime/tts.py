"""Text to speech: what a synthesiser is, and the face call code sees.

A vendor is a :class:`Synthesizer`: text in, chunks of audio with word times out, on the event loop.
:class:`SynthesizerTts` is written once above it and is the documented :class:`TtsProvider`; playing, marks and
interruption belong to the session. A class of one's own that has the shape of :class:`TtsProvider` plugs in directly.
"""

from __future__ import annotations

import abc
import functools
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from . import registry
from .events import Outcome, Word
from .exceptions import CallHangupError, ProviderError

__all__ = [
    "SpeakingSession",
    "SpeechChunk",
    "SpeechResult",
    "Synthesizer",
    "SynthesizerCapabilities",
    "SynthesizerTts",
    "TtsProvider",
    "create_tts",
    "get_tts_class",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of an utterance.

    Attributes:
        audio: μ-law 8 kHz, any number of bytes, also none.
        words: the words that became known with this chunk, ms from the start of the utterance. They may lie ahead
            of its audio or behind it. Their texts are pieces of the text as it was given, punctuation included, in
            order; joined by spaces they are the text again.
    """

    audio: bytes = b""
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizerCapabilities:
    """What a synthesiser can do.

    Attributes:
        word_times: chunks carry :class:`~voice_runtime.events.Word`.
        streamed_text: it accepts text that is still being written.
        ssml: it understands SSML; one that does not speaks markup as text.
        languages: BCP 47 tags; empty where the voice decides.
    """

    word_times: bool = False
    streamed_text: bool = False
    ssml: bool = False
    languages: tuple[str, ...] = ()


class Synthesizer(abc.ABC):
    """Turns text into audio. Used on one event loop; several utterances may be made at the same time."""

    name: ClassVar[str] = "a voice of your own"
    """The registry name, used in errors and logs."""

    capabilities: SynthesizerCapabilities = SynthesizerCapabilities()

    async def open(self) -> None:  # noqa: B027 - most need nothing
        """Warm up: connect and load what the first utterance would wait for. May be left out, may be repeated.

        Raises:
            ProviderError: it cannot be used.
        """

    @abc.abstractmethod
    def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        """The utterance, chunk by chunk, as fast as it can be made. ``aclose()`` on the generator cancels at once;
        nothing is made ahead of what is taken beyond a small bound.

        Raises:
            ProviderError: from the generator; the chunks before it are good.
        """

    async def close(self) -> None:  # noqa: B027 - most need nothing
        """Let go of everything; utterances under way end. May be repeated."""


@runtime_checkable
class TtsProvider(Protocol):
    """What the runtime needs of speech synthesis."""

    on_error: Callable[[str], None] | None
    """Synthesis failed, and why."""

    def speak(self, text: str, session: Any, stop_event: threading.Event | None = None) -> dict[str, Any]:
        """Say ``text`` on the session's call and return what was said; see :meth:`SynthesizerTts.speak`."""


class SpeechResult(Protocol):
    """What a session tells about something it said."""

    @property
    def text(self) -> str: ...
    @property
    def heard_text(self) -> str: ...
    @property
    def heard_ms(self) -> float: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def error(self) -> str | None: ...


class SpeakingSession(Protocol):
    """The part of a session that speaks."""

    def speak_with(self, synthesizer: Synthesizer, text: str, *, stop_event: Any = None) -> SpeechResult: ...


class SynthesizerTts:
    """A :class:`Synthesizer` with the face of a :class:`TtsProvider`.

    Attributes:
        on_error: called with the reason on the thread that called :meth:`speak`; an exception in it is logged.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.synthesizer = synthesizer
        self.on_error: Callable[[str], None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.synthesizer.name}>"

    @property
    def capabilities(self) -> SynthesizerCapabilities:
        return self.synthesizer.capabilities

    def speak(self, text: str, session: SpeakingSession, stop_event: threading.Event | None = None) -> dict[str, Any]:
        """Say ``text`` and block until it was heard, interrupted, failed, or the call ended.

        Never on the event loop's thread. Setting ``stop_event`` from another thread cuts it.

        Returns:
            ``last_spoken``: what the caller heard, the whole text when all of it was played; and, only when true,
            ``interrupted`` (True), ``call_disconnected`` (True), ``error`` (the reason). A provider's failure is
            told by ``error`` and ``on_error``, never raised.
        """
        try:
            result: SpeechResult | None = session.speak_with(self.synthesizer, text, stop_event=stop_event)
            hung_up = False
        except CallHangupError as hang_up:
            result, hung_up = hang_up.partial, True
        except ProviderError as error:
            self._report(str(error))
            return {"last_spoken": "", "error": str(error)}
        if result is None:
            return {"last_spoken": "", "call_disconnected": True}
        told: dict[str, Any] = {"last_spoken": text if result.outcome is Outcome.PLAYED else result.heard_text}
        if result.outcome is Outcome.INTERRUPTED:
            told["interrupted"] = True
        if hung_up or result.outcome is Outcome.HUNG_UP:
            told["call_disconnected"] = True
        if result.outcome is Outcome.FAILED or result.error:
            told["error"] = result.error or f"{self.synthesizer.name} failed"
            self._report(told["error"])
        return told

    def _report(self, message: str) -> None:
        logger.warning("Speech synthesis failed: %s", message)
        if self.on_error is not None:
            try:
                self.on_error(message)
            except Exception:
                logger.exception("on_error of the TTS provider %r failed", self.synthesizer.name)


@functools.cache
def _face_of(synthesizer: type[Synthesizer]) -> type[SynthesizerTts]:
    def __init__(self: SynthesizerTts, **kwargs: Any) -> None:  # noqa: N807 - it is the class's constructor
        SynthesizerTts.__init__(self, synthesizer(**kwargs))

    return type(
        synthesizer.__name__.removesuffix("Synthesizer") + "Tts",
        (SynthesizerTts,),
        {"__init__": __init__, "__doc__": synthesizer.__doc__, "__module__": synthesizer.__module__},
    )


def get_tts_class(provider: str = "elevenlabs") -> type[TtsProvider]:
    """The provider's class; keyword arguments of its constructor are those of the synthesiser.

    Raises:
        ProviderNotFoundError: "Unknown TTS provider ...".
        ProviderUnavailableError: its extra is not installed; the message holds the install line.
    """
    found = registry.load_class("tts", provider)
    if isinstance(found, type) and issubclass(found, Synthesizer):
        return cast("type[TtsProvider]", _face_of(found))
    return cast("type[TtsProvider]", found)


def create_tts(provider: str = "elevenlabs", **kwargs: Any) -> TtsProvider:
    """A provider by its registry name; keyword arguments go to its constructor. Nothing is connected before the
    first word. Raises as :func:`get_tts_class`."""
    factory: Callable[..., TtsProvider] = get_tts_class(provider)
    return factory(**kwargs)
