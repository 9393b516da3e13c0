"""The mouth of a call: everything that is said, played and marked, and what of it the caller heard."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .bridge import Bridge, refuse_on_event_loop
from .events import Cleared, MarkSettled, Outcome, SayFinished, SayStarted
from .exceptions import CallHangupError, ProviderError
from .playout import Mark, Timeline, Utterance
from .results import PlayResult, SayResult
from .turns.heard_text import heard_text

if TYPE_CHECKING:
    from .tts import Synthesizer

__all__ = ["Speaker", "SpeakerLimits"]

_STOP_POLL_S = 0.02  # a threading.Event of somebody else's cannot be waited for together with a condition
_AHEAD_MS = 30_000.0  # how far a synthesiser may run ahead of the line before it is made to wait


def _nobody() -> None:
    """Nobody drains the timeline yet."""


class SpeakerLimits:
    """How long to wait for a voice, in seconds.

    Attributes:
        first_audio: until the first audio of an utterance.
        stall: between two chunks of it.
        confirm: beyond its own length until its mark must have come back.
    """

    __slots__ = ("confirm", "first_audio", "stall")

    def __init__(self, first_audio: float = 5.0, stall: float = 5.0, confirm: float = 5.0) -> None:
        self.first_audio = first_audio
        self.stall = stall
        self.confirm = confirm


class Speaker:
    """One per call. ``emit`` makes and publishes call events; ``speaking`` is told when the voice begins and ends."""

    def __init__(
        self,
        bridge: Bridge,
        *,
        emit: Callable[..., None],
        speaking: Callable[[bool, str], None],
        now_ms: Callable[[], float],
        limits: SpeakerLimits,
        lead_ms: float,
    ) -> None:
        self.limits = limits
        self.timeline = Timeline(lead_ms=lead_ms, on_settled=self._on_settled)
        self.on_heard: Callable[[float, bytes], None] | None = None
        self._bridge = bridge
        self._lock = bridge.lock
        self._emit = emit
        self._speaking = speaking
        self._call_ms = now_ms
        self._wake: Callable[[], None] = _nobody
        self._taken = False  # somebody is queueing an utterance
        self._voices = 0
        self._began_ms = 0.0

    def attach(self, wake: Callable[[], None]) -> None:
        """Whoever drains the timeline is told by ``wake`` (any thread, cheap) when there is something for it."""
        self._wake = wake
        wake()

    def now_ms(self) -> float:
        return self._bridge.clock.monotonic() * 1000

    def wake(self) -> None:
        self._wake()

    # -- raw audio and marks --------------------------------------------------------------------------------------

    def put(self, audio: bytes) -> None:
        """Queue μ-law audio; any thread, never blocks. Dropped when the call is over."""
        with self._lock:
            self.timeline.append(audio)
        self._wake()

    def mark_and_wait(self, label: str, timeout: float) -> Outcome:
        refuse_on_event_loop("send_mark_and_wait()")
        bridge = self._bridge
        with bridge.lock:
            mark = self.timeline.mark(label)
        self.wake()
        if not bridge.wait_until(lambda: mark.outcome is not None, timeout):
            raise TimeoutError(f"The mark {label!r} did not come back within {timeout:g} s")
        assert mark.outcome is not None
        return mark.outcome

    def clear(self) -> float:
        """Silence at once; returns the audio (ms) nobody will hear. Any thread."""
        with self._bridge.lock:
            unheard = self.timeline.clear(self.now_ms())
            self._bridge.condition.notify_all()
        self.wake()
        self._emit(Cleared, unheard_ms=unheard)
        return unheard

    def drain(self) -> Outcome | None:
        """Wait until everything queued was heard, at most its length and a little more. None when that expired."""
        bridge = self._bridge
        with bridge.lock:
            if self.timeline.closed:
                return Outcome.HUNG_UP
            mark = self.timeline.mark("end-of-call")
            left = self.timeline.pending_ms(self.now_ms()) / 1000
        self.wake()
        bridge.wait_until(lambda: mark.outcome is not None or bridge.ended, left + self.limits.confirm)
        return mark.outcome

    # -- utterances -----------------------------------------------------------------------------------------------

    def say(self, synthesizer: Synthesizer, text: str, stop_event: threading.Event | None = None) -> SayResult:
        """Make, queue and wait. Raises CallHangupError with the partial result when the call ends."""
        refuse_on_event_loop("say()")
        bridge = self._bridge
        error: str | None = None
        with self._turn():
            utterance = self._begin(text)
            making = bridge.start(lambda: self._make(synthesizer, text, utterance))
            try:
                self._wait(lambda: making.done() or utterance.outcome is not None, None, stop_event)
            finally:
                if not making.done() and utterance.outcome is not None:
                    making.cancel()
        whole = False
        if making.done() and not making.cancelled():
            failure = making.exception()
            whole = failure is None
            if isinstance(failure, Exception):
                error = str(failure) or type(failure).__name__
        self._wait_heard(utterance, stop_event)
        outcome = self._outcome_of(utterance)
        if error is not None and outcome in (Outcome.PLAYED, Outcome.UNCONFIRMED):
            outcome = Outcome.FAILED
        heard_ms, duration_ms = self._measure(utterance)
        complete = outcome in (Outcome.PLAYED, Outcome.UNCONFIRMED)
        result = SayResult(
            text=text,
            heard_text=text if complete else heard_text(text, heard_ms, duration_ms, utterance.words, whole=whole),
            heard_ms=heard_ms,
            duration_ms=duration_ms,
            outcome=outcome,
            error=error,
        )
        self.finished(text, result.heard_text, heard_ms, outcome)
        if outcome is Outcome.HUNG_UP:
            raise CallHangupError(partial=result, reason=bridge.ended or "")
        return result

    def play(self, audio: bytes, name: str, stop_event: threading.Event | None = None) -> PlayResult:
        """Queue a recording and wait until it was heard. In events its text is its name in brackets."""
        refuse_on_event_loop("play()")
        bridge = self._bridge
        name = f"[{name}]"
        with self._turn():
            utterance = self._begin(name)
            with bridge.lock:
                self.timeline.append(audio, utterance)
                self.timeline.end(utterance)
            self.wake()
        self._wait_heard(utterance, stop_event)
        heard_ms, duration_ms = self._measure(utterance)
        result = PlayResult(
            name=name, heard_ms=heard_ms, duration_ms=duration_ms, outcome=self._outcome_of(utterance)
        )
        self.finished(name, name if result.complete else "", heard_ms, result.outcome)
        if result.outcome is Outcome.HUNG_UP:
            raise CallHangupError(partial=result, reason=bridge.ended or "")
        return result

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One utterance is queued at a time; a second thread's comes behind it, not between its words."""
        bridge = self._bridge
        with bridge.lock:
            bridge.condition.wait_for(lambda: not self._taken or bridge.ended)
            if bridge.ended:
                raise CallHangupError(reason=bridge.ended)
            self._taken = True
        try:
            yield
        finally:
            with bridge.lock:
                self._taken = False
                bridge.condition.notify_all()

    def _begin(self, text: str) -> Utterance:
        with self._bridge.lock:
            utterance = self.timeline.begin()
        self.started(text)
        return utterance

    def started(self, text: str) -> None:
        """Somebody begins to say ``text``."""
        with self._bridge.lock:
            self._voices += 1
        self._began_ms = self._call_ms()
        self._speaking(True, text)
        self._emit(SayStarted, text=text)

    def finished(self, text: str, heard: str, heard_ms: float, outcome: Outcome) -> None:
        """And has ended."""
        with self._bridge.lock:
            self._voices -= 1
            silent = self._voices == 0
        if silent:
            self._speaking(False, text)
        start_ms = max(0.0, self._call_ms() - heard_ms) if outcome is Outcome.PLAYED else self._began_ms
        self._emit(
            SayFinished, text=text, heard_text=heard, heard_ms=heard_ms, start_ms=round(start_ms, 1), outcome=outcome
        )

    async def _make(self, synthesizer: Synthesizer, text: str, utterance: Utterance) -> None:
        """On the loop: from the synthesiser's chunks to the timeline, with a deadline on each."""
        bridge, timeline = self._bridge, self.timeline
        chunks = synthesizer.synthesize(text)
        patience = self.limits.first_audio
        try:
            while True:
                try:
                    async with asyncio.timeout(patience):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise ProviderError(
                        "timeout", f"no audio within {patience:g} s", provider=synthesizer.name, retryable=True
                    ) from error
                with bridge.lock:
                    utterance.words.extend(chunk.words)
                    wanted = timeline.append(chunk.audio, utterance)
                if not wanted:
                    return
                if chunk.audio:
                    patience = self.limits.stall
                    self.wake()
                while timeline.queued_ms > _AHEAD_MS and utterance.outcome is None:  # noqa: ASYNC110 - pure queue
                    await asyncio.sleep(0.5)
        finally:
            with bridge.lock:
                timeline.end(utterance)
            self.wake()
            await chunks.aclose()

    def _wait(
        self, done: Callable[[], Any], timeout: float | None, stop_event: threading.Event | None
    ) -> threading.Event | None:
        """Until done, the call's end or the timeout (s). Clears, once, when ``stop_event`` is set; returns the event
        while it still has to be watched."""
        bridge = self._bridge
        deadline = None if timeout is None else bridge.clock.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - bridge.clock.monotonic())
            if stop_event is None:
                bridge.wait_until(lambda: done() or bridge.ended, left)
                return None
            if stop_event.is_set():
                self.clear()
                stop_event = None
                continue
            step = _STOP_POLL_S if left is None else min(left, _STOP_POLL_S)
            if bridge.wait_until(lambda: done() or bridge.ended, step) or left == 0:
                return stop_event

    def _wait_heard(self, utterance: Utterance, stop_event: threading.Event | None) -> None:
        with self._bridge.lock:
            left = self.timeline.pending_ms(self.now_ms()) / 1000
        self._wait(lambda: utterance.outcome is not None, left + self.limits.confirm, stop_event)

    def _outcome_of(self, utterance: Utterance) -> Outcome:
        if utterance.outcome is not None:
            return utterance.outcome
        return Outcome.HUNG_UP if self._bridge.ended else Outcome.UNCONFIRMED

    def _measure(self, utterance: Utterance) -> tuple[float, float]:
        with self._bridge.lock:
            return self.timeline.heard_of(utterance, self.now_ms()), utterance.duration_ms

    # -- what comes back (the lock is held) -----------------------------------------------------------------------

    def echoed(self, name: str, at_ms: float) -> None:
        """A mark came back; loop thread."""
        with self._bridge.lock:
            self.timeline.echo(name, at_ms)

    def close(self) -> None:
        """The call is over: settle everything (the lock must be held)."""
        self.timeline.close(self.now_ms())

    def _on_settled(self, mark: Mark) -> None:
        self._bridge.condition.notify_all()
        assert mark.outcome is not None
        self._emit(MarkSettled, label=mark.label, outcome=mark.outcome, played_ms=mark.position / 8)
