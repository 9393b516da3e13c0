"""Text messages through Twilio's REST API.

Sending blocks for as long as Twilio takes, ten seconds at most per attempt: call it from any thread but an event
loop's, there with ``await asyncio.to_thread(...)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import msgspec

from ..exceptions import RestError
from .twilio_call import normalize_number

if TYPE_CHECKING:
    from ..config import Settings

__all__ = ["MAX_BODY_CHARACTERS", "SmsSegments", "TwilioSms", "count_segments"]

MAX_BODY_CHARACTERS = 1600
"""https://www.twilio.com/docs/api/errors/21617."""

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


class TwilioSms:
    """Sends text messages from ``TWILIO_PHONE_NUMBER``. May be used from several threads.

    Args:
        settings: used for every message, instead of the environment's at that time.
        sender: instead of ``TWILIO_PHONE_NUMBER``: a number, a short code or an alphanumeric name of the account's.
    """

    name = "twilio"

    def __init__(self, settings: Settings | None = None, *, sender: str | None = None) -> None:
        self._settings = settings
        self._sender = sender

    def send_sms(self, to: str, body: str) -> dict[str, str]:
        """Send one text and return ``{"message_sid": "SM...", "status": "queued", "to": "+358..."}``.

        The status is Twilio's first; delivery takes seconds and is reported elsewhere.

        Args:
            to: a number in international form.
            body: 1 to 1600 characters; :func:`count_segments` tells how many messages it is billed as.

        Raises:
            ValueError: ``body`` is blank or too long; no request was made.
            InvalidNumberError: ``to`` is no number; no request was made.
            ConfigurationError: credentials or the sender are missing.
            RestError: Twilio refused, or did not answer; ``maybe_done`` says whether it may be on its way.
        """
        if not body.strip():
            raise ValueError("expected a text to send; it is empty")
        if len(body) > MAX_BODY_CHARACTERS:
            raise ValueError(
                f"expected at most {MAX_BODY_CHARACTERS} characters; {len(body)} came "
                f"({count_segments(body).segments} segments). Send it in parts."
            )
        recipient = normalize_number(to)
        settings = self._settings
        if settings is None:
            settings = importlib.import_module("voice_runtime.config").load()
        from . import twilio_rest

        rest = twilio_rest.client(settings)
        sender = self._sender or settings.require("twilio_phone_number", "send a text message")
        with twilio_rest.translated("Sending the text message"):
            message = rest.messages.create(to=recipient, from_=sender, body=body)
            message_sid, status, written_to = message.sid, message.status, message.to
        if not isinstance(message_sid, str) or not message_sid:
            raise RestError("Sending the text message failed: Twilio's answer holds no message SID.", maybe_done=True)
        return {"message_sid": message_sid, "status": str(status or "queued"), "to": str(written_to or recipient)}
