"""Twilio's requests about text messages, and the answer to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.rest import Client

from tests.testing.echo_app import HOST, EchoApp
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.transports.twilio_sms_webhooks import FINAL, IncomingSms, SmsProgress, SmsStatus, sms_reply

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
OURS = "+15005550006"
THEM = "+4930123456"
WAY = ["scheduled", "accepted", "queued", "sending", "sent"]

fields = st.dictionaries(
    st.sampled_from(["MessageSid", "From", "NumMedia", "NumSegments", "MediaUrl0", "MediaUrl2", "ErrorCode", "X"])
    | st.text(),
    st.text(),
)


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def fake(clock: VirtualClock) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(clock=clock)
    with fake.running():
        yield fake


@pytest.fixture
def app(fake: FakeTwilio) -> EchoApp:
    app = EchoApp(fake.auth_token)
    app.twiml["/sms"] = sms_reply()
    fake.mount(HOST, app.app)
    fake.add_number(OURS, sms_url=f"https://{HOST}/sms")
    return app


# -- incoming ---------------------------------------------------------------------------------------------------


def test_an_incoming_message(fake: FakeTwilio, app: EchoApp) -> None:
    """Who writes to whom and what, with everything else that came."""
    sid = fake.send_message(from_=THEM, body="ä" * 161).sid
    (form,) = app.forms("/sms")
    assert IncomingSms.from_form(form) == IncomingSms(
        message_sid=sid, sender=THEM, recipient=OURS, body="ä" * 161, segments=2, media=(), fields=form
    )


def test_an_incoming_picture(fake: FakeTwilio, app: EchoApp) -> None:
    """Every attachment has its URL and content type, in order; there may be no text."""
    media = (("https://api.twilio.com/1", "image/jpeg"), ("https://api.twilio.com/2", "text/vcard"))
    sid = fake.send_message(from_=THEM, body="", media=media).sid
    message = IncomingSms.from_form(app.forms("/sms")[0])
    assert (message.message_sid, message.body, message.media) == (sid, "", media)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, IncomingSms()),
        ({"SmsSid": "SM1"}, IncomingSms(message_sid="SM1", fields={"SmsSid": "SM1"})),
        ({"SmsMessageSid": "SM1"}, IncomingSms(message_sid="SM1", fields={"SmsMessageSid": "SM1"})),
        ({"NumSegments": "two"}, IncomingSms(fields={"NumSegments": "two"})),
        ({"NumMedia": "999999999"}, IncomingSms(fields={"NumMedia": "999999999"})),
        (
            {"NumMedia": "0", "MediaUrl0": "https://x"},
            IncomingSms(media=(("https://x", ""),), fields={"NumMedia": "0", "MediaUrl0": "https://x"}),
        ),
    ],
)
def test_odd_requests(form: dict[str, str], expected: IncomingSms) -> None:
    """What is missing is empty, a count that is none or wrong is not believed."""
    assert IncomingSms.from_form(form) == expected


@given(fields)
def test_any_form_can_be_read(form: dict[str, str]) -> None:
    """Whatever the fields hold, there is a message and a status, and nothing raises."""
    assert IncomingSms.from_form(form).fields == form
    assert SmsStatus.from_form(form).message_sid == form.get("MessageSid", "")


# -- status -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["message_status_callbacks"], ids=lambda vector: vector["status"])
def test_the_published_status_callbacks(vector: dict[str, Any]) -> None:
    """Their status, numbers and error code are read; final is what the vectors call terminal."""
    form = dict(parse_qsl(vector["body"]))
    status = SmsStatus.from_form(form)
    assert status == SmsStatus(
        message_sid="SM" + "0" * 31 + "1",
        status=vector["status"],
        error_code=int(form["ErrorCode"]) if "ErrorCode" in form else None,
        to=THEM,
        sender=OURS,
    )
    assert (status.status in FINAL) is vector["terminal"]


@pytest.mark.parametrize("code", ["", "0", "none", "-1", "³"])
def test_error_codes_that_are_none(code: str) -> None:
    """They are None."""
    assert SmsStatus.from_form({"SmsStatus": "sent", "ErrorCode": code}) == SmsStatus(status="sent")


# -- progress ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", sorted(FINAL))
def test_progress_is_news_once(final: str) -> None:
    """Every further status is; the same again, an earlier one, and anything after the last is not."""
    progress = SmsProgress()
    for index, status in enumerate(WAY):
        assert progress.report(status)
        assert [progress.report(earlier) for earlier in WAY[: index + 1]] == [False] * (index + 1)
        assert (progress.status, progress.over) == (status, False)
    assert progress.report(final)
    assert progress.over
    assert not any(progress.report(status) for status in [*WAY, *FINAL])
    assert progress.status == final


def test_progress_from_what_sending_returned() -> None:
    """The status a message began with is no news."""
    progress = SmsProgress("queued")
    assert not progress.report("queued")
    assert progress.report("sent")


def test_unknown_statuses_are_no_news() -> None:
    """Inbound ones, and those of other channels, change nothing."""
    progress = SmsProgress("sent")
    assert not any(progress.report(status) for status in ("received", "read", "", "SENT"))
    assert progress.status == "sent"


@given(st.permutations(["queued", "sending", "sent", "delivered"]), st.integers(1, 3))
def test_any_order_ends_the_same(order: list[str], times: int) -> None:
    """However callbacks are shuffled and repeated, the last is delivered, told once."""
    progress = SmsProgress("accepted")
    news = [status for status in order for _ in range(times) if progress.report(status)]
    assert news[-1] == "delivered"
    assert news == sorted(news, key=[*WAY, "delivered"].index)
    assert len(news) == len(set(news))


@pytest.mark.parametrize(
    ("faults", "news"),
    [
        ({}, ["sent", "delivered"]),
        ({"duplicate_callbacks": True}, ["sent", "delivered"]),
        ({"reorder_callbacks": True}, ["delivered"]),
        ({"duplicate_callbacks": True, "reorder_callbacks": True}, ["delivered"]),
        ({"early_callback": True}, ["sent", "delivered"]),
    ],
)
def test_real_callbacks_gone_astray(
    fake: FakeTwilio, app: EchoApp, clock: VirtualClock, faults: dict[str, bool], news: list[str]
) -> None:
    """Duplicated, reordered or early callbacks of a message make no wrong news."""
    for name, value in faults.items():
        setattr(fake.faults, name, value)
    client = Client(fake.account_sid, fake.auth_token, environment={"_": "x"})
    client.api.base_url = fake.api_base_url
    message = client.messages.create(to=THEM, from_=OURS, body="Hi", status_callback=f"https://{HOST}/status")
    clock.sleep(2)
    progress = SmsProgress(message.status)
    heard = [SmsStatus.from_form(form) for form in app.forms("/status")]
    assert {status.message_sid for status in heard} == {message.sid}
    assert [status.status for status in heard if progress.report(status.status)] == news


# -- the answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", " \n", "\x00"])
def test_no_reply(text: str | None) -> None:
    """Nothing to say is an empty document."""
    assert sms_reply(text) == '<?xml version="1.0" encoding="UTF-8"?><Response />'


def test_a_reply_is_sent(fake: FakeTwilio, app: EchoApp) -> None:
    """Twilio sends the text as it is, markup and line breaks included."""
    app.twiml["/sms"] = sms_reply("Tom & <Jerry>\n€ \U0001f44d")
    sid = fake.send_message(from_=THEM, body="Hi").sid
    assert [(m.to, m.body) for m in fake.messages[1:]] == [(THEM, "Tom & <Jerry>\n€ \U0001f44d")]
    assert fake.log.codes(sid) == []


@given(st.text(max_size=200))
def test_any_text_makes_a_document(text: str) -> None:
    """It is well-formed and holds one message at most, without what XML cannot carry."""
    root = ElementTree.fromstring(sms_reply(text).encode())
    assert root.tag == "Response"
    assert [child.tag for child in root] in ([], ["Message"])


def test_a_reply_that_is_too_long() -> None:
    """Twilio would drop it: it is refused."""
    assert "x" * 1600 in sms_reply("x" * 1600)
    with pytest.raises(ValueError, match=r"at most 1600 characters; 1601 came \(11 segments\)"):
        sms_reply("x" * 1601)
