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


class TranscriptLine(NamedTuple):
    """One line of a call's transcript. ``speaker`` is ``caller`` or ``agent``; ``at_ms`` is when it began."""

    speaker: str
    text: str
    at_ms: float


class LiveCall:
    """The parts of one call, wired together. ``over`` is set (an asyncio.Event) when nothing of it runs any more."""

    def __init__(
        self,
        clock: Clock,
        *,
        lead_ms: float,
        limits: SpeakerLimits,
        observers: list[Callable[[CallEvent], None]],
    ) -> None:
        self.clock = clock
        self.bridge = Bridge(clock)
        self.dispatcher = Dispatcher(clock, "call-callbacks")
        self.hearing = Hearing(self.bridge, self.dispatcher, emit=self.emit)
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
        self.started_at: float | None = None
        self.disconnect_wanted = ""
        self.over = asyncio.Event()
        self.on_begun: Callable[[], None] | None = None
        self.on_over: Callable[[], None] | None = None
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

    def begin_leg(self, leg: Leg) -> None:
        """A stream of this call is up."""
        with self.bridge.lock:
            first = self.started_at is None
            self.leg = leg
            if first:
                self.call_sid = leg.call_sid
                self.started_at = self.clock.monotonic()
            self.bridge.condition.notify_all()
        self.dispatcher.name = f"call-callbacks {leg.call_sid}"
        self.speaker.attach(leg.wake)
        if first:
            self.emit(CallStarted, caller=self.caller, called=self.called, direction=self.direction)
        self.emit(LegStarted, stream_sid=leg.stream_sid)
        self.hearing.start_recognition()
        if self.disconnect_wanted:
            leg.hang_up(self.disconnect_wanted)
        if first and self.on_begun is not None:
            self.on_begun()

    def leg_ended(self, leg: Leg, reason: str) -> None:
        """The stream is gone, and with it the call."""
        if leg is self.leg:
            self.emit(LegEnded, stream_sid=leg.stream_sid, reason=reason)
            self.end(reason)

    def end(self, reason: str) -> None:
        """Release every waiting verb now; let go of tasks, recogniser and dispatcher soon. Idempotent, any thread."""
        with self.bridge.lock:
            if self.bridge.ended:
                return
            self.speaker.close()
            self.bridge.ended = reason
            self.hearing.close()
            self.leg = None
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
            self.over.set()
            if self.on_over is not None:
                self.on_over()

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
