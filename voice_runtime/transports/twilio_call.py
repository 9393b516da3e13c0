"""Placing and ending calls through Twilio's REST API, and the TwiML that connects one to our stream.

Everything here blocks for as long as Twilio takes, ten seconds at most per attempt: call it from any thread but an
event loop's, there with ``await asyncio.to_thread(...)``. Settings are read when a function is called.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigurationError, InvalidNumberError, RestError
from . import twilio_twiml

if TYPE_CHECKING:
    from ..config import Settings

__all__ = [
    "STATUS_EVENTS",
    "TwilioTransport",
    "build_stream_twiml",
    "build_stream_xml",
    "callable_address",
    "hang_up_call",
    "initiate_outbound_call",
    "normalize_number",
]

logger = logging.getLogger(__name__)

STATUS_EVENTS = ("initiated", "ringing", "answered", "completed")
"""What a status callback can be told about. ``completed`` also stands for busy, no-answer, failed and canceled."""

_MACHINE_DETECTION = {"enable": "Enable", "message_end": "DetectMessageEnd", "detectmessageend": "DetectMessageEnd"}

# The call is over, or was never there: 400/21220 "Call is not in-progress", 404/20404 "not found".
_ALREADY_ENDED = {(400, 21220), (404, 20404)}

_SIP = re.compile(r"sips?:[^\s@<>]+@[^\s@<>]+")
_CLIENT = re.compile(r"client:[^\s<>]+")


def initiate_outbound_call(
    phone: str,
    *,
    settings: Settings | None = None,
    stream_url: str | None = None,
    parameters: Mapping[str, str] | None = None,
    twiml: str | None = None,
    caller_id: str | None = None,
    timeout: int | None = None,
    time_limit: int | None = None,
    status_callback: str | None = None,
    status_callback_events: Sequence[str] = STATUS_EVENTS,
    machine_detection: str | None = None,
    machine_detection_timeout: int | None = None,
    machine_detection_callback: str | None = None,
    send_digits: str | None = None,
    record: bool = False,
) -> str:
    """Dial ``phone``; when it is answered Twilio connects the call to our stream. Returns the call's SID (``CA...``).

    Returning means that Twilio has taken the request, not that anyone has answered.

    Args:
        phone: in international form, for example ``"+358 40 123 4567"``; or a ``sip:`` or ``client:`` address.
        settings: instead of the environment's.
        stream_url: the whole ``wss://`` URL of the stream, used as it is. Default: ``/voice`` below
            ``VOICE_STREAM_URL``.
        parameters: reach the stream as ``customParameters``.
        twiml: a document of your own instead of the one that connects the stream.
        caller_id: default ``TWILIO_PHONE_NUMBER``.
        timeout: seconds of ringing, 1 to 600; Twilio's default is 60.
        time_limit: seconds after which Twilio ends the call; default ``VOICE_MAX_CALL_SECONDS``.
        status_callback: https URL that Twilio tells how the call is getting on.
        status_callback_events: which of :data:`STATUS_EVENTS`.
        machine_detection: ``"enable"`` decides between human and machine as soon as it can, ``"message_end"`` waits
            for the end of a greeting. It runs while the call goes on; waiting for it would be seconds of silence.
        machine_detection_timeout: seconds, 3 to 59; Twilio's default is 30.
        machine_detection_callback: https URL that gets the verdict.
        send_digits: keys sent once answered (``w`` waits half a second), for example an extension. Not together with
            machine detection, which Twilio then leaves out.
        record: let Twilio record the call.

    Raises:
        MissingStreamUrlError: neither ``VOICE_STREAM_URL``, ``stream_url`` nor ``twiml`` is given.
        ConfigurationError: credentials or the caller id are missing, or an option cannot be used.
        InvalidNumberError: ``phone`` cannot be dialled; no request was made.
        RestError: Twilio refused, or did not answer; then ``maybe_done`` says whether it may be ringing all the same.
    """
    settings = settings if settings is not None else _load()
    if twiml is None:
        if stream_url is None:
            url = settings.stream_url("/voice")
        else:
            url = importlib.import_module("voice_runtime.config").websocket_url(stream_url, "", source="stream_url")
        twiml = twilio_twiml.connect_stream(url, parameters)
    elif stream_url is not None or parameters:
        raise ConfigurationError(
            "Give either twiml= or stream_url= and parameters=, not both: a call runs one document."
        )
    options: dict[str, Any] = {"twiml": twilio_twiml.check_inline(twiml)}

    from . import twilio_rest

    rest = twilio_rest.client(settings)
    options["from_"] = _caller_id(settings, caller_id)
    options["to"] = callable_address(phone)
    options["timeout"] = _within("timeout", timeout, 1, 600)
    limit = math.ceil(settings.voice_max_call_seconds) if time_limit is None else time_limit
    options["time_limit"] = _within("time_limit", limit, 1, 86_400)
    if status_callback is not None:
        options["status_callback"] = status_callback
        options["status_callback_method"] = "POST"
        options["status_callback_event"] = _status_events(status_callback_events)
    if machine_detection is not None:
        mode = _MACHINE_DETECTION.get(machine_detection.lower())
        if mode is None:
            raise ConfigurationError(
                f"machine_detection is {machine_detection!r}; expected 'enable' or 'message_end'."
            )
        if send_digits:
            raise ConfigurationError(
                "send_digits and machine_detection exclude each other: Twilio detects nothing when it sends digits."
            )
        options["machine_detection"] = mode
        options["machine_detection_timeout"] = _within("machine_detection_timeout", machine_detection_timeout, 3, 59)
        # A string: the SDK would write True with a capital, which Twilio does not take for true.
        options["async_amd"] = "true"
        if machine_detection_callback is not None:
            options["async_amd_status_callback"] = machine_detection_callback
            options["async_amd_status_callback_method"] = "POST"
    if send_digits:
        if not re.fullmatch(r"[0-9A-D*#wW]{1,32}", send_digits):
            raise ConfigurationError(f"send_digits is {send_digits!r}; expected up to 32 of 0-9, A-D, *, #, w and W.")
        options["send_digits"] = send_digits
    if record:
        options["record"] = True

    with twilio_rest.translated("Placing the call"):
        call = rest.calls.create(**{name: value for name, value in options.items() if value is not None})
        call_sid = call.sid
    if not isinstance(call_sid, str) or not call_sid:
        raise RestError("Placing the call failed: Twilio's answer holds no call SID.", maybe_done=True)
    return call_sid


def build_stream_twiml(
    url: str,
    parameters: Mapping[str, str] | None = None,
    *,
    path: str = "/voice",
    action: str | None = None,
    status_callback: str | None = None,
) -> str:
    """The TwiML that connects a call to the stream below ``url``; the answer of a voice webhook, as ``text/xml``.

    Args:
        url: the public base, for example ``wss://voice.example.com``; https becomes wss and http becomes ws.
        parameters: reach the stream as ``customParameters``.
        path: added to ``url``.
        action: https URL that decides how the call goes on after the stream. Default: it ends.
        status_callback: https URL told when the stream starts, stops or fails.

    Raises:
        ConfigurationError: ``url`` is not a URL that Twilio can connect to, or a parameter is too long.
    """
    address = importlib.import_module("voice_runtime.config").websocket_url(url, path, source="The stream's URL")
    return twilio_twiml.connect_stream(address, parameters, action=action, status_callback=status_callback)


build_stream_xml = build_stream_twiml
"""Another name of :func:`build_stream_twiml`."""


def hang_up_call(call_sid: str, *, settings: Settings | None = None) -> bool:
    """End a call, whether it is queued, ringing or answered. May be repeated.

    Returns:
        True when this ended it, False when it was already over or is not known.

    Raises:
        ValueError: ``call_sid`` is none.
        ConfigurationError: credentials are missing.
        RestError: Twilio refused for another reason, or did not answer.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+", call_sid):
        raise ValueError(f"expected a call SID, for example 'CA' and 32 hexadecimal digits; {call_sid[:40]!r} came")
    from . import twilio_rest

    rest = twilio_rest.client(settings if settings is not None else _load())
    try:
        with twilio_rest.translated("Hanging up"):
            rest.calls(call_sid).update(status="completed")
    except RestError as error:
        if (error.status, error.code) in _ALREADY_ENDED:
            logger.info("Call %s was over before it could be hung up (HTTP %s)", call_sid, error.status)
            return False
        raise
    return True


class TwilioTransport:
    """The functions of this wire as one object, as ``create_transport("twilio")`` returns it.

    Args:
        settings: used for every request, instead of the environment's at that time.
    """

    name = "twilio"

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    def initiate_outbound_call(self, phone: str, **options: Any) -> str:
        """See :func:`initiate_outbound_call`."""
        return initiate_outbound_call(phone, **{"settings": self._settings, **options})

    def hang_up_call(self, call_sid: str) -> bool:
        """See :func:`hang_up_call`."""
        return hang_up_call(call_sid, settings=self._settings)

    def build_stream_twiml(self, url: str, parameters: Mapping[str, str] | None = None, **options: Any) -> str:
        """See :func:`build_stream_twiml`."""
        return build_stream_twiml(url, parameters, **options)

    def register_voice_websocket(self, app: Any, session: Any, **options: Any) -> Any:
        """See :func:`voice_runtime.transports.twilio_ws.register_voice_websocket`."""
        module = importlib.import_module("voice_runtime.transports.twilio_ws")
        return module.register_voice_websocket(app, session, **options)


def callable_address(address: str) -> str:
    """``address`` as Twilio dials it: E.164 for a number, ``sip:`` and ``client:`` addresses as they are.

    Raises:
        InvalidNumberError: none of these; the message says why.
    """
    address = address.strip()
    scheme = address.partition(":")[0].lower()
    if scheme in ("sip", "sips"):
        if not _SIP.fullmatch(address.lower()):
            raise InvalidNumberError(address, "a SIP address reads sip:user@host")
        return address
    if scheme == "client":
        if not _CLIENT.fullmatch(address):
            raise InvalidNumberError(address, "a client address reads client:name, without spaces")
        return address
    return normalize_number(address)


def normalize_number(number: str) -> str:
    """``number`` in E.164, for example ``+358401234567``. Spaces and punctuation of the international form may stand.

    Only the form and the length for the country are judged, not whether the number is assigned.

    Raises:
        InvalidNumberError: it has no country code, letters, an extension, or a length no number there has.
    """
    phonenumbers = importlib.import_module("phonenumbers")
    text = number.strip().removeprefix("tel:").strip()
    if not text:
        raise InvalidNumberError(number, "it is empty; expected for example +358401234567")
    if re.search(r"[^\W\d_]", text):
        raise InvalidNumberError(
            number, "it has letters; expected digits after +, an extension goes into send_digits"
        )
    if re.search(r"[;,?=&@<>]", text):
        raise InvalidNumberError(number, "it holds more than one number; expected for example +358401234567")
    if not text.startswith(("+", "\uff0b", "(+")):
        zeros = " (write + for the leading 00)" if text.startswith("00") else ""
        raise InvalidNumberError(number, f"it has no country code; expected for example +358401234567{zeros}")
    try:
        parsed = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as error:
        kinds = phonenumbers.NumberParseException
        reason = {
            kinds.INVALID_COUNTRY_CODE: "no country has the code it begins with",
            kinds.TOO_LONG: "it is too long",
        }.get(error.error_type, "it is too short")
        raise InvalidNumberError(number, reason) from None
    outcome = phonenumbers.is_possible_number_with_reason(parsed)
    kinds = phonenumbers.ValidationResult
    if outcome != kinds.IS_POSSIBLE:
        reason = {
            kinds.TOO_LONG: "it is too long",
            kinds.TOO_SHORT: "it is too short",
            kinds.IS_POSSIBLE_LOCAL_ONLY: "it is too short: the area code is missing",
            kinds.INVALID_COUNTRY_CODE: "no country has the code it begins with",
        }.get(outcome, "no number of that country has its length")
        raise InvalidNumberError(number, reason)
    return str(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))


def _load() -> Settings:
    settings: Settings = importlib.import_module("voice_runtime.config").load()
    return settings


def _caller_id(settings: Settings, caller_id: str | None) -> str:
    name = "caller_id" if caller_id else "TWILIO_PHONE_NUMBER"
    value = caller_id or settings.require("twilio_phone_number", "place a call")
    try:
        return callable_address(value)
    except InvalidNumberError as error:
        raise ConfigurationError(f"{name} is {value!r}, which cannot be a caller id: {error.reason}.") from None


def _within(name: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise ConfigurationError(f"{name} is {value}; expected {least} to {most} seconds.")
    return value


def _status_events(events: Sequence[str]) -> list[str]:
    # One string with spaces is accepted by Twilio and then yields no callbacks at all (warning 21626).
    names = events.split() if isinstance(events, str) else list(events)
    unknown = [name for name in names if name not in STATUS_EVENTS]
    if unknown or not names:
        raise ConfigurationError(
            f"status_callback_events holds {', '.join(map(repr, unknown)) or 'nothing'}; "
            f"expected some of {', '.join(STATUS_EVENTS)}."
        )
    return names
