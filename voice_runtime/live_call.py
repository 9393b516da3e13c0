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
from .clock import Clock
from .dispatcher import Dispatcher
from .events import CallEnded, CallerHeard, CallEvent, CallStarted, LegEnded, LegStarted, SayFinished
from .hearing import Hearing
from .leg import Leg
from .playout import Timeline
from .speaking import Speaker, SpeakerLimits

if TYPE_CHECKING:
    from .tts import TtsProvider

__all__ = ["LiveCall", "TranscriptLine"]

log = logging.getLogger(__name__)

_TASK_GRACE_S = 5.0
_SEAM_REASONS = frozenset({"caller_hung_up", "stream_lost"})  # what the end of a replaced stream looks like


class TranscriptLine(NamedTuple):
    """One line of a call's transcript. ``speaker`` is ``caller`` or ``agent``; ``at_ms`` is when it began."""

    speaker: str
    text: str
    at_ms: float


class LiveCall:
    """The parts of one call, wired together."""

    __slots__ = (
        "_ending",
        "_next_leg_s",
        "_observers",
        "_seam",
        "bridge",
        "call_sid",
        "called",
        "caller",
        "clock",
        "direction",
        "disconnect_wanted",
        "dispatcher",
        "hearing",
        "leg",
        "on_begun",
        "on_over",
        "parameters",
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
        self.call_sid = ""
        self.caller = ""
        self.called = ""
        self.direction = ""
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
        self._next_leg_s = 0.0
        self._seam: asyncio.TimerHandle | None = None
        self.transcript: list[TranscriptLine] = []
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
        self, *, call_sid: str, stream_sid: str, wake: Callable[[], None], hang_up: Callable[[str], None]
    ) -> Leg:
        """A stream of this call is up: the first, or the next after :meth:`await_next_leg`."""
        with self.bridge.lock:
            first = self.started_at is None
            self.speaker.next_leg()
            self.leg = leg = Leg(
                call_sid=call_sid, stream_sid=stream_sid, timeline=self.timeline, wake=wake, hang_up=hang_up
            )
            self._next_leg_s = 0.0
            if first:
                self.call_sid = call_sid
                self.dispatcher.name = f"call-callbacks {call_sid}"
                self.started_at = self.clock.monotonic()
            disconnect_wanted = self.disconnect_wanted
            if first:
                self.emit(CallStarted, caller=self.caller, called=self.called, direction=self.direction)
            self.emit(LegStarted, stream_sid=stream_sid)
            self.bridge.condition.notify_all()
        if self._seam is not None:
            self._seam.cancel()
            self._seam = None
        self.speaker.attach(wake)
        self.bridge.call_soon(self.hearing.start_recognition)
        if disconnect_wanted:
            hang_up(disconnect_wanted)
        if first:
            for begun in self.on_begun:
                begun()
        return leg

    def await_next_leg(self, timeout: float) -> None:
        """The stream is about to be replaced (a transfer, keys sent through the TwiML): its end is not the call's,
        if the next one comes within ``timeout`` seconds. Any thread."""
        with self.bridge.lock:
            self._next_leg_s = timeout

    def leg_ended(self, leg: Leg, reason: str) -> None:
        """The stream is gone, and with it the call, unless another is awaited."""
        if leg is not self.leg:
            return
        self.emit(LegEnded, stream_sid=leg.stream_sid, reason=reason)
        if not self._next_leg_s or reason not in _SEAM_REASONS:
            self.end(reason)
            return
        with self.bridge.lock:
            self.speaker.close()
            self.leg = None
            self.bridge.condition.notify_all()
        self._seam = asyncio.get_running_loop().call_later(self._next_leg_s, self.end, "next_stream_missing")

    def hang_up(self, reason: str) -> None:
        """Have the transport end the call now; before its stream is up, as soon as it is. Any thread."""
        with self.bridge.lock:
            leg = self.leg
            if leg is None:
                self.disconnect_wanted = reason
        if leg is not None:
            leg.hang_up(reason)

    def end(self, reason: str) -> None:
        """Release every waiting verb now; let go of tasks, recogniser and dispatcher soon. Idempotent, any thread."""
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
