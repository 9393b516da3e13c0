"""The REST API as the real ``twilio`` package sees it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from twilio.base import values
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client
from twilio.twiml.voice_response import VoiceResponse

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio

from .conftest import OURS
from .echo_app import HOST, EchoApp

THEM = "+4930123456"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())


def create(client: Client, **more: Any) -> Any:
    return client.calls.create(**{"to": THEM, "from_": OURS, "url": f"https://{HOST}/twilio/voice", **more})


def code_of(what: Any) -> tuple[int, int]:
    """(HTTP status, code) of the TwilioRestException that calling this raises."""
    with pytest.raises(TwilioRestException) as caught:
        what()
    return caught.value.status, caught.value.code


def test_a_created_call_is_queued_and_has_every_field(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The answer has the keys, types and states of the real one."""
    create(client)
    answer = fake.log.entries("rest")[-1].data
    assert answer["status"] == 201
    example = VECTORS["rest"]["call_created_201"]
    assert answer["answer"].keys() == example.keys()
    assert answer["answer"]["subresource_uris"].keys() == example["subresource_uris"].keys()
    for key in ("status", "direction", "queue_time", "duration", "price", "to_formatted", "from_formatted"):
        assert answer["answer"][key] == example[key], key


def test_a_completed_call_has_its_times(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """Dates are RFC 2822, the duration a string of whole seconds from the answer on."""
    sid = create(client).sid
    fake.call(sid).wait_streaming()
    clock.sleep(49)
    ended = client.calls(sid).update(status="completed")
    assert (ended.status, ended.direction) == ("completed", "outbound-api")
    fetched = client.calls(sid).fetch()
    assert int(fetched.duration) == (fetched.end_time - fetched.start_time).seconds
    assert 49 <= int(fetched.duration) <= 51
    raw = fake.log.entries("rest")[-1].data["answer"]
    example = VECTORS["rest"]["call_completed_200"]
    assert {k: type(v) for k, v in raw.items() if v is not None and example[k] is not None} == {
        k: type(v) for k, v in example.items() if v is not None and raw[k] is not None
    }


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"to": "+15005550001"}, (400, 21217)),
        ({"to": "+15005550002"}, (400, 21214)),
        ({"to": "+15005550003"}, (400, 21215)),
        ({"to": "+15005550004"}, (400, 21216)),
        ({"to": "555"}, (400, 21217)),
        ({"to": ""}, (400, 21201)),
        ({"from_": ""}, (400, 21213)),
        ({"from_": "+15005550001"}, (400, 21212)),
        ({"from_": "+358401111111"}, (400, 21210)),
        ({"url": "ftp://example.com"}, (400, 21205)),
        ({"url": None}, (400, 21205)),
        ({"url": None, "twiml": "<Response>" + "x" * 4000}, (400, 32018)),
        ({"timeout": 601}, (400, 21208)),
        ({"timeout": "soon"}, (400, 21208)),
        ({"time_limit": "long"}, (400, 20001)),
        ({"send_digits": "12x"}, (400, 21206)),
        ({"method": "PUT"}, (400, 21209)),
    ],
)
def test_bad_calls_are_refused(
    app: EchoApp, client: Client, changed: dict[str, Any], expected: tuple[int, int]
) -> None:
    """Each mistake, and each magic number, has its code; no call is made."""
    options = {"to": THEM, "from_": OURS, "url": f"https://{HOST}/twilio/voice", **changed}
    options = {key: values.unset if value is None else value for key, value in options.items()}
    assert code_of(lambda: client.calls.create(**options)) == expected
    assert client.calls.list() == []


def test_errors_have_twilios_form(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """code, message, more_info and status."""
    for example in VECTORS["rest"]["errors"]:
        if example["when"].startswith("To=+15005550001 (call)"):
            code_of(lambda: create(client, to="+15005550001"))
            assert fake.log.entries("rest")[-1].data["answer"] == example["body"]


def test_wrong_credentials_accounts_and_sids(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """401/20003 for the token, 404/20404 for the account and the call; an API key works like the token."""
    wrong = Client(fake.account_sid, "wrong", environment={"_": "x"})
    wrong.api.base_url = fake.api_base_url
    assert code_of(lambda: create(wrong)) == (401, 20003)
    other = Client(fake.account_sid, fake.auth_token, "AC" + "f" * 32, environment={"_": "x"})
    other.api.base_url = fake.api_base_url
    assert code_of(lambda: create(other)) == (404, 20404)
    assert code_of(lambda: client.calls("CA" + "f" * 32).fetch()) == (404, 20404)
    fake.api_keys["SK" + "1" * 32] = "secret"
    key = Client("SK" + "1" * 32, "secret", fake.account_sid, environment={"_": "x"})
    key.api.base_url = fake.api_base_url
    assert create(key).status == "queued"
    assert client.api.accounts(fake.account_sid).fetch().status == "active"


def test_the_date_is_the_fakes(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Every answer, a refusal too, has a Date header with the time of the fake's clock."""
    for _ in range(2):
        clock.sleep(3600)
        answer = requests.get(f"{fake.api_base_url}/2010-04-01/Accounts.json", timeout=5)
        answer.close()
        told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        assert (answer.status_code, told) == (401, int(clock.time()))


def test_updates_of_a_call_that_is_over_are_refused(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """21220 for whatever would change it; it can be deleted now, and before it could not."""
    sid = create(client).sid
    assert code_of(lambda: client.calls(sid).delete()) == (409, 20009)
    assert code_of(lambda: client.calls(sid).update(time_limit="long")) == (400, 20001)
    fake.call(sid).wait_streaming()
    client.calls(sid).update(status="completed")
    fake.call(sid).wait_ended()
    assert code_of(lambda: client.calls(sid).update(status="completed")) == (400, 21220)
    assert code_of(lambda: client.calls(sid).update(twiml="<Response/>")) == (400, 21220)
    assert client.calls(sid).delete()
    assert code_of(lambda: client.calls(sid).fetch()) == (404, 20404)


def test_cancelling(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """A ringing call is cancelled; one in progress is not affected; TwiML for a ringing one is refused."""
    sid = create(client).sid
    clock.sleep(1)
    assert client.calls(sid).fetch().status == "ringing"
    assert code_of(lambda: client.calls(sid).update(twiml="<Response/>")) == (400, 21220)
    assert client.calls(sid).update(status="canceled").status == "canceled"
    assert fake.call(sid).wait_ended() == "canceled"
    sid = create(client).sid
    fake.call(sid).wait_streaming()
    assert client.calls(sid).update(status="canceled").status == "in-progress"


def test_more_calls_than_one_a_second_wait_in_the_queue(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """They are not refused; queue_time tells how long, and the dialling follows it."""
    calls = [create(client) for _ in range(3)]
    assert [call.queue_time for call in calls] == ["0", "1000", "2000"]
    began = []
    for call in calls:
        fake.call(call.sid).wait_streaming()
        began += [at for at, status in fake.call(call.sid).status_history if status == "initiated"]
    assert [round(at - began[0], 3) for at in began] == [0, 1, 2]


def test_lists_have_pages_and_filters(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The SDK follows relative page URIs; filters are kept from page to page."""
    sids = [create(client, to=f"+49301234{n:03}").sid for n in range(7)]
    clock.sleep(20)
    assert [call.sid for call in client.calls.list(page_size=3)] == sids[::-1]
    assert [call.sid for call in client.calls.list(to="+49301234002")] == [sids[2]]
    client.calls(sids[3]).update(status="completed")
    assert [call.sid for call in client.calls.list(status="completed", page_size=1)] == [sids[3]]
    assert len(client.calls.list(status="in-progress", page_size=2)) == 6
    now = datetime.fromtimestamp(clock.time(), UTC)
    assert len(client.calls.list(start_time_after=now - timedelta(minutes=1))) == 7
    assert client.calls.list(start_time_before=now - timedelta(minutes=1)) == []
    page = client.calls.page(page_size=3)
    assert page.next_page_url.startswith(fake.api_base_url)
    with pytest.raises(TwilioException):
        client.calls.list(start_time="yesterday")


def test_numbers_can_be_listed_and_configured(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """As the console would."""
    number = client.incoming_phone_numbers.list(phone_number=OURS)[0]
    number.update(voice_url="https://elsewhere.example.com/voice")
    assert fake.numbers[OURS].voice_url == "https://elsewhere.example.com/voice"
    assert client.incoming_phone_numbers(number.sid).fetch().voice_url == "https://elsewhere.example.com/voice"


def test_repeated_and_unknown_parameters(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Repeated keys are lists, unknown keys are ignored."""
    create(client, status_callback=f"https://{HOST}/status", status_callback_event=["ringing", "completed"])
    form = fake.log.entries("rest")[-1].data["form"]
    assert [value for name, value in form if name == "StatusCallbackEvent"] == ["ringing", "completed"]
    answer = requests.post(
        f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Calls.json",
        auth=(fake.account_sid, fake.auth_token),
        data={"To": THEM, "From": OURS, "Twiml": "<Response/>", "Colour": "blue"},
        timeout=5,
    )
    assert answer.status_code == 201
    answer.close()


def test_events_in_one_string_cost_the_callbacks(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The call is made; warning 21626, and no callback comes."""
    call = create(client, status_callback=f"https://{HOST}/status", status_callback_event="initiated answered")
    fake.call(call.sid).wait_streaming()
    client.calls(call.sid).update(status="completed")
    fake.call(call.sid).wait_ended()
    assert 21626 in fake.warnings(call.sid)
    assert app.forms("/status") == []


def test_inline_twiml_may_be_an_object(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """A VoiceResponse is executed; with a Url as well, the Url wins and warning 32019 comes."""
    response = VoiceResponse()
    response.say("Hello")
    call = client.calls.create(to=THEM, from_=OURS, twiml=response)
    assert fake.call(call.sid).wait_ended() == "completed"
    assert fake.call(call.sid).said == ["Hello"]
    call = create(client, twiml=str(response))
    fake.call(call.sid).wait_streaming()
    assert fake.warnings(call.sid) == [32019]


def test_unidirectional_streams_by_rest(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """They start, carry parameters, warn 31924 when written to, and stop by name."""
    call = client.calls.create(to=THEM, from_=OURS, twiml='<Response><Pause length="30"/></Response>')
    clock.sleep(3)
    stream = client.calls(call.sid).streams.create(
        url=f"wss://{HOST}/voice", name="fork", track="inbound_track", parameter1_name="a", parameter1_value="b"
    )
    assert (stream.status, stream.name) == ("in-progress", "fork")
    clock.sleep(2)
    assert app.of("start")[0]["start"]["customParameters"] == {"a": "b"}
    assert app.of("start")[0]["streamSid"] == stream.sid
    assert fake.warnings(call.sid) == [31924]
    assert client.calls(call.sid).streams("fork").update(status="stopped").status == "stopped"
    clock.sleep(0.1)
    assert len(app.of("stop")) == 1
    assert code_of(lambda: client.calls(call.sid).streams("nothing").update(status="stopped")) == (404, 20404)


# -- faults -----------------------------------------------------------------------------------------------------


def test_429_is_not_processed(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Two requests are refused with Retry-After and leave no call; the third is served."""
    fake.faults.rest_429 = 2
    assert code_of(lambda: create(client)) == (429, 20429)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}.json", timeout=5)
    assert caught.value.headers["Retry-After"] == "1"
    caught.value.close()
    assert create(client).status == "queued"
    assert len(client.calls.list()) == 1


def test_500_may_come_after_the_deed(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The answer is 500, and the call exists: repeating the request would be a second call."""
    fake.faults.rest_500_after = 1
    assert code_of(lambda: create(client)) == (500, 20500)
    assert len(client.calls.list()) == 1


def test_503_comes_before_the_deed(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Nothing was done."""
    fake.faults.rest_503_before = 1
    assert code_of(lambda: create(client)) == (503, 20503)
    assert client.calls.list() == []


def test_the_connection_may_be_reset(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The client sees a broken connection; the call exists."""
    fake.faults.rest_reset = 1
    with pytest.raises(requests.exceptions.ConnectionError):
        create(client)
    assert len(client.calls.list()) == 1


def test_answers_may_be_slow(fake: FakeTwilio, app: EchoApp) -> None:
    """A client's real timeout strikes, also in virtual time; the call exists."""
    client = Client(
        fake.account_sid, fake.auth_token, http_client=TwilioHttpClient(timeout=0.1), environment={"_": "x"}
    )
    client.api.base_url = fake.api_base_url
    fake.faults.rest_slow_s = 0.4
    with pytest.raises(requests.exceptions.ReadTimeout):
        create(client)
    fake.faults.rest_slow_s = 0
    assert len(client.calls.list()) == 1


def test_the_callback_may_be_faster_than_the_answer(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The initiated callback has been delivered when calls.create() returns."""
    fake.faults.early_callback = True
    call = create(client, status_callback=f"https://{HOST}/status", status_callback_event=["initiated"])
    assert [(form["CallSid"], form["CallStatus"]) for form in app.forms("/status")] == [(call.sid, "initiated")]


def test_time_stands_still_while_a_request_is_made(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """A hundred requests take no virtual time, while a call is up."""
    sid = create(client).sid
    fake.call(sid).wait_streaming()
    before = clock.monotonic()
    for _ in range(100):
        client.calls(sid).fetch()
    assert clock.monotonic() == before
