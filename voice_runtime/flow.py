"""A call's ``run()`` in a thread of its own, and the call as the program around it sees it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import weakref
from typing import Any

from .bridge import refuse_on_event_loop
from .clock import ClockThread
from .events import FlowFailed, MachineDetected
from .exceptions import CallHangupError, CallNotAnsweredError, MachineAnsweredError
from .facts import CallOutcome, Failure
from .live_call import LiveCall, TranscriptLine
from .session import VoiceSession

__all__ = ["APOLOGY", "Call"]

log = logging.getLogger(__name__)

APOLOGY = "I am sorry, something went wrong. Please call again later. Goodbye."
"""What a caller hears when ``run()`` fails, unless told otherwise."""

_STUBBORN_AFTER_S = 5.0


def _report_if_stubborn(reference: weakref.ref[Call]) -> None:
    call = reference()
    if call is not None and call.flow_running:
        log.warning("The thread of call %s still runs %g s after its end", call.call_sid, _STUBBORN_AFTER_S)


class Call:
    """One call of a server. Its methods may be called from any thread but the event loop's.

    Attributes:
        session: the flow's session.
        result: what ``run()`` returned, or ``on_machine()`` in its place.
        error: what it raised; None after a normal end, and after a hang-up in the middle of a verb.
        status: the newest CallStatus Twilio reported, for a call that was dialled; else empty.
        failure: why it could not be put through, where that was told.
        key: stands for the call in the paths of its webhooks.
    """

    def __init__(self, session: VoiceSession) -> None:
        self.session = session
        self.call_sid = session.call_sid or ""
        self.key = secrets.token_urlsafe(18)
        self.result: Any = None
        self.error: BaseException | None = None
        self.status = ""
        self.failure: Failure | None = None
        self.detection_s = 0.0
        """How long (s) machine detection may take; 0: there is none."""
        self.disowned = False
        """Its request failed as far as anybody was told: it must not be."""
        self._not_answered: CallOutcome | None = None
        self._live: LiveCall = session.live
        self._flow_done = False
        self._in_run: int | None = None  # the thread that is in run()
        self._thread: ClockThread | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def live(self) -> LiveCall:
        """The call's inside; that of its session may be another call's by now."""
        return self._live

    def __repr__(self) -> str:
        return f"<Call {self.call_sid or 'not placed'}: {self.ended_reason or self.outcome or 'under way'}>"

    @property
    def outcome(self) -> CallOutcome | None:
        """How it was answered, or why it was not; None while that is open."""
        if self._not_answered is not None:
            return self._not_answered
        answered_by = self._live.answered_by
        if answered_by.startswith("machine"):
            return CallOutcome.MACHINE
        if answered_by == "fax":
            return CallOutcome.FAX
        answered = self._live.started_at is not None or self.status in ("in-progress", "completed")
        return CallOutcome.ANSWERED if answered else None

    @property
    def ended_reason(self) -> str:
        """Why it ended: ``hung_up``, ``caller_hung_up``, ``busy``, ...; empty while it is under way."""
        return self._live.ended

    @property
    def transcript(self) -> list[TranscriptLine]:
        """Who said what so far: the caller as recognised, the agent as heard."""
        return list(self._live.transcript)

    def wait_answered(self, timeout: float = 90.0) -> None:
        """Block until the call's stream is up.

        Raises:
            CallNotAnsweredError: busy, no answer, rejected, failed, canceled (its ``outcome`` says which), or
                ``timeout`` seconds passed.
        """
        live = self._live
        live.bridge.wait_until(lambda: live.started_at is not None or live.ended, timeout)
        if live.started_at is None:
            raise CallNotAnsweredError(timeout, outcome=self.outcome, failure=self.failure)

    def wait_placed(self, timeout: float) -> bool:
        """Block until Twilio has told the id of the call; False when ``timeout`` seconds passed before."""
        return self._live.bridge.wait_until(lambda: self.call_sid, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the call is over and ``run()`` has ended; False when ``timeout`` seconds passed before."""
        return self._live.bridge.wait_until(lambda: self._over, timeout)

    @property
    def flow_running(self) -> bool:
        """Whether the thread of ``run()`` is still at work."""
        return self._thread is not None and not self._flow_done

    @property
    def _over(self) -> bool:
        return bool(self._live.ended) and (self._thread is None or self._flow_done)

    def hang_up(self) -> None:
        """End the call now, wherever it is: also while it rings, or is away in a transfer. Does not wait, neither for
        :meth:`wait` nor for Twilio; should Twilio's API fail, it is asked again."""
        refuse_on_event_loop("hang_up()")
        live = self._live
        rings = live.started_at is None and not live.ended and self.status != "in-progress"
        live.hang_up("canceled" if rings else "cut")
        if rings and live.ended:
            self._not_answered = self._not_answered or CallOutcome.CANCELED
            live.bridge.notify()

    # -- what Twilio tells (any thread) ---------------------------------------------------------------------------

    def placed(self, call_sid: str) -> None:
        """Twilio has made it, and this is its id: from the answer to the request, or from a callback before it."""
        live = self._live
        with live.bridge.lock:
            if not self.call_sid:
                self.call_sid = live.call_sid = call_sid
                self.session.call_sid = call_sid
            live.bridge.condition.notify_all()

    def not_answered(self, outcome: CallOutcome, failure: Failure | None = None, reason: str = "") -> None:
        """It will not be answered: the call is over."""
        if self._live.started_at is None and not self._live.ended:
            self._not_answered, self.failure = outcome, failure
            self._live.end(reason or outcome)

    def lost(self) -> None:
        """Its stream cannot be had any more."""
        message = "Its stream could not be connected: see VOICE_STREAM_URL, and Twilio's debugger."
        self.not_answered(CallOutcome.FAILED, Failure(message=message), "never_connected")
        self._live.end("stream_lost")

    def completed(self) -> None:
        """Twilio says that the call has ended. Normally its stream has told before."""
        live = self._live
        if live.started_at is None:
            message = (
                "It was answered and over before its stream came: hung up at once, or the stream cannot be had; see "
                "VOICE_STREAM_URL, and the server's log."
            )
            self.not_answered(CallOutcome.FAILED, Failure(message=message), "never_connected")
        elif live.leg is None:
            live.end("completed")
        else:
            live.hang_up("completed")

    def machine_detected(self, answered_by: str, detection_ms: int | None = None) -> None:
        """Machine detection has decided. A machine takes ``run()`` to ``on_machine()``, where there is one."""
        live = self._live
        with live.bridge.lock:
            if live.answered_by or not answered_by:
                return  # told twice
            live.answered_by = answered_by
            thread = self._in_run if self._is_for_on_machine else None
        live.emit(MachineDetected, answered_by=answered_by, detection_ms=detection_ms)
        if thread is not None:
            live.speaker.clear()
            live.bridge.divert(thread, MachineAnsweredError(answered_by))
            live.hearing.nudge()
            live.come_back()  # nobody shall be put through to a machine
        else:
            live.bridge.notify()

    @property
    def _handles_machines(self) -> bool:
        return type(self.session).on_machine is not VoiceSession.on_machine

    @property
    def _is_for_on_machine(self) -> bool:
        return self._handles_machines and self._live.answered_by.startswith(("machine", "fax"))

    # -- the flow's thread ----------------------------------------------------------------------------------------

    def start(self, apology: str | None) -> None:
        """Run the session's ``run()`` in a thread named after the call. Loop thread."""
        live = self._live
        self.call_sid = live.call_sid
        live.on_over.append(self._watch)

        def body() -> None:
            try:
                self._run(apology)
            finally:
                with live.bridge.lock:
                    self._flow_done = True
                    live.bridge.condition.notify_all()
                if self._look is not None:
                    live.bridge.call_soon(self._look.cancel)

        self._thread = live.clock.start_thread(body, f"call {self.call_sid}")

    def _watch(self) -> None:
        """The call is over: look whether its thread has ended with it. One that sleeps cannot be ended."""
        if self._flow_done:
            return
        # Weak, so that a call which is over is not kept for the look: its thread keeps it while it runs.
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(_STUBBORN_AFTER_S, _report_if_stubborn, weakref.ref(self))

    def _run(self, apology: str | None) -> None:
        # Of the session only run() and on_machine() may be overridden: its verbs are called as VoiceSession has them.
        session = self.session
        try:
            with self._live.bridge.lock:  # a verdict comes before this, or finds us in run()
                machine = self._is_for_on_machine
                self._in_run = None if machine else threading.get_ident()
            if not machine:
                try:
                    self.result = session.run()
                    self._await_verdict()
                    VoiceSession.hang_up(session)
                except MachineAnsweredError:
                    machine = True
                finally:
                    self._in_run = None
                    machine |= self._live.bridge.end_diversion()  # run() may have swallowed it
            if machine and not self._live.ended:
                VoiceSession.clear(session)  # what run() queued last
                self.result = session.on_machine()
                VoiceSession.hang_up(session)
        except CallHangupError as error:
            if not self._live.ended:
                # Not of this call's making: raised by hand, or of another call.
                log.info("Call %s: run() ended with %s", self.call_sid, error)
                self._live.hang_up("cut")
        except Exception as error:
            self.error = error
            log.exception("Call %s: run() failed", self.call_sid)
            self._live.emit(FlowFailed, error=f"{type(error).__name__}: {error}")
            self._apologise(apology)
        except BaseException as error:  # noqa: BLE001 - SystemExit and its like: the call ends, not the process
            self.error = error
            log.warning("Call %s: run() ended with %r", self.call_sid, error)
            self._live.hang_up("failed")

    def _await_verdict(self) -> None:
        """``run()`` is through, perhaps with a machine whose greeting it took for a person: before detection has
        decided, there is no hanging up on it."""
        live = self._live
        if self.detection_s and self._handles_machines:
            assert live.started_at is not None
            left = live.started_at + self.detection_s - live.clock.monotonic()
            live.bridge.wait_until(lambda: live.answered_by or live.ended, left)

    def _apologise(self, apology: str | None) -> None:
        session = self.session
        try:
            if apology and session.setting("tts_factory") is not None:
                VoiceSession.clear(session)
                VoiceSession.say(session, apology)
            VoiceSession.hang_up(session)
        except CallHangupError:
            pass
        except Exception:
            # The voice itself may be what failed.
            log.exception("Call %s: the apology could not be said", self.call_sid)
            self._live.hang_up("failed")
