"""What can be told from the settings and this machine alone: addresses, the shape of credentials, speech providers,
the policy. Nothing here touches the network."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from . import registry
from .config import Settings
from .doctor_report import Check, error, ok, skipped, warning
from .exceptions import ConfigurationError, InvalidNumberError, ProviderNotFoundError
from .masking import mask_number
from .phone_numbers import normalize_number
from .policy import CallPolicy
from .transports.twilio_rest import client

__all__ = [
    "check_policy",
    "check_providers",
    "check_public_url",
    "check_stream_url",
    "check_twilio_settings",
    "own_edge",
    "short_sid",
]

_KEYS = {"elevenlabs": "elevenlabs_api_key", "azure": "azure_speech_key"}
_TITLES = {"stt": "speech recognition", "tts": "voice"}

_TWILIO_LONGEST_CALL_S = 14_400  # https://www.twilio.com/docs/voice/api/call-resource, TimeLimit
_SHORT_CALL_S = 10

# https://www.twilio.com/docs/global-infrastructure/understanding-edge-locations
_EDGES = {
    "au1": "sydney",
    "br1": "sao-paulo",
    "de1": "frankfurt",
    "ie1": "dublin",
    "jp1": "tokyo",
    "sg1": "singapore",
    "us1": "ashburn",
    "us2": "umatilla",
}


def own_edge(region: str) -> str | None:
    """The edge that lies in the region, None for a region that is not known here."""
    return _EDGES.get(region)


def short_sid(sid: str) -> str:
    """``AC...`` with as much of it as tells it from another."""
    return f"{sid[:2]}…{sid[-4:]}" if len(sid) > 10 else sid


# -- addresses ---------------------------------------------------------------------------------------------------


def check_stream_url(settings: Settings) -> list[Check]:
    """``VOICE_STREAM_URL``: whether Twilio could connect to it."""
    name = "stream URL"
    example = (
        "Set it to the public WebSocket base of this server, for example VOICE_STREAM_URL=wss://voice.example.com."
    )
    if not settings.voice_stream_url:
        return [error(name, "VOICE_STREAM_URL is not set. Twilio connects every call's stream to it.", example)]
    try:
        url = settings.stream_url("")
    except ConfigurationError as problem:
        return [error(name, str(problem), "Correct VOICE_STREAM_URL.")]
    obstacle = _host_obstacle(url)
    if obstacle is not None:
        return [error(name, f"VOICE_STREAM_URL is {_shown(url)}: {obstacle.reason}.", obstacle.advice)]
    if not url.startswith("wss:"):
        return [
            error(
                name,
                f"VOICE_STREAM_URL is {_shown(url)}, and Twilio connects over wss only.",
                "Put TLS in front of the server (a reverse proxy or a tunnel) and set the URL to wss://.",
            )
        ]
    return [ok(name, f"{_shown(url)}.")]


def check_public_url(settings: Settings) -> list[Check]:
    """``VOICE_PUBLIC_URL``, or what follows from ``VOICE_STREAM_URL``: whether Twilio could ask there."""
    name = "public URL"
    if not settings.voice_public_url:
        if not settings.voice_stream_url:
            return [skipped(name, "It follows from VOICE_STREAM_URL, which is not set.")]
        try:
            url = settings.public_url()
        except ConfigurationError:
            return [skipped(name, "It follows from VOICE_STREAM_URL, which cannot be used.")]
        if _host_obstacle(url) is not None:
            return [skipped(name, f"{_shown(url)}: it follows from VOICE_STREAM_URL, which cannot be used.")]
        return [ok(name, f"{_shown(url)}, which follows from VOICE_STREAM_URL.")]
    try:
        url = settings.public_url()
    except ConfigurationError as problem:
        return [error(name, str(problem), "Correct VOICE_PUBLIC_URL.")]
    shown = f"VOICE_PUBLIC_URL is {_shown(url)}"
    obstacle = _host_obstacle(url)
    if obstacle is not None:
        return [error(name, f"{shown}: {obstacle.reason}.", obstacle.advice)]
    checks = []
    if not url.startswith("https:"):
        checks.append(
            warning(
                name,
                f"{shown}, without TLS: on the way anybody can read who calls and send what Twilio sent again.",
                "Put TLS in front of the server and set the URL to https://.",
            )
        )
    try:
        stream = settings.stream_url("") if settings.voice_stream_url else url
    except ConfigurationError:
        stream = url
    if _place(stream) != _place(url):
        checks.append(
            warning(
                name,
                f"{shown}, but VOICE_STREAM_URL is {_shown(stream)}.",
                "Make them the same host, port and path, unless both lead to this server.",
            )
        )
    return checks or [ok(name, f"{_shown(url)}.")]


class _Obstacle(NamedTuple):
    reason: str
    advice: str


def _host_obstacle(url: str) -> _Obstacle | None:
    """Why Twilio cannot reach this host, as far as its name tells."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    public = "Use the public name of the server or of a tunnel to it, for example voice.example.com."
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if "_" in host:
            return _Obstacle(
                "Twilio accepts no host name with an underscore", "Give the server a name without underscores."
            )
        if host.rpartition(".")[2] in ("localhost", "local", "internal", "lan") or "." not in host:
            return _Obstacle("this name is known on your own machine or network only", public)
        return None
    if not address.is_global:
        return _Obstacle("this address belongs to your own machine or network, and Twilio cannot reach it", public)
    return None


def _shown(url: str) -> str:
    """The URL without user name, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place(url: str) -> tuple[str | None, int, str]:
    parts = urlsplit(url)
    default = 443 if parts.scheme in ("https", "wss") else 80
    return parts.hostname, parts.port or default, parts.path


# -- Twilio ------------------------------------------------------------------------------------------------------


def check_twilio_settings(settings: Settings) -> list[Check]:
    """``TWILIO_...``: whether what is needed is there and looks as it should. Values are not shown."""
    name = "Twilio settings"
    return (
        _missing_credentials(name, settings)
        or [*_misshapen_credentials(name, settings), *_misshapen_number(name, settings)]
        or [ok(name, f"Account {short_sid(settings.twilio_account_sid or '')}, {_number_shown(settings)}.")]
    )


def _missing_credentials(name: str, settings: Settings) -> list[Check]:
    console = "It stands on the first page of the Twilio console."
    checks = []
    if not settings.twilio_account_sid:
        advice = f"Set it to the SID that begins with AC. {console}"
        checks.append(error(name, "TWILIO_ACCOUNT_SID is not set.", advice))
    if not settings.auth_tokens and not settings.shared_keys:
        found = "TWILIO_AUTH_TOKEN is not set: no signature can be checked, so every call would be refused."
        checks.append(error(name, found, f"Set it to the account's auth token. {console}"))
    if checks:
        if not settings.twilio_phone_number:
            found = "TWILIO_PHONE_NUMBER is not set: nobody can be called or texted."
            checks.insert(0, warning(name, found, "Set it to your number as the Twilio console shows it, in quotes."))
        return checks
    for region in settings.regions:
        chosen = settings.for_region(region)
        if bool(chosen.twilio_region) != bool(chosen.twilio_edge):
            advice = f"Set TWILIO_REGION={region} and TWILIO_EDGE={own_edge(region) or '<an edge>'}, or neither."
        else:
            advice = "Correct it in the environment or in .env."
        try:
            client(chosen)
        except ConfigurationError as problem:
            checks.append(error(name, str(problem), advice))
    return checks


def _misshapen_credentials(name: str, settings: Settings) -> list[Check]:
    checks = []
    for variable, value, prefix in (
        ("TWILIO_ACCOUNT_SID", settings.twilio_account_sid, "AC"),
        ("TWILIO_API_KEY", settings.twilio_api_key, "SK"),
        ("TWILIO_MESSAGING_SERVICE_SID", settings.twilio_messaging_service_sid, "MG"),
    ):
        if value and not re.fullmatch(prefix + "[0-9a-fA-F]{32}", value):
            found = f"{variable} is not {prefix} followed by 32 hexadecimal digits."
            checks.append(error(name, found, "Copy it from the Twilio console again."))
    if any(not re.fullmatch("[0-9a-fA-F]{32}", token) for token in settings.auth_tokens):
        found = "TWILIO_AUTH_TOKEN is not 32 hexadecimal digits, which Twilio's tokens are."
        advice = "Copy it again; the secret of an API key belongs into TWILIO_API_SECRET."
        checks.append(warning(name, found, advice))
    return checks


def _misshapen_number(name: str, settings: Settings) -> list[Check]:
    number = settings.twilio_phone_number
    if not number:
        return []
    try:
        if normalize_number(number) == number:
            return []
    except InvalidNumberError:
        pass
    found = f"TWILIO_PHONE_NUMBER is {mask_number(number)}, which is no number in E.164: +, country code, digits."
    return [error(name, found, "Write it as the Twilio console shows it, for example '+358401234567', in quotes.")]


def _number_shown(settings: Settings) -> str:
    return f"number {mask_number(settings.twilio_phone_number)}" if settings.twilio_phone_number else "no number"


# -- speech providers --------------------------------------------------------------------------------------------


def check_providers(settings: Settings) -> list[Check]:
    """The speech recogniser and the voice a server would take: installed, and their keys set."""
    return [
        _provider("stt", settings.voice_stt, "VOICE_STT", settings),
        _provider("tts", settings.voice_tts, "VOICE_TTS", settings),
    ]


def _provider(kind: str, wanted: str | None, variable: str, settings: Settings) -> Check:
    title, candidates = _TITLES[kind], registry.DEFAULT_PROVIDERS[kind]
    name = wanted or next((name for name in candidates if registry.is_provider_available(kind, name)), None)
    if name is None:
        return warning(
            title,
            f"No provider is installed; only flows that bring their own ({kind}_factory) can do without.",
            f"{registry.extra_hint_for(kind, candidates[-1])}, or name another with {variable}.",
        )
    origin = f"{variable}={name}" if wanted else f"{name}, as {variable} is not set"
    try:
        status = registry.status(kind, name)
    except ProviderNotFoundError as problem:
        return error(title, str(problem), f"Set {variable} to one of these.")
    if not status.ready:
        others = [other for other in registry.provider_names(kind) if registry.is_provider_available(kind, other)]
        hint = registry.extra_hint_for(kind, name) if "not part of" not in status.message else None
        choice = f"{variable}={' or '.join(others)}, which can be used now"
        return error(title, f"{origin}. {status.message.partition(' Install it')[0]}", f"{hint or 'Set ' + choice}.")
    key = _KEYS.get(name)
    if key is not None and not getattr(settings, key):
        return error(title, f"{origin}. {key.upper()} is not set.", f"Set {key.upper()}, or {variable} to another.")
    told = f"{origin}. {status.message.removeprefix('Ready. ')}"
    return ok(title, told if status.message != "Ready." else f"{origin}. Installed{', key set' if key else ''}.")


# -- policy ------------------------------------------------------------------------------------------------------


def check_policy(settings: Settings) -> list[Check]:
    """The do-not-call list and the longest call."""
    return [_do_not_call(settings), _longest_call(settings)]


def _do_not_call(settings: Settings) -> Check:
    name = "do-not-call list"
    if settings.voice_do_not_call is None:
        return ok(name, "None (VOICE_DO_NOT_CALL is not set).")
    try:
        CallPolicy.from_settings(settings)
    except ConfigurationError as problem:
        return error(
            name, str(problem), "Until it is repaired nobody is called. Correct the file or VOICE_DO_NOT_CALL."
        )
    return ok(name, f"{settings.voice_do_not_call} can be read.")


def _longest_call(settings: Settings) -> Check:
    name, seconds = "longest call", settings.voice_max_call_seconds
    if seconds > _TWILIO_LONGEST_CALL_S:
        return warning(
            name,
            f"VOICE_MAX_CALL_SECONDS is {seconds:g}; Twilio ends calls after {_TWILIO_LONGEST_CALL_S} s by default.",
            f"Set it to {_TWILIO_LONGEST_CALL_S} at most, unless Twilio has raised the account's limit.",
        )
    if seconds < _SHORT_CALL_S:
        found = f"VOICE_MAX_CALL_SECONDS is {seconds:g}: calls end before much can be said."
        return warning(name, found, "It is a number of seconds; the default is 3600.")
    return ok(name, f"Calls are ended after {seconds:g} s.")
