"""Calls, streams, recordings and messages as the REST API writes them, and its errors. Pure.

https://www.twilio.com/docs/voice/api/call-resource, https://www.twilio.com/docs/voice/api/recording,
https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from .fake_twilio_exchange import API_VERSION, rfc2822
from .fake_twilio_records import CallRecord, MessageRecord, RecordingRecord

__all__ = [
    "RestRefusedError",
    "call_json",
    "error_json",
    "is_number",
    "message_json",
    "page_json",
    "recording_json",
    "segments",
    "stream_json",
]

_CALL_PARTS = {
    "notifications": "Notifications",
    "recordings": "Recordings",
    "payments": "Payments",
    "events": "Events",
    "siprec": "Siprec",
    "streams": "Streams",
    "transcriptions": "Transcriptions",
    "user_defined_message_subscriptions": "UserDefinedMessageSubscriptions",
    "user_defined_messages": "UserDefinedMessages",
}
_ERRORS = {
    16113: (400, "Cannot download a dual-channel presentation of a mono recording"),
    20001: (400, "Invalid parameter: {0}"),
    20003: (401, "Authenticate"),
    20004: (405, "Method not allowed"),
    20009: (409, "The {0} is in progress and cannot be deleted"),
    20404: (404, "The requested resource {0} was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "An internal server error has occurred"),
    20503: (503, "Service unavailable"),
    21201: (400, "No 'To' number is specified"),
    21205: (400, "Url parameter is required, and must be an absolute http or https URL; {0!r} came"),
    21206: (400, "Invalid SendDigits value {0!r}"),
    21208: (400, "Invalid Timeout {0!r}"),
    21209: (400, "Invalid Method {0!r}"),
    21210: (400, "The source phone number provided, {0}, is not yet verified for your account"),
    21211: (400, "The 'To' number {0} is not a valid phone number."),
    21212: (400, "The 'From' number {0} is not a valid phone number."),
    21213: (400, "No 'From' number is specified"),
    21214: (400, "The 'To' number {0} cannot be reached"),
    21215: (400, "Account not authorized to call {0}. Perhaps you need to enable some international permissions"),
    21216: (400, "The number {0} is on the block list"),
    21217: (400, "The phone number you are attempting to call, {0}, is not valid."),
    21220: (400, "Call is not in-progress. {0}"),
    21408: (400, "Permission to send messages has not been enabled for the region of {0}"),
    21602: (400, "A message body or media is required"),
    21603: (400, "A 'From' number or a messaging service is required"),
    21604: (400, "A 'To' number is required"),
    21606: (400, "The 'From' number {0} is not a valid, message-capable number of this account"),
    21609: (400, "The StatusCallback URL {0!r} is not a valid URL"),
    21610: (400, "Attempt to send to unsubscribed recipient {0}"),
    21611: (400, "The 'From' number {0} has exceeded its queue"),
    21612: (400, "Messages cannot be routed to {0}"),
    21614: (400, "To number: {0}, is not a mobile number"),
    21617: (400, "The message body exceeds the 1600 character limit"),
    21701: (400, "The Messaging Service {0} does not exist"),
    21703: (400, "The Messaging Service {0} contains no phone numbers"),
    21705: (400, "The Messaging Service SID {0!r} is invalid"),
    30409: (409, "This message cannot be canceled"),
    31921: (400, "The call has no stream {0}"),
    32018: (400, "Inline TwiML exceeds the 4000 character limit"),
    35111: (400, "SendAt is required when ScheduleType is fixed"),
    35114: (400, "SendAt is a UTC timestamp 300 to 3024000 seconds in the future, not {0!r}"),
    35118: (400, "MessagingServiceSid is required to schedule a message"),
    35126: (400, "ScheduleType is fixed, not {0!r}"),
}
_GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENDED = frozenset("^{}\\[~]|€\f")


class RestRefusedError(Exception):
    """A request is refused. ``code`` is Twilio's; the HTTP status and the message follow from it."""

    def __init__(self, code: int, about: str = "", *, headers: dict[str, str] | None = None) -> None:
        self.code = code
        self.status, text = _ERRORS[code]
        self.message = text.format(about)
        self.headers = headers or {}
        super().__init__(f"{code}: {self.message}")


def error_json(problem: RestRefusedError) -> dict[str, Any]:
    """The body of an error."""
    return {
        "code": problem.code,
        "message": problem.message,
        "more_info": f"https://www.twilio.com/docs/errors/{problem.code}",
        "status": problem.status,
    }


def is_number(text: str) -> bool:
    """Whether this can be dialled: E.164, or an address of a SIP device or a client."""
    return bool(re.fullmatch(r"\+[1-9]\d{6,14}", text)) or text.startswith(("sip:", "client:"))


def _formatted(number: str) -> str:
    match = re.fullmatch(r"\+1(\d{3})(\d{3})(\d{4})", number)
    return f"({match[1]}) {match[2]}-{match[3]}" if match else number


def call_json(call: CallRecord, account_sid: str) -> dict[str, Any]:
    """The call resource, every key present."""
    base = f"/{API_VERSION}/Accounts/{account_sid}/Calls/{call.sid}"
    ended = call.end_at is not None
    return {
        "account_sid": account_sid,
        "annotation": None,
        "answered_by": call.answered_by,
        "api_version": API_VERSION,
        "caller_name": None,
        "date_created": None if call.status == "queued" else rfc2822(call.created_at),
        "date_updated": None if call.status == "queued" else rfc2822(call.end_at or call.start_at or call.created_at),
        "direction": call.direction,
        "duration": str(call.duration_s) if ended else None,
        "end_time": rfc2822(call.end_at) if call.end_at is not None else None,
        "forwarded_from": None,
        "from": call.from_,
        "from_formatted": _formatted(call.from_),
        "group_sid": None,
        "parent_call_sid": call.parent_sid,
        "phone_number_sid": call.number_sid,
        "price": None,
        "price_unit": "USD",
        "queue_time": str(call.queue_ms),
        "sid": call.sid,
        "start_time": rfc2822(call.start_at or call.end_at or 0) if call.start_at or ended else None,
        "status": call.status,
        "subresource_uris": {key: f"{base}/{part}.json" for key, part in _CALL_PARTS.items()},
        "to": call.to,
        "to_formatted": _formatted(call.to),
        "trunk_sid": None,
        "uri": f"{base}.json",
    }


def stream_json(sid: str, name: str, status: str, call: CallRecord, context: tuple[str, float]) -> dict[str, Any]:
    """The stream subresource. ``context``: the account and the time."""
    account_sid, now = context
    return {
        "sid": sid,
        "account_sid": account_sid,
        "call_sid": call.sid,
        "name": name or None,
        "status": status,
        "date_updated": rfc2822(now),
        "uri": f"/{API_VERSION}/Accounts/{account_sid}/Calls/{call.sid}/Streams/{sid}.json",
    }


def recording_json(
    recording: RecordingRecord, account_sid: str, *, status: str, media_url: str | None = None
) -> dict[str, Any]:
    """The recording resource: the account's with ``media_url``, else the call's, which tells the track instead."""
    base = f"/{API_VERSION}/Accounts/{account_sid}"
    of_call = media_url is None
    fields: dict[str, Any] = {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "call_sid": recording.call.sid,
        "conference_sid": None,
        "channels": recording.order.channels,
        "date_created": rfc2822(recording.created_at),
        "date_updated": rfc2822(recording.updated_at),
        "start_time": rfc2822(recording.created_at),
        "price": None,
        "price_unit": None,
        "duration": str(recording.duration_s) if status in ("completed", "deleted") else None,
        "sid": recording.sid,
        "source": recording.source,
        "status": status,
        "error_code": recording.error_code if status == "absent" else None,
        "encryption_details": None,
    }
    if of_call:
        fields["track"] = recording.order.track
        fields["uri"] = f"{base}/Calls/{recording.call.sid}/Recordings/{recording.sid}.json"
        return fields
    parts = {"add_on_results": "AddOnResults", "transcriptions": "Transcriptions"}
    fields["uri"] = f"{base}/Recordings/{recording.sid}.json"
    fields["subresource_uris"] = {
        key: f"{base}/Recordings/{recording.sid}/{part}.json" for key, part in parts.items()
    }
    fields["media_url"] = media_url
    return fields


def message_json(message: MessageRecord, account_sid: str) -> dict[str, Any]:
    """The message resource."""
    base = f"/{API_VERSION}/Accounts/{account_sid}/Messages/{message.sid}"
    return {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "body": message.body,
        "date_created": rfc2822(message.created_at),
        "date_sent": rfc2822(message.sent_at) if message.sent_at is not None else None,
        "date_updated": rfc2822(message.sent_at or message.created_at),
        "direction": message.direction,
        "error_code": message.error_code,
        "error_message": None,
        "from": message.from_ or None,
        "messaging_service_sid": message.messaging_service_sid,
        "num_media": str(message.num_media),
        "num_segments": str(message.segments),
        "price": None,
        "price_unit": "USD",
        "sid": message.sid,
        "status": message.status,
        "subresource_uris": {"media": f"{base}/Media.json"},
        "to": message.to,
        "uri": f"{base}.json",
    }


def page_json(
    key: str, items: Sequence[dict[str, Any]], path: str, query: Sequence[tuple[str, str]], default_size: int = 50
) -> dict[str, Any]:
    """One page of a list. The URIs are relative, and keep the filters.

    A page's token names the record it follows, or precedes, so that records which come to be in the meantime neither
    repeat nor hide others. ``Page`` without a token counts from the beginning, as it is at that time.

    Raises:
        RestRefusedError: PageSize or Page is not a number in its range; or no record is what the token names.
    """
    given = dict(query)
    try:
        size = int(given.get("PageSize", default_size))
        page = int(given.get("Page", 0))
    except ValueError:
        raise RestRefusedError(20001, "PageSize and Page are numbers") from None
    if not 1 <= size <= 1000 or page < 0:
        raise RestRefusedError(20001, "PageSize is 1 to 1000, Page is not negative")
    filters = [(name, value) for name, value in query if name not in ("PageSize", "Page", "PageToken")]
    start, end = page * size, (page + 1) * size
    token = given.get("PageToken", "")
    if token:
        direction, sid = token[:2], token[2:]
        places = [place for place, item in enumerate(items) if item["sid"] == sid]
        if direction not in ("PA", "PB") or not places:
            raise RestRefusedError(20001, f"PageToken {token!r} is of no record in this list")
        start, end = (places[0] + 1, places[0] + 1 + size) if direction == "PA" else (places[0] - size, places[0])
    shown = list(items[max(0, start) : end])

    def uri(number: int, token: str = "") -> str:
        more = [("PageToken", token)] if token else []
        return f"{path}?{urlencode([*filters, ('PageSize', size), ('Page', number), *more])}"

    # Positions are told as if nothing had changed since the first page.
    first = page * size
    return {
        key: shown,
        "end": first + max(0, len(shown) - 1),
        "first_page_uri": uri(0),
        "next_page_uri": uri(page + 1, f"PA{shown[-1]['sid']}") if shown and end < len(items) else None,
        "page": page,
        "page_size": size,
        "previous_page_uri": uri(page - 1, f"PB{shown[0]['sid']}" if page > 1 else "") if shown and page else None,
        "start": first,
        "uri": uri(page, token),
    }


def segments(body: str) -> int:
    """How many messages a text is billed as: 160 GSM-7 septets, or 153 each when split; 70 or 67 in UCS-2."""
    if all(character in _GSM_BASIC or character in _GSM_EXTENDED for character in body):
        units = sum(2 if character in _GSM_EXTENDED else 1 for character in body)
        return 1 if units <= 160 else -(-units // 153)
    units = len(body.encode("utf-16-be")) // 2
    return 1 if units <= 70 else -(-units // 67)
