"""TwiML, the XML that tells Twilio what to do with a call. Pure.

Every function returns a whole document as text, for a webhook's answer (``text/xml``) or a REST request. Text and
attributes may hold anything: markup is escaped, and characters that XML 1.0 has no way to write are removed.
Reference: https://www.twilio.com/docs/voice/twiml.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ..exceptions import ConfigurationError
from ..turns.key_entry import check_keys_to_send

__all__ = [
    "MAX_INLINE_CHARACTERS",
    "MAX_PARAMETER_CHARACTERS",
    "check_inline",
    "clean",
    "conference",
    "connect_stream",
    "dial",
    "hangup",
    "play_digits",
    "redirect",
    "reject",
    "say",
    "say_and_hangup",
]

MAX_INLINE_CHARACTERS = 4000
"""A REST request's ``Twiml`` may not be longer: https://www.twilio.com/docs/api/errors/32018."""

MAX_PARAMETER_CHARACTERS = 500
"""A ``<Parameter>``'s name and value together must stay below this: https://www.twilio.com/docs/voice/twiml/stream."""

# Everything outside the production Char of XML 1.0 (section 2.2). Surrogates cannot be encoded either.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """``text`` without the characters that XML 1.0 cannot carry: control characters, U+FFFE, lone surrogates."""
    return _ILLEGAL.sub("", text)


def connect_stream(
    url: str,
    parameters: Mapping[str, str] | None = None,
    *,
    action: str | None = None,
    status_callback: str | None = None,
) -> str:
    """Connect the call's audio to a WebSocket, both ways.

    When the stream is over Twilio requests ``action``, or hangs up when there is none: never a ``<Pause>``, which
    would leave the caller in silence.

    Args:
        url: ``wss://...``, without a query string (Twilio strips it).
        parameters: reach the stream's ``start`` as ``customParameters``. No signature covers them.
        action: https URL that decides how the call goes on.
        status_callback: https URL told when the stream starts, stops or fails.

    Raises:
        ConfigurationError: the URL has a query string, or a parameter is too long or has no name.
    """
    url = clean(url)
    if "?" in url:
        raise ConfigurationError(
            "The stream's URL has a query string, which Twilio strips. Use its path or parameters instead."
        )
    connect = _voice().Connect(**_given(action=action))
    stream = connect.stream(url=url, **_given(status_callback=status_callback))
    for name, value in (parameters or {}).items():
        name, value = clean(str(name)), clean(str(value))
        if not name:
            raise ConfigurationError("A stream parameter needs a name.")
        if len(name) + len(value) >= MAX_PARAMETER_CHARACTERS:
            raise ConfigurationError(
                f"The stream parameter {name[:40]!r} has {len(name) + len(value)} characters with its value; "
                f"Twilio takes fewer than {MAX_PARAMETER_CHARACTERS}. Keep the data and pass a key to it."
            )
        stream.parameter(name=name, value=value)
    response = _voice().VoiceResponse()
    response.append(connect)
    if action is None:
        response.hangup()
    return str(response)


def say(text: str) -> str:
    """Let Twilio's own voice say ``text``; what follows is up to where the document is used."""
    response = _voice().VoiceResponse()
    response.say(clean(text))
    return str(response)


def say_and_hangup(text: str, *, language: str | None = None, voice: str | None = None) -> str:
    """Let Twilio's own voice say ``text`` and end the call: for when there is no voice of ours."""
    response = _voice().VoiceResponse()
    response.say(clean(text), **_given(language=language, voice=voice))
    response.hangup()
    return str(response)


def hangup() -> str:
    """End the call."""
    response = _voice().VoiceResponse()
    response.hangup()
    return str(response)


def reject(reason: str = "rejected") -> str:
    """Refuse an incoming call, which is then neither answered nor billed.

    Args:
        reason: ``"rejected"`` (out of service) or ``"busy"``.

    Raises:
        ValueError: another reason.
    """
    if reason not in ("rejected", "busy"):
        raise ValueError(f"expected the reason 'rejected' or 'busy'; {reason!r} came")
    response = _voice().VoiceResponse()
    response.reject(reason=reason)
    return str(response)


def redirect(url: str) -> str:
    """Let Twilio fetch the next document from ``url``."""
    response = _voice().VoiceResponse()
    response.redirect(clean(url), method="POST")
    return str(response)


def play_digits(digits: str, resume_url: str) -> str:
    """Send keys to the far end (``w`` waits half a second), then fetch the document that takes the call back.

    Raises:
        ValueError: anything but ``0-9 * # A-D w W``.
    """
    check_keys_to_send(digits)
    response = _voice().VoiceResponse()
    response.play(digits=digits)
    response.redirect(clean(resume_url), method="POST")
    return str(response)


def dial(
    numbers: str | Sequence[str],
    *,
    action: str | None = None,
    caller_id: str | None = None,
    timeout: int | None = None,
    time_limit: int | None = None,
    answer_on_bridge: bool = True,
    whisper_url: str | None = None,
) -> str:
    """Put the call through to one or several numbers, ``sip:`` or ``client:`` addresses; the first to answer wins.

    Args:
        action: https URL that decides how the call goes on after the dialled leg; the call ends when there is none.
        timeout: seconds of ringing; Twilio's default is 30.
        time_limit: most seconds the two are connected; Twilio's default is four hours.
        answer_on_bridge: the caller hears it ring.
        whisper_url: TwiML played to who answers, before the two are joined.
    """
    verb = _voice().Dial(
        **_given(
            action=action,
            caller_id=caller_id,
            timeout=timeout,
            time_limit=time_limit,
            answer_on_bridge=answer_on_bridge or None,
        )
    )
    options = _given(url=whisper_url)
    for number in [numbers] if isinstance(numbers, str) else numbers:
        number = clean(number)
        if number.startswith("sip:"):
            verb.sip(number, **options)
        elif number.startswith("client:"):
            verb.client(number.removeprefix("client:"), **options)
        else:
            verb.number(number, **options)
    response = _voice().VoiceResponse()
    response.append(verb)
    return str(response)


def conference(
    room: str,
    *,
    action: str | None = None,
    announce: str | None = None,
    start_on_enter: bool = True,
    end_on_exit: bool = False,
    muted: bool = False,
    beep: bool = False,
    wait_url: str | None = None,
    time_limit: int | None = None,
) -> str:
    """Put the call into a conference. https://www.twilio.com/docs/voice/twiml/conference

    Args:
        room: its name; one room for the whole account.
        action: https URL that decides how the call goes on when it has left.
        announce: said by Twilio's own voice before it enters.
        wait_url: TwiML or music until the conference begins; empty: silence; None: Twilio's music.
        time_limit: most seconds in it.
    """
    response = _voice().VoiceResponse()
    if announce:
        response.say(clean(announce))
    verb = response.dial(**_given(action=action, time_limit=time_limit))
    verb.conference(
        clean(room),
        start_conference_on_enter=start_on_enter,
        end_conference_on_exit=end_on_exit,
        **_given(muted=muted or None, beep="true" if beep else "false", wait_url=wait_url),
    )
    return str(response)


def check_inline(twiml: str) -> str:
    """``twiml`` itself when it is short enough for a REST request.

    Raises:
        ConfigurationError: it has more than 4000 characters.
    """
    if len(twiml) > MAX_INLINE_CHARACTERS:
        raise ConfigurationError(
            f"The TwiML has {len(twiml)} characters; Twilio takes at most {MAX_INLINE_CHARACTERS} inline. "
            f"Serve it from a URL, or pass fewer or shorter stream parameters."
        )
    return twiml


def _given(**attributes: Any) -> dict[str, Any]:
    """The attributes that were given, with nothing in them that XML cannot carry."""
    return {
        name: clean(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _voice() -> ModuleType:
    """The SDK's writer, imported when the first document is written."""
    return importlib.import_module("twilio.twiml.voice_response")
