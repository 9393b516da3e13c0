"""Reading Twilio's webhook requests: size, signature, fields; a form, JSON with its hash, or a GET."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec

from ..config import Settings
from ..exceptions import ConfigurationError
from .twilio_signature import SignatureValidator, public_url_of_scope

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["MAX_BODY_BYTES", "signed_fields"]

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 65_536
"""A webhook has some two kilobytes; whoever sends more than this is not Twilio."""


async def signed_fields(request: Request, settings: Settings, *, insecure: bool = False) -> dict[str, str] | None:
    """The fields of a request that Twilio has signed, the first value of each; None when it has not, or when they
    cannot be read.

    Args:
        insecure: take any request for Twilio's. For a line on your own machine.
    """
    from starlette.requests import ClientDisconnect

    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                log.warning("Refused a webhook: its body is larger than %d bytes", MAX_BODY_BYTES)
                return None
    except ClientDisconnect:
        return None  # whoever it was is not there to be answered
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    if not insecure and not _is_signed(request, body, settings, is_json=is_json):
        return None
    try:
        if request.method == "GET":
            return _first_values((request.scope.get("query_string") or b"").decode("ascii"))
        return _json_fields(body) if is_json else _first_values(body.decode("ascii"))
    except (ValueError, msgspec.DecodeError, RecursionError):
        log.warning("Refused a webhook: its fields cannot be read")
        return None


def _is_signed(request: Request, body: bytes, settings: Settings, *, is_json: bool) -> bool:
    try:
        url = public_url_of_scope(request.scope, settings.public_url())
    except ConfigurationError as error:
        log.error("Refused a webhook: its signature cannot be checked. %s", error)
        return False
    validator = SignatureValidator(settings.auth_tokens, settings.shared_keys)
    check = validator.valid_json if is_json else validator.valid_form
    return check(url, b"" if request.method == "GET" else body, request.headers)


def _first_values(query: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    # A field in another encoding than UTF-8 loses a character, not the call.
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        fields.setdefault(name, value)
    return fields


def _json_fields(body: bytes) -> dict[str, str]:
    value = msgspec.json.decode(body) if body else {}
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object; a {type(value).__name__} came")
    return {
        name: item if isinstance(item, str) else msgspec.json.encode(item).decode() for name, item in value.items()
    }
