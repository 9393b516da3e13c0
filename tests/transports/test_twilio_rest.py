"""The guarded SDK client."""

from __future__ import annotations

import email.utils
import importlib
import inspect
import os
import threading
import traceback
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests.exceptions
import urllib3.exceptions

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.clock import SystemClock
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, RestError
from voice_runtime.transports import twilio_rest
from voice_runtime.transports.twilio_rest import (
    check_sid,
    client,
    close_clients,
    complete_list,
    download,
    first_region_that_knows,
    is_unknown,
    read_price,
    read_whole,
    translated,
)

SDK_EXCEPTIONS: Any = importlib.import_module("twilio.base.exceptions")
ACCOUNT = "AC" + "0" * 31 + "1"
CREATED = Answer(201, {"sid": "CA1", "status": "queued"})
UNKNOWN = Answer(404, {"code": 20404, "message": "The requested resource was not found", "status": 404})
TOO_MANY = {"code": 20429, "message": "Too many requests", "status": 429}


class RecordingClock(SystemClock):
    """Does not wait; remembers for how long it should have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def time(self) -> float:
        return 1_790_000_000.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, and no connection left open."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    close_clients()


def settings_for(server: RestServer, **more: Any) -> Settings:
    return load(twilio_account_sid=ACCOUNT, twilio_auth_token="token", twilio_api_base_url=server.url, **more)


def create(settings: Settings, clock: RecordingClock | None = None) -> Any:
    with translated("Placing the call"):
        return client(settings, clock=clock).calls.create(
            to="+15005550006", from_="+15005550006", twiml="<Response/>"
        )


# -- whom it asks, and as whom ----------------------------------------------------------------------------------


def test_the_first_auth_token_is_used() -> None:
    """REST uses the account with the first of several tokens, at the configured base."""
    with RestServer(CREATED) as server:
        assert create(settings_for(server)).sid == "CA1"
        create(load(twilio_account_sid=ACCOUNT, twilio_auth_token="one, two", twilio_api_base_url=server.url + "/"))
    first, second = server.requests
    assert (first.method, first.path) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json")
    assert (first.username, first.password) == (ACCOUNT, "token")
    assert (second.path, second.password) == (first.path, "one")


def test_an_api_key_is_preferred() -> None:
    """With an API key the requests are made in the account's name but with the key."""
    with RestServer(CREATED) as server:
        create(settings_for(server, twilio_api_key="SK1", twilio_api_secret="s"))
    (request,) = server.requests
    assert (request.username, request.password) == ("SK1", "s")
    assert f"/Accounts/{ACCOUNT}/" in request.path


def test_the_environment_does_not_reach_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK would read by itself has no effect on a client made from settings."""
    settings = load(twilio_account_sid=ACCOUNT, twilio_auth_token="token")
    monkeypatch.setenv("TWILIO_REGION", "ie1")
    monkeypatch.setenv("TWILIO_EDGE", "dublin")
    sdk = client(settings)
    assert (sdk.region, sdk.edge) == (None, None)
    assert sdk.get_hostname("https://api.twilio.com/x") == "https://api.twilio.com/x"


def test_region_and_edge_make_the_host() -> None:
    """Both given, they name the host; with a base URL of one's own they do not mangle it."""
    regional = {"twilio_region": "ie1", "twilio_edge": "dublin"}
    sdk = client(load(twilio_account_sid=ACCOUNT, twilio_auth_token="token", **regional))
    assert sdk.get_hostname("https://api.twilio.com/x") == "https://api.dublin.ie1.twilio.com/x"
    with RestServer(CREATED) as server:
        create(settings_for(server, **regional))
    assert len(server.requests) == 1


def test_the_base_stands_for_every_host_of_twilios() -> None:
    """Whatever the SDK asks, of whichever product, goes to the configured base and nowhere else."""
    with RestServer(Answer(200, {})) as server:
        sdk = client(settings_for(server))
        sdk.voice.v1.dialing_permissions.countries("FI").fetch()
        sdk.lookups.v2.phone_numbers("+358401234567").fetch()
        sdk.messaging.v1.services("MG1").fetch()
    assert [request.path for request in server.requests] == [
        "/v1/DialingPermissions/Countries/FI",
        "/v2/PhoneNumbers/+358401234567",
        "/v1/Services/MG1",
    ]
    assert {request.password for request in server.requests} == {"token"}


def test_a_region_is_asked_with_its_own_credentials() -> None:
    """The tokens of other regions check signatures; none of them gets into a request."""
    with RestServer(CREATED) as home, RestServer(CREATED) as ireland:
        regions = {"ie1": {"edge": "dublin", "auth_token": "ireland,next", "api_base_url": ireland.url}}
        settings = settings_for(home, twilio_regions=regions)
        create(settings)
        create(settings.for_region("ie1"))
    assert [request.password for request in home.requests] == ["token"]
    assert [request.password for request in ireland.requests] == ["ireland"]
    only_ireland = load(twilio_account_sid=ACCOUNT, twilio_regions={"ie1": {"edge": "dublin", "auth_token": "t"}})
    with pytest.raises(ConfigurationError, match="TWILIO_AUTH_TOKEN is not set"):
        client(only_ireland)
    sdk = client(only_ireland.for_region("ie1"))
    assert sdk.get_hostname("https://api.twilio.com/x") == "https://api.dublin.ie1.twilio.com/x"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "TWILIO_ACCOUNT_SID is not set"),
        ({"twilio_account_sid": ACCOUNT}, "TWILIO_AUTH_TOKEN is not set"),
        ({"twilio_account_sid": ACCOUNT, "twilio_auth_token": ","}, "only commas"),
        ({"twilio_account_sid": ACCOUNT, "twilio_api_key": "SK1"}, "go together"),
        ({"twilio_account_sid": ACCOUNT, "twilio_api_secret": "x", "twilio_auth_token": "t"}, "go together"),
        (
            {"twilio_account_sid": ACCOUNT, "twilio_auth_token": "t", "twilio_region": "ie1"},
            "TWILIO_REGION is set and TWILIO_EDGE is not",
        ),
        (
            {"twilio_account_sid": ACCOUNT, "twilio_auth_token": "t", "twilio_edge": "dublin"},
            "TWILIO_EDGE is set and TWILIO_REGION is not",
        ),
        (
            {"twilio_account_sid": ACCOUNT, "twilio_auth_token": "t", "twilio_api_base_url": "localhost:1"},
            "TWILIO_API_BASE_URL is 'localhost:1'",
        ),
    ],
)
def test_incomplete_settings_are_named(values: dict[str, str], complaint: str) -> None:
    """What is missing or contradicts itself is said before any request."""
    with pytest.raises(ConfigurationError, match=complaint):
        client(load(**values))


def test_equal_settings_share_a_client() -> None:
    """The connections stay open between requests, until they are closed."""
    values = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": "t"}
    first = client(load(**values))
    assert client(load(**values)) is first
    assert client(load(**values, voice_server_port=1)) is first
    assert client(load(twilio_account_sid=ACCOUNT, twilio_auth_token="u")) is not first
    close_clients()
    assert client(load(**values)) is not first


# -- how often it asks ------------------------------------------------------------------------------------------


def test_429_is_repeated_after_the_time_it_says() -> None:
    """Twilio did not process a 429, so the same request goes out again, after Retry-After."""
    clock = RecordingClock()
    in_three_seconds = email.utils.formatdate(clock.time() + 3, usegmt=True)
    with RestServer(
        Answer(429, TOO_MANY, {"Retry-After": "2"}), Answer(429, TOO_MANY, {"Retry-After": in_three_seconds}), CREATED
    ) as server:
        assert create(settings_for(server), clock).sid == "CA1"
    assert clock.slept == [2.0, 3.0]
    assert len(server.requests) == 3
    assert server.requests[0].form == server.requests[2].form


def test_429_without_a_time_backs_off_and_gives_up() -> None:
    """Without a usable Retry-After the pauses grow, and the fourth refusal is final."""
    clock = RecordingClock()
    with RestServer(Answer(429, TOO_MANY, {"Retry-After": "soon"})) as server, pytest.raises(RestError) as caught:
        create(settings_for(server), clock)
    assert len(server.requests) == 4
    for slept, nominal in zip(clock.slept, [0.5, 1.0, 2.0], strict=True):
        assert 0.75 * nominal <= slept <= 1.25 * nominal
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (429, 20429, False)


@pytest.mark.parametrize("told", ["6", "3600", "99999999999999999999", "Fri, 20 Nov 2099 10:00:00 -0000"])
def test_a_long_retry_after_is_not_waited_for(told: str) -> None:
    """A call flow is not held up for longer than a few seconds."""
    clock = RecordingClock()
    with RestServer(Answer(429, TOO_MANY, {"Retry-After": told})) as server, pytest.raises(RestError):
        create(settings_for(server), clock)
    assert len(server.requests) == 1
    assert clock.slept == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_after_5xx_there_is_no_second_post(status: int) -> None:
    """A 5xx may come after the call was placed, so it is reported and not repeated, whatever Retry-After says."""
    clock = RecordingClock()
    with (
        RestServer(Answer(status, {"message": "sorry"}, {"Retry-After": "0"})) as server,
        pytest.raises(RestError) as caught,
    ):
        create(settings_for(server), clock)
    assert len(server.requests) == 1
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (status, None, True)


def fetch(settings: Settings, clock: RecordingClock) -> Any:
    with translated("Looking up the call", method="GET"):
        return client(settings, clock=clock).calls("CA1").fetch()


@pytest.mark.parametrize("trouble", [Answer(500, {"message": "sorry"}), Answer(503, "<html>"), Answer(reset=True)])
def test_a_get_is_repeated(trouble: Answer) -> None:
    """Reading can do no harm: after a 5xx or a broken connection the same is asked again."""
    clock = RecordingClock()
    with RestServer(trouble, trouble, Answer(200, {"sid": "CA1"})) as server:
        assert fetch(settings_for(server), clock).sid == "CA1"
    assert len(server.requests) == 3
    for slept, nominal in zip(clock.slept, [0.5, 1.0], strict=True):
        assert 0.75 * nominal <= slept <= 1.25 * nominal


@pytest.mark.parametrize("trouble", [Answer(502, {}), Answer(reset=True)])
def test_a_get_is_given_up(trouble: Answer) -> None:
    """The third failure is final; nothing was changed by it."""
    clock = RecordingClock()
    with RestServer(trouble) as server, pytest.raises(RestError) as caught:
        fetch(settings_for(server), clock)
    assert len(server.requests) == 3
    assert (caught.value.status, caught.value.maybe_done) == (trouble.status if not trouble.reset else None, False)


def test_429_and_5xx_share_the_attempts_of_a_get() -> None:
    """A 429 may come once more often, then that is final as well."""
    clock = RecordingClock()
    busy = Answer(429, TOO_MANY, {"Retry-After": "0"})
    with RestServer(busy, Answer(500, {}), busy, busy) as server, pytest.raises(RestError) as caught:
        fetch(settings_for(server), clock)
    assert (len(server.requests), caught.value.status) == (4, 429)


def test_what_will_not_pass_is_not_asked_again() -> None:
    """A 4xx, a wrong certificate and a long Retry-After are final at once."""
    clock = RecordingClock()
    for final in (Answer(404, {}), Answer(503, {}, {"Retry-After": "60"})):
        with RestServer(final) as server, pytest.raises(RestError) as caught:
            fetch(settings_for(server), clock)
        assert (len(server.requests), caught.value.status) == (1, final.status)
    with RestServer(CREATED) as server, pytest.raises(RestError, match="SSLError"):
        fetch(load(**dict(settings_for(server), twilio_api_base_url=server.url.replace("http", "https"))), clock)
    assert clock.slept == []


def test_a_delete_is_not_repeated() -> None:
    """Only GET is; another method may have been carried out."""
    clock = RecordingClock()
    with RestServer(Answer(500, {})) as server, pytest.raises(RestError) as caught, translated("Deleting"):
        client(settings_for(server), clock=clock).recordings("RE1").delete()
    assert (len(server.requests), caught.value.maybe_done) == (1, True)


def test_a_slow_answer_is_a_timeout_of_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting has an end, after which it is unknown whether the call was placed; nothing is repeated."""
    monkeypatch.setattr(twilio_rest, "REQUEST_TIMEOUT_SECONDS", 0.2)
    release = threading.Event()
    with RestServer(Answer(201, {"sid": "CA1"}, hold=release)) as server:
        try:
            with pytest.raises(RestError, match="do not repeat it blindly") as caught:
                create(settings_for(server))
        finally:
            release.set()
    assert len(server.requests) == 1
    assert (caught.value.status, caught.value.maybe_done) == (None, True)


def test_every_request_has_a_timeout() -> None:
    """The SDK's own default is to wait for ever."""
    sdk = client(load(twilio_account_sid=ACCOUNT, twilio_auth_token="t"))
    assert sdk.http_client._http.timeout == 10


def test_a_broken_connection_has_an_unknown_outcome() -> None:
    """A reset after the request was sent is not repeated and may have been a success."""
    with RestServer(Answer(reset=True)) as server, pytest.raises(RestError) as caught:
        create(settings_for(server))
    assert len(server.requests) == 1
    assert caught.value.maybe_done is True


def test_a_connection_that_never_came_about_is_a_safe_failure() -> None:
    """When nothing listens, nothing was placed."""
    with RestServer(CREATED) as server:
        settings = settings_for(server)
    with pytest.raises(RestError, match="no answer from Twilio") as caught:
        create(settings)
    assert (caught.value.status, caught.value.maybe_done) == (None, False)
    with pytest.raises(RestError) as caught:
        create(load(twilio_account_sid=ACCOUNT, twilio_auth_token="t", twilio_api_base_url="http://voice.invalid"))
    assert caught.value.maybe_done is False


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "[]", "null", '"x"', "{"])
def test_a_success_that_is_not_twilios_answer(body: str) -> None:
    """A proxy's page with status 200 is an error of unknown outcome, not an exception of the JSON module."""
    with RestServer(Answer(200, body, content_type="text/html")) as server, pytest.raises(RestError) as caught:
        create(settings_for(server))
    assert caught.value.maybe_done is True


def test_an_error_page_that_is_not_json() -> None:
    """An HTML error page keeps its status and has no Twilio code."""
    with RestServer(Answer(403, "<html>", content_type="text/html")) as server, pytest.raises(RestError) as caught:
        create(settings_for(server))
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (403, None, False)


# -- what it says when it fails ---------------------------------------------------------------------------------


def test_twilios_error_is_passed_on_in_one_line() -> None:
    """Status, code, Twilio's sentence, what to do and where to read more, in one line without colours."""
    body = {"code": 21219, "message": "The number +1500 is unverified", "status": 400}
    with RestServer(Answer(400, body)) as server, pytest.raises(RestError) as caught:
        create(settings_for(server))
    assert str(caught.value) == (
        "Placing the call failed (HTTP 400, Twilio error 21219): Unable to create record: The number +1500 is "
        "unverified. A trial account can only call verified numbers. See https://www.twilio.com/docs/errors/21219"
    )
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (400, 21219, False)


def test_the_newer_form_of_errors_is_understood() -> None:
    """An RFC 9457 problem yields the same facts."""
    body = {"type": "https://t/1", "title": "Bad", "status": 400, "code": 20001, "detail": "No such thing"}
    with RestServer(Answer(400, body)) as server, pytest.raises(RestError, match="Bad: No such thing") as caught:
        create(settings_for(server))
    assert (caught.value.status, caught.value.code) == (400, 20001)


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        (Answer(401, {"code": 20003, "message": "Authenticate", "status": 401}), (401, 20003)),
        (Answer(500, {"message": "sorry"}), (500, None)),
        (Answer(503, "<html>"), (503, None)),
    ],
)
def test_a_failing_list_is_translated_too(answer: Answer, facts: tuple[int, int | None]) -> None:
    """The SDK reports a page that cannot be fetched with a bare TwilioException; status and code are still told."""
    with RestServer(answer) as server:
        sdk = client(settings_for(server), clock=RecordingClock())
        with (
            pytest.raises(RestError, match="Listing the calls failed") as caught,
            translated("Listing the calls", method="GET"),
        ):
            sdk.calls.list(limit=1)
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (*facts, False)


def test_numbers_are_masked() -> None:
    """Twilio's sentences hold telephone numbers in full; neither the error nor its traceback does."""
    sentence = "The 'To' number +358401234567 is not a valid phone number."
    with RestServer(Answer(400, {"code": 21211, "message": sentence, "status": 400})) as server:
        with pytest.raises(RestError, match=r"'To' number \+358…67 is not a valid") as caught:
            create(settings_for(server))
        with pytest.raises(RestError) as by_list, translated("Listing the calls", method="GET"):
            client(settings_for(server)).calls.list(to="+358401234567")
        settings = settings_for(server)
    with pytest.raises(RestError) as by_url, translated("Listing the calls", method="GET"):
        client(settings, clock=RecordingClock()).calls.list(to="+358401234567")
    for error in (caught.value, by_list.value, by_url.value):
        assert "401234567" not in "".join(traceback.format_exception(error))


def test_a_harmless_cause_is_kept() -> None:
    """What the SDK or the HTTP library said, for whoever looks for the reason."""
    refusal = Answer(400, {"code": 20001, "message": "Bad", "status": 400})
    with RestServer(refusal) as server, pytest.raises(RestError) as caught:
        create(settings_for(server))
    assert isinstance(caught.value.__cause__, SDK_EXCEPTIONS.TwilioRestException)


def sdk_exceptions() -> list[BaseException]:
    """One of every exception the SDK defines for requests."""
    found: list[BaseException] = []
    for _, kind in inspect.getmembers(SDK_EXCEPTIONS, inspect.isclass):
        if not issubclass(kind, Exception):
            continue
        if kind is SDK_EXCEPTIONS.TwilioException:
            found.append(kind("Unable to fetch page", None))
        elif kind is SDK_EXCEPTIONS.TwilioRestException:
            found.append(kind(500, "/Calls.json", "msg", 20500, "POST"))
        elif kind is SDK_EXCEPTIONS.TwilioServiceException:
            found.append(kind("https://t", "title", 503, 20503))
        else:
            pytest.fail(f"the SDK has an exception this test does not know: {kind}")
    return found


def every_subclass(kind: type[Any]) -> list[type[Any]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in every_subclass(child))]


def test_no_exception_of_the_sdk_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the SDK's exceptions becomes a RestError, and its coloured text for terminals is not used."""
    monkeypatch.setattr("sys.stderr", type("Tty", (), {"isatty": lambda self: True, "write": lambda self, text: 0})())
    exceptions = sdk_exceptions()
    assert len(exceptions) == 3
    for exception in exceptions:
        with pytest.raises(RestError) as caught, translated("Placing the call"):
            raise exception
        assert "\033" not in str(caught.value)
        assert caught.value.maybe_done is True


def test_no_exception_of_the_http_library_escapes() -> None:
    """Each exception of requests becomes a RestError, and one that cannot be classified counts as perhaps done."""
    never_sent = {
        "ConnectTimeout",
        "InvalidHeader",
        "InvalidProxyURL",
        "InvalidSchema",
        "InvalidURL",
        "MissingSchema",
    }
    kinds = [kind for kind in every_subclass(requests.exceptions.RequestException) if "requests" in kind.__module__]
    assert {"ReadTimeout", "SSLError", "ProxyError", "ChunkedEncodingError"} <= {kind.__name__ for kind in kinds}
    for kind in kinds:
        exception = kind("m", "doc", 0) if kind is requests.exceptions.JSONDecodeError else kind("m")
        with pytest.raises(RestError) as caught, translated("Placing the call"):
            raise exception
        assert caught.value.maybe_done is (kind.__name__ not in never_sent), kind
    with pytest.raises(RestError), translated("Placing the call"):
        raise urllib3.exceptions.HTTPError


def test_what_is_not_about_the_request_is_left_alone() -> None:
    """Ctrl-C and programming errors outside the SDK's vocabulary pass through."""
    with pytest.raises(KeyboardInterrupt), translated("Placing the call"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), translated("Placing the call"):
        raise ZeroDivisionError


# -- lists ------------------------------------------------------------------------------------------------------


def page(*sids: str, after: str | None = None, status: str = "completed") -> Answer:
    """A page of calls; ``after`` is what the next one is asked with."""
    following = after and f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json?PageToken={after}"
    return Answer(200, {"calls": [{"sid": sid, "status": status} for sid in sids], "next_page_uri": following})


def list_sids(server: RestServer) -> list[tuple[str, str]]:
    sdk = client(settings_for(server), clock=RecordingClock())
    return complete_list("Listing the calls", lambda: sdk.calls.page(), lambda call: (call.sid, call.status))


def test_a_list_is_read_to_its_end() -> None:
    """Every page is followed, an empty one too, at the configured base."""
    with RestServer(page("CA1", "CA2", after="a"), page(after="b"), page("CA3")) as server:
        assert [sid for sid, _ in list_sids(server)] == ["CA1", "CA2", "CA3"]
    assert [request.path.partition("?")[2] for request in server.requests] == ["", "PageToken=a", "PageToken=b"]


def test_pages_may_overlap() -> None:
    """A record that new ones have pushed to the next page is there once, in its place, as it was last seen."""
    with RestServer(page("CA1", "CA2", after="a", status="ringing"), page("CA2", "CA3")) as server:
        assert list_sids(server) == [("CA1", "ringing"), ("CA2", "completed"), ("CA3", "completed")]


def test_a_page_that_fails_fails_the_list() -> None:
    """No part of a list is ever taken for the whole."""
    with RestServer(page("CA1", after="a"), Answer(500, {})) as server, pytest.raises(RestError) as caught:
        list_sids(server)
    assert (len(server.requests), caught.value.status) == (4, 500)


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"calls": [{"status": "completed"}]}'])
def test_a_page_that_makes_no_sense_fails_the_list(body: str) -> None:
    """So does one of another form, or with a record that has no SID."""
    with RestServer(page("CA1", after="a"), Answer(200, body)) as server, pytest.raises(RestError):
        list_sids(server)


def test_pages_that_go_round_are_noticed() -> None:
    """The same address again, or ever new addresses with nothing new behind them, are an error and not a loop."""
    ring = [page("CA1", after="a"), page("CA2", after="b"), page("CA3", after="a")]
    with RestServer(*ring) as server, pytest.raises(RestError, match="pages repeat after 3 records"):
        list_sids(server)
    spiral = [page("CA1", after=str(number)) for number in range(50)]
    with RestServer(*spiral) as server, pytest.raises(RestError, match="pages repeat after 1 records"):
        list_sids(server)
    assert len(server.requests) < 10


# -- downloads --------------------------------------------------------------------------------------------------


def fetch_bytes(server: RestServer, max_bytes: int = 100) -> bytes:
    sdk = client(settings_for(server), clock=RecordingClock())
    return download(sdk, "Downloading", "/2010-04-01/x.wav", max_bytes=max_bytes, params={"RequestedChannels": "2"})


def test_a_download_is_authenticated_and_repeated() -> None:
    """It follows the same rules as any GET."""
    with RestServer(Answer(503, ""), Answer(200, "RIFF")) as server:
        assert fetch_bytes(server) == b"RIFF"
    assert {(request.path, request.username, request.password) for request in server.requests} == {
        ("/2010-04-01/x.wav?RequestedChannels=2", ACCOUNT, "token")
    }
    assert len(server.requests) == 2


def test_a_download_has_a_bound() -> None:
    """What is larger is an error, and is not read to its end."""
    with RestServer(Answer(200, "x" * 100)) as server:
        assert len(fetch_bytes(server, 100)) == 100
        with pytest.raises(RestError, match="expected 99 bytes at most"):
            fetch_bytes(server, 99)


def test_a_download_that_is_refused() -> None:
    """Status, code and sentence are those of Twilio's error."""
    with RestServer(UNKNOWN) as server, pytest.raises(RestError, match="was not found") as caught:
        fetch_bytes(server)
    assert is_unknown(caught.value)
    with RestServer(Answer(reset=True)) as server, pytest.raises(RestError) as caught:
        fetch_bytes(server)
    assert (caught.value.status, caught.value.maybe_done) == (None, False)


def test_credentials_do_not_follow_a_redirect() -> None:
    """Audio may be kept elsewhere; whoever keeps it is not told the account's secret."""
    with (
        RestServer(Answer(200, "RIFF")) as storage,
        RestServer(Answer(307, "", {"Location": f"{storage.url}/audio"})) as server,
    ):
        assert fetch_bytes(server) == b"RIFF"
    assert server.requests[0].password == "token"
    assert (storage.requests[0].path, storage.requests[0].username, storage.requests[0].password) == (
        "/audio",
        "",
        "",
    )


# -- regions ----------------------------------------------------------------------------------------------------


def three_regions(us: RestServer, ireland: RestServer, australia: RestServer) -> Settings:
    regions = {
        "ie1": {"edge": "dublin", "auth_token": "ireland", "api_base_url": ireland.url},
        "au1": {"edge": "sydney", "auth_token": "australia", "api_base_url": australia.url},
    }
    return settings_for(us, twilio_regions=regions)


def test_the_region_that_knows_is_found() -> None:
    """The one given is asked first, then the others, each with its credentials, until one does not say 404."""
    with RestServer(UNKNOWN) as us, RestServer(UNKNOWN) as ireland, RestServer(CREATED) as australia:
        settings = three_regions(us, ireland, australia)
        assert first_region_that_knows(settings, create).sid == "CA1"
        assert [len(server.requests) for server in (us, ireland, australia)] == [1, 1, 1]
        assert first_region_that_knows(settings, create, region="au1").sid == "CA1"
        assert [len(server.requests) for server in (us, ireland, australia)] == [1, 1, 2]
    assert [server.requests[0].password for server in (us, ireland, australia)] == ["token", "ireland", "australia"]


def test_nobody_knows() -> None:
    """Then the first region's answer is the error."""
    other = Answer(404, {"code": 20404, "message": "elsewhere", "status": 404})
    with RestServer(UNKNOWN) as us, RestServer(other) as ireland, RestServer(other) as australia:
        with pytest.raises(RestError, match="requested resource was not found"):
            first_region_that_knows(three_regions(us, ireland, australia), create)
        assert len(australia.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, {"code": 20003, "message": "Authenticate", "status": 401}),
        Answer(404, "<html>"),
        Answer(500, {}),
        Answer(400, {"code": 21220, "message": "Call is not in-progress", "status": 400}),
    ],
)
def test_only_twilios_own_404_passes_it_on(answer: Answer) -> None:
    """Wrong credentials and all else are errors: whether the call is there, is not known then."""
    with RestServer(UNKNOWN) as us, RestServer(answer) as ireland, RestServer(CREATED) as australia:
        with pytest.raises(RestError) as caught:
            first_region_that_knows(three_regions(us, ireland, australia), create)
        assert caught.value.status == answer.status
        assert "in region ie1" in "".join(caught.value.__notes__)
        assert australia.requests == []


def test_a_region_that_is_not_configured() -> None:
    """It is named before any request."""
    with pytest.raises(ConfigurationError, match="'jp1' is not configured"):
        first_region_that_knows(load(), create, region="jp1")


# -- small parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sid", ["", "../Calls", "CA1/x", "CA 1", "CA1\n", "Twilio.CURRENT"])
def test_a_sid_is_not_a_path(sid: str) -> None:
    """What is not a SID does not get into a request."""
    with pytest.raises(ValueError, match="expected a recording SID, 'RE' and 32 hexadecimal digits"):
        check_sid(sid, "recording", "RE")


def test_sids_and_numbers_are_read() -> None:
    """SIDs stay as they are; numbers come as text, as numbers, empty or not at all."""
    assert check_sid("CA1") == "CA1"
    assert [read_whole(text) for text in ("12", 12, "", None)] == [12, 12, None, None]
    assert [read_price(text) for text in ("-0.0085", Decimal("-1"), "", None)] == [
        Decimal("-0.0085"),
        Decimal(-1),
        None,
        None,
    ]
    with pytest.raises(RestError), translated("Looking up the call", method="GET"):
        read_price("much")
    with pytest.raises(RestError), translated("Looking up the call", method="GET"):
        read_whole("long")
