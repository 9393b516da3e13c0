"""The way from the public URL to this server, walked as Twilio walks it: a signed webhook and a signed handshake of a
stream must be accepted, and the same without a right signature refused.

The judgements (:func:`judge_webhook`, :func:`judge_stream`) are pure; :func:`post` and :func:`knock` make requests.
"""

from __future__ import annotations

import re
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec

from .config import Settings
from .doctor_report import Check, error, ok, warning
from .doctor_steps import Steps
from .exceptions import ConfigurationError
from .transports.twilio_signature import sign
from .transports.twilio_ws import CHECK_TOKEN

__all__ = [
    "STREAM",
    "WEBHOOK",
    "Failure",
    "Reply",
    "RoundTrip",
    "judge_stream",
    "judge_webhook",
    "knock",
    "nobody_serves",
    "post",
    "walk_stream",
    "walk_webhook",
]

Failure: TypeAlias = Literal["dns", "refused", "unreachable", "tls", "timeout", "broken", "garbled"]

WEBHOOK = "webhook round trip"
STREAM = "stream round trip"
"""The names of the checks."""

_SLOW_S = 5.0  # Twilio gives up after 15: https://www.twilio.com/docs/api/errors/11200
_CLOSED_WITHIN_S = 3.0
_TLS_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_UPGRADE = (
    "Have the proxy pass WebSockets on; in nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";'
)

# What every webhook has: blank values, a space, an ampersand, a letter outside ASCII. None may change on the way.
_FORM = {"CallSid": "", "FromCity": "", "CallerName": "Åke & Daughters", "Check": "voice-runtime doctor"}
_FORM_TYPE = "application/x-www-form-urlencoded; charset=UTF-8"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request.

    Attributes:
        failure: why no answer came; None when one did.
        detail: of a failure, in words.
        status: HTTP status of the answer; 101 for an accepted handshake.
        content_type: of the answer.
        location: where a redirect leads.
        tunnel_error: what a tunnel says of itself, for example ``ERR_NGROK_3200``.
        close_code: how an accepted WebSocket was closed; None when it was not.
        seconds: how long it took.
    """

    failure: Failure | None = None
    detail: str = ""
    status: int = 0
    content_type: str = ""
    location: str = ""
    tunnel_error: str = ""
    close_code: int | None = None
    seconds: float = 0.0


class RoundTrip(msgspec.Struct, frozen=True, kw_only=True):
    """The requests made to one URL.

    Attributes:
        url: without what could be secret in it.
        port: where our server listens.
        signed: the reply to the request that is signed right.
        unsigned, forged: to one without a signature, and with a wrong one; None when they were not sent.
        plain: stream only, after a 403: to the handshake, signed as if it were a webhook.
        timeout: how long was waited for each (s).
    """

    url: str
    port: int
    signed: Reply
    unsigned: Reply | None = None
    forged: Reply | None = None
    plain: Reply | None = None
    timeout: float = 10.0


# -- judgements --------------------------------------------------------------------------------------------------


def nobody_serves(trip: RoundTrip) -> bool:
    """Whether it looks as if the way is open but no app stands at its end."""
    reply = trip.signed
    return reply.failure in ("refused", "broken") or reply.status in (502, 503, 504)


def judge_webhook(trip: RoundTrip) -> Check:
    """The verdict on a signed POST, and on those that must be refused."""
    name, reply = WEBHOOK, trip.signed
    if reply.failure is not None:
        return _no_answer(name, trip, reply)
    if reply.status != 204:
        return _wrong_answer(name, trip, reply, "VOICE_PUBLIC_URL")
    lax = _too_lenient(name, "webhook", trip, accepted=204)
    if lax is not None:
        return lax
    if reply.seconds > _SLOW_S:
        found = f"A signed request to {trip.url} is accepted, but the answer took {reply.seconds:.1f} s."
        return warning(name, found, "Twilio gives up after 15 s. Find out what is slow: tunnel, proxy or server.")
    return ok(
        name, f"{trip.url} accepts what Twilio signs ({reply.seconds * 1000:.0f} ms) and refuses what it does not."
    )


def judge_stream(trip: RoundTrip) -> Check:
    """The verdict on a signed handshake, and on those that must be refused."""
    name, reply = STREAM, trip.signed
    if reply.failure is not None:
        return _no_answer(name, trip, reply)
    if reply.status == 403 and trip.plain is not None and trip.plain.status == 204:
        found = f"{trip.url}: the handshake arrives as an ordinary request, without its Upgrade header."
        return error(name, found, _UPGRADE)
    if reply.status != 101:
        if reply.status in (200, 204, 400, 405, 426):
            found = f"{trip.url}: the handshake was answered with HTTP {reply.status} instead of 101."
            return error(name, found, _UPGRADE)
        return _wrong_answer(name, trip, reply, "VOICE_STREAM_URL")
    if reply.close_code != 1000:
        how = "was not closed" if reply.close_code is None else f"was closed with code {reply.close_code}"
        found = f"{trip.url}: the socket was accepted but {how}; a voice-runtime server closes it at once with 1000."
        return error(
            name, found, "Another server answers there, or an older one: see where the proxy leads, restart it."
        )
    lax = _too_lenient(name, "stream", trip, accepted=101)
    if lax is not None:
        return lax
    return ok(name, f"{trip.url} accepts what Twilio signs and refuses what it does not.")


def _no_answer(name: str, trip: RoundTrip, reply: Reply) -> Check:
    parts = urlsplit(trip.url)
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    where = f"{parts.hostname} port {port}"
    match reply.failure:
        case "dns":
            found = f"The name {parts.hostname} is not known (DNS)."
            advice = "Check how it is spelt and its DNS record; the name of a tunnel exists only while it runs."
        case "refused":
            found = f"Nobody listens at {where} (connection refused)."
            advice = "Start the tunnel or reverse proxy, and let its port through the firewall."
        case "timeout":
            found = f"No answer from {where} within {trip.timeout:g} s."
            advice = "See whether a firewall drops the packets, or proxy or server hang. Twilio gives up after 15 s."
        case "tls" if any(word in reply.detail for word in _TLS_PLAIN):
            found = f"{where} does not speak TLS."
            advice = f"Give the URL the port of the proxy that ends TLS, not the server's own ({trip.port})."
        case "tls":
            found = f"TLS with {where} fails: {reply.detail}."
            advice = (
                "Twilio needs a valid certificate of a public authority for this very name, with its whole chain."
            )
        case "broken":
            found = f"{where} closes the connection without an answer."
            advice = f"The tunnel or proxy finds no server: start it, and let it forward to port {trip.port}."
        case "garbled":
            found = f"{where} gives an answer that is not HTTP/1.1."
            advice = "Another kind of server has this port: see where the URL leads."
        case _:
            found = f"{where} cannot be reached: {reply.detail}."
            advice = "Check the network of this machine and the address in the URL."
    return error(name, found, advice)


def _wrong_answer(name: str, trip: RoundTrip, reply: Reply, variable: str) -> Check:
    status = reply.status
    page = "text/html" in reply.content_type
    found = f"{trip.url} answered a signed request with HTTP {status}{', a web page' if page else ''}"
    if reply.tunnel_error:
        found += f" ({reply.tunnel_error})"
        advice = (
            f"That is ngrok, not the server: start the tunnel, forward to port {trip.port}, and see "
            f"https://ngrok.com/docs/errors/{reply.tunnel_error.lower()}"
        )
    elif 300 <= status < 400:
        found += f", a redirect to {reply.location or 'nowhere'}"
        advice = f"After a redirect Twilio asks by GET, without the parameters. Set {variable} to where it leads."
    elif status == 403 and not page:
        found += ": the signature does not match there"
        advice = (
            f"The running server has another TWILIO_AUTH_TOKEN or {variable} than these settings (restart it with "
            "them), or a proxy changes path or body; the server's log names the URL it checked."
        )
    elif status in (401, 403, 407, 429):
        advice = (
            "A proxy or firewall in front of the server refuses it: let Twilio's requests through without a login."
        )
    elif status == 404:
        advice = (
            f"Another server answers, or the app is mounted below a path: {variable} must hold it. An app made with "
            "register_voice_websocket() has no such check."
        )
    elif status in (502, 503, 504) or 520 <= status <= 530:
        advice = f"Proxy or tunnel are up but reach no server: start it, and let them forward to port {trip.port}."
    elif status >= 500:
        advice = "The server failed; its log says why."
    elif page:
        advice = "A tunnel's warning page or another site answers instead of the server: Twilio would get it, too."
    else:
        advice = f"Expected 204. Another server answers: see where {urlsplit(trip.url).hostname} leads."
    return error(name, f"{found}.", advice)


def _too_lenient(name: str, noun: str, trip: RoundTrip, *, accepted: int) -> Check | None:
    for reply, kind in ((trip.unsigned, "without a signature"), (trip.forged, "with a wrong signature")):
        if reply is None or reply.status == 403:
            continue
        if reply.status == accepted:
            found = f"{trip.url} accepts a {noun} {kind}: anybody can make calls up."
            return error(name, found, "Take insecure=True out; it is for a line on your own machine only.")
        what = reply.failure or f"HTTP {reply.status}"
        found = f"{trip.url} answered a {noun} {kind} with {what}; expected 403."
        return warning(name, found, "Something in front of the server answers for it: see proxy and firewall.")
    return None


# -- requests ----------------------------------------------------------------------------------------------------


def walk_webhook(settings: Settings, steps: Steps) -> RoundTrip:
    """POST to ``/voice/check``: signed, unsigned and wrongly signed.

    Raises:
        ConfigurationError: there is no usable public URL.
    """
    url = settings.public_url(f"/voice/{CHECK_TOKEN}")
    trip = RoundTrip(
        url=_shown(url),
        port=settings.voice_server_port,
        signed=post(url, _signature(settings, url, _FORM), steps),
        timeout=steps.seconds,
    )
    if trip.signed.status != 204:
        return trip
    return msgspec.structs.replace(
        trip, unsigned=post(url, {}, steps), forged=post(url, {"X-Twilio-Signature": _forged(url)}, steps)
    )


def walk_stream(settings: Settings, steps: Steps) -> RoundTrip:
    """The handshake of ``/voice/check``, likewise; no call comes of it.

    Raises:
        ConfigurationError: there is no usable stream URL.
    """
    url = settings.stream_url(f"/voice/{CHECK_TOKEN}")
    # Twilio knows wss only, whatever the way to a server on this machine is.
    signed_url = "wss:" + url.partition(":")[2]
    trip = RoundTrip(
        url=_shown(url),
        port=settings.voice_server_port,
        signed=knock(url, _signature(settings, signed_url, None), steps),
        timeout=steps.seconds,
    )
    if trip.signed.status == 403:
        # A proxy that drops the Upgrade header makes a GET of it, which the webhooks' side refuses for its scheme.
        try:
            plain_url = settings.public_url(f"/voice/{CHECK_TOKEN}")
        except ConfigurationError:
            return trip
        return msgspec.structs.replace(trip, plain=knock(url, _signature(settings, plain_url, None), steps))
    if (trip.signed.status, trip.signed.close_code) != (101, 1000):
        return trip
    return msgspec.structs.replace(
        trip, unsigned=knock(url, {}, steps), forged=knock(url, {"X-Twilio-Signature": _forged(signed_url)}, steps)
    )


def _signature(settings: Settings, url: str, form: Mapping[str, str] | None) -> dict[str, str]:
    if settings.auth_tokens:
        return {"X-Twilio-Signature": sign(url, form, settings.auth_tokens[0])}
    key, secret = next(iter(settings.shared_keys.items()))
    return {
        "X-Twilio-Signature": sign(url, form, secret, algorithm="HMAC_SHA256"),
        "X-Twilio-Webhooks-Signature-Settings": f"key={key},algorithm=HMAC_SHA256",
    }


def _forged(url: str) -> str:
    return sign(url, None, secrets.token_hex(16))


def post(url: str, headers: Mapping[str, str], steps: Steps) -> Reply:
    """A webhook as Twilio sends it. Redirects are not followed."""

    def work() -> Reply:
        began = steps.clock.monotonic()
        sent = {"User-Agent": "TwilioProxy/1.1", "Accept": "*/*", "Content-Type": _FORM_TYPE, **headers}
        with (
            httpx.Client(timeout=steps.seconds, verify=_trust()) as http,
            http.stream("POST", url, content=urlencode(_FORM), headers=sent) as answer,
        ):
            seconds = steps.clock.monotonic() - began
            return _reply(answer.status_code, answer.headers.multi_items(), seconds)

    return _tried(work, steps)


def knock(url: str, headers: Mapping[str, str], steps: Steps) -> Reply:
    """The handshake of a stream as Twilio makes it, and what becomes of the socket when nothing is said. Redirects
    are not followed."""
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
    from websockets.sync.client import ClientConnection, connect

    class RefusedError(Exception):
        def __init__(self, status: int, headers: list[tuple[str, str]]) -> None:
            super().__init__(status)
            self.status = status
            self.headers = headers

    class Connection(ClientConnection):
        def handshake(self, *arguments: Any, **options: Any) -> None:
            try:
                super().handshake(*arguments, **options)
            except InvalidStatus as answer:
                # As InvalidStatus connect() would go where a redirect leads.
                response = answer.response
                raise RefusedError(response.status_code, list(response.headers.raw_items())) from None

    def work() -> Reply:
        began = steps.clock.monotonic()
        try:
            with connect(
                url,
                ssl=_trust() if url.startswith("wss:") else None,
                additional_headers=dict(headers),
                user_agent_header="Twilio.TmeWs/1.0",
                compression=None,
                open_timeout=steps.seconds,
                close_timeout=1,
                ping_interval=None,
                create_connection=Connection,
            ) as line:
                seconds = steps.clock.monotonic() - began
                try:
                    line.recv(timeout=min(_CLOSED_WITHIN_S, steps.seconds / 2))
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd is not None else 1006
                    return Reply(status=101, close_code=code, seconds=seconds)
                except TimeoutError:
                    pass
                return Reply(status=101, seconds=seconds)
        except RefusedError as answer:
            return _reply(answer.status, answer.headers, steps.clock.monotonic() - began)
        except InvalidHandshake as odd:
            failed = _failed(odd)
            return failed if failed.failure != "unreachable" else Reply(failure="garbled", detail=type(odd).__name__)

    return _tried(work, steps)


def _tried(work: Callable[[], Reply], steps: Steps) -> Reply:
    try:
        return steps.run(work)
    except (httpx.HTTPError, OSError) as problem:  # TimeoutError and ssl.SSLError are among them
        return _failed(problem)


def _failed(problem: BaseException) -> Reply:
    """Why there was no answer: the innermost cause that says so."""
    for cause in _causes(problem):
        match cause:
            case socket.gaierror():
                return Reply(failure="dns")
            case ssl.SSLCertVerificationError():
                return Reply(failure="tls", detail=cause.verify_message)
            case ssl.SSLError():
                return Reply(failure="tls", detail=str(cause.reason or "the handshake fails"))
            case ConnectionRefusedError():
                return Reply(failure="refused")
            case TimeoutError() | httpx.TimeoutException():
                return Reply(failure="timeout")
            case httpx.RemoteProtocolError() if "disconnected" not in str(cause):
                return Reply(failure="garbled")
            case ConnectionError() | EOFError() | httpx.RemoteProtocolError() | httpx.ReadError():
                return Reply(failure="broken")
            case OSError() if cause.strerror:
                return Reply(failure="unreachable", detail=cause.strerror)
    return Reply(failure="unreachable", detail=type(problem).__name__)


def _causes(problem: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found[::-1]


def _trust() -> ssl.SSLContext:
    """Public authorities, as Twilio has it, and not what this machine trusts besides; SSL_CERT_FILE replaces them."""
    return httpx.create_ssl_context()


def _reply(status: int, headers: list[tuple[str, str]], seconds: float) -> Reply:
    found = {name.lower(): value for name, value in headers}
    tunnel = re.fullmatch(r"ERR_NGROK_\d{1,6}", found.get("ngrok-error-code", ""))
    return Reply(
        status=status,
        content_type=found.get("content-type", "").lower(),
        location=_shown(found.get("location", "")),
        tunnel_error=tunnel[0] if tunnel else "",
        seconds=seconds,
    )


def _shown(url: str) -> str:
    """The URL without user name, password and query, which may be secrets."""
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    return f"{place}{parts.path}"
