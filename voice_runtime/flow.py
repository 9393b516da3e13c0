"""A call's ``run()`` in a thread of its own, and the call as the program around it sees it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from typing import Any

from .bridge import refuse_on_event_loop
from .clock import ClockThread
from .events import FlowFailed
from .exceptions import CallHangupError, CallNotAnsweredError
from .live_call import LiveCall, TranscriptLine
from .session import VoiceSession

__all__ = ["APOLOGY", "Call"]

log = logging.getLogger(__name__)

APOLOGY = "I am sorry, something went wrong. Please call again later. Goodbye."
"""What a caller hears when ``run()`` fails, unless told otherwise."""

_STUBBORN_AFTER_S = 5.0

# What a call that was dialled may come to instead of being answered (Twilio's CallStatus).
_NOT_ANSWERED = frozenset({"busy", "no-answer", "failed", "canceled"})


def _report_if_stubborn(reference: weakref.ref[Call]) -> None:
    call = reference()
    if call is not None and call.flow_running:
        log.warning("The thread of call %s still runs %g s after its end", call.call_sid, _STUBBORN_AFTER_S)


class Call:
    """One call of a server. Its methods may be called from any thread but the event loop's.

    Attributes:
        session: the flow's session.
        result: what ``run()`` returned.
        error: what ``run()`` raised; None after a normal end, and after a hang-up in the middle of a verb.
        status: the newest CallStatus Twilio reported, for a call that was dialled; else empty.
    """

    def __init__(self, session: VoiceSession, cancel: Callable[[str], object] | None = None) -> None:
        self.session = session
        self.call_sid = session.call_sid or ""
        self.result: Any = None
        self.error: BaseException | None = None
        self.status = ""
        self._live: LiveCall = session.live
        self._cancel = cancel
        self._flow_done = False
        self._thread: ClockThread | None = None
        self._look: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Call {self.call_sid or 'not placed'}: {self.outcome or 'under way'}>"

    @property
    def outcome(self) -> str:
        """How it ended: ``busy``, ``no-answer``, ``failed`` or ``canceled`` when nobody answered, else why the call
        ended (``hung_up``, ``caller_hung_up``, ...); empty while it is under way."""
        return self.status if self.status in _NOT_ANSWERED else self._live.ended

    @property
    def transcript(self) -> list[TranscriptLine]:
        """Who said what so far: the caller as recognised, the agent as heard."""
        return list(self._live.transcript)

    def wait_answered(self, timeout: float = 90.0) -> None:
        """Block until the call's stream is up.

        Raises:
            CallNotAnsweredError: busy, no answer, refused (the message says which), or ``timeout`` seconds passed.
        """
        live = self._live
        live.bridge.wait_until(lambda: live.started_at is not None or self.outcome, timeout)
        if live.started_at is None:
            raise CallNotAnsweredError(
                timeout, f"The call was not answered: {self.outcome}" if self.outcome else None
            )

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the call is over and ``run()`` has ended; False when ``timeout`` seconds passed before."""
        return self._live.bridge.wait_until(lambda: self._over, timeout)

    @property
    def flow_running(self) -> bool:
        """Whether the thread of ``run()`` is still at work."""
        return self._thread is not None and not self._flow_done

    @property
    def _over(self) -> bool:
        if self._thread is None:
            return bool(self.outcome)
        return self._flow_done and bool(self._live.ended)

    def hang_up(self) -> None:
        """End the call now, also while it still rings. Blocks as long as Twilio's REST API takes, for a call that
        rings; does not wait for :meth:`wait`.

        Raises:
            RestError: Twilio refused, or could not be reached.
        """
        refuse_on_event_loop("hang_up()")
        ringing = self._live.started_at is None
        self._live.hang_up("cut")
        if ringing and self.call_sid and self._cancel is not None:
            self._cancel(self.call_sid)
            self._live.end("canceled")  # no stream will come, and whether a callback does is not certain

    def report_status(self, status: str) -> None:
        """Twilio says what became of the call; any thread."""
        self.status = status
        if status in _NOT_ANSWERED or status == "completed":
            # Normally the stream has told it before. Without a stream this is the only news of the end.
            self._live.hang_up(status)
            if self._live.leg is None:
                self._live.end(status)
        self._live.bridge.notify()

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
        # Of the session only run() may be overridden: its verbs are called as VoiceSession has them.
        session = self.session
        try:
            self.result = session.run()
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
