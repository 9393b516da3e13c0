"""Whether a request really came from Twilio, and which URL it signed.

Pure: no sockets, threads or clock. The rules are those of
https://www.twilio.com/docs/usage/webhooks/webhooks-security:

* The signature is over the URL *as Twilio requested it* (for the stream's handshake the ``wss://`` URL of the TwiML),
  followed, for a form, by every parameter's name and value, sorted. :func:`public_url` rebuilds that URL behind a
  proxy.
* A JSON body is covered by the query parameter ``bodySHA256``, which Twilio adds to the URL.
* The key is the account's auth token with HMAC-SHA1, or, when the header ``X-Twilio-Webhooks-Signature-Settings``
  names one, a SharedKey with HMAC-SHA256.
* Twilio may or may not write a default port, so both are tried.

Whatever is missing, malformed or unknown is a refusal, never an exception.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

__all__ = ["Headers", "SignatureValidator", "public_url", "public_url_of_scope", "sign"]

logger = logging.getLogger(__name__)

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[bytes, bytes]]
"""A mapping with names in any case, or an ASGI scope's list of byte pairs."""

SIGNATURE_HEADER = "x-twilio-signature"
SETTINGS_HEADER = "x-twilio-webhooks-signature-settings"
SHA1 = "HMAC_SHA1"
SHA256 = "HMAC_SHA256"

# Twilio's webhooks have some thirty parameters; a form of more than this is not one of them.
_MAX_PARAMETERS = 1000

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)", re.DOTALL)
_PORT = re.compile(r"^(?P<host>.*?)(?::(?P<port>[0-9]*))?$", re.DOTALL)
_DEFAULT_PORTS = {"https": "443", "wss": "443", "http": "80", "ws": "80"}


def sign(url: str, params: Mapping[str, str | Sequence[str]] | None, token: str, *, algorithm: str = SHA1) -> str:
    """The signature Twilio would send for ``url`` and the form's ``params`` (a list for a repeated name).

    For the other side of the wire: simulators, tests and checks of one's own deployment.

    Args:
        token: the auth token, or a SharedKey's secret with ``algorithm="HMAC_SHA256"``.

    Raises:
        ValueError: an algorithm that does not exist.
    """
    fields = {name: [value] if isinstance(value, str) else list(value) for name, value in (params or {}).items()}
    return _compute(url, fields, token, algorithm)


class SignatureValidator:
    """Checks signatures against the auth tokens and SharedKeys of an account. May be called from any thread.

    Args:
        auth_tokens: all that may be in use; more than one while a token is rotated. Twilio signs with the primary.
        shared_keys: webhook SharedKeys, id to secret. A request that names a key is checked with that key and
            HMAC-SHA256 only: no request can choose a weaker algorithm or another key.

    Without any token and key every request is refused.
    """

    def __init__(self, auth_tokens: Sequence[str], shared_keys: Mapping[str, str] | None = None) -> None:
        if isinstance(auth_tokens, str):
            raise TypeError("expected a sequence of auth tokens, for example [token]; a string came")
        self._auth_tokens = tuple(token for token in auth_tokens if token)
        self._shared_keys = {name: secret for name, secret in (shared_keys or {}).items() if name and secret}

    def __repr__(self) -> str:
        return f"<SignatureValidator with {len(self._auth_tokens)} tokens and {len(self._shared_keys)} shared keys>"

    def valid_form(self, url: str, body: bytes, headers: Headers) -> bool:
        """A webhook with a form body, or a GET (then ``body`` is empty and the query stands in ``url``).

        Args:
            url: what Twilio requested, with the query exactly as it came; see :func:`public_url`.
            body: the raw body.
        """
        try:
            pairs = parse_qsl(
                body.decode("ascii"),
                # Twilio sends many blank fields, and they are part of what it signs.
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_PARAMETERS,
            )
        except ValueError:
            return self._refuse(url, "the body is not a form")
        return self._check(url, [_grouped(pairs)], headers)

    def valid_json(self, url: str, body: bytes, headers: Headers) -> bool:
        """A webhook with a JSON body: its hash must stand in the URL, and the URL must be signed."""
        query = url.partition("#")[0].partition("?")[2]
        try:
            hashes = [
                value for name, value in parse_qsl(query, max_num_fields=_MAX_PARAMETERS) if name == "bodySHA256"
            ]
        except ValueError:
            hashes = []
        if len(hashes) != 1:
            return self._refuse(url, "the URL does not carry one bodySHA256, so nothing vouches for the body")
        if not _same(hashlib.sha256(body).hexdigest(), hashes[0].lower()):
            return self._refuse(url, "the body is not the one whose hash stands in the URL")
        return self._check(url, [{}], headers)

    def valid_handshake(self, url: str, headers: Headers) -> bool:
        """The WebSocket upgrade of a stream. ``url`` is the ``wss://`` URL that stands in the TwiML.

        A query (ConversationRelay only; Media Streams strips it) may be signed as part of the URL or, as Twilio's own
        libraries do, as parameters.
        """
        bare, mark, query = url.partition("#")[0].partition("?")
        forms: list[tuple[str, dict[str, list[str]]]] = [(url, {})]
        if mark:
            try:
                pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
            except ValueError:
                pairs = []
            if pairs:
                forms.append((bare, _grouped(pairs)))
        return self._check_forms(url, forms, headers)

    def _check(self, url: str, params: list[dict[str, list[str]]], headers: Headers) -> bool:
        return self._check_forms(url, [(url, fields) for fields in params], headers)

    def _check_forms(self, url: str, forms: list[tuple[str, dict[str, list[str]]]], headers: Headers) -> bool:
        if not isinstance(headers, Mapping):
            headers = list(headers)  # it is read twice
        signatures = _header_values(headers, SIGNATURE_HEADER)
        settings = _header_values(headers, SETTINGS_HEADER)
        if len(signatures) != 1 or not signatures[0]:
            return self._refuse(url, "it carries no X-Twilio-Signature")
        if settings:
            secret = self._shared_secret(settings)
            if secret is None:
                return self._refuse(url, "it names a SharedKey or algorithm that is not configured")
            secrets: tuple[str, ...] = (secret,)
            algorithm = SHA256
        else:
            secrets = self._auth_tokens
            algorithm = SHA1
        if not secrets:
            return self._refuse(url, "no auth token is configured (TWILIO_AUTH_TOKEN)")
        valid = False
        for form_url, fields in forms:
            for candidate in _spellings(form_url):
                for secret in secrets:
                    # No early exit: the time taken tells nothing about which one matched.
                    try:
                        valid |= _same(_compute(candidate, fields, secret, algorithm), signatures[0])
                    except UnicodeError:  # a lone surrogate in the URL or a value: nothing Twilio has signed
                        continue
        if not valid:
            return self._refuse(
                url, "the signature does not match. The URL must be the one Twilio requested: set VOICE_PUBLIC_URL"
            )
        return True

    def _shared_secret(self, settings: list[str]) -> str | None:
        if len(settings) != 1:
            return None
        named: dict[str, str] = {}
        for item in settings[0].split(","):
            name, _, value = item.partition("=")
            if name.strip() in named:
                return None
            named[name.strip()] = value.strip()
        if named.get("algorithm", "") != SHA256:
            return None
        return self._shared_keys.get(named.get("key", ""))

    def _refuse(self, url: str, reason: str) -> bool:
        logger.warning("Refused a request as not signed by Twilio: %s. URL used: %s", reason, _shown(url))
        return False


def public_url(
    *,
    websocket: bool,
    scheme: str,
    host: str,
    path: str,
    query: str = "",
    root_path: str = "",
    headers: Headers = (),
    base: str | None = None,
    trusted_proxy: bool = False,
) -> str:
    """The URL that Twilio requested, rebuilt from what the server saw.

    Args:
        websocket: whether this is a handshake; its scheme is ws or wss, a webhook's http or https.
        scheme: of the connection that reached the server.
        host: the Host header.
        path: as requested, still percent-encoded.
        query: as requested, without ``?``.
        root_path: the prefix the server was mounted below.
        headers: the request's.
        base: the configured public base (``VOICE_PUBLIC_URL``; ``VOICE_STREAM_URL``); it wins over everything.
            A path in it stands in front of the request's.
        trusted_proxy: whether ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` come from a proxy of ours. Their first
            item counts: the outermost proxy's.
    """
    if base:
        base_scheme, _, rest = base.partition("://")
        authority, _, base_path = rest.partition("/")
        base_path = base_path.strip("/")
        scheme, host = base_scheme, authority
        path = _below(path, root_path)
        if base_path:
            path = f"/{base_path}" + _below(path, f"/{base_path}")
    else:
        if trusted_proxy:
            scheme = _first_item(headers, "x-forwarded-proto") or scheme
            host = _first_item(headers, "x-forwarded-host") or host
        if root_path and path != root_path and not path.startswith(root_path.rstrip("/") + "/"):
            path = root_path.rstrip("/") + path
    secure = scheme.lower() in ("https", "wss")
    shown_scheme = ("wss" if secure else "ws") if websocket else ("https" if secure else "http")
    return f"{shown_scheme}://{host}{path}" + (f"?{query}" if query else "")


def public_url_of_scope(scope: Mapping[str, Any], base: str | None = None, *, trusted_proxy: bool = False) -> str:
    """:func:`public_url` for an ASGI scope of type ``http`` or ``websocket``."""
    headers = list(scope.get("headers") or ())
    hosts = _header_values(headers, "host")
    if hosts:
        host = hosts[0]
    else:
        name, port = scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else str(name)
    raw_path = scope.get("raw_path")
    return public_url(
        websocket=scope["type"] == "websocket",
        scheme=str(scope.get("scheme") or "http"),
        host=host,
        path=raw_path.decode("latin-1").partition("?")[0] if raw_path else str(scope.get("path") or "/"),
        query=(scope.get("query_string") or b"").decode("latin-1"),
        root_path=str(scope.get("root_path") or ""),
        headers=headers,
        base=base,
        trusted_proxy=trusted_proxy,
    )


def _below(path: str, prefix: str) -> str:
    """``path`` without ``prefix``, where it has it."""
    prefix = prefix.rstrip("/")
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        return path[len(prefix) :]
    return path


def _first_item(headers: Headers, name: str) -> str:
    values = _header_values(headers, name)
    return values[0].split(",")[0].strip() if values else ""


def _header_values(headers: Headers, name: str) -> list[str]:
    """Every value of the header; ``name`` in lower case."""
    if isinstance(headers, Mapping):
        return [value for key, value in headers.items() if key.lower() == name]
    wanted = name.encode("ascii")
    return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _spellings(url: str) -> list[str]:
    """The URL as it is, with its scheme in lower case, with and without a port; without a fragment."""
    match = _URL.match(url)
    if match is None:
        return [url.partition("#")[0]]
    scheme, authority, rest = match["scheme"], match["authority"], match["rest"]
    spelt = [f"{scheme}://{authority}{rest}"]
    scheme = scheme.lower()
    user, at, address = authority.rpartition("@")
    if address.startswith("["):  # IPv6: colons inside the brackets are not a port
        literal, bracket, after = address.partition("]")
        host, port = literal + bracket, after.lstrip(":")
    else:
        parts = _PORT.match(address)
        host, port = (parts["host"], parts["port"] or "") if parts else (address, "")
    front = f"{scheme}://{user}{at}{host}"
    spelt.append(f"{scheme}://{authority}{rest}")
    spelt.append(f"{front}{rest}")
    if not port and scheme in _DEFAULT_PORTS:
        spelt.append(f"{front}:{_DEFAULT_PORTS[scheme]}{rest}")
    return list(dict.fromkeys(spelt))


class _Fields(dict[str, list[str]]):
    """What the SDK takes for a form with repeated names."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


def _compute(url: str, fields: Mapping[str, list[str]], secret: str, algorithm: str) -> str:
    validator = importlib.import_module("twilio.request_validator").RequestValidator(secret)
    return str(validator.compute_signature(url, _Fields(fields), algorithm))


def _same(expected: str, came: str) -> bool:
    return hmac.compare_digest(expected.encode("utf-8"), came.encode("utf-8", "replace"))


def _shown(url: str) -> str:
    """The URL for the log. Long path segments may be one-time tokens, and a query may hold anything."""
    bare, mark, _ = url.partition("#")[0].partition("?")
    match = _URL.match(bare)
    if match is None:
        return "(not a URL)"
    authority = match["authority"].rpartition("@")[2]
    path = "/".join("..." if len(segment) > 15 else segment for segment in match["rest"].split("/"))
    return ascii(f"{match['scheme']}://{authority}{path}" + ("?..." if mark else ""))
