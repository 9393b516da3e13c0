"""Telephone numbers as logs and messages may show them. Pure."""

from __future__ import annotations

import re
import urllib.parse

__all__ = ["mask_number", "mask_numbers", "without_numbers"]

# A run of digits long enough to be somebody's number, also as people write it ("+358 40 123 4567"). Letters before
# or behind make it an id.
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9+])"
    r"(?:\+\(?\d[\d ().-]{4,}\d"  # international
    r"|\d{6,15}"
    r"|\(?0\d{1,4}\)?(?:[ -]\d{2,4}){2,4}"  # national, in groups
    r"|\d{1,3}(?:-\d{2,4}){3,4})"
    r"(?![A-Za-z0-9])"
)
_COLOUR = re.compile(r"\x1b\[\d*m")
_ADDRESS = re.compile(r"(?<!\w)(sips?|client):[^\s@<>'\"]+", re.IGNORECASE)


def mask_number(number: str) -> str:
    """``+358401234567`` is ``+358…67``; ``sip:alice@example.com`` is ``sip:…@example.com``; words stay."""
    scheme, colon, rest = number.partition(":")
    if colon and scheme.lower() in ("sip", "sips", "client"):
        _, at, host = rest.rpartition("@")
        return f"{scheme}:…{at}{host if at else ''}"
    kept = [character for character in number if character.isdigit()]
    if len(kept) < 5:
        return number
    if len(kept) < 8:
        return f"…{''.join(kept[-2:])}"
    plus = "+" if number.lstrip().startswith("+") else ""
    return f"{plus}{''.join(kept[:3])}…{''.join(kept[-2:])}"


def mask_numbers(text: str) -> str:
    """``text`` with every telephone number and SIP or client address in it masked."""
    text = _ADDRESS.sub(lambda match: f"{match[1]}:…", text)
    return _NUMBER.sub(lambda match: mask_number(match[0]), text)


def without_numbers(error: BaseException) -> BaseException | None:
    """The error, as a cause that tracebacks show; None when it would show a telephone number in its text or URL."""
    text = _COLOUR.sub(" ", urllib.parse.unquote(str(error)))
    return error if mask_numbers(text) == text else None
