"""What Twilio's requests about text messages say, as typed values, and the answer to an incoming one. Pure.

Every ``from_form`` takes the fields by Twilio's names, one value each, and makes the best of what is missing or odd:
a field that is absent is empty, a number that is none is None or 0.
Reference: https://www.twilio.com/docs/messaging/guides/webhook-request and
https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import msgspec

from .twilio_sms import MAX_BODY_CHARACTERS, count_segments
from .twilio_twiml import clean
from .twilio_webhooks import whole_number

__all__ = ["FINAL", "IncomingSms", "SmsProgress", "SmsStatus", "sms_reply"]

FINAL = frozenset({"delivered", "undelivered", "failed", "canceled"})
"""The statuses of an outgoing message after which nothing follows."""

_ORDER = {"scheduled": 0, "accepted": 1, "queued": 2, "sending": 3, "sent": 4, **dict.fromkeys(FINAL, 5)}


class IncomingSms(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody has written to one of our numbers.

    Attributes:
        message_sid: ``SM...``, with pictures ``MM...``. A request that is repeated has the same.
        sender: who wrote: mostly a number in E.164, but a short code or a name may write, too.
        recipient: our number.
        body: the text; empty where only a picture came.
        segments: how many messages it came in; 0 when Twilio did not tell.
        media: URL and content type of every attachment.
        fields: everything Twilio sent, by its names.
    """

    message_sid: str = ""
    sender: str = ""
    recipient: str = ""
    body: str = ""
    segments: int = 0
    media: tuple[tuple[str, str], ...] = ()
    fields: dict[str, str] = {}

    @classmethod
    def from_form(cls, fields: Mapping[str, str]) -> IncomingSms:
        media: list[tuple[str, str]] = []
        # NumMedia is not needed for it, and would be trusted with the length of the loop.
        while url := fields.get(f"MediaUrl{len(media)}", ""):
            media.append((url, fields.get(f"MediaContentType{len(media)}", "")))
        return cls(
            message_sid=_message_sid(fields),
            sender=fields.get("From", ""),
            recipient=fields.get("To", ""),
            body=fields.get("Body", ""),
            segments=whole_number(fields, "NumSegments") or 0,
            media=tuple(media),
            fields=dict(fields),
        )


class SmsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A status callback of an outgoing message.

    Attributes:
        status: ``queued``, ``sending``, ``sent``, ``delivered``, ``undelivered``, ``failed`` ...
        error_code: why it did not arrive (``https://www.twilio.com/docs/errors/<code>``).
        to: the recipient.
        sender: our number, or the sender a messaging service has picked; empty while it has not.
    """

    message_sid: str = ""
    status: str = ""
    error_code: int | None = None
    to: str = ""
    sender: str = ""

    @classmethod
    def from_form(cls, fields: Mapping[str, str]) -> SmsStatus:
        return cls(
            message_sid=_message_sid(fields),
            status=fields.get("MessageStatus", "") or fields.get("SmsStatus", ""),
            error_code=whole_number(fields, "ErrorCode") or None,
            to=fields.get("To", ""),
            sender=fields.get("From", ""),
        )


class SmsProgress:
    """How far one message is, from callbacks that come late, twice or in the wrong order. For one thread at a time.

    Args:
        status: what sending it returned: Twilio tells only what follows.
    """

    __slots__ = ("status",)

    def __init__(self, status: str = "") -> None:
        self.status = status
        """The furthest there was."""

    def report(self, status: str) -> bool:
        """Take note of a status; False when it tells nothing new. What is final stays."""
        if status not in _ORDER or _ORDER[status] <= _ORDER.get(self.status, -1):
            return False
        self.status = status
        return True

    @property
    def over(self) -> bool:
        """Whether nothing can follow."""
        return self.status in FINAL


def sms_reply(text: str | None = None) -> str:
    """The TwiML that answers an incoming message: one message back, or none when there is nothing to say.

    Twilio refuses a reply to somebody who has just written STOP; it has answered them itself.

    Raises:
        ValueError: the text has more than 1600 characters.
    """
    response = importlib.import_module("twilio.twiml.messaging_response").MessagingResponse()
    text = clean(text or "")
    if len(text) > MAX_BODY_CHARACTERS:
        raise ValueError(
            f"expected a reply of at most {MAX_BODY_CHARACTERS} characters; {len(text)} came "
            f"({count_segments(text).segments} segments)"
        )
    if text.strip():
        response.message(text)
    return str(response)


def _message_sid(fields: Mapping[str, str]) -> str:
    return fields.get("MessageSid", "") or fields.get("SmsSid", "") or fields.get("SmsMessageSid", "")
