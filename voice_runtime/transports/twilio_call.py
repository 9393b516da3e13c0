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
from ..masking import mask_number
from ..phone_numbers import callable_address
from ..policy import Admission, explicit_guard
from . import twilio_twiml
from .twilio_webhooks import ENDED

if TYPE_CHECKING:
    from ..config import Settings

__all__ = [
    "ALREADY_ENDED",
    "STATUS_EVENTS",
    "TwilioTransport",
    "build_stream_twiml",
    "build_stream_xml",
    "check_call_options",
    "hang_up_call",
    "initiate_outbound_call",
    "is_call_over",
    "redirect_call",
]

logger = logging.getLogger(__name__)

STATUS_EVENTS = ("initiated", "ringing", "answered", "completed")
"""What a status callback can be told about. ``completed`` also stands for busy, no-answer, failed and canceled."""

_MACHINE_DETECTION = {"enable": "Enable", "message_end": "DetectMessageEnd", "detectmessageend": "DetectMessageEnd"}

ALREADY_ENDED = {(400, 21220), (404, 20404)}
"""HTTP status and Twilio error when a call or a recording is over, or was never there."""


def initiate_outbound_call(
    phone: str | Admission,
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
        phone: in international form, for example ``"+358 40 123 4567"`` (with ``VOICE_DEFAULT_COUNTRY`` also as
            people there write it); or a ``sip:`` or ``client:`` address. It has to pass the rules that the settings
            name, and no others; or an :class:`~voice_runtime.policy.Admission`, which has passed those of a guard.
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
        PolicyError: a rule that the settings name refuses it; no request was made.
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
            # Not the keys themselves: they may be a PIN.
            raise ConfigurationError(
                f"send_digits has {len(send_digits)} characters; expected up to 32, each of 0-9, A-D, *, #, w and W."
            )
        options["send_digits"] = send_digits
    if record:
        options["record"] = True

    admission = phone if isinstance(phone, Admission) else explicit_guard(settings).admit_call(phone)
    options["to"] = admission.number
    try:
        with twilio_rest.translated("Placing the call"):
            call = rest.calls.create(**{name: value for name, value in options.items() if value is not None})
            call_sid = call.sid
    except BaseException as error:
        if admission is not phone and not (isinstance(error, RestError) and error.maybe_done):
            admission.refuse()
        raise
    finally:
        if admission is not phone:
            admission.release()  # nobody here learns of the call's end
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


def hang_up_call(call_sid: str, *, settings: Settings | None = None, region: str | None = None) -> bool:
    """End a call, whether it is queued, ringing or answered. May be repeated.

    Args:
        settings: instead of the environment's.
        region: where the call probably is, default ``TWILIO_REGION``. When it is not known there, the other regions
            of ``TWILIO_REGIONS`` are tried.

    Returns:
        True when this ended it, False when it was already over or no region knows it.

    Raises:
        ValueError: ``call_sid`` is none.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: Twilio refused for another reason, or did not answer.
    """
    from . import twilio_rest

    twilio_rest.check_sid(call_sid)

    def end(settings: Settings) -> bool:
        rest = twilio_rest.client(settings)
        with twilio_rest.translated("Hanging up"):
            rest.calls(call_sid).update(status="completed")
        return True

    settings = settings if settings is not None else _load()
    try:
        return twilio_rest.first_region_that_knows(settings, end, region=region)
    except RestError as error:
        if (error.status, error.code) in ALREADY_ENDED:
            logger.info("Call %s was over before it could be hung up (HTTP %s)", call_sid, error.status)
            return False
        raise


def check_call_options(settings: Settings, *, caller_id: str | None = None, timeout: int | None = None) -> None:
    """Raise now what :func:`initiate_outbound_call` would raise for these, whoever is called.

    Raises:
        ConfigurationError: credentials or the caller id are missing, or an option cannot be used.
    """
    from . import twilio_rest

    twilio_rest.client(settings)
    _caller_id(settings, caller_id)
    _within("timeout", timeout, 1, 600)


def redirect_call(call_sid: str, twiml: str, *, settings: Settings | None = None) -> None:
    """Give a call that is in progress another document. Its stream ends as soon as Twilio executes it.

    Raises:
        ConfigurationError: credentials are missing, or the document is longer than 4000 characters.
        RestError: Twilio refused (21220: the call is not in progress), or did not answer.
    """
    from . import twilio_rest

    document = twilio_twiml.check_inline(twiml)

    def redirect(settings: Settings) -> None:
        with twilio_rest.translated("Redirecting the call"):
            twilio_rest.client(settings).calls(call_sid).update(twiml=document)

    twilio_rest.first_region_that_knows(settings if settings is not None else _load(), redirect)


def is_call_over(call_sid: str, *, settings: Settings | None = None) -> bool:
    """Ask Twilio whether a call has ended. One that Twilio does not know is over.

    Raises:
        ConfigurationError: credentials are missing.
        RestError: Twilio refused, or did not answer.
    """
    from . import twilio_rest

    def ask(settings: Settings) -> str:
        with twilio_rest.translated("Asking for the call", method="GET"):
            return str(twilio_rest.client(settings).calls(call_sid).fetch().status)

    try:
        return twilio_rest.first_region_that_knows(settings if settings is not None else _load(), ask) in ENDED
    except RestError as error:
        if twilio_rest.is_unknown(error):
            return True
        raise


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


def _load() -> Settings:
    settings: Settings = importlib.import_module("voice_runtime.config").load()
    return settings


def _caller_id(settings: Settings, caller_id: str | None) -> str:
    name = "caller_id" if caller_id else "TWILIO_PHONE_NUMBER"
    value = caller_id or settings.require("twilio_phone_number", "place a call")
    try:
        return callable_address(value)
    except InvalidNumberError as error:
        raise ConfigurationError(
            f"{name} is {mask_number(value)!r}, which cannot be a caller id: {error.reason}."
        ) from None


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
