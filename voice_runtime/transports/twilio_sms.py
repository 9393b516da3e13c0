"""Text messages through Twilio's REST API.

Sending blocks for as long as Twilio takes, ten seconds at most per attempt: call it from any thread but an event
loop's, there with ``await asyncio.to_thread(...)``.
"""

from __future__ import annotations

import importlib
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ..clock import Clock, SystemClock
from ..exceptions import ConfigurationError, OptedOutError, RestError
from ..policy import Guard, explicit_guard

if TYPE_CHECKING:
    from ..config import Settings

__all__ = [
    "MAX_BODY_CHARACTERS",
    "MAX_SCHEDULE_SECONDS",
    "MIN_SCHEDULE_SECONDS",
    "SmsResult",
    "SmsSegments",
    "TwilioSms",
    "count_segments",
]

MAX_BODY_CHARACTERS = 1600
"""https://www.twilio.com/docs/api/errors/21617."""

MIN_SCHEDULE_SECONDS = 300
"""A message can be scheduled for so long from now at the earliest: https://www.twilio.com/docs/api/errors/35115. Some
of Twilio's pages say fifteen minutes: a refusal (35114) is its last word."""

MAX_SCHEDULE_SECONDS = 35 * 24 * 3600
"""And at the latest."""

_OPTED_OUT = 21610
_NOT_CANCELABLE = 30409  # https://www.twilio.com/docs/api/errors/30409

_SERVICE_SID = re.compile(r"MG[0-9a-fA-F]{32}")

# GSM 03.38, the basic table; its position 0x1B leads to the extension table below, of two septets each.
_GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENSION = frozenset("\f^{}\\[~]|€")


class SmsSegments(msgspec.Struct, frozen=True, kw_only=True):
    """How a text travels, and so what it costs.

    Attributes:
        encoding: ``"GSM-7"`` or ``"UCS-2"``; one character outside GSM 03.38 makes the whole text UCS-2.
        units: septets, or UTF-16 code units.
        segments: how many messages it is billed as; 0 for an empty text.
    """

    encoding: str
    units: int
    segments: int


def count_segments(body: str) -> SmsSegments:
    """Count the segments of a text: 160 septets or 70 UTF-16 units in one, 153 or 67 in each of several.

    A character of two units is never cut in two, so a segment may end one unit early. Pure.
    """
    sizes = [1 if character in _GSM_BASIC else 2 if character in _GSM_EXTENSION else 0 for character in body]
    if all(sizes):
        encoding, alone, joined = "GSM-7", 160, 153
    else:
        encoding, alone, joined = "UCS-2", 70, 67
        sizes = [2 if ord(character) > 0xFFFF else 1 for character in body]
    units = sum(sizes)
    if units <= alone:
        return SmsSegments(encoding=encoding, units=units, segments=1 if units else 0)
    segments, room = 1, joined
    for size in sizes:
        if size > room:
            segments, room = segments + 1, joined
        room -= size
    return SmsSegments(encoding=encoding, units=units, segments=segments)


class SmsResult(dict[str, str]):
    """A message Twilio has taken: a dict of ``message_sid``, ``status`` and ``to``, which are attributes as well.

    Attributes:
        segments: how the text travels; not among the keys. Counted here: a messaging service that replaces
            typographic characters ("smart encoding") may need fewer.
    """

    segments: SmsSegments

    def __init__(self, *, message_sid: str, status: str, to: str, segments: SmsSegments) -> None:
        super().__init__(message_sid=message_sid, status=status, to=to)
        self.segments = segments

    @property
    def message_sid(self) -> str:
        """``SM...``; status callbacks name it, and :meth:`TwilioSms.cancel_sms` takes it."""
        return self["message_sid"]

    @property
    def status(self) -> str:
        """Twilio's first: ``queued``, with a messaging service ``accepted`` or ``scheduled``."""
        return self["status"]

    @property
    def to(self) -> str:
        """The recipient in E.164."""
        return self["to"]


class TwilioSms:
    """Sends text messages. May be used from several threads.

    They come from ``sender`` or ``messaging_service``, else from ``TWILIO_MESSAGING_SERVICE_SID``, else from
    ``TWILIO_PHONE_NUMBER``.

    Args:
        settings: used for every message, instead of the environment's at that time.
        sender: a number, a short code or an alphanumeric name of the account's.
        messaging_service: the SID (``MG...``) of a messaging service of the account's, which picks the sender from
            its pool: https://www.twilio.com/docs/messaging/services.
        clock: tells what time it is when a message is scheduled.
        guard: what every message has to pass; default: the rules that the settings name.

    Raises:
        ConfigurationError: sender and messaging service are both given, or one is not what it should be.
    """

    name = "twilio"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sender: str | None = None,
        messaging_service: str | None = None,
        clock: Clock | None = None,
        guard: Guard | None = None,
    ) -> None:
        if sender and messaging_service:
            raise ConfigurationError(
                "sender= and messaging_service= are both given. Give one of them: a messaging service picks the "
                "sender from its own pool."
            )
        if sender and _SERVICE_SID.fullmatch(sender):
            raise ConfigurationError(f"sender is {sender!r}, a messaging service: give it as messaging_service=.")
        if messaging_service:
            _check_service("messaging_service", messaging_service)
        self._settings = settings
        self._sender = sender
        self._service = messaging_service
        self._clock = clock or SystemClock()
        self._guard = guard

    def send_sms(
        self, to: str, body: str, *, status_callback: str | None = None, send_at: datetime | None = None
    ) -> SmsResult:
        """Send one text and return ``{"message_sid": "SM...", "status": "queued", "to": "+358..."}``.

        The status is Twilio's first; delivery takes seconds and is told to ``status_callback``. A text is never sent
        twice: what may have been taken is not tried again.

        Args:
            to: a number in international form.
            body: 1 to 1600 characters; :func:`count_segments` tells how many messages it is billed as.
            status_callback: https URL that Twilio tells how the message is getting on; see
                :class:`~voice_runtime.transports.twilio_sms_webhooks.SmsStatus`.
            send_at: when Twilio is to send it: a moment with its time zone, 5 minutes to 35 days from now. Only a
                messaging service can do that. An opt-out in between does not cancel it: :meth:`cancel_sms` does.

        Raises:
            ValueError: ``body`` is blank, too long or no text, or ``send_at`` out of reach; no request was made.
            InvalidNumberError: ``to`` is no number; no request was made.
            ConfigurationError: credentials or the sender are missing, or ``send_at`` needs a messaging service.
            PolicyError: a rule refuses the recipient; no request was made.
            OptedOutError: the recipient has answered STOP to this sender; nothing was sent.
            RestError: Twilio refused, or did not answer; ``maybe_done`` says whether it may be on its way.
        """
        _check_body(body)
        settings = self._load()
        from . import twilio_rest

        rest = twilio_rest.client(settings)
        options: dict[str, Any] = {"body": body, **self._origin(settings)}
        if status_callback is not None:
            options["status_callback"] = status_callback
        if send_at is not None:
            if "messaging_service_sid" not in options:
                raise ConfigurationError(
                    "send_at needs a messaging service, since a number cannot send later: give messaging_service= "
                    "or set TWILIO_MESSAGING_SERVICE_SID, for example to MG followed by 32 hexadecimal digits."
                )
            options["schedule_type"] = "fixed"
            options["send_at"] = _schedule(send_at, self._clock.time())
        recipient = options["to"] = (self._guard or explicit_guard(settings)).admit_message(to)
        try:
            with twilio_rest.translated("Sending the text message"):
                message = rest.messages.create(**options)
                message_sid, status, written_to = message.sid, message.status, message.to
        except RestError as error:
            if error.code == _OPTED_OUT:
                raise OptedOutError(recipient, status=error.status) from error
            raise
        if not isinstance(message_sid, str) or not message_sid:
            raise RestError("Sending the text message failed: Twilio's answer holds no message SID.", maybe_done=True)
        return SmsResult(
            message_sid=message_sid,
            status=str(status or "queued"),
            to=str(written_to or recipient),
            segments=count_segments(body),
        )

    def cancel_sms(self, message_sid: str) -> bool:
        """Call back a message that was sent with ``send_at``; may be repeated at will.

        Returns:
            True when it is cancelled by this; False when it was too late, or cancelled before.

        Raises:
            ValueError: not the SID of a message; no request was made.
            ConfigurationError: credentials are missing.
            RestError: Twilio knows no such message (code 20404), refused, or did not answer.
        """
        from . import twilio_rest

        twilio_rest.check_sid(message_sid, "message", "SM")
        rest = twilio_rest.client(self._load())
        try:
            with twilio_rest.translated("Cancelling the text message"):
                status = rest.messages(message_sid).update(status="canceled").status
        except RestError as error:
            if error.code == _NOT_CANCELABLE:
                return False
            raise
        return bool(status == "canceled")

    def _load(self) -> Settings:
        if self._settings is not None:
            return self._settings
        settings: Settings = importlib.import_module("voice_runtime.config").load()
        return settings

    def _origin(self, settings: Settings) -> dict[str, str]:
        """The parameter that says who sends."""
        if self._sender:
            return {"from_": self._sender}
        if self._service:
            return {"messaging_service_sid": self._service}
        if service := settings.twilio_messaging_service_sid:
            _check_service("TWILIO_MESSAGING_SERVICE_SID", service)
            return {"messaging_service_sid": service}
        return {
            "from_": settings.require(
                "twilio_phone_number", "send a text message without TWILIO_MESSAGING_SERVICE_SID"
            )
        }


def _check_service(name: str, sid: str) -> None:
    if not _SERVICE_SID.fullmatch(sid):
        raise ConfigurationError(f"{name} is {sid!r}; expected MG followed by 32 hexadecimal digits.")


def _check_body(body: str) -> None:
    if not body.strip():
        raise ValueError("expected a text to send; it is empty")
    if len(body) > MAX_BODY_CHARACTERS:
        raise ValueError(
            f"expected at most {MAX_BODY_CHARACTERS} characters; {len(body)} came "
            f"({count_segments(body).segments} segments). Send it in parts."
        )
    if any("\ud800" <= character <= "\udfff" for character in body):
        raise ValueError("expected a text to send; half of a UTF-16 pair, which stands for no character, is in it")


def _schedule(send_at: datetime, now: float) -> datetime:
    """``send_at`` in UTC and whole seconds, which is all Twilio is told; ``now`` in seconds since 1970."""
    if send_at.utcoffset() is None:
        raise ValueError(
            "expected send_at with its time zone, for example datetime(2030, 1, 31, 9, 0, tzinfo=ZoneInfo("
            f"'Europe/Helsinki')); {send_at} came"
        )
    # Up, lest the earliest moment becomes too early.
    at = math.ceil(send_at.timestamp())
    ahead = at - now
    if not MIN_SCHEDULE_SECONDS <= ahead <= MAX_SCHEDULE_SECONDS:
        came = f"{ahead:,.1f} s from now" if ahead >= 0 else f"{-ahead:,.1f} s ago"
        raise ValueError(
            f"expected send_at between {MIN_SCHEDULE_SECONDS} s (5 minutes) and {MAX_SCHEDULE_SECONDS:,} s (35 days) "
            f"from now; {send_at} came, {came}"
        )
    # The SDK writes the digits of a datetime and a Z behind them, whatever its time zone.
    return datetime.fromtimestamp(at, UTC)
