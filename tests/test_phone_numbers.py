"""Telephone numbers: reading them, their country, their kind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.exceptions import InvalidNumberError
from voice_runtime.phone_numbers import (
    callable_address,
    check_country,
    country_codes,
    country_of,
    is_number,
    normalize_number,
    number_kind,
)

FINNISH = "+358401234567"


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+358401234567", "+358401234567"),
        ("+358 40 123 4567", "+358401234567"),
        (" +358-40-123.4567 ", "+358401234567"),
        ("+1 (500) 555-0006", "+15005550006"),
        ("(+44) 20 7946 0958", "+442079460958"),
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("tel:+358401234567", "+358401234567"),
        ("\uff0b\uff13\uff15\uff18401234567", "+358401234567"),
        ("+15005550001", "+15005550001"),
        ("+39 06 69812345", "+390669812345"),
    ],
)
@pytest.mark.parametrize("region", [None, "FI", "US"])
def test_international_numbers(text: str, number: str, region: str | None) -> None:
    """Spaces and punctuation of the international form are understood, and no region changes what it means."""
    assert normalize_number(text, region) == number
    assert callable_address(text, region) == number


@pytest.mark.parametrize(
    ("text", "region", "number"),
    [
        ("040 123 4567", "FI", FINNISH),
        ("0401234567", "FI", FINNISH),
        ("(040) 123-4567", "FI", FINNISH),
        ("40 123 4567", "FI", FINNISH),
        ("040 123 4567", "fi", FINNISH),
        ("tel:040-1234567", "FI", FINNISH),
        ("00358 40 123 4567", "FI", FINNISH),
        ("0046 70 123 45 67", "FI", "+46701234567"),
        ("011 44 20 7946 0958", "US", "+442079460958"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("1-202-555-0123", "US", "+12025550123"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("01534 456789", "GB", "+441534456789"),
        ("8 (495) 123-45-67", "RU", "+74951234567"),
        ("06 69812345", "IT", "+390669812345"),
        ("030/123456", "DE", "+4930123456"),
    ],
)
def test_national_numbers_of_a_region(text: str, region: str, number: str) -> None:
    """With a region, numbers are read as people there type them, also those they dial abroad."""
    assert normalize_number(text, region) == number
    assert callable_address(text, region) == number


@pytest.mark.parametrize(
    ("text", "region", "reason"),
    [
        ("", None, "it is empty"),
        ("", "FI", "it is empty"),
        ("0401234567", None, "no country code.*VOICE_DEFAULT_COUNTRY"),
        ("00358401234567", None, "write \\+ for the leading 00"),
        ("112", None, "no country code"),
        ("112", "FI", "too short"),
        ("110", "DE", "too short"),
        ("911", "US", "too short"),
        ("+", None, "too short"),
        ("+1", None, "too short"),
        ("+35840", None, "too short"),
        ("+0401234567", "FI", "no country has the code"),
        ("+358401234567890123", None, "too long"),
        ("040 123 4567 890 123 456", "FI", "too long"),
        ("00358401234567", "US", "too long"),
        ("358 40 123 4567", "SE", "no number in SE reads like that; write it in international form"),
        ("123 4567", "US", "area code is missing"),
        ("+999123456789", None, "no country has the code"),
        ("+1 800 FLOWERS", None, "letters"),
        ("1 800 FLOWERS", "US", "letters"),
        ("+358401234567 ext 5", None, "letters"),
        ("+358401234567;ext=5", None, "letters"),
        ("+358401234567,5", None, "more than one number"),
        ("+358401234567#5", None, r"\* or #"),
        ("*31#0401234567", "FI", r"\* or #"),
        ("+1 555 0123", None, "too short"),
        ("anonymous", None, "letters"),
    ],
)
def test_what_is_not_a_number(text: str, region: str | None, reason: str) -> None:
    """The error says why, is a ValueError, and names the rule."""
    with pytest.raises(InvalidNumberError, match=reason) as caught:
        normalize_number(text, region)
    assert isinstance(caught.value, ValueError)
    assert caught.value.number == text
    assert caught.value.rule == "valid_number"


def test_the_error_does_not_show_the_number() -> None:
    """The number is an attribute; in the message it is masked, whatever form it came in."""
    for text in ("0509988776", "050 998 8776", "+358 50 9988776;ext=5", "sip:alice smith@example.com"):
        with pytest.raises(InvalidNumberError) as caught:
            callable_address(text)
        assert caught.value.number == text
        shown = str(caught.value)
        assert not any(part in shown for part in ("998", "8776", "alice"))
        assert "…" in shown


@pytest.mark.parametrize("region", ["XX", "", "UK", "358", "Finland", "001", True])
def test_a_region_is_a_country(region: Any) -> None:
    """A region that is none is the caller's mistake and not the number's."""
    for text in ("040 123 4567", FINNISH):
        with pytest.raises(ValueError, match=r"is no country|unquoted NO") as caught:
            normalize_number(text, region)
        assert not isinstance(caught.value, InvalidNumberError)


@pytest.mark.parametrize(
    "address", ["sip:desk@example.com", "sips:desk@example.com:5061;transport=tls", "client:anna_1"]
)
def test_sip_and_client_addresses(address: str) -> None:
    """SIP and client addresses are dialled as they are, and are no numbers."""
    assert callable_address(address) == address
    assert callable_address(address, "FI") == address
    assert not is_number(address)
    assert is_number(callable_address("040 123 4567", "FI"))


@pytest.mark.parametrize(
    "address", ["sip:", "sip:desk", "sip:a b@c", "sip:a@b@c", "client:", "client:a b", "client:<x>"]
)
def test_addresses_that_are_none(address: str) -> None:
    """A SIP or client address with a hole in it is refused."""
    with pytest.raises(InvalidNumberError, match="reads"):
        callable_address(address)


@given(
    st.text(max_size=20) | st.text("+0123456789 -()./", max_size=20),
    st.sampled_from([None, "FI", "US", "GB", "IT", "RU", "DE", "BR"]),
)
def test_any_text_is_a_number_or_refused(text: str, region: str | None) -> None:
    """There is no third outcome, and what is accepted is E.164, of which country and kind can be told."""
    try:
        number = normalize_number(text, region)
    except InvalidNumberError:
        return
    assert number[0] == "+"
    assert number[1:].isascii()
    assert number[1:].isdigit()
    assert 3 <= len(number) <= 18
    assert normalize_number(number, region) == number
    assert country_codes([country_of(number)])
    number_kind(number)


_COUNTRIES_WITH_MOBILES = sorted(
    region
    for region in phonenumbers.SUPPORTED_REGIONS
    if phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
)


@given(
    st.sampled_from(_COUNTRIES_WITH_MOBILES),
    st.sampled_from(["NATIONAL", "INTERNATIONAL", "E164", "RFC3966"]),
    st.sampled_from([" ", "-", ".", "\u00a0", "\u2011"]),
)
def test_every_way_to_write_a_number_means_the_same(region: str, form: str, gap: str) -> None:
    """National or international, whatever stands between the digits: the E.164 is the same, in every country."""
    example: Any = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    written = phonenumbers.format_number(example, getattr(phonenumbers.PhoneNumberFormat, form)).replace(" ", gap)
    expected = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    assert normalize_number(written, region) == expected


# -- countries --------------------------------------------------------------------------------------------------


COUNTRIES = [
    ("+12025550123", "US"),
    ("+14165550123", "CA"),
    ("+15005550006", "US"),
    ("+18091234567", "DO"),
    ("+18762345678", "JM"),
    ("+2125288123", "MA"),
    ("+358181234567", "AX"),
    ("+358401234567", "FI"),
    ("+390669812345", "VA"),
    ("+393123456789", "IT"),
    ("+441481256789", "GG"),
    ("+441534456789", "JE"),
    ("+441624756789", "IM"),
    ("+442079460958", "GB"),
    ("+447700900123", "ZZ"),
    ("+447797712345", "JE"),
    ("+4779123456", "SJ"),
    ("+4790123456", "NO"),
    ("+74951234567", "RU"),
    ("+77012345678", "KZ"),
    ("+77172123456", "KZ"),
    ("+79161234567", "RU"),
    ("+80012345678", "001"),
    ("+870773123456", "001"),
    ("+8816123456789", "001"),
    ("+88216123456789", "001"),
    ("+883510012345678", "001"),
    ("+979123456789", "001"),
]


@pytest.mark.parametrize(("number", "country"), COUNTRIES)
def test_the_country_of_a_number(number: str, country: str) -> None:
    """Countries that share a calling code are told apart; 001 is none of them, ZZ cannot be told."""
    assert country_of(number) == country


def test_the_table_is_sorted() -> None:
    """So that a missing line is seen."""
    assert sorted(COUNTRIES) == COUNTRIES


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("+12025550123", "ordinary"),
        ("+15005550006", "ordinary"),
        ("+18005551234", "ordinary"),
        ("+19005551234", "premium_rate"),
        ("+33811123456", "shared_cost"),
        ("+33899123456", "premium_rate"),
        ("+3586001234", "premium_rate"),  # shorter than the plan knows
        ("+358401234567", "ordinary"),
        ("+358600123456", "premium_rate"),
        ("+358600123456000", "premium_rate"),  # longer
        ("+358800123456", "ordinary"),
        ("+441534456789", "ordinary"),
        ("+447700900123", "ordinary"),
        ("+449098765432", "premium_rate"),
        ("+491371234567", "shared_cost"),
        ("+49900123456", "premium_rate"),  # shorter than the plan knows
        ("+80012345678", "ordinary"),
        ("+80800000000", "shared_cost"),  # not in the plan
        ("+80812345678", "shared_cost"),
        ("+870773123456", "satellite"),
        ("+878101234567890", "international_network"),
        ("+8816123456789", "satellite"),
        ("+88216123456789", "international_network"),
        ("+883510012345678", "international_network"),
        ("+979000000000", "premium_rate"),  # not in the plan
        ("+979123456789", "premium_rate"),
    ],
)
def test_the_kind_of_a_number(number: str, kind: str) -> None:
    """Numbers with a rate of their own are known, also by their beginning alone."""
    assert normalize_number(number) == number
    assert number_kind(number) == kind


def test_the_plans_own_examples_are_of_their_kind() -> None:
    """In every country the premium-rate example is one, and the landline and mobile ones are not."""
    types = phonenumbers.PhoneNumberType
    expected = {
        types.FIXED_LINE: "ordinary",
        types.MOBILE: "ordinary",
        types.PREMIUM_RATE: "premium_rate",
        types.SHARED_COST: "shared_cost",
    }
    checked = 0
    for region in phonenumbers.SUPPORTED_REGIONS:
        for number_type, kind in expected.items():
            example = phonenumbers.example_number_for_type(region, number_type)
            if example is not None:
                number = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
                assert number_kind(number) == kind, number
                checked += 1
    assert checked > 500


@pytest.mark.parametrize("text", ["", "0401234567", "+358 40 123 4567", "sip:a@b", "+999123456", "+"])
def test_country_and_kind_are_asked_of_e164_only(text: str) -> None:
    """What is no E.164 is refused, and not guessed at."""
    with pytest.raises(InvalidNumberError):
        country_of(text)
    with pytest.raises(InvalidNumberError):
        number_kind(text)


# -- lists of countries -----------------------------------------------------------------------------------------


def test_country_codes() -> None:
    """A list may be text or a collection, in small letters too, and hold the special ones."""
    assert country_codes("fi, SE,,ee") == {"FI", "SE", "EE"}
    assert country_codes(["fi"]) == {"FI"}
    assert country_codes("*") == {"*"}
    assert country_codes("FI,001,ZZ") == {"FI", "001", "ZZ"}
    assert country_codes(()) == frozenset()
    assert check_country(" fi ") == "FI"


@pytest.mark.parametrize(
    ("countries", "complaint"),
    [
        (",", "names no country"),
        ("UK", "the United Kingdom is GB"),
        ("FI;SE", "'FI;SE' is no country"),
        ("+358", "two letters"),
        (["FI", False], "'NO', in quotes"),
        (False, "'NO', in quotes"),
        ([["FI"]], "no country"),
        (7, "no country"),
    ],
)
def test_country_codes_that_are_none(countries: Any, complaint: str) -> None:
    """The error says what was expected, and knows the two usual mistakes."""
    with pytest.raises(ValueError, match=complaint):
        country_codes(countries)


def test_the_import_is_cheap() -> None:
    """The metadata is not loaded before a function needs it."""
    script = "import sys, voice_runtime.phone_numbers; sys.exit('phonenumbers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
