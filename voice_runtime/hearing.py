"""The ear of a call: the caller's audio, who gets it, and what was understood."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .audio.frames import BYTES_PER_MS, FRAME_MS, SILENCE_FRAME
from .bridge import Bridge, refuse_on_event_loop
from .clock import ClockQueue
from .dispatcher import Dispatcher
from .events import (
    CallerHeard,
    CallerSpeaking,
    Final,
    NoMatch,
    RecognitionEvent,
    RecognitionFailed,
    RecognizerFailed,
    SpeechEnded,
    SpeechStarted,
)
from .exceptions import CallHangupError, ConfigurationError, ProviderError
from .inbound import INBOUND_FRAMES, InboundQueue
from .results import ListenResult
from .stt import Recognizer, RecognizerStt
from .stt_tee import SttTee
from .turns.answers import find_choice, normalise
from .workers import run_in_thread

if TYPE_CHECKING:
    from .stt import SttProvider

__all__ = ["LONGEST_UTTERANCE_S", "TRANSCRIPT_GRACE_S", "Hearing", "listen_result"]

log = logging.getLogger(__name__)

LONGEST_UTTERANCE_S = 30.0
TRANSCRIPT_GRACE_S = 5.0  # a transcript comes 0.3 to 1.8 s after its audio
_READY_S = 15.0
_STOP_S = 5.0
_GAP_HEARD_MS = 1000.0


class Hearing:
    """One per call."""

    __slots__ = (
        "_agent_said",
        "_agent_speaking",
        "_arrived_ms",
        "_audio_bytes",
        "_bridge",
        "_dispatcher",
        "_emit",
        "_failure",
        "_finals",
        "_inbound",
        "_listeners",
        "_origin_ms",
        "_ready",
        "_setting",
        "_speaking",
        "_stt_task",
        "_tell_error",
        "frames_dropped",
        "on_frame",
        "stt",
    )

    def __init__(
        self, bridge: Bridge, dispatcher: Dispatcher, *, emit: Callable[..., None], setting: Callable[[str], Any]
    ) -> None:
        self._inbound: InboundQueue | None = None
        self._audio_bytes = 0
        self.stt: SttProvider | None = None
        self.on_frame: Callable[[bytes], None] | None = None
        self._bridge = bridge
        self._dispatcher = dispatcher
        self._emit = emit
        self._setting = setting
        self._listeners: tuple[ClockQueue, ...] = ()
        self._finals: deque[Final | NoMatch] = deque(maxlen=256)
        self._speaking = False
        self._failure: RecognizerFailed | None = None
        self._tell_error: Callable[[str], None] | None = None
        self._agent_speaking = False
        self._ready = False
        self._stt_task: asyncio.Task[None] | None = None
        self._arrived_ms = bridge.clock.monotonic() * 1000  # the newest frame
        self._origin_ms = 0.0  # where the recogniser's zero lies on the caller's audio
        self._agent_said: deque[str] = deque(maxlen=4)  # an echo is of the newest sentences
        self.frames_dropped = 0

    # -- the caller's audio (loop thread) -------------------------------------------------------------------------

    @property
    def audio_ms(self) -> float:
        """How much audio of the caller has arrived."""
        return self._audio_bytes / BYTES_PER_MS

    @property
    def inbound(self) -> InboundQueue:
        """What speech providers are started with: the caller's frames since it was first asked for."""
        if self._inbound is None:
            self._inbound = InboundQueue()
        return self._inbound

    def frame(self, audio: bytes, now_ms: float) -> None:
        """A chunk of the caller's μ-law audio arrived."""
        self._audio_bytes += len(audio)
        self._arrived_ms = now_ms
        if self._inbound is not None:
            self._inbound.push(audio)
        for listener in self._listeners:
            if listener.qsize() < INBOUND_FRAMES:
                listener.put(audio)
            else:
                self.frames_dropped += 1
        if self.on_frame is not None:
            self.on_frame(audio)

    def bridge_gap(self, now_ms: float) -> None:
        """The first frame of a later leg is here: the time without one was silence. A recogniser gets a second of it,
        enough to end a sentence; the rest only moves its zero."""
        gap_ms = now_ms - self._arrived_ms - FRAME_MS
        if not self._audio_bytes or gap_ms <= 0:
            return
        frames = int(min(gap_ms, _GAP_HEARD_MS) / FRAME_MS)
        for _ in range(frames):
            self.frame(SILENCE_FRAME, now_ms)
        rest_ms = gap_ms - frames * FRAME_MS
        self._audio_bytes += int(rest_ms * BYTES_PER_MS)
        self._origin_ms += rest_ms

    def position_of(self, now_ms: float) -> float:
        """Where a moment of our clock (ms, not long ago) lies on the caller's audio (ms), as that is counted."""
        return self.audio_ms + now_ms - self._arrived_ms if self._audio_bytes else 0.0

    def clear_inbound(self) -> None:
        """Forget the frames nobody has taken yet, and the transcripts nobody has asked for. Any thread."""
        with self._bridge.lock:
            self._finals.clear()
        self._bridge.call_soon(self._drain_inbound)

    def _drain_inbound(self) -> None:
        while self._inbound is not None and not self._inbound.empty():
            self._inbound.get_nowait()

    def frames(self, timeout: float | None = None) -> Iterator[bytes]:
        """The caller's frames from now on, for the calling thread; ends with the call."""
        refuse_on_event_loop("frames()")
        bridge = self._bridge
        frames = bridge.clock.queue()
        with bridge.lock:
            if bridge.ended:
                frames.put(None)
            self._listeners = (*self._listeners, frames)
        return self._frames_from(frames, timeout)

    def _frames_from(self, frames: ClockQueue, timeout: float | None) -> Iterator[bytes]:
        bridge = self._bridge
        try:
            while True:
                try:
                    frame = frames.get(timeout=timeout)
                except queue.Empty:
                    raise TimeoutError(f"No audio from the caller for {timeout:g} s") from None
                if frame is None:
                    return
                if not frame:  # look up
                    bridge.raise_if_diverted()
                    continue
                yield frame
        finally:
            with bridge.lock:
                self._listeners = tuple(q for q in self._listeners if q is not frames)

    # -- the recogniser's life (loop thread) ----------------------------------------------------------------------

    def start_recognition(self) -> None:
        """Start the recogniser of ``stt_factory``, once; nothing without a factory. After a failure, again."""
        factory = self._setting("stt_factory")
        if factory is None or self._bridge.ended:
            return
        if self._stt_task is None or (self._stt_task.done() and self._failure is not None):
            with self._bridge.lock:
                self._failure = None
            self._stt_task = self._bridge.spawn(self._recognise(factory))

    async def _recognise(self, factory: Callable[[], SttProvider]) -> None:
        stt: SttProvider | None = None
        try:
            # In a thread: a factory may import an SDK or load a model.
            stt = await run_in_thread(self._bridge.clock, factory, "call-stt-factory")
            stt = await self._with_secondary(_faced(stt))
            self.stt = stt
            hook = self._setting("on_stt_ready")
            if hook is not None:
                await self._run_hook(hook, stt)
            self._wire(stt)
            self._origin_ms = self.audio_ms
            if self._agent_speaking:
                stt.set_speaking(True)  # the greeting began before there was anybody to tell
            if not hasattr(stt, "expect"):
                self._set_ready()  # start() of a provider of one's own may run for the whole call
            await stt.start(self.inbound)
            self._set_ready()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("Speech recognition could not be started")
            kind = error.kind if isinstance(error, ProviderError) else "unavailable"
            self._failed(RecognizerFailed(at_ms=0.0, kind=kind, message=str(error), retryable=False))
            if self._tell_error is not None:
                self._tell_error(str(error))  # a face has told it itself

    async def _with_secondary(self, stt: SttProvider) -> SttProvider:
        factory = self._setting("stt_secondary_factory")
        if factory is None:
            return stt
        try:
            secondary = await run_in_thread(self._bridge.clock, factory, "call-stt-factory")
        except Exception:
            log.exception("The secondary recogniser could not be made; the call goes on with the primary alone")
            return stt
        return SttTee(primary=stt, secondary=_faced(secondary))

    async def _run_hook(self, hook: Callable[[Any], None], stt: SttProvider) -> None:
        done = asyncio.Event()

        def run() -> None:
            try:
                hook(stt)
            finally:
                self._bridge.call_soon(done.set)

        self._dispatcher.submit(run)
        await done.wait()

    def _wire(self, stt: Any) -> None:
        """Callbacks run on the call's dispatcher thread, and the call learns what was understood."""
        if hasattr(stt, "on_event") and hasattr(stt, "dispatch"):
            stt.dispatch = self._dispatcher.submit
            stt.on_event = self._on_recognition
            return
        committed, recognizing, failed = stt.on_committed, getattr(stt, "on_recognizing", None), stt.on_error

        def on_committed(text: str) -> None:
            at_ms = self.audio_ms
            self._on_recognition(Final(at_ms=at_ms - self._origin_ms, end_ms=at_ms - self._origin_ms, text=text))
            if committed is not None:
                self._dispatcher.submit(lambda: committed(text))

        def tell(reason: str) -> None:
            if failed is not None:
                self._dispatcher.submit(lambda: failed(reason))

        def on_error(reason: str) -> None:
            self._failed(RecognizerFailed(at_ms=0.0, kind="unavailable", message=reason, retryable=False))
            tell(reason)

        self._tell_error = tell
        stt.on_committed = on_committed
        stt.on_error = on_error
        if recognizing is not None:
            stt.on_recognizing = lambda text: self._dispatcher.submit(lambda: recognizing(text))

    async def stop_recognition(self) -> None:
        """Stop it, and wait until it has let go, a few seconds at most."""
        task, stt = self._stt_task, self.stt
        if self._inbound is not None:
            self._inbound.push(None)
        if stt is not None:
            # A task of its own: a stop() that swallows or raises a cancellation is then nobody's but its own.
            stopping = asyncio.get_running_loop().create_task(_stop(stt))
            await asyncio.wait([stopping], timeout=_STOP_S)
            if not stopping.done():
                stopping.cancel()
                log.warning("The speech recogniser did not stop within %g s", _STOP_S)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_STOP_S)

    def nudge(self) -> None:
        """Have the threads that take frames look whether they are wanted elsewhere. Any thread."""
        for listener in self._listeners:
            listener.put(b"")

    def close(self) -> None:
        """The call is over: release the threads that take frames (the lock must be held)."""
        for listener in self._listeners:
            listener.put(None)

    def _set_ready(self) -> None:
        self._ready = True
        self._bridge.notify()

    # -- what was understood --------------------------------------------------------------------------------------

    def _on_recognition(self, event: RecognitionEvent) -> None:
        origin = self._origin_ms
        match event:
            case SpeechStarted() | SpeechEnded():
                self._speaking = isinstance(event, SpeechStarted)
                self._emit(CallerSpeaking, speaking=self._speaking)
            case Final(text=text) if text.strip():
                if self._is_echo(event):
                    return
                start_ms, end_ms = event.at_ms + origin, event.end_ms + origin
                self._emit(CallerHeard, text=text, start_ms=start_ms, end_ms=end_ms)
                self._understood(Final(at_ms=start_ms, end_ms=end_ms, text=text))
            case NoMatch():
                self._understood(NoMatch(at_ms=event.at_ms + origin))
            case RecognizerFailed():
                self._failed(event)
            case _:
                return
        self._bridge.notify()

    def _is_echo(self, event: Final) -> bool:
        """Whether this is our own voice coming back: it lies within our speech on the audio, and says what we say.
        A caller may well answer into the question."""
        is_echo = getattr(self.stt, "is_echo", None)
        if is_echo is None or not is_echo(event):
            return False
        ours = set(normalise(" ".join(self._agent_said)))
        return ours.issuperset(normalise(event.text))

    def agent_speaks(self, speaking: bool, text: str) -> None:
        """Our own voice begins to say ``text``, or has ended; any thread."""
        self._agent_speaking = speaking
        if speaking:
            self._agent_said.append(text)
        if self.stt is not None:
            try:
                self.stt.set_speaking(speaking)
            except Exception:
                log.exception("set_speaking() of the speech recogniser failed")

    def _understood(self, event: Final | NoMatch) -> None:
        with self._bridge.lock:
            self._finals.append(event)

    def _failed(self, failure: RecognizerFailed) -> None:
        with self._bridge.lock:
            self._failure = failure
            self._bridge.condition.notify_all()
        self._emit(RecognitionFailed, error=failure.message)

    def prepare(self, expect: Sequence[str] | None, digits: int | None) -> float:
        """Tell the recogniser what may be said from now on. Returns where that is on the caller's audio (ms)."""
        refuse_on_event_loop("listen()")
        bridge = self._bridge
        from_ms = self.audio_ms
        self._await_recogniser()
        restrict = getattr(self.stt, "expect", None)
        if restrict is not None:
            asked = bridge.start(lambda: restrict(expect, digits))
            done = bridge.wait_until(lambda: asked.done() or bridge.ended, _READY_S)
            self.raise_if_over()
            if not done:
                asked.cancel()
                raise ProviderError("timeout", f"the recogniser did not take what to expect within {_READY_S:g} s")
            asked.result(timeout=0)
        return from_ms

    def listen(self, timeout: float, expect: Sequence[str] | None, from_ms: float) -> ListenResult:
        """Block until there is something that the caller said after ``from_ms``; see ``VoiceSession.listen``."""
        bridge = self._bridge
        deadline = bridge.clock.monotonic() + timeout
        grace: float | None = None
        while True:
            limit = deadline if grace is None else grace
            said = self._wait_said(from_ms, limit - bridge.clock.monotonic())
            if said is not None:
                return listen_result(said, expect)
            self.raise_if_over()
            if grace is None and self._speaking:
                # In the middle of a sentence: let it end.
                bridge.wait_until(
                    lambda: not self._speaking or self.said_since(from_ms) or bridge.ended, LONGEST_UTTERANCE_S
                )
                grace = bridge.clock.monotonic() + TRANSCRIPT_GRACE_S
                continue
            return ListenResult()

    def said_since(self, from_ms: float) -> bool:
        """Whether there is something to take that was said after this position; what is older is dropped (a
        transcript may come seconds after its speech). The lock must be held."""
        finals = self._finals
        while finals and _end_of(finals[0]) <= from_ms:
            finals.popleft()
        return bool(finals)

    def take_said(self, from_ms: float) -> Final | NoMatch | None:
        """The oldest thing that was said after this position and nobody has taken (the lock must be held)."""
        return self._finals.popleft() if self.said_since(from_ms) else None

    @property
    def speaking(self) -> bool:
        """Whether the caller is in the middle of a sentence."""
        return self._speaking

    def _wait_said(self, from_ms: float, timeout: float) -> Final | NoMatch | None:
        """Wait for it and take it, in one go under the lock: two listeners never take the same."""
        bridge = self._bridge
        with bridge.lock:
            bridge.wait(lambda: self.said_since(from_ms) or self._failure or bridge.ended, timeout)
            return self.take_said(from_ms)

    def _await_recogniser(self) -> None:
        bridge = self._bridge
        self.raise_if_over()
        if self._setting("stt_factory") is None and self.stt is None:
            raise ConfigurationError(
                "listen() needs a speech recogniser and this call has none. Give one to the server, for example "
                "VoiceServer(Flow, stt='pocketsphinx'), or set session.stt_factory."
            )
        bridge.call_soon(self.start_recognition)
        if not bridge.wait_until(lambda: self._ready or self._failure or bridge.ended, _READY_S):
            raise ProviderError("timeout", f"the speech recogniser was not ready within {_READY_S:g} s")
        self.raise_if_over()

    def raise_if_over(self) -> None:
        if self._bridge.ended:
            raise CallHangupError(partial=ListenResult(reason="hung_up"), reason=self._bridge.ended)
        failure = self._failure
        if failure is not None:
            raise ProviderError(failure.kind, failure.message, retryable=failure.retryable)


async def _stop(stt: SttProvider) -> None:
    try:
        await stt.stop()
    except Exception:
        log.exception("The speech recogniser failed while it was stopped")


def _faced(stt: Any) -> SttProvider:
    """A factory may also make a bare recogniser."""
    return RecognizerStt(stt) if isinstance(stt, Recognizer) else stt


def _end_of(event: Final | NoMatch) -> float:
    return event.end_ms if isinstance(event, Final) else event.at_ms


def listen_result(event: Final | NoMatch, expect: Sequence[str] | None) -> ListenResult:
    if isinstance(event, NoMatch):
        return ListenResult(reason="no_match", start_ms=event.at_ms, end_ms=event.at_ms)
    choice = find_choice(event.text, expect) if expect else None
    return ListenResult(
        text=event.text,
        choice=choice,
        reason="no_match" if expect and choice is None else "speech",
        start_ms=event.at_ms,
        end_ms=event.end_ms,
    )
