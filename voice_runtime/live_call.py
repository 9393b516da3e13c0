"""Everything of one call that must not outlive it.

A session may be used for several calls one after the other; each gets a fresh :class:`LiveCall`, so nothing of an
earlier call can reach a later one: an old socket, thread or timer holds only the old object.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .bridge import Bridge
from .clock import Clock, ClockThread
from .dispatcher import Dispatcher
from .events import (
    CallEnded,
    CallerHeard,
    CallEvent,
    CallStarted,
    DtmfReceived,
    LegEnded,
    LegStarted,
    SayFinished,
)
from .exceptions import CallHangupError, RestError, VoiceRuntimeError
from .facts import CallFacts
from .hearing import Hearing
from .keypad import Keypad
from .leg import Leg
from .playout import Timeline
from .results import TransferResult
from .speaking import Speaker, SpeakerLimits

if TYPE_CHECKING:
    from .control import CallControl
    from .tts import TtsProvider

__all__ = ["LiveCall", "TranscriptLine"]

log = logging.getLogger(__name__)

_TASK_GRACE_S = 5.0
_SEAM_REASONS = frozenset({"caller_hung_up", "stream_lost"})  # what the end of a replaced stream looks like
_HANG_UPS = 4
_REDIRECT_S = 10.0  # from Twilio's answer to the end of the stream it redirects
_AFTER_DOUBT_S = 3.0
# While a call is away, its end may be told by nobody: it is looked for, ever more rarely.
_FIRST_LOOK_S, _LOOK_GROWS, _LONGEST_LOOK_S = 4.0, 1.5, 60.0


class TranscriptLine(NamedTuple):
    """One line of a call's transcript. ``speaker`` is ``caller`` or ``agent``; ``at_ms`` is when it began."""

    speaker: str
    text: str
    at_ms: float


class LiveCall:
    """The parts of one call, wired together."""

    __slots__ = (
        "_carrier_thread",
        "_ending",
        "_leaving",
        "_next_leg_s",
        "_observers",
        "_report",
        "_seam",
        "_taken",
        "_wanted_back",
        "answered_by",
        "bridge",
        "call_sid",
        "clock",
        "control",
        "disconnect_wanted",
        "dispatcher",
        "facts",
        "hearing",
        "holds",
        "keypad",
        "leg",
        "on_begun",
        "on_ending",
        "on_lost",
        "on_over",
        "parameters",
        "reconnect_s",
        "speaker",
        "started_at",
        "transcript",
        "voice",
        "voice_in_the_making",
    )

    def __init__(
        self,
        clock: Clock,
        *,
        lead_ms: float,
        limits: SpeakerLimits,
        observers: list[Callable[[CallEvent], None]],
        setting: Callable[[str], Any],
    ) -> None:
        self.clock = clock
        self.bridge = Bridge(clock)
        self.dispatcher = Dispatcher(clock, "call-callbacks")
        self.hearing = Hearing(self.bridge, self.dispatcher, emit=self.emit, setting=setting)
        self.speaker = Speaker(
            self.bridge,
            emit=self.emit,
            speaking=self.hearing.agent_speaks,
            now_ms=self.now_ms,
            limits=limits,
            lead_ms=lead_ms,
        )
        self.keypad = Keypad(self.bridge)
        self.call_sid = ""
        self.facts = CallFacts()
        self.answered_by = ""
        """What machine detection found; empty before, and without."""
        self.control: CallControl | None = None
        """The carrier's hand on the call, where there is one."""
        self.reconnect_s = 0.0
        """How long a stream that was lost is waited for; 0: its loss is the end."""
        self.parameters: dict[str, str] = {}
        self.leg: Leg | None = None
        self.voice: TtsProvider | None = None
        self.voice_in_the_making = False
        self.started_at: float | None = None
        self.disconnect_wanted = ""
        self.on_begun: list[Callable[[], None]] = []
        """Called on the loop when the first stream is up."""
        self.on_over: list[Callable[[], None]] = []
        """Called on the loop when nothing of the call runs any more but its flow's thread."""
        self.on_ending: list[Callable[[], None]] = []
        """Called once or twice, by whatever thread ends the call, before anybody who waits learns of it."""
        self.on_lost: Callable[[], None] | None = None
        """Called on the loop when the stream was lost and is waited for."""
        self._report: TransferResult | None = None
        self._next_leg_s = 0.0
        self._seam: asyncio.TimerHandle | None = None
        self.transcript: list[TranscriptLine] = []
        self.holds: list[Callable[[], None]] = []
        """Ends the music that is being played to the caller."""
        self._leaving = False
        self._taken = False  # the order to leave
        self._wanted_back = False
        self._carrier_thread: ClockThread | None = None
        self._observers = observers
        self._ending: asyncio.Task[None] | None = None

    @property
    def ended(self) -> str:
        return self.bridge.ended

    @property
    def timeline(self) -> Timeline:
        return self.speaker.timeline

    # -- events ---------------------------------------------------------------------------------------------------

    def now_ms(self) -> float:
        """Now, on the one time line of the call: the caller's audio, whose first frame is 0. A recording's, too."""
        return max(0.0, round(self.hearing.position_of(self.clock.monotonic() * 1000), 1))

    def emit(self, make: type[CallEvent], **facts: Any) -> None:
        """Publish a call event to the observers, on the dispatcher thread. Any thread, any lock held."""
        at_ms = self.now_ms()
        if make is CallerHeard:
            self.transcript.append(TranscriptLine("caller", facts["text"], facts["start_ms"]))
        elif make is SayFinished and facts["heard_text"]:
            self.transcript.append(TranscriptLine("agent", facts["heard_text"], facts["start_ms"]))
        if not self._observers:
            return
        event = make(call_sid=self.call_sid, at_ms=at_ms, **facts)
        for observer in tuple(self._observers):
            self.dispatcher.submit(lambda observer=observer: observer(event))  # type: ignore[misc]

    # -- life (loop thread) ---------------------------------------------------------------------------------------

    def begin_leg(
        self,
        *,
        call_sid: str,
        stream_sid: str,
        wake: Callable[[], None],
        hang_up: Callable[[str], None],
        close: Callable[[], None] | None = None,
    ) -> Leg:
        """A stream of this call is up: the first, or the next."""
        first = self.started_at is None
        with self.bridge.lock:
            self.leg = leg = Leg(
                call_sid=call_sid,
                stream_sid=stream_sid,
                timeline=self.timeline,
                wake=wake,
                hang_up=hang_up,
                close=close,
            )
            self.speaker.next_leg()
            self._next_leg_s = 0.0
            if first:
                self.call_sid = call_sid
                self.dispatcher.name = f"call-callbacks {call_sid}"
                self.started_at = self.clock.monotonic()
            disconnect_wanted = self.disconnect_wanted
            if first:
                facts = self.facts
                self.emit(CallStarted, caller=facts.caller, called=facts.called, direction=facts.direction)
            self.emit(LegStarted, stream_sid=stream_sid)
            self.bridge.condition.notify_all()
        self._forget_seam()
        self.speaker.attach(wake)
        self.bridge.call_soon(self.hearing.start_recognition)
        if disconnect_wanted:
            hang_up(disconnect_wanted)
        if first:
            for begun in self.on_begun:
                begun()
        return leg

    @property
    def away(self) -> bool:
        """Whether the call has been taken from its stream on purpose, and is to come back."""
        return self._next_leg_s > 0

    def await_next_leg(self, timeout: float) -> None:
        """The stream is about to be replaced (a transfer, keys sent through the TwiML): its end is not the call's,
        if the next one comes within ``timeout`` seconds. 0: it is not, after all. Any thread."""
        with self.bridge.lock:
            self._next_leg_s = timeout

    def leg_ended(self, leg: Leg, reason: str) -> None:
        """The stream is gone, and with it the call, unless another is awaited."""
        if leg is not self.leg:
            return
        self.emit(LegEnded, stream_sid=leg.stream_sid, reason=reason)
        seconds = self._next_leg_s if reason in _SEAM_REASONS else 0.0
        lost = not seconds and reason == "stream_lost" and self.reconnect_s > 0
        if not seconds and not lost:
            self.end(reason)
            return
        with self.bridge.lock:
            self.speaker.suspend()
            self.leg = None
            self.bridge.condition.notify_all()
        why = "stream_lost" if lost else "next_stream_missing"
        self._seam = asyncio.get_running_loop().call_later(seconds or self.reconnect_s, self.end, why)
        if lost and self.on_lost is not None:
            self.on_lost()

    def replace_leg(self) -> None:
        """A new stream of the call is here although the last one seems to be up: its path is dead. Loop thread."""
        leg = self.leg
        if leg is not None:
            self.reconnect_s = max(self.reconnect_s, 1.0)
            self.leg_ended(leg, "stream_lost")
            leg.close()

    def _forget_seam(self) -> None:
        if self._seam is not None:
            self._seam.cancel()
            self._seam = None

    def report(self, result: TransferResult) -> None:
        """The carrier says how what the call was away for went; loop thread, before the next stream."""
        with self.bridge.lock:
            self._report = result
            self.bridge.condition.notify_all()

    def leave(self, act: Callable[[], object], *, patience: float) -> TransferResult | None:
        """Let ``act`` take the call away from its stream, and block until it is back on the next one.

        Args:
            act: asks the carrier; called in this thread.
            patience: seconds after which a call that did not come back is over.

        Returns:
            What the carrier reported; None when nothing.

        Raises:
            CallHangupError: the call ended meanwhile.
            RestError: the carrier refused, and the call stays.
        """
        bridge = self.bridge
        with bridge.lock:  # one at a time: whoever comes second is taken away from the stream the first comes back to
            bridge.wait(lambda: bridge.ended or not (self._leaving or self.leg is None), None)
            if bridge.ended:
                raise CallHangupError(reason=bridge.ended)
            self._leaving = True
            old, self._report, self._next_leg_s = self.leg, None, patience
        try:
            with bridge.undiverted():
                self._order(act, old)
                return self._report
        finally:
            with bridge.lock:
                self._leaving = False
                bridge.condition.notify_all()

    def _order(self, act: Callable[[], object], old: Leg | None) -> None:
        bridge = self.bridge

        def back() -> bool:
            return bool(bridge.ended) or self.leg not in (None, old)

        def gone() -> bool:
            return back() or self.leg is not old

        self._taken = self._wanted_back = False
        try:
            act()
        except BaseException as error:
            # What failed after the deed takes the stream away all the same, at once.
            doubtful = isinstance(error, RestError) and error.maybe_done
            if not (doubtful and bridge.wait_until(gone, _AFTER_DOUBT_S)):
                self._stay(old)
                raise
        with bridge.lock:
            self._taken = True
            if self._wanted_back:
                self._order_back()
        if not bridge.wait_until(gone, _REDIRECT_S):
            self._stay(old)
            raise RestError(
                "The carrier took the order and the call's stream went on as if it had not.", maybe_done=True
            )
        seconds = _FIRST_LOOK_S
        while not bridge.wait_until(back, seconds):
            seconds = min(seconds * _LOOK_GROWS, _LONGEST_LOOK_S)
            # In a thread of its own: the call may be back long before the carrier answers.
            self.clock.start_thread(self._look_whether_over, f"look after call {self.call_sid}")
        if bridge.ended:
            raise CallHangupError(reason=bridge.ended)

    def come_back(self) -> None:
        """Whatever the call is away for, it is wanted here, once the carrier has taken that order. Any thread."""
        with self.bridge.lock:
            if not self._leaving:
                return
            self._wanted_back = True
            if self._taken:
                self._order_back()

    def _order_back(self) -> None:
        if self.control is not None:
            self.clock.start_thread(self.control.come_back, f"return of {self.call_sid}")

    def _stay(self, old: Leg | None) -> None:
        """The order failed. Had the stream ended meanwhile, for another reason, that was taken for its doing."""
        self.await_next_leg(0.0)
        if self.leg is old or self.bridge.ended:
            return
        self._look_whether_over()
        if self.bridge.ended:
            raise CallHangupError(reason=self.bridge.ended)
        self.bridge.call_soon(self._wait_for_reconnection)

    def _wait_for_reconnection(self) -> None:
        self._forget_seam()
        if self.leg is None and not self.bridge.ended:
            seconds = self.reconnect_s or 1.0
            self._seam = asyncio.get_running_loop().call_later(seconds, self.end, "stream_lost")

    def _look_whether_over(self) -> None:
        if self.control is None:
            return
        try:
            over = self.control.is_over()
        except VoiceRuntimeError as error:
            log.warning("Call %s: whether it is still up could not be asked: %s", self.call_sid, error)
            return
        if over and self.leg is None:
            self.end("caller_hung_up")

    def key_pressed(self, key: str) -> None:
        """The caller has pressed a key; loop thread."""
        self.keypad.press(key)
        self.emit(DtmfReceived, digit=key)

    def hang_up(self, reason: str) -> None:
        """End the call now, wherever it is: on its stream, away from it, or still ringing. A transport of one's own
        ends it as soon as its stream is up. Any thread, does not wait."""
        with self.bridge.lock:
            leg = self.leg
            if leg is None:
                self.disconnect_wanted = reason
        if leg is not None:
            leg.hang_up(reason)
        elif self.control is not None and self.call_sid and not self.ended:
            self.end(reason)
            self.end_at_carrier()

    def end_at_carrier(self) -> None:
        """Have the carrier end the call, in a thread of its own, again and again should it fail: it may be repeated
        at will. :meth:`wait_ended_at_carrier` waits for that."""
        self._carrier_thread = self.clock.start_thread(self._end_at_carrier, f"hang-up of {self.call_sid}")

    def wait_ended_at_carrier(self, timeout: float) -> None:
        """Wait, ``timeout`` seconds at most, for the carrier to have been told."""
        thread = self._carrier_thread
        if thread is not None:
            thread.join(timeout)

    def _end_at_carrier(self) -> None:
        assert self.control is not None
        for attempt in range(1, _HANG_UPS + 1):
            try:
                self.control.end_call()
                return
            except VoiceRuntimeError as error:
                log.warning("Call %s could not be ended (attempt %d): %s", self.call_sid, attempt, error)
            self.clock.sleep(attempt)

    def end(self, reason: str) -> None:
        """Release every waiting verb now; let go of tasks, recogniser and dispatcher soon. Idempotent, any thread."""
        if not self.bridge.ended:
            for ending in self.on_ending:
                ending()
        with self.bridge.lock:
            if self.bridge.ended:
                return
            self.bridge.ended = reason  # first: whatever fails below, nobody waits for this call any longer
            self.leg = None
            try:
                self.speaker.close()
                self.hearing.close()
            finally:
                self.bridge.condition.notify_all()
        if self.bridge.loop is not None:
            self.bridge.call_soon(self._forget_seam)
            self.bridge.call_soon(self._let_go)
        else:
            self.dispatcher.close()

    def _let_go(self) -> None:
        # Not through bridge.spawn(): it must survive the cancelling of the call's tasks.
        self._ending = asyncio.get_running_loop().create_task(self._wind_up())

    async def _wind_up(self) -> None:
        try:
            await self.hearing.stop_recognition()
            await self._close_voice()
            tasks = self.bridge.cancel_tasks()
            if tasks:
                _, stubborn = await asyncio.wait(tasks, timeout=_TASK_GRACE_S)
                for task in stubborn:
                    log.warning("%r did not end with call %s", task, self.call_sid)
        except Exception:
            log.exception("Call %s did not wind up cleanly", self.call_sid)
        finally:
            self.emit(CallEnded, reason=self.bridge.ended, duration_ms=self._duration_ms())
            self.dispatcher.close()
            for over in self.on_over:
                over()

    def _duration_ms(self) -> float:
        return 0.0 if self.started_at is None else round((self.clock.monotonic() - self.started_at) * 1000, 1)

    async def _close_voice(self) -> None:
        synthesizer = getattr(self.voice, "synthesizer", None)
        if synthesizer is not None:
            try:
                async with asyncio.timeout(_TASK_GRACE_S):
                    await synthesizer.close()
            except Exception:
                log.exception("The voice of call %s did not close cleanly", self.call_sid)
