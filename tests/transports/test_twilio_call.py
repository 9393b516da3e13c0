"""Placing and ending calls."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import pytest

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, InvalidNumberError, MissingStreamUrlError, RestError
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.transports import twilio_call, twilio_twiml
from voice_runtime.transports.twilio_call import (
    TwilioTransport,
    build_stream_twiml,
    build_stream_xml,
    hang_up_call,
    initiate_outbound_call,
)
from voice_runtime.transports.twilio_rest import close_clients

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
REST: dict[str, Any] = VECTORS["rest"]
ACCOUNT = "AC" + "0" * 31 + "1"
CALL = "CA" + "0" * 31 + "1"
CREATED = Answer(201, REST["call_created_201"])
PHONE = "+358 40 123 4567"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, and no connection left open."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    close_clients()


def use(monkeypatch: pytest.MonkeyPatch, server: RestServer, **more: str) -> None:
    """The environment of a deployment that calls through ``server``."""
    environment = {
        "VOICE_STREAM_URL": "wss://voice.example.com/",
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": "token",
        "TWILIO_PHONE_NUMBER": "+1 500 555 0006",
        "TWILIO_API_BASE_URL": server.url,
    }
    for name, value in {**environment, **more}.items():
        monkeypatch.setenv(name, value)


def form_of(server: RestServer) -> dict[str, Any]:
    """The only request's form, single values unwrapped."""
    (request,) = server.requests
    return {name: values[0] if len(values) == 1 else values for name, values in request.form.items()}


# -- dialling ---------------------------------------------------------------------------------------------------


def test_a_call_as_the_readme_places_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the five documented variables one argument is enough, and the call's SID comes back."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        assert initiate_outbound_call(PHONE) == CALL
    assert server.requests[0].path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert form_of(server) == {
        "To": "+358401234567",
        "From": "+15005550006",
        "TimeLimit": "3600",
        "Twiml": twilio_twiml.connect_stream("wss://voice.example.com/voice"),
    }


def test_every_option_reaches_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are written as Twilio reads them: lists repeated, booleans in lower case."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        initiate_outbound_call(
            PHONE,
            stream_url="wss://voice.example.com/voice/one-time-token",
            parameters={"attempt": "7"},
            caller_id="+4930123456",
            timeout=20,
            time_limit=90,
            status_callback="https://v.example.com/s",
            status_callback_events=["initiated", "answered"],
            machine_detection="message_end",
            machine_detection_timeout=10,
            machine_detection_callback="https://v.example.com/amd",
            record=True,
        )
    assert form_of(server) == {
        "To": "+358401234567",
        "From": "+4930123456",
        "Timeout": "20",
        "TimeLimit": "90",
        "StatusCallback": "https://v.example.com/s",
        "StatusCallbackMethod": "POST",
        "StatusCallbackEvent": ["initiated", "answered"],
        "MachineDetection": "DetectMessageEnd",
        "MachineDetectionTimeout": "10",
        "AsyncAmd": "true",
        "AsyncAmdStatusCallback": "https://v.example.com/amd",
        "AsyncAmdStatusCallbackMethod": "POST",
        "Record": "true",
        "Twiml": twilio_twiml.connect_stream("wss://voice.example.com/voice/one-time-token", {"attempt": "7"}),
    }


def test_the_form_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded form of a call with digits and status events is what goes out."""
    recorded = parse_qs(REST["create_call_form"])
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        initiate_outbound_call(
            "+4930123456",
            twiml="<Response/>",
            timeout=20,
            send_digits="W1#",
            status_callback="https://v.example.com/s",
            status_callback_events=("initiated", "answered"),
            record=True,
        )
    sent = server.requests[0].form
    for name in set(recorded) - {"AsyncAmd"}:  # the recording has it without machine detection
        assert sent[name] == recorded[name], name


def test_status_events_may_be_one_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string with spaces, which Twilio would take and then never call back, is split."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        initiate_outbound_call(PHONE, status_callback="https://h", status_callback_events="ringing completed")
    assert form_of(server)["StatusCallbackEvent"] == ["ringing", "completed"]


@pytest.mark.parametrize(
    ("unset", "error", "complaint"),
    [
        ("VOICE_STREAM_URL", MissingStreamUrlError, "VOICE_STREAM_URL"),
        ("TWILIO_ACCOUNT_SID", ConfigurationError, "TWILIO_ACCOUNT_SID"),
        ("TWILIO_AUTH_TOKEN", ConfigurationError, "TWILIO_AUTH_TOKEN"),
        ("TWILIO_PHONE_NUMBER", ConfigurationError, "TWILIO_PHONE_NUMBER"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, unset: str, error: type[Exception], complaint: str
) -> None:
    """A required variable that is missing is named in a RuntimeError, and nothing is requested."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        monkeypatch.delenv(unset)
        with pytest.raises(RuntimeError, match=complaint) as caught:
            initiate_outbound_call(PHONE)
    assert type(caught.value) is error
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"timeout": 0}, "timeout is 0; expected 1 to 600"),
        ({"timeout": 601}, "timeout is 601"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"machine_detection": "maybe"}, "machine_detection is 'maybe'"),
        ({"machine_detection": "enable", "machine_detection_timeout": 60}, "machine_detection_timeout is 60"),
        ({"machine_detection": "enable", "send_digits": "1"}, "exclude each other"),
        ({"send_digits": "12x"}, "send_digits has 3 characters"),
        ({"send_digits": "1" * 33}, "send_digits has 33"),
        ({"status_callback": "https://h", "status_callback_events": ["answered", "busy"]}, "holds 'busy'"),
        ({"status_callback": "https://h", "status_callback_events": []}, "holds nothing"),
        ({"twiml": "<Response/>", "stream_url": "wss://h"}, "not both"),
        ({"twiml": "<Response/>", "parameters": {"a": "b"}}, "not both"),
        ({"twiml": "x" * 4001}, "4001 characters"),
        ({"parameters": {f"p{i}": "v" * 400 for i in range(10)}}, "at most 4000 inline"),
        ({"stream_url": "wss://h/voice?token=1"}, "stream_url .* query string"),
        ({"caller_id": "0401234567"}, "caller_id is '040…67'.* no country code"),
    ],
)
def test_options_that_twilio_would_refuse(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], complaint: str
) -> None:
    """An option out of range is refused with what was expected, before any request."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        with pytest.raises(ConfigurationError, match=complaint):
            initiate_outbound_call(PHONE, **options)
    assert server.requests == []


def test_a_number_that_cannot_be_dialled_is_refused_before_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is requested for something that is not a number."""
    with RestServer(CREATED) as server:
        use(monkeypatch, server)
        with pytest.raises(InvalidNumberError, match="country code"):
            initiate_outbound_call("0401234567")
    assert server.requests == []


def test_settings_may_be_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings given as an object are used instead of the environment."""
    with RestServer(CREATED) as server:
        settings = load(
            voice_stream_url="https://v.example.com",
            voice_max_call_seconds=0.5,
            twilio_account_sid=ACCOUNT,
            twilio_auth_token="t",
            twilio_phone_number="+15005550006",
            twilio_api_base_url=server.url,
        )
        monkeypatch.setenv("TWILIO_ACCOUNT_SID", "ACother")
        assert initiate_outbound_call("sip:desk@example.com", settings=settings) == CALL
    form = form_of(server)
    assert form["To"] == "sip:desk@example.com"
    assert form["TimeLimit"] == "1"


def test_a_500_after_the_call_was_placed_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """One POST is seen, and the error says that the telephone may be ringing."""
    with RestServer(Answer(500, {"message": "sorry"})) as server:
        use(monkeypatch, server)
        with pytest.raises(RestError) as caught:
            initiate_outbound_call(PHONE)
    assert len(server.requests) == 1
    assert caught.value.maybe_done is True


def test_a_refusal_keeps_twilios_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Twilio says about the number is in the error."""
    error = REST["errors"][0]
    with RestServer(Answer(error["http"], error["body"])) as server:
        use(monkeypatch, server)
        with pytest.raises(RestError, match="Twilio error 21217") as caught:
            initiate_outbound_call("+15005550001")
    assert (caught.value.code, caught.value.maybe_done) == (21217, False)


@pytest.mark.parametrize("body", ["", "{}", '{"sid": null}', '{"sid": 5}'])
def test_an_answer_without_a_sid(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A success that does not name the call is an error of unknown outcome."""
    with RestServer(Answer(201, body)) as server:
        use(monkeypatch, server)
        with pytest.raises(RestError) as caught:
            initiate_outbound_call(PHONE)
    assert caught.value.maybe_done is True


# -- TwiML ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://example.ngrok.io", "wss://example.ngrok.io/voice"),
        ("wss://example.ngrok.io/", "wss://example.ngrok.io/voice"),
        ("https://example.ngrok.io", "wss://example.ngrok.io/voice"),
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/voice"),
    ],
)
def test_the_documents_url(url: str, expected: str) -> None:
    """The scheme becomes a WebSocket one and /voice is added once; the document ends with a hang-up."""
    root = ElementTree.fromstring(build_stream_twiml(url))
    assert [verb.tag for verb in root] == ["Connect", "Hangup"]
    assert root[0][0].attrib == {"url": expected}
    assert build_stream_xml(url) == build_stream_twiml(url)


def test_the_documents_options() -> None:
    """Parameters, path, action and status callback stand in the document, escaped."""
    root = ElementTree.fromstring(
        build_stream_twiml(
            "wss://h", {"a&b": "<c>"}, path="/voice/t", action="https://h/n", status_callback="https://h/s"
        )
    )
    assert root[0].attrib == {"action": "https://h/n"}
    assert root[0][0].attrib == {"url": "wss://h/voice/t", "statusCallback": "https://h/s"}
    assert root[0][0][0].attrib == {"name": "a&b", "value": "<c>"}


def test_a_url_without_scheme_is_refused() -> None:
    """A URL that Twilio could not connect to does not get into a document."""
    with pytest.raises(ConfigurationError, match=r"The stream's URL is 'example\.ngrok\.io'"):
        build_stream_twiml("example.ngrok.io")


# -- hanging up -------------------------------------------------------------------------------------------------


def test_hanging_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call's status is set to completed."""
    with RestServer(Answer(200, REST["call_completed_200"])) as server:
        use(monkeypatch, server)
        assert hang_up_call(CALL) is True
    assert server.requests[0].path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"
    assert form_of(server) == parse_single(REST["hangup_form"])


def parse_single(form: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(form).items()}


@pytest.mark.parametrize("error", REST["errors"][1:3], ids=lambda error: error["when"])
def test_hanging_up_a_call_that_is_over(monkeypatch: pytest.MonkeyPatch, error: dict[str, Any]) -> None:
    """A call that has ended already is success."""
    with RestServer(Answer(error["http"], error["body"])) as server:
        use(monkeypatch, server)
        assert hang_up_call(CALL) is False


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, {"code": 20003, "message": "Authenticate", "status": 401}),
        Answer(404, "<html>not here</html>", content_type="text/html"),
        Answer(400, {"code": 20001, "message": "Bad", "status": 400}),
        Answer(500, {"message": "sorry"}),
    ],
)
def test_other_failures_to_hang_up_are_errors(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """Only Twilio's own words for an ended call count as one: a line must not stay open unnoticed."""
    with RestServer(answer) as server:
        use(monkeypatch, server)
        with pytest.raises(RestError, match="Hanging up failed") as caught:
            hang_up_call(CALL)
    assert caught.value.status == answer.status


@pytest.fixture
def regions() -> Iterator[tuple[FakeTwilio, FakeTwilio]]:
    """Two regions, each with an account, tokens and calls of its own."""
    with (
        VirtualClock() as clock,
        FakeTwilio(clock=clock).running() as home,
        FakeTwilio(clock=clock).running() as ireland,
    ):
        yield home, ireland


def settings_of(home: FakeTwilio, ireland: FakeTwilio, token: str = "") -> Settings:
    region = {
        "edge": "dublin",
        "account_sid": ireland.account_sid,
        "auth_token": token or ireland.auth_token,
        "api_base_url": ireland.api_base_url,
    }
    return load(
        twilio_account_sid=home.account_sid,
        twilio_auth_token=home.auth_token,
        twilio_api_base_url=home.api_base_url,
        twilio_phone_number="+15005550006",
        twilio_regions={"ie1": region},
    )


def place(settings: Settings) -> str:
    return initiate_outbound_call("+4930123456", settings=settings, twiml="<Response><Pause length='60'/></Response>")


def test_hanging_up_in_whichever_region(regions: tuple[FakeTwilio, FakeTwilio]) -> None:
    """A call that the main region does not know is ended where it is; the region given is asked first."""
    home, ireland = regions
    settings = settings_of(home, ireland)
    there, also_there, here = (place(settings.for_region(name)) for name in ("ie1", "ie1", "us1"))
    assert hang_up_call(there, settings=settings) is True
    assert ireland.call(there).wait_ended() == "canceled"
    assert hang_up_call(there, settings=settings) is False
    asked = len(home.log.entries("rest"))
    assert hang_up_call(also_there, settings=settings, region="ie1") is True
    assert len(home.log.entries("rest")) == asked
    assert hang_up_call(here, settings=settings, region="ie1") is True
    assert home.call(here).wait_ended() == "canceled"
    assert hang_up_call(CALL, settings=settings) is False
    assert hang_up_call(there, settings=settings.for_region("ie1")) is False
    with pytest.raises(ConfigurationError, match="known are us1, ie1"):
        hang_up_call(there, settings=settings, region="jp1")


def test_hanging_up_with_wrong_credentials_for_a_region(regions: tuple[FakeTwilio, FakeTwilio]) -> None:
    """A call that may be there is not taken for one that is over."""
    there = place(settings_of(*regions).for_region("ie1"))
    with pytest.raises(RestError, match="TWILIO_REGIONS") as caught:
        hang_up_call(there, settings=settings_of(*regions, token="wrong"))
    assert (caught.value.status, caught.value.code) == (401, 20003)


@pytest.mark.parametrize("call_sid", ["", "../Calls", "CA1/x", "CA 1", "CA1\n"])
def test_a_call_sid_is_not_a_path(call_sid: str) -> None:
    """What is not a SID does not get into a request."""
    with pytest.raises(ValueError, match="expected a call SID"):
        hang_up_call(call_sid)


# -- the transport as an object ---------------------------------------------------------------------------------


def test_the_transport_passes_its_settings_on() -> None:
    """An object made with settings needs no environment."""
    with RestServer(CREATED, Answer(200, REST["call_completed_200"])) as server:
        settings = load(
            voice_stream_url="wss://v.example.com",
            twilio_account_sid=ACCOUNT,
            twilio_auth_token="t",
            twilio_phone_number="+15005550006",
            twilio_api_base_url=server.url,
        )
        transport = TwilioTransport(settings)
        assert transport.initiate_outbound_call(PHONE, timeout=30) == CALL
        assert transport.hang_up_call(CALL) is True
    assert [request.method for request in server.requests] == ["POST", "POST"]
    assert transport.build_stream_twiml("wss://h", {"a": "b"}) == build_stream_twiml("wss://h", {"a": "b"})


def test_the_import_is_cheap() -> None:
    """Neither the SDK nor pydantic is imported before a function is called."""
    script = (
        "import sys, voice_runtime.transports.twilio_call, voice_runtime.transports.twilio_sms, "
        "voice_runtime.transports.twilio_rest, voice_runtime.transport; "
        "sys.exit(bool({'twilio', 'pydantic', 'phonenumbers', 'requests', 'urllib3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_everything_public_is_documented() -> None:
    """Every function in __all__ says what it does."""
    for name in twilio_call.__all__:
        item = getattr(twilio_call, name)
        assert not callable(item) or inspect.getdoc(item), name
