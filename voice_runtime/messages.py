"""The text messages of a server: sent under its rules, reported on, received."""

from __future__ import annotations

import datetime
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .clock import Clock
from .config import Settings
from .events import CallEvent, SmsStatusChanged
from .exceptions import InvalidNumberError, PolicyError
from .flow import Call
from .policy import Guard
from .transport import get_sms_transport
from .transports.twilio_sms import SmsResult
from .transports.twilio_sms_webhooks import IncomingSms, SmsProgress, SmsStatus, sms_reply

__all__ = ["CallMessages", "MessageDesk", "SmsHandler"]

log = logging.getLogger(__name__)

_REMEMBERED = 10_000
_REPLY_S = 15.0
"""So long Twilio waits for an answer: https://www.twilio.com/docs/api/errors/11200."""

SmsHandler = Callable[[IncomingSms], "str | None"]
"""Gets a message, on a thread of its own, and returns what is answered; None: nothing. Twilio waits 15 s for it: what
takes longer is sent with ``server.send_sms()``."""


class CallMessages:
    """What one call sends its messages with."""

    def __init__(self, desk: MessageDesk, key: str) -> None:
        self._desk = desk
        self._key = key

    def send_sms(self, to: str, body: str, *, send_at: datetime.datetime | None = None) -> SmsResult:
        return self._desk.send(to, body, send_at=send_at, key=self._key)

    def cancel_sms(self, message_sid: str) -> bool:
        return self._desk.cancel(message_sid)


class _Answer:
    """What a message is answered with, once its handler has decided."""

    __slots__ = ("made", "twiml")

    def __init__(self, clock: Clock) -> None:
        self.made = clock.event()
        self.twiml = sms_reply()


class MessageDesk:
    """One per server. Methods may be called from any thread; those that send block as long as Twilio takes."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        guard: Callable[[], Guard],
        clock: Clock,
        handler: SmsHandler | None,
        observer: Callable[[CallEvent], None] | None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._clock = clock
        self._handler = handler
        self._observer = observer
        self._lock = threading.Lock()
        self._progress: OrderedDict[str, SmsProgress] = OrderedDict()
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def for_call(self, call: Call) -> CallMessages:
        """What a call sends with."""
        return CallMessages(self, call.key)

    def send(self, to: str, body: str, *, send_at: datetime.datetime | None = None, key: str = "none") -> SmsResult:
        """As :meth:`~voice_runtime.transports.twilio_sms.TwilioSms.send_sms`, after the guard has agreed.

        Args:
            key: of the call whose message it is.
        """
        settings = self._settings()
        told = settings.public_url(f"/sms/status/{key}") if settings.has_public_url else None
        transport: Any = get_sms_transport(settings=settings, clock=self._clock, guard=self._guard())
        result: SmsResult = transport.send_sms(to=to, body=body, send_at=send_at, status_callback=told)
        progress = self._progress_of(result.get("message_sid", ""))
        with self._lock:  # the first callback may have overtaken the answer
            progress.report(result.get("status", ""))
        return result

    def _progress_of(self, message_sid: str) -> SmsProgress:
        if not message_sid:
            return SmsProgress()
        with self._lock:
            progress = self._progress.setdefault(message_sid, SmsProgress())
            while len(self._progress) > _REMEMBERED:
                self._progress.popitem(last=False)
            return progress

    def cancel(self, message_sid: str) -> bool:
        """Cancel a message that is still scheduled."""
        transport: Any = get_sms_transport(settings=self._settings())
        return bool(transport.cancel_sms(message_sid))

    def status(self, fields: dict[str, str], call: Call | None) -> None:
        """A status callback: an event of its call, where that is known, and of the server's observer."""
        status = SmsStatus.from_form(fields)
        progress = self._progress_of(status.message_sid)
        with self._lock:
            if not progress.report(status.status):
                return
        facts = {"to": status.to, "status": status.status, "error_code": status.error_code}
        live = call.live if call is not None else None
        if live is not None and not live.ended:
            live.emit(SmsStatusChanged, message_sid=status.message_sid, **facts)
        elif self._observer is not None:
            call_sid = call.call_sid if call is not None else ""
            event = SmsStatusChanged(
                call_sid=call_sid,
                at_ms=live.now_ms() if live is not None else 0.0,
                message_sid=status.message_sid,
                to=status.to,
                status=status.status,
                error_code=status.error_code,
            )
            try:
                self._observer(event)
            except BaseException:
                log.exception("The observer failed with the status of message %s", status.message_sid)

    def received(self, fields: dict[str, str]) -> str:
        """Somebody wrote to one of our numbers: the TwiML that answers. A request that Twilio repeats gets the same
        answer, and the handler is not asked again."""
        message = IncomingSms.from_form(fields)
        if not message.message_sid:
            return self._answer(message)
        with self._lock:
            known = self._answers.get(message.message_sid)
            if known is None:
                mine = self._answers[message.message_sid] = _Answer(self._clock)
                while len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
        if known is not None:  # repeated, perhaps while the handler is still at it
            known.made.wait(_REPLY_S)
            return known.twiml
        try:
            mine.twiml = self._answer(message)
        finally:
            mine.made.set()
        return mine.twiml

    def _answer(self, message: IncomingSms) -> str:
        if self._handler is None:
            log.info("Message %s came in and nobody handles messages (VoiceServer(on_sms=))", message.message_sid)
            return sms_reply()
        try:
            text = self._handler(message)
            if text and text.strip():  # it costs what any message costs
                self._guard().admit_message(message.sender, caller_id=message.recipient)
            return sms_reply(text)
        except (PolicyError, InvalidNumberError) as error:
            log.warning("Message %s is not answered: %s", message.message_sid, error)
        except BaseException:
            log.exception("The handler failed with message %s", message.message_sid)
        return sms_reply()
