"""Twilio's REST API without its HTTP: a request becomes an answer, on the fake's loop.

https://www.twilio.com/docs/voice/api, https://www.twilio.com/docs/messaging/api and the OpenAPI file
``twilio_api_v2010.json`` of Twilio's public repository.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote

import msgspec

from .fake_twilio_account_api import AccountApi
from .fake_twilio_calls import CallEngine
from .fake_twilio_conference_api import ConferencesApi
from .fake_twilio_country_api import CountryApi
from .fake_twilio_exchange import API_VERSION, MAGIC_NUMBER, Exchange
from .fake_twilio_messages import MessageEngine
from .fake_twilio_messages_api import MessagesApi
from .fake_twilio_recordings import RecordingEngine, read_order
from .fake_twilio_recordings_api import RecordingsApi
from .fake_twilio_records import CallRecord, OwnedNumber, Source
from .fake_twilio_requests import RestAnswer, RestRequest, Route, in_range
from .fake_twilio_resources import (
    RestRefusedError,
    call_json,
    error_json,
    is_number,
    page_json,
    stream_json,
)
from .fake_twilio_twiml import Verb, read_stream

__all__ = ["MAGIC_NUMBER", "RestApi"]

_MAGIC_CALLS = {"+15005550001": 21217, "+15005550002": 21214, "+15005550003": 21215, "+15005550004": 21216}
_MAGIC_SENDERS = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
_EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})
_MAX_TWIML = 4000  # https://www.twilio.com/docs/api/errors/32018


class RestApi:
    """Belongs to the fake's loop."""

    def __init__(
        self, exchange: Exchange, calls: CallEngine, messages: MessageEngine, recordings: RecordingEngine
    ) -> None:
        self._exchange = exchange
        self._calls = calls
        self.api_keys: dict[str, str] = {}
        """``SK...`` -> secret."""
        part = r"([^/]+)"
        routes: list[Route] = [
            ("GET", r"\.json", self._fetch_account),
            ("GET", r"/IncomingPhoneNumbers\.json", self._list_numbers),
            ("GET", rf"/IncomingPhoneNumbers/{part}\.json", self._fetch_number),
            ("POST", rf"/IncomingPhoneNumbers/{part}\.json", self._update_number),
            ("POST", r"/Calls\.json", self._create_call),
            ("GET", r"/Calls\.json", self._list_calls),
            ("GET", rf"/Calls/{part}\.json", self._fetch_call),
            ("POST", rf"/Calls/{part}\.json", self._update_call),
            ("DELETE", rf"/Calls/{part}\.json", self._delete_call),
            ("POST", rf"/Calls/{part}/Streams\.json", self._create_stream),
            ("POST", rf"/Calls/{part}/Streams/{part}\.json", self._update_stream),
            *MessagesApi(exchange, messages).routes,
            *RecordingsApi(exchange, recordings).routes,
            *AccountApi(exchange).routes,
            *ConferencesApi(exchange, calls.conferences, self._place).routes,
        ]
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in routes]
        self._other_routes = [
            (method, re.compile(pattern), handler) for method, pattern, handler in CountryApi(exchange).routes
        ]

    async def answer(self, request: RestRequest) -> RestAnswer:
        """Carry a request out. Never raises for what a client sends."""
        answer = self._answer(request)
        if answer.after is not None:
            await answer.after.wait()
        self._exchange.note(
            "rest",
            text=f"{request.method} {request.path} -> {answer.status}",
            method=request.method,
            path=request.path,
            form=list(request.form),
            status=answer.status,
            answer=answer.body,
        )
        return answer

    def _answer(self, request: RestRequest) -> RestAnswer:
        faults = self._exchange.faults
        try:
            if faults.take("rest_429"):
                retry = {} if faults.retry_after_s is None else {"Retry-After": str(faults.retry_after_s)}
                raise RestRefusedError(20429, headers={**retry, "Twilio-Concurrent-Requests": "101"})
            if faults.take("rest_503_before"):
                raise RestRefusedError(20503)
            if request.method == "GET" and "PageToken" in dict(request.query) and faults.take("list_page_fails"):
                raise RestRefusedError(20503)
            answer = self._dispatch(request)
            if request.method == "POST" and faults.take("rest_500_after"):
                raise RestRefusedError(20500)
        except RestRefusedError as error:
            return RestAnswer(error.status, error_json(error), error.headers)
        if faults.take("rest_reset"):
            return msgspec.structs.replace(answer, reset=True)
        return answer

    def _dispatch(self, request: RestRequest) -> RestAnswer:
        exchange = self._exchange
        known = {exchange.account_sid: exchange.auth_token, **self.api_keys}
        if not request.username or known.get(request.username) != request.password:
            raise RestRefusedError(20003)
        match = re.fullmatch(rf"/{API_VERSION}/Accounts/([^/.]+)(.*)", request.path)
        path, routes = request.path, self._other_routes
        if match is not None and match[1] == exchange.account_sid:
            path, routes = match[2], self._routes
        found = False
        for method, pattern, handler in routes:
            if parts := pattern.fullmatch(path):
                found = True
                if method == request.method:
                    return handler(request, tuple(unquote(part) for part in parts.groups()))
        raise RestRefusedError(20004 if found else 20404, request.path)

    # -- the account --------------------------------------------------------------------------------------------

    def _fetch_account(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        sid = self._exchange.account_sid
        return RestAnswer(
            200,
            {
                "sid": sid,
                "auth_token": self._exchange.auth_token,
                "friendly_name": "Fake account",
                "owner_account_sid": sid,
                "status": "active",
                "type": "Full",
                "date_created": None,
                "date_updated": None,
                "subresource_uris": {},
                "uri": f"/{API_VERSION}/Accounts/{sid}.json",
            },
        )

    def _number_json(self, number: OwnedNumber) -> dict[str, Any]:
        sid = self._exchange.account_sid
        return {
            "sid": number.sid,
            "account_sid": sid,
            "friendly_name": number.number,
            "phone_number": number.number,
            "voice_url": number.voice_url,
            "voice_method": number.voice_method,
            "voice_fallback_url": number.voice_fallback_url,
            "status_callback": number.status_callback,
            "sms_url": number.sms_url,
            "sms_method": number.sms_method,
            "capabilities": {"voice": True, "sms": True, "mms": False, "fax": False},
            "api_version": API_VERSION,
            "uri": f"/{API_VERSION}/Accounts/{sid}/IncomingPhoneNumbers/{number.sid}.json",
        }

    def _list_numbers(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        wanted = dict(request.query).get("PhoneNumber")
        numbers = [n for n in self._exchange.numbers.values() if wanted is None or n.number == wanted]
        items = [self._number_json(number) for number in numbers]
        return RestAnswer(200, page_json("incoming_phone_numbers", items, request.path, request.query))

    def _number(self, request: RestRequest, sid: str) -> OwnedNumber:
        for number in self._exchange.numbers.values():
            if number.sid == sid:
                return number
        raise RestRefusedError(20404, request.path)

    def _fetch_number(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, self._number_json(self._number(request, parts[0])))

    def _update_number(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        number = self._number(request, parts[0])
        form = dict(request.form)
        number.voice_url = form.get("VoiceUrl", number.voice_url)
        number.voice_method = form.get("VoiceMethod", number.voice_method)
        number.voice_fallback_url = form.get("VoiceFallbackUrl", number.voice_fallback_url)
        number.status_callback = form.get("StatusCallback", number.status_callback)
        number.sms_url = form.get("SmsUrl", number.sms_url)
        number.sms_method = form.get("SmsMethod", number.sms_method)
        return RestAnswer(200, self._number_json(number))

    # -- calls --------------------------------------------------------------------------------------------------

    def _create_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call, told = self._place(request)
        return RestAnswer(201, call_json(call, self._exchange.account_sid), after=told)

    def _place(self, request: RestRequest, first: Source | None = None) -> tuple[CallRecord, asyncio.Event | None]:
        """Make the call that a request asks for. ``first`` stands for the request's own TwiML."""
        exchange, form = self._exchange, dict(request.form)
        to, from_ = form.get("To", ""), form.get("From", "")
        if not to:
            raise RestRefusedError(21201)
        if not from_:
            raise RestRefusedError(21213)
        if code := _MAGIC_SENDERS.get(from_):
            raise RestRefusedError(21212 if code == 21212 else 21210, from_)
        if not is_number(from_) or (
            from_ != MAGIC_NUMBER and from_ not in exchange.numbers and from_ not in exchange.caller_ids
        ):
            raise RestRefusedError(21210 if is_number(from_) else 21212, from_)
        if code := _MAGIC_CALLS.get(to):
            raise RestRefusedError(code, to)
        if not is_number(to):
            raise RestRefusedError(21217, to)
        if not exchange.may_call(to):
            raise RestRefusedError(21215, to)
        first = first or self._source(form)
        if first is None:
            raise RestRefusedError(21205, form.get("Url", ""))
        call = self._calls.new_call(
            to=to,
            from_=from_,
            direction="outbound-api",
            phone=exchange.phones.get(to) or exchange.default_phone(),
            first=first,
        )
        if from_ in exchange.numbers:
            call.number_sid = exchange.numbers[from_].sid
        self._read_call_options(call, request)
        if form.get("Url") and form.get("Twiml"):
            exchange.note("warning", sid=call.sid, code=32019, text="both Url and Twiml are given; Url is used")
        return call, self._calls.create(call, early_callback=exchange.faults.early_callback)

    def _source(self, form: dict[str, str]) -> Source | None:
        url, twiml = form.get("Url", ""), form.get("Twiml", "")
        for name in ("Method", "FallbackMethod", "StatusCallbackMethod"):
            if form.get(name, "POST").upper() not in ("GET", "POST"):
                raise RestRefusedError(21209, form[name])
        if url:
            if not re.match(r"https?://[^/]", url):
                raise RestRefusedError(21205, url)
            return Source(
                url=url,
                method=form.get("Method", "POST").upper(),
                fallback_url=form.get("FallbackUrl", ""),
                fallback_method=form.get("FallbackMethod", "POST").upper(),
            )
        if not twiml:
            return None
        if len(twiml) > _MAX_TWIML:
            raise RestRefusedError(32018)
        return Source(twiml=twiml)

    def _read_call_options(self, call: CallRecord, request: RestRequest) -> None:
        form = dict(request.form)
        timeout = form.get("Timeout", "60")
        if not re.fullmatch(r"\d{1,3}", timeout) or not 1 <= int(timeout) <= 600:
            raise RestRefusedError(21208, timeout)
        call.timeout_s = int(timeout)
        limit = form.get("TimeLimit", f"{self._exchange.timings.time_limit_s:.0f}")
        if not re.fullmatch(r"[1-9]\d{0,6}", limit):
            raise RestRefusedError(20001, f"TimeLimit is a number of seconds, not {limit!r}")
        call.time_limit_s = float(limit)
        call.send_digits = form.get("SendDigits", "")
        if not re.fullmatch(r"[0-9A-D#*wW]{0,32}", call.send_digits):
            raise RestRefusedError(21206, call.send_digits)
        call.callback_url = form.get("StatusCallback", "")
        call.callback_method = form.get("StatusCallbackMethod", "POST").upper()
        events = [value for name, value in request.form if name == "StatusCallbackEvent"]
        if events:
            call.callback_events = frozenset(events)
            if unknown := [event for event in events if event not in _EVENTS]:
                # The call is made, its callbacks are not: https://www.twilio.com/docs/api/errors/21626
                call.callback_events = frozenset()
                text = f"expected StatusCallbackEvent to be one of {', '.join(sorted(_EVENTS))}; {unknown[0]!r} came"
                self._exchange.note("warning", sid=call.sid, code=21626, text=text)
        call.machine_detection = form.get("MachineDetection", "")
        call.detection_timeout_s = _within(form, "MachineDetectionTimeout", 3, 59, call.detection_timeout_s)
        call.detection_silence_ms = _within(
            form, "MachineDetectionSpeechEndThreshold", 500, 5000, call.detection_silence_ms
        )
        call.async_amd = form.get("AsyncAmd") == "true"
        call.async_amd_callback = form.get("AsyncAmdStatusCallback", "")
        call.async_amd_callback_method = form.get("AsyncAmdStatusCallbackMethod", "POST").upper()
        if form.get("Record", "").lower() == "true":
            # Only here silence is trimmed unless told otherwise.
            call.recording = read_order(request.form, trim="trim-silence")

    def _call(self, request: RestRequest, sid: str) -> CallRecord:
        call = self._exchange.calls.get(sid)
        if call is None:
            raise RestRefusedError(20404, request.path)
        return call

    def _list_calls(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        query = dict(request.query)
        calls = [
            call
            for call in reversed(self._exchange.calls.values())
            if query.get("To", call.to) == call.to
            and query.get("From", call.from_) == call.from_
            and query.get("Status", call.status) == call.status
            and query.get("ParentCallSid", call.parent_sid) == call.parent_sid
            and in_range(query, "StartTime", call.start_at or call.created_at)
            and in_range(query, "EndTime", call.end_at)
        ]
        items = [call_json(call, self._exchange.account_sid) for call in calls]
        return RestAnswer(200, page_json("calls", items, request.path, request.query))

    def _fetch_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, call_json(self._call(request, parts[0]), self._exchange.account_sid))

    def _update_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call, form = self._call(request, parts[0]), dict(request.form)
        status = form.get("Status", "")
        source = self._source(form)
        if not call.alive and (status or source is not None):
            raise RestRefusedError(21220, "Cannot redirect.")
        if status not in ("", "canceled", "completed"):
            raise RestRefusedError(20001, f"Status is canceled or completed, not {status!r}")
        if source is not None and call.status != "in-progress":
            raise RestRefusedError(21220, "Cannot redirect.")
        if "TimeLimit" in form:
            if not re.fullmatch(r"[1-9]\d{0,6}", form["TimeLimit"]):
                raise RestRefusedError(20001, f"TimeLimit is a number of seconds, not {form['TimeLimit']!r}")
            self._calls.limit(call, float(form["TimeLimit"]))
        waiting = call.status != "in-progress"
        if status == "completed":
            self._calls.end(call, "canceled" if waiting and call.direction != "inbound" else "completed")
        elif status == "canceled" and waiting:
            self._calls.end(call, "canceled", 487)
        elif source is not None:
            self._calls.redirect(call, source)
        return RestAnswer(200, call_json(call, self._exchange.account_sid))

    def _delete_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call = self._call(request, parts[0])
        if call.alive:
            raise RestRefusedError(20009, "call")
        del self._exchange.calls[call.sid]
        return RestAnswer(204, None)

    # -- streams ------------------------------------------------------------------------------------------------

    def _create_stream(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call, form = self._call(request, parts[0]), dict(request.form)
        if call.status != "in-progress":
            raise RestRefusedError(21220, "Cannot start a stream.")
        if not form.get("Url"):
            raise RestRefusedError(20001, "Url is required")
        parameters = []
        for number in range(1, 100):
            if f"Parameter{number}.Name" in form:
                named = {"name": form[f"Parameter{number}.Name"], "value": form.get(f"Parameter{number}.Value", "")}
                parameters.append(Verb("Parameter", named, "", ()))
        attributes = {"url": form["Url"], "name": form.get("Name", ""), "track": form.get("Track", "inbound_track")}
        attributes["statusCallback"] = form.get("StatusCallback", "")
        order, problems = read_stream(
            Verb("Stream", attributes, "", tuple(parameters)),
            document_url="",
            bidirectional=False,
            insecure_ok=self._exchange.insecure_ok,
        )
        for problem in problems:
            self._exchange.note("warning", sid=call.sid, code=problem.code, text=problem.message)
        if order is None:
            raise RestRefusedError(20001, "; ".join(problem.message for problem in problems))
        sid = self._calls.start_fork(call, order)
        return RestAnswer(200, stream_json(sid, order.name, "in-progress", call, self._context()))

    def _update_stream(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call = self._call(request, parts[0])
        if dict(request.form).get("Status") != "stopped":
            raise RestRefusedError(20001, "Status is stopped")
        stream = self._calls.stop_fork(call, parts[1])
        if stream is None:
            raise RestRefusedError(20404, request.path)
        name = stream.name if stream.name != stream.sid else ""
        return RestAnswer(200, stream_json(stream.sid, name, "stopped", call, self._context()))

    def _context(self) -> tuple[str, float]:
        return self._exchange.account_sid, self._exchange.now()


def _within(form: dict[str, str], name: str, low: int, high: int, default: float) -> float:
    value = form.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"\d{1,5}", value) or not low <= int(value) <= high:
        raise RestRefusedError(20001, f"{name} is {low} to {high}, not {value!r}")
    return float(value)
