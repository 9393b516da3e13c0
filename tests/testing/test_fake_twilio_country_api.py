"""Countries and numbers as the real ``twilio`` package sees them, and which may be called."""

from __future__ import annotations

from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException

from voice_runtime.config import load
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.transports.twilio_rest import client as guarded_client

from .conftest import OURS
from .echo_app import EchoApp

FINLAND, GERMANY, CANADA, MAGIC = "+358401234567", "+4930123456", "+14165550123", "+15005550006"


@pytest.fixture
def sdk(fake: FakeTwilio) -> Any:
    """As the package makes it: every host of Twilio's is the fake."""
    settings = load(
        twilio_account_sid=fake.account_sid,
        twilio_auth_token=fake.auth_token,
        twilio_api_base_url=fake.api_base_url,
    )
    return guarded_client(settings)


def code_of(what: Any) -> tuple[int, int]:
    with pytest.raises(TwilioRestException) as caught:
        what()
    return caught.value.status, caught.value.code


def test_permissions_follow_the_allowed_countries(fake: FakeTwilio, sdk: Any) -> None:
    """All countries are allowed unless a set is given; it may be changed while the fake runs."""
    countries = sdk.voice.v1.dialing_permissions.countries
    finland = countries("FI").fetch()
    assert (finland.iso_code, finland.name, finland.continent, finland.country_codes) == (
        "FI",
        "Finland",
        "EUROPE",
        ["+358"],
    )
    assert finland.low_risk_numbers_enabled is True
    assert (finland.high_risk_special_numbers_enabled, finland.high_risk_tollfraud_numbers_enabled) == (False, False)
    assert finland.url == "https://voice.twilio.com/v1/DialingPermissions/Countries/FI"
    assert set(finland.links) == {"highrisk_special_prefixes"}
    fake.allowed_countries = {"FI"}
    assert countries("fi").fetch().low_risk_numbers_enabled is True
    assert countries("DE").fetch().low_risk_numbers_enabled is False
    assert code_of(countries("XX").fetch) == (404, 20404)


@pytest.mark.parametrize(
    ("allowed", "to", "may"),
    [
        (None, GERMANY, True),
        ({"FI", "DE"}, GERMANY, True),
        ({"FI"}, GERMANY, False),
        (set(), FINLAND, False),
        ({"US"}, CANADA, False),
        ({"CA"}, CANADA, True),
        ({"US"}, MAGIC, True),
        (set(), "sip:somebody@example.com", True),
    ],
)
def test_calls_need_permission(
    fake: FakeTwilio, app: EchoApp, sdk: Any, allowed: set[str] | None, to: str, may: bool
) -> None:
    """21215 where the country is not allowed; what is no telephone number needs none."""
    fake.allowed_countries = allowed

    def create() -> Any:
        return sdk.calls.create(to=to, from_=OURS, twiml="<Response/>")

    if may:
        assert create().status == "queued"
    else:
        assert code_of(create) == (400, 21215)


def test_dial_needs_permission(fake: FakeTwilio, app: EchoApp, sdk: Any, clock: VirtualClock) -> None:
    """13227 in the debugger, and nobody is called."""
    fake.allowed_countries = {"FI"}
    sid = sdk.calls.create(to=FINLAND, from_=OURS, twiml=f"<Response><Dial>{GERMANY}</Dial></Response>").sid
    assert fake.call(sid).wait_ended() == "completed"
    assert fake.warnings(sid) == [13227]
    assert len(fake.calls) == 1


def test_lookup(sdk: Any) -> None:
    """Format and validity are told of any number; the type of line when asked for."""
    look_up = sdk.lookups.v2.phone_numbers
    finnish = look_up(FINLAND).fetch(fields="line_type_intelligence")
    assert (finnish.phone_number, finnish.country_code, finnish.calling_country_code) == (FINLAND, "FI", "358")
    assert (finnish.valid, finnish.validation_errors, finnish.national_format) == (True, [], "040 1234567")
    assert finnish.line_type_intelligence["type"] == "mobile"
    national = look_up("0401234567").fetch(country_code="FI")
    assert (national.phone_number, national.line_type_intelligence) == (FINLAND, None)
    short = look_up("+35840").fetch()
    assert (short.valid, short.validation_errors) == (False, ["TOO_SHORT"])
    assert look_up("+14165550123456").fetch().validation_errors == ["TOO_LONG"]
    assert look_up("+11235550123").fetch().validation_errors == ["INVALID_BUT_POSSIBLE"]
    assert code_of(look_up("nobody").fetch) == (404, 20404)


def test_these_hosts_want_credentials_too(fake: FakeTwilio) -> None:
    """The same as the rest of the API."""
    wrong = load(twilio_account_sid=fake.account_sid, twilio_auth_token="x", twilio_api_base_url=fake.api_base_url)
    countries = guarded_client(wrong).voice.v1.dialing_permissions.countries
    assert code_of(countries("FI").fetch) == (401, 20003)
