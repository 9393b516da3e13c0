"""Speech to text: what a recogniser is, and the face call code sees.

Two layers with two names. A vendor is a :class:`Recognizer`: audio in, typed events with positions on the caller's
audio out, all on the event loop. :class:`RecognizerStt` is written once above it and is the documented
:class:`SttProvider`: callbacks, echo discard, start and stop. A class of one's own that has the shape of
:class:`SttProvider` plugs in directly.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import enum
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from . import registry
from .events import Final, Interim, RecognitionEvent, RecognizerFailed
from .exceptions import ProviderError, UnsupportedCapabilityError

__all__ = [
    "ECHO_WINDOW_MS",
    "Recognizer",
    "RecognizerCapabilities",
    "RecognizerStt",
    "SttProvider",
    "create_stt",
    "dictation_unsupported",
    "get_stt_class",
]

logger = logging.getLogger(__name__)

ECHO_WINDOW_MS = 400.0
"""How long after the agent stopped speaking its echo may still arrive on the caller's audio (ms)."""

START_TIMEOUT_S = 10.0
"""How long a recogniser may take to start."""

CLOSE_TIMEOUT_S = 5.0
"""How long a recogniser may take to close before it is left behind with a warning."""

_BYTES_PER_MS = 8  # μ-law, 8 kHz, one byte per sample (Twilio Media Streams: audio/x-mulaw, 8000 Hz, 1 channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerCapabilities:
    """What a recogniser can do.

    Attributes:
        dictation: it writes down anything that is said.
        phrases: ``expect(phrases)`` restricts it (or helps it) to those.
        digits: ``expect(None, digits=n)`` makes it hear that many digits.
        interim: it sends :class:`~voice_runtime.events.Interim` while the caller speaks.
        languages: BCP 47 tags; empty where the service decides or detects.
    """

    dictation: bool = False
    phrases: bool = False
    digits: bool = False
    interim: bool = False
    languages: tuple[str, ...] = ()


class Recognizer(abc.ABC):
    """Turns the caller's audio into recognition events. All methods are called on the event loop's thread.

    One object serves one stream at a time: ``start``, any number of ``feed``, ``close``; after ``close`` it may be
    started again, and positions count from zero again.
    """

    name: ClassVar[str]
    """The registry name, used in errors and logs."""

    capabilities: RecognizerCapabilities

    @abc.abstractmethod
    async def start(self, emit: Callable[[RecognitionEvent], None]) -> None:
        """Connect; return when audio can be fed. ``emit`` is called on the loop's thread, never after ``close``
        has returned.

        Raises:
            ProviderError: it cannot start.
        """

    @abc.abstractmethod
    def feed(self, audio: bytes) -> None:
        """Take μ-law 8 kHz audio of any size. Never blocks; what it buffers is bounded. Positions in events are ms
        from the first byte ever fed after ``start``."""

    @abc.abstractmethod
    async def finalize(self) -> None:
        """The utterance ends here: commit what there is without waiting for silence."""

    @abc.abstractmethod
    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        """Say what the next utterances may be, until told otherwise.

        Args:
            phrases: whole answers, in words; None together with ``digits=None`` means anything (dictation).
            digits: exactly this many spoken digits.

        Raises:
            UnsupportedCapabilityError: it cannot do that; the message says which provider can.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of everything, at once; also after a failed or cancelled ``start``, and twice."""


def dictation_unsupported(name: str) -> UnsupportedCapabilityError:
    """The error of a recogniser called ``name`` that was asked for dictation."""
    able = []
    for other in registry.provider_names("stt", ability="dictation"):
        hint = registry.extra_hint_for("stt", other)
        able.append(f"{other} ({hint})" if hint else other)
    where = (
        f"or use a provider that takes dictation: {', '.join(able)}."
        if able
        else "or plug in a provider that takes dictation with register_provider()."
    )
    return UnsupportedCapabilityError(
        f"The STT provider {name!r} hears only what it is told to expect and was asked for anything. "
        f"Name the answers, for example expect=['yes', 'no'] or a number of digits, {where}"
    )


@runtime_checkable
class SttProvider(Protocol):
    """What the runtime needs of speech recognition: three callbacks and three methods.

    ``start`` returns once recognition runs; frames (μ-law, 8 kHz) then come from the queue until None or ``stop``.
    """

    on_committed: Callable[[str], None] | None
    """The final transcript of an utterance."""
    on_recognizing: Callable[[str], None] | None
    """A hypothesis that may still change."""
    on_error: Callable[[str], None] | None
    """Recognition is over, and why."""

    def set_speaking(self, speaking: bool) -> None: ...
    async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None: ...
    async def stop(self) -> None: ...


class ListeningSession(Protocol):
    """The part of a session that listens; its result's ``str()`` is what was said."""

    def listen(self, *, timeout: float | None = None) -> object: ...


class _State(enum.Enum):
    IDLE = enum.auto()
    STARTING = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()


def _call_directly(callback: Callable[[], None]) -> None:
    callback()


class RecognizerStt:
    """A :class:`Recognizer` with the face of an :class:`SttProvider`.

    ``start``, ``stop``, ``expect``, ``finalize`` and ``feed`` belong to the event loop's thread; ``set_speaking``
    may be called from any.

    Attributes:
        on_committed, on_recognizing, on_error: called through ``dispatch``. An exception in one of them is logged
            and recognition goes on.
        on_event: every :class:`~voice_runtime.events.RecognitionEvent`, on the loop's thread, echo included
            (:meth:`is_echo` tells).
        dispatch: takes a callback without arguments and has it called; a session sets it so that callbacks run on
            the call's own thread. The default calls directly, on the loop's thread.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.on_committed: Callable[[str], None] | None = None
        self.on_recognizing: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self.on_event: Callable[[RecognitionEvent], None] | None = None
        self.dispatch: Callable[[Callable[[], None]], None] = _call_directly
        self._state = _State.IDLE
        self._starting: asyncio.Task[None] | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._fed_bytes = 0
        self._error_reported = False
        self._echo = _EchoWindows(ECHO_WINDOW_MS)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.recognizer.name} {self._state.name.lower()} {self.fed_ms:.0f} ms>"

    @property
    def capabilities(self) -> RecognizerCapabilities:
        return self.recognizer.capabilities

    @property
    def fed_ms(self) -> float:
        """How much audio the recogniser was given since ``start`` (ms)."""
        return self._fed_bytes / _BYTES_PER_MS

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, inbound_queue: asyncio.Queue[bytes | None] | None = None) -> None:
        """Start recognition and return. Frames come from ``inbound_queue`` until None or :meth:`stop`; what is in
        the queue already belongs to an earlier stream (its end included) and is dropped. Without a queue the caller
        uses :meth:`feed`.

        Returns quietly when :meth:`stop` was called meanwhile.

        Raises:
            ProviderError: it could not start; ``on_error`` was called too. Also what else the recogniser raised.
            RuntimeError: it is running already.
        """
        if self._state is not _State.IDLE:
            raise RuntimeError(f"start() of an STT provider that is {self._state.name.lower()}; await stop() first")
        if inbound_queue is not None:
            while not inbound_queue.empty():
                inbound_queue.get_nowait()
        self._state = _State.STARTING
        self._fed_bytes = 0
        self._error_reported = False
        self._echo.clear()
        starting = self._starting = asyncio.get_running_loop().create_task(self._open())
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._state is not _State.STARTING or self._starting is not starting:
            if not starting.cancelled():
                starting.exception()  # stop() came first; nobody wants to know any more
            return
        error = starting.exception()
        if error is not None:
            await self.stop()
            self._report(str(error))
            raise error
        self._state = _State.RUNNING
        if inbound_queue is not None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed_from(inbound_queue))

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self.recognizer.start(self._on_recognition)
        except TimeoutError as error:
            raise ProviderError(
                "timeout",
                f"recognition did not start within {START_TIMEOUT_S:g} s",
                provider=self.recognizer.name,
                retryable=True,
            ) from error

    async def stop(self) -> None:
        """Stop recognition and let go of the recogniser. Idempotent; safe while :meth:`start` is under way. No
        callback is started after it has begun."""
        if self._stopping is None:
            if self._state is _State.IDLE:
                return
            self._state = _State.STOPPING
            self._stopping = asyncio.get_running_loop().create_task(self._shut())
        await asyncio.shield(self._stopping)

    async def _shut(self) -> None:
        try:
            for task in (self._starting, self._feeding):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.wait([task])
            self._starting = self._feeding = None
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.recognizer.close()
        except Exception:
            logger.exception("The STT provider %r did not close cleanly", self.recognizer.name)
        finally:
            self._state = _State.IDLE
            self._stopping = None

    # -- audio in -----------------------------------------------------------------------------------------------

    def feed(self, audio: bytes) -> None:
        """Give it μ-law 8 kHz audio of any size; ignored unless it runs."""
        if self._state is not _State.RUNNING or not audio:
            return
        self._fed_bytes += len(audio)
        try:
            self.recognizer.feed(audio)
        except Exception as error:
            if not self._error_reported:  # it will fail for every frame to come
                logger.exception("The STT provider %r could not take audio", self.recognizer.name)
            self._report(str(error))

    async def _feed_from(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
        while (frame := await inbound_queue.get()) is not None:
            self.feed(frame)
        try:
            await self.finalize()  # the stream is over, what the caller said last still counts
        except Exception as error:
            logger.exception("The STT provider %r could not finish the last utterance", self.recognizer.name)
            self._report(str(error))

    async def finalize(self) -> None:
        """Have the words so far committed without waiting for silence."""
        if self._state is _State.RUNNING:
            await self.recognizer.finalize()

    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        """Say what the next utterances may be; see :meth:`Recognizer.expect`.

        Raises:
            UnsupportedCapabilityError: the recogniser cannot do that.
        """
        await self.recognizer.expect(phrases, digits)

    def listen(self, session: ListeningSession, timeout: float = 30.0) -> str:
        """What the caller says next, empty after ``timeout`` seconds of silence; as ``session.listen(...).text``.

        Blocks; not on the event loop's thread. Raises as the session's ``listen``.
        """
        return str(session.listen(timeout=timeout))

    # -- echo ---------------------------------------------------------------------------------------------------

    def set_speaking(self, speaking: bool) -> None:
        """The agent's voice begins (True) or ended (False) at the audio fed so far. From any thread.

        Speech of the caller that lies entirely within the agent's, or within 400 ms after it, is taken for its echo:
        it reaches ``on_event`` but neither ``on_committed`` nor ``on_recognizing``. This is judged by where the
        speech stands on the audio, not by when its transcript arrives.
        """
        self._echo.note(speaking, self.fed_ms)

    def is_echo(self, event: RecognitionEvent) -> bool:
        """Whether this transcript lies entirely within the agent's own speech."""
        if isinstance(event, Final):
            return self._echo.covers(event.at_ms, event.end_ms)
        if isinstance(event, Interim):
            return self._echo.covers(event.at_ms, self.fed_ms)
        return False

    # -- events out ---------------------------------------------------------------------------------------------

    def _on_recognition(self, event: RecognitionEvent) -> None:
        if self._state not in (_State.STARTING, _State.RUNNING):
            return
        if self.on_event is not None:
            self._guarded(functools.partial(self.on_event, event))
        match event:
            case Final(text=text) if text.strip() and not self.is_echo(event):
                self._dispatch(self.on_committed, text)
            case Interim(text=text) if text.strip() and not self.is_echo(event):
                self._dispatch(self.on_recognizing, text)
            case RecognizerFailed():
                self._on_failure(event)

    def _on_failure(self, failure: RecognizerFailed) -> None:
        """The one place that decides what a failure means for the call: here, that recognition has ended."""
        self._report(failure.message)

    def _report(self, message: str) -> None:
        if not self._error_reported:
            self._error_reported = True
            logger.warning("Speech recognition failed: %s", message)
            self._dispatch(self.on_error, message)

    def _dispatch(self, callback: Callable[[str], None] | None, text: str) -> None:
        if callback is not None:
            guarded = functools.partial(self._guarded, functools.partial(callback, text))
            self._guarded(functools.partial(self.dispatch, guarded))

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            logger.exception("A callback of the STT provider %r failed", self.recognizer.name)


class _EchoWindows:
    """When the agent spoke, as intervals on the caller's audio (ms)."""

    def __init__(self, tail_ms: float, keep: int = 64) -> None:
        self._tail_ms = tail_ms
        # A transcript comes seconds after its audio at most; 64 utterances are far more than that.
        self._windows: collections.deque[list[float]] = collections.deque(maxlen=keep)
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget what was; an utterance under way began at zero."""
        with self._lock:
            speaking = bool(self._windows) and self._windows[-1][1] == float("inf")
            self._windows.clear()
            if speaking:
                self._windows.append([0.0, float("inf")])

    def note(self, speaking: bool, at_ms: float) -> None:
        with self._lock:
            last = self._windows[-1] if self._windows else None
            if speaking:
                if last is not None and at_ms <= last[1] + self._tail_ms:
                    last[1] = float("inf")  # one stretch for the caller's ear
                else:
                    self._windows.append([at_ms, float("inf")])
            elif last is not None and last[1] == float("inf"):
                last[1] = at_ms

    def covers(self, start_ms: float, end_ms: float) -> bool:
        with self._lock:
            return any(began <= start_ms and end_ms <= ended + self._tail_ms for began, ended in self._windows)


@functools.cache
def _face_of(recognizer: type[Recognizer]) -> type[RecognizerStt]:
    def __init__(self: RecognizerStt, **kwargs: Any) -> None:  # noqa: N807 - it is the class's constructor
        RecognizerStt.__init__(self, recognizer(**kwargs))

    return type(
        recognizer.__name__.removesuffix("Recognizer") + "Stt",
        (RecognizerStt,),
        {"__init__": __init__, "__doc__": recognizer.__doc__, "__module__": recognizer.__module__},
    )


def get_stt_class(provider: str = "elevenlabs") -> type[SttProvider]:
    """The provider's class, for factories: ``lambda: get_stt_class("azure")(language_code="fi-FI")``.

    Keyword arguments of its constructor are those of the recogniser.

    Raises:
        ProviderNotFoundError: "Unknown STT provider ...".
        ProviderUnavailableError: its extra is not installed; the message holds the install line.
    """
    found = registry.load_class("stt", provider)
    if isinstance(found, type) and issubclass(found, Recognizer):
        return cast("type[SttProvider]", _face_of(found))
    return cast("type[SttProvider]", found)


def create_stt(provider: str = "elevenlabs", **kwargs: Any) -> SttProvider:
    """A provider by its registry name; keyword arguments go to its constructor. Nothing is connected before
    ``start``. Raises as :func:`get_stt_class`."""
    factory: Callable[..., SttProvider] = get_stt_class(provider)
    return factory(**kwargs)
