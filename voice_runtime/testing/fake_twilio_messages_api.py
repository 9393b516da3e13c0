"""The REST API of text messages, on the fake's loop.

https://www.twilio.com/docs/messaging/api/message-resource, and for messages that are sent later
https://www.twilio.com/docs/messaging/features/message-scheduling. Where the documentation leaves it open: what is
wrong with a schedule is HTTP 400, a message that cannot be cancelled 409; a schedule without a messaging service is
refused (35118), although Twilio has been said to drop it and send at once.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ..transports.mock_wire import make_sid
from .fake_twilio_exchange import MAGIC_NUMBER, Exchange
from .fake_twilio_messages import MessageEngine
from .fake_twilio_records import MessageRecord
from .fake_twilio_requests import RestAnswer, RestRequest, Route, in_range
from .fake_twilio_resources import RestRefusedError, message_json, page_json, segments

__all__ = ["MessagesApi"]

# https://www.twilio.com/docs/iam/test-credentials
_MAGIC_RECIPIENTS = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}
_MAGIC_SENDERS = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
_MAX_BODY = 1600  # https://www.twilio.com/docs/api/errors/21617
_SCHEDULE_S = (300, 35 * 24 * 3600)  # https://www.twilio.com/docs/api/errors/35114, inclusive


class MessagesApi:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, messages: MessageEngine) -> None:
        self._exchange = exchange
        self._messages = messages
        part = r"([^/]+)"
        self.routes: list[Route] = [
            ("POST", r"/Messages\.json", self._create),
            ("GET", r"/Messages\.json", self._list),
            ("GET", rf"/Messages/{part}\.json", self._fetch),
            ("POST", rf"/Messages/{part}\.json", self._update),
            ("DELETE", rf"/Messages/{part}\.json", self._delete),
        ]

    def _create(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        exchange, form = self._exchange, dict(request.form)
        to, body = form.get("To", ""), form.get("Body", "")
        from_, service_sid = form.get("From", ""), form.get("MessagingServiceSid", "")
        if from_.startswith("MG") and not service_sid:  # Twilio takes it there, too
            from_, service_sid = "", from_
        media = [value for name, value in request.form if name == "MediaUrl"]
        if not to:
            raise RestRefusedError(21604)
        if not from_ and not service_sid:
            raise RestRefusedError(21603)
        if not body and not media and not form.get("ContentSid"):
            raise RestRefusedError(21602)
        if len(body) > _MAX_BODY:
            raise RestRefusedError(21617)
        callback_url = form.get("StatusCallback", "")
        if callback_url and not re.match(r"https?://[^/]", callback_url):
            raise RestRefusedError(21609, callback_url)
        self._check_sender(from_, service_sid)
        self._check_recipient(to, from_, service_sid)
        send_at = self._read_schedule(form, service_sid)
        if not service_sid and exchange.faults.take("message_queue_full"):
            raise RestRefusedError(21611, from_)
        message = MessageRecord(
            sid=make_sid("MM" if media else "SM"),
            to=to,
            from_=from_,
            body=body,
            direction="outbound-api",
            status="scheduled" if send_at is not None else "accepted" if service_sid else "queued",
            created_at=exchange.now(),
            segments=0 if service_sid else segments(body),
            num_media=len(media),
            messaging_service_sid=service_sid or None,
            callback_url=callback_url,
            send_at=send_at,
        )
        answer = message_json(message, exchange.account_sid)
        told = self._messages.send(message, early_callback=exchange.faults.early_callback)
        return RestAnswer(201, answer, after=told)

    def _check_sender(self, from_: str, service_sid: str) -> None:
        exchange = self._exchange
        if code := _MAGIC_SENDERS.get(from_):
            raise RestRefusedError(code, from_)
        if not service_sid:
            if from_ != MAGIC_NUMBER and from_ not in exchange.numbers:
                raise RestRefusedError(21606, from_)
            return
        if not re.fullmatch(r"MG[0-9a-fA-F]{32}", service_sid):
            raise RestRefusedError(21705, service_sid)
        if service_sid not in exchange.messaging_services:
            raise RestRefusedError(21701, service_sid)
        pool = self._messages.pool(service_sid)
        if not pool:
            raise RestRefusedError(21703, service_sid)
        if from_ and from_ not in pool:
            raise RestRefusedError(21606, from_)

    def _check_recipient(self, to: str, from_: str, service_sid: str) -> None:
        if code := _MAGIC_RECIPIENTS.get(to):
            raise RestRefusedError(code, to)
        if not re.fullmatch(r"(whatsapp:)?\+[1-9]\d{6,14}", to):
            raise RestRefusedError(21211, to)
        if self._messages.opted_out(to, sender=from_, service_sid=service_sid or None):
            raise RestRefusedError(21610, to)

    def _read_schedule(self, form: dict[str, str], service_sid: str) -> float | None:
        """When to send, in seconds since 1970; None for now."""
        kind, text = form.get("ScheduleType", ""), form.get("SendAt", "")
        if not kind and not text:
            return None
        if kind != "fixed":
            raise RestRefusedError(35126, kind)
        if not service_sid:
            raise RestRefusedError(35118)
        if not text:
            raise RestRefusedError(35111)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise RestRefusedError(35114, text) from None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        earliest, latest = _SCHEDULE_S
        if not earliest <= at.timestamp() - self._exchange.now() <= latest:
            raise RestRefusedError(35114, text)
        return at.timestamp()

    def _find(self, request: RestRequest, sid: str) -> MessageRecord:
        message = self._exchange.messages.get(sid)
        if message is None:
            raise RestRefusedError(20404, request.path)
        return message

    def _list(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        query = dict(request.query)
        items = [
            message_json(message, self._exchange.account_sid)
            for message in reversed(self._exchange.messages.values())
            if query.get("To", message.to) == message.to
            and query.get("From", message.from_) == message.from_
            and in_range(query, "DateSent", message.sent_at)
        ]
        return RestAnswer(200, page_json("messages", items, request.path, request.query))

    def _fetch(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, message_json(self._find(request, parts[0]), self._exchange.account_sid))

    def _update(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        message, form = self._find(request, parts[0]), dict(request.form)
        if status := form.get("Status"):
            if status != "canceled":
                raise RestRefusedError(20001, f"Status is canceled, not {status!r}")
            self._messages.cancel(message)
        if form.get("Body") == "":
            message.body = ""  # redaction, the only change of a sent message
        return RestAnswer(200, message_json(message, self._exchange.account_sid))

    def _delete(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        del self._exchange.messages[self._find(request, parts[0]).sid]
        return RestAnswer(204, None)
