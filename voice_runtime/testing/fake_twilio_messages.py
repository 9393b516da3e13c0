"""Text messages: taken in, sent, delivered, and the callbacks that tell of it."""

from __future__ import annotations

import asyncio

from ..transports.mock_wire import make_sid
from .fake_twilio_exchange import API_VERSION, Exchange
from .fake_twilio_records import MessageRecord
from .fake_twilio_resources import segments
from .fake_twilio_twiml import parse_twiml
from .fake_twilio_webhooks import WebhookFailure

__all__ = ["MessageEngine"]

_STOP_WORDS = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"})
_START_WORDS = frozenset({"START", "YES", "UNSTOP"})


class MessageEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def send(self, message: MessageRecord) -> None:
        """Take an outbound message; it is delivered in the background."""
        self._exchange.messages[message.sid] = message
        self._exchange.note("status", sid=message.sid, text=message.status)
        self._exchange.spawn(self._deliver(message))

    async def _deliver(self, message: MessageRecord) -> None:
        timings, code = self._exchange.timings, self._exchange.faults.undelivered_code
        await self._report(message)
        await asyncio.sleep(timings.message_sent_ms / 1000)
        message.sent_at = self._exchange.now()
        await self._become(message, "sent")
        await asyncio.sleep(timings.message_delivered_ms / 1000)
        message.error_code = code
        await self._become(message, "delivered" if code is None else "undelivered")

    async def _become(self, message: MessageRecord, status: str) -> None:
        message.status = status
        self._exchange.note("status", sid=message.sid, text=status)
        await self._report(message)

    async def _report(self, message: MessageRecord) -> None:
        if not message.callback_url or self._exchange.faults.drop_callbacks:
            return
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("ApiVersion", API_VERSION),
            ("MessageSid", message.sid),
            ("SmsSid", message.sid),
            ("MessageStatus", message.status),
            ("SmsStatus", message.status),
            ("From", message.from_),
            ("To", message.to),
        ]
        if message.error_code is not None:
            form.append(("ErrorCode", str(message.error_code)))
        for _ in range(2 if self._exchange.faults.duplicate_callbacks else 1):
            result = await self._exchange.webhooks.callback(
                message.callback_url, form, method="POST", sid=message.sid
            )
            if isinstance(result, WebhookFailure):
                self._exchange.note("warning", sid=message.sid, code=result.code, text=result.message)

    async def receive(self, *, to: str, from_: str, body: str) -> MessageRecord:
        """Somebody writes to a number of the account; ``<Message>`` in the app's answer is sent back.

        Raises:
            ValueError: the number is not the account's.
        """
        number = self._exchange.numbers.get(to)
        if number is None:
            owned = ", ".join(sorted(self._exchange.numbers)) or "none"
            raise ValueError(f"expected a number of the account (owned: {owned}); {to!r} came")
        message = MessageRecord(
            sid=make_sid("SM"),
            to=to,
            from_=from_,
            body=body,
            direction="inbound",
            status="received",
            created_at=self._exchange.now(),
            segments=segments(body),
        )
        self._exchange.messages[message.sid] = message
        word = body.strip().upper()
        if word in _STOP_WORDS:
            self._exchange.opted_out.add((to, from_))
        elif word in _START_WORDS:
            self._exchange.opted_out.discard((to, from_))
        if number.sms_url:
            await self._ask(message, number.sms_url, number.sms_method)
        return message

    async def _ask(self, message: MessageRecord, url: str, method: str) -> None:
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("ApiVersion", API_VERSION),
            ("MessageSid", message.sid),
            ("SmsSid", message.sid),
            ("SmsMessageSid", message.sid),
            ("From", message.from_),
            ("To", message.to),
            ("Body", message.body),
            ("NumMedia", "0"),
            ("NumSegments", str(message.segments)),
            ("SmsStatus", "received"),
        ]
        answer = await self._exchange.webhooks.twiml(url, form, method=method, sid=message.sid)
        if isinstance(answer, WebhookFailure):
            self._exchange.note("error", sid=message.sid, code=answer.code, text=answer.message)
            return
        if not answer.body.strip():
            return
        verbs, problems = parse_twiml(answer.body)
        for problem in problems:
            kind = "error" if problem.fatal else "warning"
            self._exchange.note(kind, sid=message.sid, code=problem.code, text=problem.message)
        for verb in verbs:
            if verb.name == "Message":
                texts = [child.text for child in verb.children if child.name == "Body"]
                self._reply(message, verb.text or "".join(texts))

    def _reply(self, message: MessageRecord, body: str) -> None:
        self.send(
            MessageRecord(
                sid=make_sid("SM"),
                to=message.from_,
                from_=message.to,
                body=body,
                direction="outbound-reply",
                status="queued",
                created_at=self._exchange.now(),
                segments=segments(body),
            )
        )
