"""Text messages: taken in, scheduled, sent, delivered, the callbacks that tell of it, and who has opted out.

https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks: callbacks tell of changes,
not of the status a message begins with. That a message which is cancelled has a callback, and that a scheduled one
whose recipient has opted out meanwhile fails with 21610, is how the documentation was read, not written there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ..transports.mock_wire import make_sid
from .fake_twilio_exchange import API_VERSION, Exchange, country_of
from .fake_twilio_records import MessageRecord, OwnedNumber
from .fake_twilio_resources import RestRefusedError, segments
from .fake_twilio_twiml import Verb, parse_twiml, resolve
from .fake_twilio_webhooks import Form, WebhookFailure

__all__ = ["MessageEngine"]

logger = logging.getLogger(__name__)

# The whole message is the word, in any case: https://www.twilio.com/docs/messaging/tutorials/advanced-opt-out
_KEYWORDS = {
    **dict.fromkeys(("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"), "stop"),
    **dict.fromkeys(("START", "YES", "UNSTOP"), "start"),
    **dict.fromkeys(("HELP", "INFO"), "help"),
}
_MAX_BODY = 1600
_OPTED_OUT = 21610
_QUEUE_OVERFLOW = 30001
_BAD_BODY = 14103


class MessageEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # -- out ----------------------------------------------------------------------------------------------------

    def send(self, message: MessageRecord, *, early_callback: bool = False) -> asyncio.Event | None:
        """Take an outbound message, which is ``queued``, ``accepted`` (a service picks the sender) or ``scheduled``.

        It is delivered in the background. With ``early_callback`` its first callback comes at once, and what is
        returned is set when that has been delivered.
        """
        self._exchange.messages[message.sid] = message
        self._exchange.note("status", sid=message.sid, text=message.status)
        early = message.callback_url and early_callback and message.status != "scheduled"
        first = asyncio.Event() if early else None
        self._exchange.spawn(self._tell(message, first))
        message.task = self._exchange.spawn(self._run(message, hurry=first is not None))
        return first

    def cancel(self, message: MessageRecord) -> None:
        """Call a scheduled message back.

        Raises:
            RestRefusedError: it is not scheduled, or not any longer.
        """
        if message.status != "scheduled":
            raise RestRefusedError(30409)
        self._become(message, "canceled")
        assert message.task is not None
        message.task.cancel()

    def pool(self, service_sid: str) -> list[str]:
        """The numbers a messaging service sends from."""
        return self._exchange.messaging_services.get(service_sid) or list(self._exchange.numbers)

    def opted_out(self, to: str, *, sender: str = "", service_sid: str | None = None) -> bool:
        """Whether this recipient has stopped this sender; for a service, any number of it."""
        senders = self.pool(service_sid) if service_sid else [sender]
        return any((one, to) in self._exchange.opted_out for one in senders)

    async def _run(self, message: MessageRecord, *, hurry: bool) -> None:
        try:
            await self._deliver(message, hurry=hurry)
        except Exception as error:
            self._exchange.failures.append(error)
            logger.exception("The fake Twilio failed with message %s", message.sid)
        finally:
            message.callbacks.put_nowait(None)

    async def _deliver(self, message: MessageRecord, *, hurry: bool) -> None:
        timings, faults = self._exchange.timings, self._exchange.faults
        if message.send_at is not None:
            await asyncio.sleep(message.send_at - self._exchange.now())
            if self.opted_out(message.to, sender=message.from_, service_sid=message.messaging_service_sid):
                self._become(message, "failed", _OPTED_OUT)
                return
        if message.status != "queued":
            if not hurry:
                await asyncio.sleep(timings.message_accepted_ms / 1000)
            if faults.take("message_queue_full"):
                self._become(message, "failed", _QUEUE_OVERFLOW)
                return
            assert message.messaging_service_sid is not None
            message.from_ = message.from_ or self.pool(message.messaging_service_sid)[0]
            message.segments = segments(message.body)
            self._become(message, "queued")
            hurry = False
        if not hurry:
            await asyncio.sleep(timings.message_sent_ms / 1000)
        if faults.failed_code is not None:
            self._become(message, "failed", faults.failed_code)
            return
        message.sent_at = self._exchange.now()
        self._become(message, "sent")
        await asyncio.sleep(timings.message_delivered_ms / 1000)
        code = faults.undelivered_code
        self._become(message, "delivered" if code is None else "undelivered", code)

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _become(self, message: MessageRecord, status: str, error_code: int | None = None) -> None:
        message.status = status
        message.error_code = error_code
        self._exchange.note("status", sid=message.sid, text=status)
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("ApiVersion", API_VERSION),
            ("MessageSid", message.sid),
            ("SmsSid", message.sid),
            ("MessageStatus", status),
            ("SmsStatus", status),
            ("From", message.from_),
            ("To", message.to),
        ]
        if message.messaging_service_sid is not None:
            form.append(("MessagingServiceSid", message.messaging_service_sid))
        if error_code is not None:
            form.append(("ErrorCode", str(error_code)))
        message.callbacks.put_nowait(form)

    async def _tell(self, message: MessageRecord, first: asyncio.Event | None) -> None:
        held: Form | None = None
        while (form := await message.callbacks.get()) is not None:
            if first is not None:
                await self._send_callback(message, form, at_once=True)
                first.set()
                first = None
            elif self._exchange.faults.reorder_callbacks and held is None:
                held = form
            else:
                await self._send_callback(message, form)
                if held is not None:
                    await self._send_callback(message, held)
                    held = None
        if held is not None:
            await self._send_callback(message, held)

    async def _send_callback(self, message: MessageRecord, form: Form, *, at_once: bool = False) -> None:
        exchange, faults = self._exchange, self._exchange.faults
        if not message.callback_url or faults.drop_callbacks:
            return
        if not at_once:
            await asyncio.sleep((exchange.timings.callback_ms + faults.callback_delay_ms) / 1000)
        for _ in range(2 if faults.duplicate_callbacks else 1):
            result = await exchange.webhooks.callback(message.callback_url, form, method="POST", sid=message.sid)
            if isinstance(result, WebhookFailure):
                exchange.note("warning", sid=message.sid, code=result.code, text=result.message)

    # -- in -----------------------------------------------------------------------------------------------------

    async def receive(
        self, *, to: str, from_: str, body: str, media: Sequence[tuple[str, str]] = ()
    ) -> MessageRecord:
        """Somebody writes to a number of the account; ``<Message>`` in the app's answer is sent back.

        Twilio's own answer to STOP, START and HELP is not among the messages; the log has the keyword.

        Args:
            media: URL and content type of every attachment.

        Raises:
            ValueError: the number is not the account's.
        """
        number = self._exchange.numbers.get(to)
        if number is None:
            owned = ", ".join(sorted(self._exchange.numbers)) or "none"
            raise ValueError(f"expected a number of the account (owned: {owned}); {to!r} came")
        message = MessageRecord(
            sid=make_sid("MM" if media else "SM"),
            to=to,
            from_=from_,
            body=body,
            direction="inbound",
            status="received",
            created_at=self._exchange.now(),
            segments=segments(body),
            num_media=len(media),
        )
        self._exchange.messages[message.sid] = message
        self._obey(message)
        if number.sms_url:
            await self._ask(message, number, media)
        return message

    def _obey(self, message: MessageRecord) -> None:
        keyword = _KEYWORDS.get(message.body.strip().upper())
        if keyword is None:
            return
        self._exchange.note("keyword", sid=message.sid, text=keyword)
        if keyword == "stop":
            self._exchange.opted_out.add((message.to, message.from_))
        elif keyword == "start":
            self._exchange.opted_out.discard((message.to, message.from_))

    async def _ask(self, message: MessageRecord, number: OwnedNumber, media: Sequence[tuple[str, str]]) -> None:
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("ApiVersion", API_VERSION),
            ("MessageSid", message.sid),
            ("SmsSid", message.sid),
            ("SmsMessageSid", message.sid),
            ("From", message.from_),
            ("To", message.to),
            ("Body", message.body),
            ("NumMedia", str(len(media))),
            ("NumSegments", str(message.segments)),
            ("SmsStatus", "received"),
        ]
        for index, (url, content_type) in enumerate(media):
            form += [(f"MediaUrl{index}", url), (f"MediaContentType{index}", content_type)]
        for prefix, address in (("From", message.from_), ("To", message.to)):
            form += [(prefix + "City", ""), (prefix + "State", ""), (prefix + "Zip", "")]
            form.append((prefix + "Country", country_of(address)))
        for service_sid, pool in self._exchange.messaging_services.items():
            if message.to in pool:  # a number is in one service at most
                form.append(("MessagingServiceSid", service_sid))
        answer = await self._exchange.webhooks.twiml(number.sms_url, form, method=number.sms_method, sid=message.sid)
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
                self._reply(message, verb, number.sms_url)

    def _reply(self, message: MessageRecord, verb: Verb, document_url: str) -> None:
        body = verb.text or "".join(child.text for child in verb.children if child.name == "Body")
        media = [child for child in verb.children if child.name == "Media"]
        if len(body) > _MAX_BODY or not (body or media):
            text = f"expected 1 to {_MAX_BODY} characters in <Message>; {len(body)} came"
            self._exchange.note("warning", sid=message.sid, code=_BAD_BODY, text=text)
            return
        to, from_ = verb.attributes.get("to", message.from_), verb.attributes.get("from", message.to)
        if self.opted_out(to, sender=from_):
            text = f"the reply is not sent: {to} has opted out"
            self._exchange.note("error", sid=message.sid, code=_OPTED_OUT, text=text)
            return
        self.send(
            MessageRecord(
                sid=make_sid("MM" if media else "SM"),
                to=to,
                from_=from_,
                body=body,
                direction="outbound-reply",
                status="queued",
                created_at=self._exchange.now(),
                segments=segments(body),
                num_media=len(media),
                callback_url=resolve(document_url, verb.attributes.get("statusCallback", "")),
            )
        )
