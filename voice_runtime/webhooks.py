"""What Twilio asks of us and tells us over HTTP, all of it signed.

========================================  =========================================================================
``/voice``                                a call came in; the answer connects its stream
``/voice/status/<call>``                  how a dialled call is getting on
``/voice/machine/<call>``                 what answering machine detection found
``/voice/next/<call>/<what>``             the stream, the digits, the transfer or the conference is over: what next?
``/voice/announce/<call>``                what is said to who a call is put through to
``/voice/guest/<call>/<conference>``      how the call to somebody invited into its conference is getting on
``/voice/stream/<call>``                  a stream started, stopped or failed
``/sms``                                  a text message came in; the answer may hold a reply
``/sms/status/<call>``                    how a message we sent is getting on
``/voice/check``                          nothing: proves that a signed request gets here (``voice-runtime doctor``)
========================================  =========================================================================

A number may be configured for POST or GET. What Twilio merely tells is answered within milliseconds; user code (a
flow's constructor, the handler of messages) runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from .clock import Clock
from .config import Settings
from .events import StreamReported
from .exceptions import ConfigurationError
from .flow import Call
from .masking import mask_numbers
from .messages import MessageDesk
from .switchboard import Flow, Refusal, Switchboard
from .transports.twilio_control import CallUrls, TwilioControl
from .transports.twilio_requests import signed_fields
from .transports.twilio_twiml import connect_stream, hangup, reject, say, say_and_hangup
from .transports.twilio_webhooks import (
    ENDED,
    MachineVerdict,
    StatusReport,
    StreamReport,
    call_facts,
    dial_result,
)
from .workers import run_in_thread

if TYPE_CHECKING:
    from .facts import CallFacts

__all__ = ["BUSY_MESSAGE", "Webhooks"]

log = logging.getLogger(__name__)

BUSY_MESSAGE = "All our lines are busy. Please call again in a few minutes. Goodbye."

Handler = Callable[[Request, dict[str, str]], Awaitable[Response]]


def _control_of(call: Call | None) -> TwilioControl | None:
    control = call.live.control if call is not None else None
    return control if isinstance(control, TwilioControl) else None


def _twiml(document: str) -> Response:
    return Response(document, media_type="text/xml")


class Webhooks:
    """The routes of one server.

    Args:
        busy_message: said to who calls when ``max_calls`` are up; None: the engaged tone.
        apology: said by Twilio's voice when a call cannot go on; None: it just ends.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        messages: MessageDesk,
        flow: Flow,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        insecure: bool,
        busy_message: str | None,
        apology: str | None,
    ) -> None:
        self._switchboard = switchboard
        self._messages = messages
        self._flow = flow
        self._settings = settings
        self._clock = clock
        self._insecure = insecure
        self._busy_message = busy_message
        self._apology = apology

    def add_to(self, app: FastAPI) -> None:
        """Put the routes into an app."""
        for path, handler in {
            "/voice": self._on_call,
            "/voice/check": self._on_check,
            "/voice/status/{key}": self._on_status,
            "/voice/machine/{key}": self._on_machine,
            "/voice/next/{key}/{what}": self._on_next,
            "/voice/announce/{key}": self._on_announce,
            "/voice/guest/{key}/{number}": self._on_guest,
            "/voice/stream/{key}": self._on_stream,
            "/sms": self._on_sms,
            "/sms/status/{key}": self._on_sms_status,
        }.items():
            app.add_api_route(path, self._signed(handler), methods=["POST", "GET"], response_model=None)

    def _signed(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                settings = self._settings()
            except ConfigurationError as error:
                log.error("Refused a webhook: %s", error)
                return Response(status_code=403)
            fields = await signed_fields(request, settings, insecure=self._insecure)
            if fields is None:
                return Response(status_code=403)
            return await handler(request, fields)

        return answer

    def _call(self, request: Request) -> Call | None:
        return self._switchboard.find(request.path_params["key"])

    async def _on_check(self, request: Request, fields: dict[str, str]) -> Response:
        return Response(status_code=204)

    # -- calls ----------------------------------------------------------------------------------------------------

    async def _on_call(self, request: Request, fields: dict[str, str]) -> Response:
        facts = call_facts(fields)
        loop = asyncio.get_running_loop()
        if (known := self._switchboard.expected(facts.call_sid)) is not None:
            return _twiml(self.connect(known))  # a repeated request
        if not self._switchboard.reserve(self._settings().voice_max_calls):
            log.warning("Call %s is one too many: VOICE_MAX_CALLS are up", facts.call_sid)
            return _twiml(say_and_hangup(self._busy_message) if self._busy_message else reject("busy"))
        try:
            # In a thread, for the flow's constructor is user code.
            call = await run_in_thread(
                self._clock,
                lambda: self._switchboard.expect(self._flow, facts, loop, reserved=True),
                "call-constructor",
            )
            if isinstance(call, Refusal):
                return _twiml(reject(call.reason))
            self._note(call, facts)
            return _twiml(self.connect(call))
        except Exception:
            log.exception("Call %s cannot be served", facts.call_sid)
            return self._give_up()

    def _note(self, call: Call, facts: CallFacts) -> None:
        if facts.call_sid:
            call.placed(facts.call_sid)
        self._switchboard.watch(call)

    def connect(self, call: Call, seconds: float = 60.0) -> str:
        """The TwiML that connects the call's next stream, within so many seconds; any thread."""
        token = self._switchboard.stream_token(call, seconds)
        settings = self._settings()
        urls = CallUrls(self._settings, call.key)
        return connect_stream(
            settings.stream_url(f"/voice/{token}"), action=urls.next("stream"), status_callback=urls.stream_status
        )

    def _give_up(self) -> Response:
        return _twiml(say_and_hangup(self._apology) if self._apology else hangup())

    async def _on_next(self, request: Request, fields: dict[str, str]) -> Response:
        """Also asked by Twilio when the stream ends because we redirected the call; the answer is then not used."""
        call, what = self._call(request), request.path_params["what"]
        if call is None and self._switchboard.was_here(request.path_params["key"]):
            return _twiml(hangup())
        if call is None:
            # Another process, or one that was restarted, had it.
            log.warning("Call %s came back and is not known here", call_facts(fields).call_sid)
            return self._give_up()
        live = call.live
        control = _control_of(call)
        if control is not None and not (what == "stream" and live.away):
            control.back()
        if fields.get("CallStatus", "") in ENDED:
            call.completed()
            return _twiml(hangup())
        if live.ended:
            return _twiml(hangup())
        if what == "dial" and "DialCallStatus" in fields:
            live.report(dial_result(fields))
        elif what == "stream" and not live.away and not self._switchboard.may_reconnect(call):
            log.error("Call %s: its stream is lost again and again; giving up", call.call_sid)
            call.lost()
            return self._give_up()
        return _twiml(self.connect(call))

    async def _on_announce(self, request: Request, fields: dict[str, str]) -> Response:
        call = self._call(request)
        control = _control_of(call)
        text = control.announcement if control is not None else ""
        return _twiml(say(text)) if text else _twiml("<Response/>")

    async def _on_guest(self, request: Request, fields: dict[str, str]) -> Response:
        call = self._call(request)
        control = _control_of(call)
        number = request.path_params["number"]
        if call is None or control is None or call.live.ended or not re.fullmatch(r"[0-9]{1,6}", number):
            return Response(status_code=204)
        if control.guest_reported(int(number), StatusReport.from_form(fields)):
            # Not in this request, which Twilio waits for: it may take several attempts.
            self._clock.start_thread(control.bring_back, f"return of {call.call_sid}")
        return Response(status_code=204)

    # -- what is told ---------------------------------------------------------------------------------------------

    async def _on_status(self, request: Request, fields: dict[str, str]) -> Response:
        call = self._call(request)
        if call is not None:
            self._switchboard.report(call, StatusReport.from_form(fields))
        return Response(status_code=204)

    async def _on_machine(self, request: Request, fields: dict[str, str]) -> Response:
        call = self._call(request)
        if call is not None:
            verdict = MachineVerdict.from_form(fields)
            call.machine_detected(verdict.answered_by, verdict.detection_ms)
        return Response(status_code=204)

    async def _on_stream(self, request: Request, fields: dict[str, str]) -> Response:
        call = self._call(request)
        if call is not None:
            told = StreamReport.from_form(fields)
            if told.error:
                said = mask_numbers(told.error[:200])
                log.warning("Call %s: Twilio reports on its stream: %r", call.call_sid, said)
            call.live.emit(StreamReported, stream_sid=told.stream_sid, report=told.event, error=told.error)
        return Response(status_code=204)

    async def _on_sms(self, request: Request, fields: dict[str, str]) -> Response:
        answer = await run_in_thread(self._clock, lambda: self._messages.received(fields), "sms-handler")
        return _twiml(answer)

    async def _on_sms_status(self, request: Request, fields: dict[str, Any]) -> Response:
        call = self._call(request)
        await run_in_thread(self._clock, lambda: self._messages.status(fields, call), "sms-status")
        return Response(status_code=204)
