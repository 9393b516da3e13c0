"""Listing and looking up calls, against the fake Twilio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, RestError
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_settings import Timings
from voice_runtime.testing.phone import Phone
from voice_runtime.transports import twilio_rest
from voice_runtime.transports.twilio_call_list import CallSummary, fetch_call, list_calls

OURS = "+15005550006"
THEM = "+4930123456"
WAIT = '<Response><Pause length="600"/></Response>'
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def fake(clock: VirtualClock) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(clock=clock, timings=Timings(calls_per_second=1000))
    with fake.running():
        yield fake


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between the attempts of a request; and no .env of the working directory."""
    monkeypatch.setattr(twilio_rest, "_BACKOFF_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)


def settings_for(fake: FakeTwilio, **more: Any) -> Settings:
    return load(
        twilio_account_sid=fake.account_sid,
        twilio_auth_token=fake.auth_token,
        twilio_api_base_url=fake.api_base_url,
        **more,
    )


def call(fake: FakeTwilio, to: str = THEM, twiml: str = WAIT) -> str:
    return str(twilio_rest.client(settings_for(fake)).calls.create(to=to, from_=OURS, twiml=twiml).sid)


def sids(calls: list[CallSummary]) -> list[str]:
    return [one.call_sid for one in calls]


# -- all or nothing ---------------------------------------------------------------------------------------------


def test_every_call_is_listed(fake: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages, the newest call first, each once."""
    monkeypatch.setattr(twilio_rest, "PAGE_SIZE", 3)
    made = [call(fake) for _ in range(8)]
    before = len(fake.log.entries("rest"))
    assert sids(list_calls(settings=settings_for(fake))) == made[::-1]
    assert len(fake.log.entries("rest")) - before == 3


def test_an_account_without_calls(fake: FakeTwilio) -> None:
    """Nothing is not an error."""
    assert list_calls(settings=settings_for(fake)) == []


def test_a_page_that_fails_is_asked_for_again(fake: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failure, and too many requests at a time, do not show."""
    monkeypatch.setattr(twilio_rest, "PAGE_SIZE", 3)
    made = [call(fake) for _ in range(8)]
    fake.faults.list_page_fails = 2
    fake.faults.rest_429 = 1
    fake.faults.retry_after_s = 0
    assert sids(list_calls(settings=settings_for(fake))) == made[::-1]
    assert fake.faults.list_page_fails == 0


def test_a_page_that_keeps_failing_fails_the_list(fake: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page alone is not the list."""
    monkeypatch.setattr(twilio_rest, "PAGE_SIZE", 3)
    for _ in range(4):
        call(fake)
    fake.faults.list_page_fails = 100
    with pytest.raises(RestError, match="Listing the calls failed") as caught:
        list_calls(settings=settings_for(fake))
    assert (caught.value.status, caught.value.maybe_done) == (503, False)


def test_wrong_credentials(fake: FakeTwilio) -> None:
    """The SDK hides why a list fails; status, code and what to do are told all the same."""
    settings = load(**dict(settings_for(fake), twilio_auth_token="wrong"))
    with pytest.raises(RestError, match="Check TWILIO_ACCOUNT_SID") as caught:
        list_calls(settings=settings)
    assert (caught.value.status, caught.value.code) == (401, 20003)


# -- which calls ------------------------------------------------------------------------------------------------


def test_filters(fake: FakeTwilio, clock: VirtualClock) -> None:
    """By number, however it is written, by status and by parent; together they all hold."""
    first = call(fake)
    second = call(fake, to="+358401234567", twiml=f"<Response><Dial>{THEM}</Dial></Response>")
    fake.default_phone = Phone(answer="busy")
    third = call(fake, to="+358401234567")
    clock.sleep(10)
    settings = settings_for(fake)
    leg = next(one.sid for one in fake.calls if one.sid not in (first, second, third))
    assert sids(list_calls(settings=settings, to="+358 (40) 123-4567")) == [third, second]
    assert sids(list_calls(settings=settings, to="+358401234567", status="busy")) == [third]
    assert sids(list_calls(settings=settings, from_=OURS)) == [leg, third, second, first]
    assert list_calls(settings=settings, from_="anonymous") == []
    (child,) = list_calls(settings=settings, parent=second)
    assert (child.call_sid, child.parent_call_sid, child.direction) == (leg, second, "outbound-dial")


def test_times(fake: FakeTwilio, clock: VirtualClock) -> None:
    """From this moment on, before that one, in any time zone; what has not started is in no range."""
    first = call(fake)
    clock.sleep(100)
    second = call(fake)
    clock.sleep(100)
    fake.timings = Timings(dialing_ms=1e9)
    third = call(fake)
    settings = settings_for(fake)
    assert sids(list_calls(settings=settings)) == [third, second, first]
    start = {one.call_sid: one.started_at for one in list_calls(settings=settings)}
    moment = start[second]
    assert start[third] is None
    assert moment is not None
    assert sids(list_calls(settings=settings, started_after=moment)) == [second]
    assert sids(list_calls(settings=settings, started_before=moment)) == [first]
    later = (moment + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-11)))
    assert list_calls(settings=settings, started_after=later) == []
    assert sids(list_calls(settings=settings, started_before=later)) == [second, first]
    assert sids(list_calls(settings=settings, started_after=moment, started_before=later)) == [second]


def test_twilio_is_asked_for_whole_days() -> None:
    """Its filter is only defined for days in UTC; the days asked for contain the moments meant."""
    settings = load(twilio_account_sid="AC1", twilio_auth_token="t")
    after = datetime(2026, 9, 30, 1, 30, tzinfo=timezone(timedelta(hours=3)))
    before = datetime(2026, 9, 30, 23, 59, tzinfo=UTC)
    with RestServer(Answer(200, {"calls": []})) as server:
        settings = load(**dict(settings, twilio_api_base_url=server.url))
        list_calls(settings=settings, started_after=after, started_before=before)
    query = parse_qs(urlsplit(server.requests[0].path).query)
    assert query == {"StartTime>": ["2026-09-29"], "StartTime<": ["2026-10-01"], "PageSize": ["1000"]}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (
            {"started_after": datetime(2026, 9, 29, 10)},
            "started_after is 2026-09-29T10:00:00, which has no time zone",
        ),
        ({"started_before": datetime(2026, 9, 29)}, "started_before .* no time zone"),
        ({"status": "initiated"}, "status is 'initiated'; expected one of queued"),
        ({"parent": "../Calls"}, "expected a call SID"),
    ],
)
def test_wrong_filters(wrong: dict[str, Any], complaint: str) -> None:
    """A filter that would be misunderstood is refused before any request."""
    with pytest.raises(ValueError, match=complaint):
        list_calls(settings=load(), **wrong)


# -- what is told -----------------------------------------------------------------------------------------------


def test_the_facts_of_a_call(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Types instead of Twilio's strings; what is not known yet is None."""
    waiting = call(fake)
    queued = fetch_call(waiting, settings=settings_for(fake))
    assert (queued.status, queued.started_at, queued.ended_at, queued.duration_s, queued.price) == (
        "queued",
        None,
        None,
        None,
        None,
    )
    clock.sleep(20)
    fake.call(waiting).hang_up()
    (over,) = list_calls(settings=settings_for(fake), status="completed")
    assert over == fetch_call(waiting, settings=settings_for(fake))
    assert (over.to, over.from_, over.direction, over.queue_ms) == (THEM, OURS, "outbound-api", 0)
    assert over.started_at is not None
    assert over.ended_at is not None
    assert over.started_at.utcoffset() == timedelta(0)
    assert over.duration_s is not None
    assert abs(over.duration_s - (over.ended_at - over.started_at).total_seconds()) <= 1  # Twilio rounds each
    assert 17 <= over.duration_s <= 20


def test_the_facts_that_come_later() -> None:
    """Prices are exact, empty texts are None, numbers may come as such."""
    body = {
        **VECTORS["rest"]["call_completed_200"],
        "price": "-0.01700",
        "price_unit": "EUR",
        "answered_by": "human",
        "duration": 49,
        "queue_time": "",
        "parent_call_sid": "",
    }
    with RestServer(Answer(200, body)) as server:
        settings = load(twilio_account_sid="AC1", twilio_auth_token="t", twilio_api_base_url=server.url)
        found = fetch_call("CA1", settings=settings)
    assert (found.price, found.price_unit) == (Decimal("-0.017"), "EUR")
    assert (found.answered_by, found.duration_s, found.queue_ms, found.parent_call_sid) == ("human", 49, None, None)
    assert found.started_at == datetime(2026, 9, 29, 10, 0, 6, tzinfo=UTC)


@pytest.mark.parametrize("odd", [{"duration": "long"}, {"price": "much"}, {"sid": None}])
def test_facts_that_make_no_sense(odd: dict[str, Any]) -> None:
    """Are an error of the answer, not of this module."""
    with RestServer(Answer(200, {**VECTORS["rest"]["call_completed_200"], **odd})) as server:
        settings = load(twilio_account_sid="AC1", twilio_auth_token="t", twilio_api_base_url=server.url)
        with pytest.raises(RestError, match="not what Twilio sends"):
            fetch_call("CA1", settings=settings)


def test_a_call_nobody_knows(fake: FakeTwilio) -> None:
    """404, and a SID that is none makes no request."""
    with pytest.raises(RestError) as caught:
        fetch_call("CA" + "f" * 32, settings=settings_for(fake))
    assert (caught.value.status, caught.value.code) == (404, 20404)
    with pytest.raises(ValueError, match="expected a call SID"):
        fetch_call("../CA1", settings=settings_for(fake))


def test_the_environment_is_the_default(fake: FakeTwilio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings= they are read when the function is called."""
    made = call(fake)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", fake.account_sid)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", fake.auth_token)
    monkeypatch.setenv("TWILIO_API_BASE_URL", fake.api_base_url)
    assert sids(list_calls()) == [made]
    assert fetch_call(made).call_sid == made


# -- regions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ireland(clock: VirtualClock) -> Iterator[FakeTwilio]:
    """Another region: an account, tokens and calls of its own."""
    fake = FakeTwilio(clock=clock, timings=Timings(calls_per_second=1000))
    with fake.running():
        yield fake


def two_regions(fake: FakeTwilio, ireland: FakeTwilio) -> Settings:
    region = {
        "edge": "dublin",
        "account_sid": ireland.account_sid,
        "auth_token": ireland.auth_token,
        "api_base_url": ireland.api_base_url,
    }
    return settings_for(fake, twilio_regions={"ie1": region})


def test_a_region_lists_its_own_calls(fake: FakeTwilio, ireland: FakeTwilio) -> None:
    """The main one by default; all together are the lists of all regions."""
    settings = two_regions(fake, ireland)
    here, there = call(fake), call(ireland)
    assert sids(list_calls(settings=settings)) == [here]
    assert sids(list_calls(settings=settings, region="ie1")) == [there]
    assert [sids(list_calls(settings=settings, region=region)) for region in settings.regions] == [[here], [there]]
    with pytest.raises(ConfigurationError, match="known are us1, ie1"):
        list_calls(settings=settings, region="au1")


def test_a_call_is_found_in_whichever_region(fake: FakeTwilio, ireland: FakeTwilio) -> None:
    """The one given is asked first."""
    settings = two_regions(fake, ireland)
    here, there = call(fake), call(ireland)
    assert fetch_call(there, settings=settings).call_sid == there
    asked = len(fake.log.entries("rest"))
    assert fetch_call(there, settings=settings, region="ie1").call_sid == there
    assert len(fake.log.entries("rest")) == asked
    assert fetch_call(here, settings=settings, region="ie1").call_sid == here
