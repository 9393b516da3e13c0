"""What Twilio is asked, with the real SDK: a Twilio of ours where it can stand, answers by hand where it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.clock import SystemClock
from voice_runtime.config import Settings
from voice_runtime.doctor_account import check_clock, check_countries, check_credentials, check_number
from voice_runtime.doctor_report import Check
from voice_runtime.doctor_steps import Steps
from voice_runtime.exceptions import RestError
from voice_runtime.testing.fake_twilio import FakeTwilio

NUMBER, FINNISH = "+15005550006", "+358401234567"
BASE = "https://voice.example.com"
AC = "AC" + "1" * 32


@pytest.fixture
def fake() -> Iterator[FakeTwilio]:
    with FakeTwilio() as running:
        yield running


@pytest.fixture
def steps() -> Steps:
    return Steps(SystemClock(), 10)


def settings(fake: FakeTwilio, **values: Any) -> Settings:
    return Settings(
        **{
            "twilio_account_sid": fake.account_sid,
            "twilio_auth_token": fake.auth_token,
            "twilio_api_base_url": fake.api_base_url,
            "twilio_phone_number": NUMBER,
            "voice_stream_url": "wss://voice.example.com",
            **values,
        }
    )


def at(server: RestServer, **values: Any) -> Settings:
    return Settings(
        **{"twilio_account_sid": AC, "twilio_auth_token": "a" * 32, "twilio_api_base_url": server.url, **values}
    )


def account(status: str = "active", kind: str = "Full") -> Answer:
    return Answer(200, {"sid": AC, "status": status, "type": kind, "auth_token": "a" * 32})


def refusal(status: int, code: int) -> Answer:
    return Answer(status, {"status": status, "code": code, "message": "Authenticate", "more_info": ""})


def only(checks: list[Check]) -> Check:
    (check,) = checks
    return check


class TestCredentials:
    """Per region, the API key and every auth token."""

    def test_good(self, fake: FakeTwilio, steps: Steps) -> None:
        """The account is active."""
        check = only(check_credentials(settings(fake), steps))
        assert (check.name, check.level) == ("credentials us1", "ok")
        assert check.found == f"The auth token of AC…{fake.account_sid[-4:]} is accepted; the account is active."

    def test_api_key_and_token(self, fake: FakeTwilio, steps: Steps) -> None:
        """Both are tried, for the token signs the webhooks: its being wrong shows nowhere else."""
        fake.api_keys["SK" + "2" * 32] = "hidden secret"
        key = {"twilio_api_key": "SK" + "2" * 32, "twilio_api_secret": "hidden secret"}
        check = only(check_credentials(settings(fake, **key), steps))
        assert check.level == "ok"
        assert check.found.startswith("The API key and the auth token of ")
        check = only(check_credentials(settings(fake, **key, twilio_auth_token="b" * 32), steps))
        assert check.level == "error"
        assert check.found == (
            "Twilio refuses the auth token (HTTP 401, error 20003). "
            "It also signs the webhooks: with a wrong one every call is refused."
        )
        check = only(check_credentials(settings(fake, **{**key, "twilio_api_secret": "another"}), steps))
        assert check.found == "Twilio refuses the API key (HTTP 401, error 20003)."
        assert "hidden" not in check.found + check.advice

    def test_a_standard_key_cannot_see_the_account(self, steps: Steps) -> None:
        """It is good all the same, if calls can be read with it."""
        calls = Answer(200, {"calls": [], "next_page_uri": None, "page": 0, "page_size": 1})
        key = {"twilio_api_key": "SK" + "2" * 32, "twilio_api_secret": "s", "twilio_auth_token": None}
        with RestServer(refusal(401, 20003), calls) as server:
            check = only(check_credentials(at(server, **key, twilio_shared_keys="SH1=x"), steps))
            assert "/Calls.json" in server.requests[1].path
        assert check.level == "ok"
        assert "cannot tell the account's state" in check.found

    def test_rotation(self, fake: FakeTwilio, steps: Steps) -> None:
        """A second token that is not accepted is only worth a warning."""
        check = only(check_credentials(settings(fake, twilio_auth_token=f"{fake.auth_token},{'b' * 32}"), steps))
        assert check.level == "warning"
        assert "auth token 2 of 2 is refused" in check.found

    def test_every_region(self, fake: FakeTwilio, steps: Steps) -> None:
        """With its own credentials, in a line of its own."""
        wrong = {"edge": "dublin", "auth_token": "b" * 32, "api_base_url": fake.api_base_url}
        us, ie = check_credentials(settings(fake, twilio_regions={"ie1": wrong}), steps)
        assert (us.name, us.level, ie.name, ie.level) == ("credentials us1", "ok", "credentials ie1", "error")
        assert ie.advice == (
            "Copy account SID and auth token of ie1 from the console again into ie1's entry of TWILIO_REGIONS; "
            "they hold in one region only."
        )

    def test_what_cannot_be_tried(self, fake: FakeTwilio, steps: Steps) -> None:
        """The settings have their own line."""
        assert only(check_credentials(settings(fake, twilio_region="ie1"), steps)).level == "skipped"

    @pytest.mark.parametrize(
        ("answer", "level", "found", "advice"),
        [
            (account("suspended"), "error", "the account is suspended", "console says why"),
            (account("closed"), "error", "the account is closed", "console says why"),
            (account(kind="Trial"), "warning", "verified numbers only", "Verified Caller IDs"),
            (refusal(403, 20008), "error", "test credentials", "live ones"),
            (refusal(404, 20404), "error", "HTTP 404, error 20404", "hold in one region only"),
            (refusal(418, 20001), "error", "HTTP 418", "status.twilio.com"),
        ],
    )
    def test_other_answers(self, answer: Answer, level: str, found: str, advice: str, steps: Steps) -> None:
        """Told in words."""
        with RestServer(answer) as server:
            check = only(check_credentials(at(server), steps))
        assert check.level == level
        assert found in check.found
        assert advice in check.advice

    def test_no_network(self, steps: Steps, unused_port: int) -> None:
        """What to look at; with an edge that is not the region's, that too."""
        nowhere = {
            "twilio_account_sid": AC,
            "twilio_auth_token": "a" * 32,
            "twilio_api_base_url": f"http://127.0.0.1:{unused_port}",
        }
        check = only(check_credentials(Settings(**nowhere), steps))
        assert check.level == "error"
        assert "no answer from Twilio" in check.found
        assert "firewall" in check.advice
        check = only(check_credentials(Settings(**nowhere, twilio_region="ie1", twilio_edge="sydny"), steps))
        assert check.advice.endswith("The edge of ie1 is dublin, not sydny.")

    def test_an_answer_that_does_not_come(self, fake: FakeTwilio) -> None:
        """The deadline is kept, repetitions included."""
        fake.faults.rest_slow_s = 1.5
        clock = SystemClock()
        began = clock.monotonic()
        check = only(check_credentials(settings(fake), Steps(clock, 0.3)))
        assert clock.monotonic() - began < 1.4
        assert check.level == "error"
        assert "no answer within 0.3 s" in check.found


class Shifted(SystemClock):
    """A clock that is so many seconds fast."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return super().time() + self.seconds


class TestClock:
    """Against the Date of an answer."""

    @pytest.mark.parametrize("seconds", [0, 3, -3])
    def test_a_good_clock(self, seconds: float, fake: FakeTwilio, steps: Steps) -> None:
        """A few seconds do no harm."""
        check = only(check_clock(settings(fake), steps, Shifted(seconds)))
        assert (check.level, check.found, check.advice) == ("ok", "Within 5 s of Twilio's.", "")

    @pytest.mark.parametrize(
        ("seconds", "level", "way"),
        [(20, "warning", "fast"), (-20, "warning", "slow"), (90, "error", "fast"), (-90, "error", "slow")],
    )
    def test_skew(self, seconds: float, level: str, way: str, fake: FakeTwilio, steps: Steps) -> None:
        """Seconds make a warning, a minute an error; how much and which way is told."""
        check = only(check_clock(settings(fake), steps, Shifted(seconds)))
        assert check.level == level
        told = re.search(r"is (\d+) s (fast|slow) by Twilio's", check.found)
        assert told is not None
        assert (abs(int(told[1]) - abs(seconds)) <= 2, told[2]) == (True, way)
        assert "NTP" in check.advice

    def test_no_answer(self, steps: Steps, unused_port: int) -> None:
        """A warning: the credentials' line has the error."""
        check = only(
            check_clock(Settings(twilio_api_base_url=f"http://127.0.0.1:{unused_port}"), steps, SystemClock())
        )
        assert check.level == "warning"
        assert "firewall" in check.advice


class TestNumber:
    """Whose it is, and where its calls and messages go."""

    def test_right(self, fake: FakeTwilio, steps: Steps) -> None:
        """Three lines, and the number is masked in each."""
        fake.add_number(NUMBER, voice_url=f"{BASE}/voice", sms_url=f"{BASE}/sms")
        checks = check_number(settings(fake), steps)
        assert [(check.name, check.level) for check in checks] == [
            ("number", "ok"),
            ("voice webhook", "ok"),
            ("SMS webhook", "ok"),
        ]
        assert all("+150…06" in check.found for check in checks)
        assert not any("5005550006" in check.found for check in checks)

    def test_webhooks_that_lead_elsewhere(self, fake: FakeTwilio, steps: Steps) -> None:
        """The exact URL to set; what is there now, without its secrets; nothing is changed."""
        fake.add_number(NUMBER, voice_url="https://user:hidden@old.example.com/voice?key=hidden")
        _, voice, sms = check_number(settings(fake), steps)
        assert voice.level == "error"
        assert voice.found == "Calls to +150…06 go to https://old.example.com/voice?…, not to this server."
        assert "“A call comes in”, Webhook, https://voice.example.com/voice, HTTP POST." in voice.advice
        assert sms.level == "warning"
        assert sms.found == "No address is set for messages to +150…06."
        assert "https://voice.example.com/sms, HTTP POST." in sms.advice
        assert "hidden" not in voice.found + voice.advice
        assert {entry.data["method"] for entry in fake.log.entries("rest")} == {"GET"}

    def test_get(self, fake: FakeTwilio, steps: Steps) -> None:
        """It works, but the caller's number stands in the query."""
        fake.add_number(NUMBER, voice_url=f"{BASE}/voice", voice_method="GET", sms_url=f"{BASE}/sms")
        _, voice, _ = check_number(settings(fake), steps)
        assert voice.level == "warning"
        assert "HTTP GET" in voice.found

    def test_without_a_public_url(self, fake: FakeTwilio, steps: Steps) -> None:
        """What the webhooks should be is not known."""
        fake.add_number(NUMBER)
        checks = check_number(settings(fake, voice_stream_url=None), steps)
        assert [check.level for check in checks] == ["ok", "skipped", "skipped"]

    def test_a_verified_caller_id(self, fake: FakeTwilio, steps: Steps) -> None:
        """Enough for placing calls only."""
        fake.caller_ids.add(FINNISH)
        check = only(check_number(settings(fake, twilio_phone_number=FINNISH), steps))
        assert check.level == "warning"
        assert "+358…67 is a verified caller id" in check.found

    def test_somebody_elses(self, fake: FakeTwilio, steps: Steps) -> None:
        """The account's own are hinted at."""
        fake.add_number(NUMBER)
        check = only(check_number(settings(fake, twilio_phone_number=FINNISH), steps))
        assert check.level == "error"
        assert check.found == (
            "+358…67 is neither a number nor a verified caller id of this account. The account has +150…06."
        )
        assert "401234567" not in check.found + check.advice

    def test_not_set(self, fake: FakeTwilio, steps: Steps) -> None:
        """A warning: inbound calls do without."""
        assert only(check_number(settings(fake, twilio_phone_number=None), steps)).level == "warning"

    @pytest.mark.parametrize(
        ("facts", "index", "level", "found"),
        [
            ({"capabilities": {"voice": False, "sms": True}}, 0, "error", "cannot take or place calls"),
            ({"capabilities": {"voice": True, "sms": False}}, 0, "warning", "not send messages"),
            ({"trunk_sid": "TK" + "3" * 32}, 1, "error", "SIP trunk TK…3333"),
            ({"voice_application_sid": "AP" + "3" * 32}, 1, "warning", "TwiML app AP…3333"),
            ({"sms_application_sid": "AP" + "3" * 32}, 2, "warning", "TwiML app AP…3333"),
        ],
    )
    def test_what_overrides_the_webhook(
        self, facts: dict[str, Any], index: int, level: str, found: str, steps: Steps
    ) -> None:
        """Trunks and TwiML apps come before the number's own addresses; a number may lack an ability."""
        number = {
            "sid": "PN" + "1" * 32,
            "phone_number": NUMBER,
            "voice_url": f"{BASE}/voice",
            "voice_method": "POST",
            "sms_url": f"{BASE}/sms",
            "capabilities": {"voice": True, "sms": True},
            **facts,
        }
        page = {"incoming_phone_numbers": [number], "next_page_uri": None, "page": 0, "page_size": 20}
        with RestServer(Answer(200, page)) as server:
            values = {"twilio_phone_number": NUMBER, "voice_stream_url": "wss://voice.example.com"}
            checks = check_number(at(server, **values), steps)
        assert [check.level for check in checks] == [level if i == index else "ok" for i in range(3)]
        assert found in checks[index].found


class TestCountries:
    """The permissions for the countries of our own policy."""

    def check(self, fake: FakeTwilio, steps: Steps, **values: Any) -> Check:
        return only(check_countries(settings(fake, **values), steps))

    def test_the_caller_ids_country(self, fake: FakeTwilio, steps: Steps) -> None:
        """Where the policy names none."""
        fake.allowed_countries = {"FI"}
        check = self.check(fake, steps, twilio_phone_number=FINNISH)
        assert (check.level, check.found) == ("ok", "Calls to FI are allowed.")
        assert self.check(fake, steps, twilio_phone_number=None, voice_default_country="FI").level == "ok"
        assert self.check(fake, steps, twilio_phone_number=None).level == "skipped"

    def test_what_is_not_allowed(self, fake: FakeTwilio, steps: Steps) -> None:
        """Each country is named, and where to allow it."""
        fake.allowed_countries = {"FI"}
        check = self.check(fake, steps, voice_allowed_countries="FI,SE,DE,001")
        assert check.level == "error"
        assert check.found == "The account may not call DE, SE: such calls fail with error 21215."
        assert "geo-permissions" in check.advice

    def test_every_country(self, fake: FakeTwilio, steps: Steps) -> None:
        """The home country stands for them, and it is said."""
        check = self.check(fake, steps, twilio_phone_number=FINNISH, voice_allowed_countries="*")
        assert check.found == ("Calls to FI are allowed (others were not looked at: VOICE_ALLOWED_COUNTRIES is *).")
        assert self.check(fake, steps, twilio_phone_number=None, voice_allowed_countries="*").level == "skipped"

    def test_many(self, fake: FakeTwilio, steps: Steps) -> None:
        """Not more than twenty are asked about."""
        codes = "AT,BE,BG,CH,CY,CZ,DE,DK,EE,ES,FI,FR,GB,GR,HR,HU,IE,IS,IT,LT,LU,LV"
        check = self.check(fake, steps, voice_allowed_countries=codes)
        assert check.found.endswith("(20 of 22 were looked at).")

    def test_no_answer(self, fake: FakeTwilio, steps: Steps) -> None:
        """For whoever asked to explain."""
        with pytest.raises(RestError):
            self.check(fake, Steps(SystemClock(), 10), twilio_auth_token="b" * 32, voice_default_country="FI")
