"""The mouth of a call: everything that is said, played and marked, and what of it the caller heard."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from .audio.frames import BYTES_PER_MS
from .bridge import Bridge, refuse_on_event_loop
from .events import Cleared, MarkSettled, Outcome, SayFinished, SayStarted
from .exceptions import CallHangupError, MachineAnsweredError, ProviderError
from .playout import Mark, Timeline, Utterance
from .results import PlayResult, SayResult
from .turns.heard_text import heard_text

if TYPE_CHECKING:
    from .tts import SpeechChunk, Synthesizer

__all__ = ["Speaker", "SpeakerLimits"]

_STOP_POLL_S = 0.02  # a threading.Event of somebody else's cannot be waited for together with a condition
_SETTLE_S = 0.5
_AHEAD_MS = 30_000.0  # how far a synthesiser may run ahead of the line before it is made to wait


def _nobody() -> None:
    """Nobody drains the timeline yet."""


async def _next(chunks: AsyncGenerator[SpeechChunk, None]) -> SpeechChunk | None:
    """The next chunk, None at the end."""
    return await anext(chunks, None)


async def _let_go(chunks: AsyncGenerator[SpeechChunk, None], step: asyncio.Task[SpeechChunk | None] | None) -> None:
    """Cancel a voice. Nobody waits for it: it may take its time, or refuse."""
    if step is not None and not step.done():
        step.cancel()
        await asyncio.wait([step])
    await chunks.aclose()


class SpeakerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for a voice, in seconds."""

    first_audio: float = 5.0
    """Until the first audio of an utterance."""
    stall: float = 5.0
    """Between two chunks of it."""
    confirm: float = 5.0
    """Beyond its own length until its mark must have come back."""


class _Voice:
    """Something being said; ``ended`` tells what became of it."""

    __slots__ = ("began_ms", "heard_ms", "heard_text", "outcome")

    def __init__(self, began_ms: float) -> None:
        self.began_ms = began_ms
        self.heard_text = ""
        self.heard_ms = 0.0
        self.outcome = Outcome.FAILED

    def ended(self, heard_text: str, heard_ms: float, outcome: Outcome) -> None:
        self.heard_text = heard_text
        self.heard_ms = heard_ms
        self.outcome = outcome


class Speaker:
    """One per call. ``emit`` makes and publishes call events; ``speaking`` is told when the voice begins and ends."""

    __slots__ = (
        "_bridge",
        "_call_ms",
        "_emit",
        "_legs",
        "_lock",
        "_speaking",
        "_suspended",
        "_taken",
        "_voices",
        "_wake",
        "limits",
        "timeline",
    )

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
        self._bridge = bridge
        self._lock = bridge.lock
        self._emit = emit
        self._speaking = speaking
        self._call_ms = now_ms
        self._wake: Callable[[], None] = _nobody
        self._taken = False  # somebody is queueing an utterance
        self._suspended = False  # between two legs there is no line to speak on
        self._legs = 0
        self._voices = 0

    def suspend(self) -> None:
        """The leg is gone and another will come: what was not heard waits for it (the lock must be held)."""
        self._suspended = True
        self.timeline.suspend(self.now_ms())

    def next_leg(self) -> None:
        """There is a stream to speak on (the lock must be held)."""
        self._suspended = False
        self._legs += 1

    def attach(self, wake: Callable[[], None]) -> None:
        """Whoever drains the timeline is told by ``wake`` (any thread, cheap) when there is something for it."""
        self._wake = wake
        wake()

    def now_ms(self) -> float:
        return self._bridge.clock.monotonic() * 1000

    def wake(self) -> None:
        self._wake()

    # -- raw audio and marks --------------------------------------------------------------------------------------

    def put(self, audio: bytes | bytearray | memoryview) -> None:
        """Queue μ-law audio; any thread, never blocks. Dropped when the call is over."""
        lock = self._lock
        lock.acquire()  # spelt out: `with` costs twice as much, and this may be every frame of every call
        try:
            self.timeline.append(audio)
        finally:
            lock.release()
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

    def drain(self, label: str) -> Outcome | None:
        """Wait until everything queued was heard, at most its length and a little more. None when that expired."""
        bridge = self._bridge
        with bridge.lock:
            if self.timeline.closed:
                return Outcome.HUNG_UP
            mark = self.timeline.mark(label)
        self.wake()
        self._wait_settled(lambda: mark.outcome is not None, None)
        return mark.outcome

    # -- utterances -----------------------------------------------------------------------------------------------

    def say(self, synthesizer: Synthesizer, text: str, stop_event: threading.Event | None = None) -> SayResult:
        """Make, queue and wait. Raises CallHangupError, or MachineAnsweredError, with the partial result."""
        refuse_on_event_loop("say()")
        with self.voice(text) as voice:
            making: concurrent.futures.Future[None] | None = None
            spoken: Utterance | None = None
            try:
                with self._turn(stop_event) as utterance:
                    spoken = utterance
                    making = order = self._bridge.start(lambda: self._make(synthesizer, text, utterance))
                    try:
                        self._wait(lambda: order.done() or utterance.outcome is not None, None, stop_event)
                    finally:
                        if not order.done():
                            order.cancel()
                self._wait_heard(utterance, stop_event)
            except MachineAnsweredError as error:
                if spoken is not None:
                    self._let_settle(spoken)
                    error.partial = self._said(text, spoken, making, voice)
                raise
            result = self._said(text, utterance, making, voice)
        self._raise_if_over(result.outcome, result)
        return result

    def _said(
        self,
        text: str,
        utterance: Utterance,
        making: concurrent.futures.Future[None] | None,
        voice: _Voice,
    ) -> SayResult:
        """What became of it, also for the observers."""
        error: str | None = None
        whole = False
        if making is not None and making.done() and not making.cancelled():
            failure = making.exception()
            whole = failure is None
            if isinstance(failure, Exception):
                error = str(failure) or type(failure).__name__
        outcome = self._outcome_of(utterance)
        if error is not None and outcome in (Outcome.PLAYED, Outcome.UNCONFIRMED):
            outcome = Outcome.FAILED
        heard_ms, duration_ms = self._measure(utterance)
        complete = outcome in (Outcome.PLAYED, Outcome.UNCONFIRMED)
        heard = text if complete else heard_text(text, heard_ms, duration_ms, utterance.words, whole=whole)
        voice.ended(heard, heard_ms, outcome)
        return SayResult(
            text=text,
            heard_text=heard,
            heard_ms=heard_ms,
            duration_ms=duration_ms,
            outcome=outcome,
            error=error,
        )

    def _let_settle(self, utterance: Utterance) -> None:
        """After a clear: until the wire has told how far it was heard."""
        with self._lock:
            self._bridge.condition.wait_for(lambda: utterance.outcome is not None or self._bridge.ended, _SETTLE_S)

    def play(
        self, audio: bytes, name: str, stop_event: threading.Event | None = None, *, told: bool = True
    ) -> PlayResult:
        """Queue a recording and wait until it was heard. In events its text is its name in brackets.

        Args:
            told: False: neither observers nor recogniser learn of it.
        """
        refuse_on_event_loop("play()")
        name = f"[{name}]"
        with self.voice(name, told=told) as voice:
            with self._turn(stop_event) as utterance:
                with self._lock:
                    try:
                        self.timeline.append(audio, utterance)
                    finally:
                        self.timeline.end(utterance)
                self.wake()
            self._wait_heard(utterance, stop_event)
            heard_ms, duration_ms = self._measure(utterance)
            outcome = self._outcome_of(utterance)
            voice.ended(name if outcome is Outcome.PLAYED else "", heard_ms, outcome)
        result = PlayResult(name=name, heard_ms=heard_ms, duration_ms=duration_ms, outcome=outcome)
        self._raise_if_over(outcome, result)
        return result

    def _raise_if_over(self, outcome: Outcome, result: SayResult | PlayResult) -> None:
        if outcome is Outcome.HUNG_UP and self._bridge.ended:
            raise CallHangupError(partial=result, reason=self._bridge.ended)

    @contextlib.contextmanager
    def _turn(self, stop_event: threading.Event | None) -> Iterator[Utterance]:
        """A new utterance. One is queued at a time: a second thread's comes behind it, not between its words. One
        that is stopped before its turn has come is settled already, and cuts nobody else's."""
        bridge = self._bridge
        with bridge.lock:
            bridge.raise_if_diverted()
            while not (bridge.ended or not (self._taken or self._suspended)):
                if stop_event is not None and stop_event.is_set():
                    break
                bridge.wait(
                    lambda: bridge.ended or not (self._taken or self._suspended),
                    None if stop_event is None else _STOP_POLL_S,
                )
            if bridge.ended:
                raise CallHangupError(reason=bridge.ended)
            utterance = self.timeline.begin()
            if self._taken or self._suspended:
                utterance.outcome = Outcome.INTERRUPTED
                mine = False
            else:
                mine = self._taken = True
        try:
            yield utterance
        finally:
            with bridge.lock:
                self.timeline.end(utterance)  # where it was not ended by whoever filled it
                if mine:
                    self._taken = False
                bridge.condition.notify_all()

    @contextlib.contextmanager
    def voice(self, text: str, *, told: bool = True) -> Iterator[_Voice]:
        """From the beginning to the end of something said: the recogniser and the observers learn both (unless they
        are not ``told``), whatever happens between."""
        voice = _Voice(self._call_ms())
        if not told:
            yield voice
            return
        with self._lock:
            self._voices += 1
        self._speaking(True, text)
        self._emit(SayStarted, text=text)
        try:
            yield voice
        except MachineAnsweredError:
            if voice.outcome is Outcome.FAILED:  # nobody has accounted for it
                voice.outcome = Outcome.INTERRUPTED
            raise
        finally:
            with self._lock:
                self._voices -= 1
                silent = self._voices == 0
            if silent:
                self._speaking(False, text)
            start_ms = voice.began_ms
            if voice.outcome is Outcome.PLAYED:  # it may have waited behind other audio
                start_ms = max(start_ms, self._call_ms() - voice.heard_ms)
            self._emit(
                SayFinished,
                text=text,
                heard_text=voice.heard_text,
                heard_ms=voice.heard_ms,
                start_ms=round(start_ms, 1),
                outcome=voice.outcome,
            )

    async def _make(self, synthesizer: Synthesizer, text: str, utterance: Utterance) -> None:
        """On the loop: from the synthesiser's chunks to the timeline, with a deadline on each."""
        bridge, timeline = self._bridge, self.timeline
        loop = asyncio.get_running_loop()
        patience = self.limits.first_audio
        chunks: AsyncGenerator[SpeechChunk, None] | None = None
        step: asyncio.Task[SpeechChunk | None] | None = None
        try:
            chunks = synthesizer.synthesize(text)
            deadline = loop.time() + patience
            while True:
                # A task for each step, since a voice may swallow its cancellation; then it is left behind.
                step = loop.create_task(_next(chunks))
                await asyncio.wait([step], timeout=deadline - loop.time())
                if not step.done():
                    raise ProviderError(
                        "timeout", f"no audio within {patience:g} s", provider=synthesizer.name, retryable=True
                    )
                chunk = step.result()
                if chunk is None:
                    return
                with bridge.lock:
                    utterance.words.extend(chunk.words)
                    wanted = timeline.append(chunk.audio, utterance)
                if not wanted:
                    return
                if chunk.audio:
                    patience = self.limits.stall
                    deadline = loop.time() + patience
                    self.wake()
                while timeline.queued_ms > _AHEAD_MS and utterance.outcome is None:
                    await asyncio.sleep(0.5)
                    deadline = loop.time() + patience
        finally:
            with bridge.lock:
                timeline.end(utterance)
            self.wake()
            if chunks is not None:
                bridge.spawn(_let_go(chunks, step), ends_itself=True)

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
            if done():
                return stop_event
            if stop_event.is_set():
                self.clear()
                stop_event = None
                continue
            step = _STOP_POLL_S if left is None else min(left, _STOP_POLL_S)
            if bridge.wait_until(lambda: done() or bridge.ended, step) or left == 0:
                return stop_event

    def _wait_heard(self, utterance: Utterance, stop_event: threading.Event | None) -> None:
        self._wait_settled(lambda: utterance.outcome is not None, stop_event)

    def _wait_settled(self, settled: Callable[[], bool], stop_event: threading.Event | None) -> None:
        """Until the wire has told, or should have: what is queued, and a little more. Time without a leg does not
        count."""
        bridge = self._bridge
        while True:
            with bridge.lock:
                left = self.timeline.pending_ms(self.now_ms()) / 1000
                leg = self._legs

            def told(leg: int = leg) -> bool:
                return settled() or self._legs != leg

            stop_event = self._wait(told, left + self.limits.confirm, stop_event)
            with bridge.lock:
                if settled() or bridge.ended or (self._legs == leg and not self._suspended):
                    return
                bridge.wait(lambda: settled() or bridge.ended or not self._suspended, None)

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
        """The line is gone: settle everything (the lock must be held)."""
        self.timeline.close(self.now_ms())

    def _on_settled(self, mark: Mark) -> None:
        self._bridge.condition.notify_all()
        assert mark.outcome is not None
        self._emit(MarkSettled, label=mark.label, outcome=mark.outcome, played_ms=mark.position / BYTES_PER_MS)
