"""Telephone numbers: as people type them, as Twilio dials them, which country they reach and at what kind of rate.

Pure, and may be used from any thread. The metadata of ``phonenumbers`` (Google's libphonenumber) is loaded when it is
first needed. Country codes are ISO 3166-1 with two capitals, for example ``FI``; libphonenumber calls them regions.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from typing import Any, Literal

from .exceptions import InvalidNumberError

__all__ = [
    "EVERY_COUNTRY",
    "NO_COUNTRY",
    "UNKNOWN_COUNTRY",
    "NumberKind",
    "callable_address",
    "check_country",
    "country_codes",
    "country_of",
    "is_number",
    "normalize_number",
    "number_kind",
]

NO_COUNTRY = "001"
"""The UN's code for the world: of satellite networks, +800, +882 and whatever else belongs to no country."""

UNKNOWN_COUNTRY = "ZZ"
"""Several countries share the country calling code, and none of them is known to have this number."""

EVERY_COUNTRY = "*"
"""Stands for all of them in a list of countries."""

NumberKind = Literal["ordinary", "premium_rate", "shared_cost", "satellite", "international_network"]
"""What decides the price of a call besides its country. ``ordinary`` includes free and mobile numbers."""

_SIP = re.compile(r"sips?:[^\s@<>]+@[^\s@<>]+")
_CLIENT = re.compile(r"client:[^\s<>]+")

# ITU-T E.164, list of assigned country codes. Twilio bills all of these by the network behind them, up to several
# dollars a minute. +800 (universal freephone) is not among them.
_KIND_OF_CODE: dict[int, NumberKind] = {
    808: "shared_cost",
    870: "satellite",  # Inmarsat
    878: "international_network",  # universal personal numbers
    881: "satellite",  # Iridium, Globalstar
    882: "international_network",  # some of them satellites, for example Thuraya's +882 16
    883: "international_network",
    888: "international_network",
    979: "premium_rate",
}


def callable_address(address: str, region: str | None = None) -> str:
    """``address`` as Twilio dials it: E.164 for a number, ``sip:`` and ``client:`` addresses as they are.

    Args:
        address: a number as :func:`normalize_number` reads it, or ``sip:user@host``, or ``client:name``.
        region: the country whose national forms are read.

    Raises:
        InvalidNumberError: none of these; the message says why.
        ValueError: ``region`` is no country.
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
    return normalize_number(address, region)


def is_number(address: str) -> bool:
    """Whether what :func:`callable_address` returned is a telephone number."""
    return address.startswith("+")


def normalize_number(number: str, region: str | None = None) -> str:
    """``number`` in E.164, for example ``+358401234567``. Spaces and punctuation may stand.

    Of a number in international form only the form and the length for the country are judged, not whether it is
    assigned. A national form, whose reading is a guess, must be a number that the country's plan knows.

    Args:
        number: for example ``"+358 40 123 4567"``, with a region also ``"040 123 4567"`` or ``"(040) 123-4567"``.
        region: the country whose national forms are read, and whose prefix for calls abroad (``00``, ``011``).

    Raises:
        InvalidNumberError: it has no country code, letters, an extension, or a length no number there has.
        ValueError: ``region`` is no country.
    """
    phonenumbers = _library()
    if region is not None:
        region = check_country(region)
    text = number.strip().removeprefix("tel:").strip()
    if not text:
        raise InvalidNumberError(number, "it is empty; expected for example +358401234567")
    if re.search(r"[^\W\d_]", text):
        raise InvalidNumberError(
            number, "it has letters; expected digits after +, an extension goes into send_digits"
        )
    if re.search(r"[;,?=&@<>]", text):
        raise InvalidNumberError(number, "it holds more than one number; expected for example +358401234567")
    if re.search(r"[*#\uff0a\uff03]", text):
        # libphonenumber takes # for the beginning of an extension, and drops it.
        raise InvalidNumberError(number, "it has * or #; expected digits after +, keys go into send_digits")
    international = text.startswith(("+", "\uff0b", "(+"))
    if not international and region is None:
        zeros = " (write + for the leading 00)" if text.startswith("00") else ""
        raise InvalidNumberError(
            number,
            f"it has no country code; expected for example +358401234567{zeros}. "
            "VOICE_DEFAULT_COUNTRY names the country whose national numbers are meant, for example FI",
        )
    try:
        parsed = phonenumbers.parse(text, None if international else region)
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
    if not international and not phonenumbers.is_valid_number(parsed):
        raise InvalidNumberError(
            number, f"no number in {region} reads like that; write it in international form, with +"
        )
    return str(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))


def country_of(number: str) -> str:
    """The country that a number in E.164 belongs to, for example ``FI``, ``AX`` (Åland) or ``JM`` (+1 876).

    Country calling codes are shared (+1 by 25 countries), so this goes by the whole number. Also returned are
    :data:`NO_COUNTRY` (satellites, +800, +882 ...), and :data:`UNKNOWN_COUNTRY` for a number that none of the
    countries sharing its code is known to have.

    Raises:
        InvalidNumberError: not a number in E.164.
    """
    region = _library().region_code_for_number(_parsed(number))
    return UNKNOWN_COUNTRY if region is None else str(region)


def number_kind(number: str) -> NumberKind:
    """Whether a number in E.164 costs what its country suggests, or has a rate of its own.

    A number of a length that its country's plan does not know is judged by how it begins.

    Raises:
        InvalidNumberError: not a number in E.164.
    """
    parsed = _parsed(number)
    if parsed.country_code in _KIND_OF_CODE:
        return _KIND_OF_CODE[parsed.country_code]
    phonenumbers = _library()
    types = phonenumbers.PhoneNumberType
    kinds: dict[int, NumberKind] = {types.PREMIUM_RATE: "premium_rate", types.SHARED_COST: "shared_cost"}
    came = phonenumbers.number_type(parsed)
    if came != types.UNKNOWN:
        return kinds.get(came, "ordinary")
    # Exchanges route by prefix: a digit more or less than the plan has may be charged all the same.
    for near in (*(number[:-cut] for cut in (1, 2, 3)), *(number + "0" * added for added in (1, 2, 3))):
        try:
            kind = kinds.get(phonenumbers.number_type(_parsed(near)))
        except InvalidNumberError:
            continue
        if kind is not None:
            return kind
    return "ordinary"


def check_country(code: Any) -> str:
    """``code`` in capitals, if it is that of a country with telephone numbers.

    Raises:
        ValueError: it is not; the message says what was expected.
    """
    if isinstance(code, bool):
        raise ValueError("YAML reads an unquoted NO as false; write Norway's code as 'NO', in quotes")
    text = code.strip().upper() if isinstance(code, str) else ""
    if text not in _library().SUPPORTED_REGIONS:
        hint = "; the United Kingdom is GB" if text == "UK" else ""
        raise ValueError(f"{code!r} is no country; expected two letters of ISO 3166, for example FI{hint}")
    return text


def country_codes(countries: str | Collection[str]) -> frozenset[str]:
    """A list of countries as a set of codes in capitals, from a collection or from text like ``"FI, SE, EE"``.

    :data:`EVERY_COUNTRY`, :data:`NO_COUNTRY` and :data:`UNKNOWN_COUNTRY` may be in it.

    Raises:
        ValueError: something else that is no country is in it, or the text is empty.
    """
    codes: Any = countries.replace(",", " ").split() if isinstance(countries, str) else countries
    if not isinstance(codes, Collection):
        codes = (codes,)  # false, as YAML reads a lone NO, is explained like one in a list
    if isinstance(countries, str) and not codes:
        raise ValueError("it names no country")
    special = (EVERY_COUNTRY, NO_COUNTRY, UNKNOWN_COUNTRY)
    return frozenset(str(code) if code in special else check_country(code) for code in codes)


def _parsed(number: str) -> Any:
    phonenumbers = _library()
    if not re.fullmatch(r"\+[0-9]+", number):
        raise InvalidNumberError(number, "it is not in E.164; expected for example +358401234567")
    try:
        return phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        raise InvalidNumberError(number, "no country has such a number") from None


def _library() -> Any:
    return importlib.import_module("phonenumbers")
