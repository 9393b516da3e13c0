"""TwiML as Twilio reads and executes it."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from fastapi import Response
from fastapi.routing import APIRoute

from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_twiml import Verb, parse_twiml, read_stream
from voice_runtime.testing.phone import FakeCall, Phone

from .echo_app import CONNECT, HOST, EchoApp

THEM = "+4930123456"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())


def run(fake: FakeTwilio, app: EchoApp, twiml: str, phone: Phone | None = None, timeout: float = 200) -> FakeCall:
    """An inbound call that meets this document."""
    app.twiml["/twilio/voice"] = twiml
    call = fake.place_call(from_=THEM, phone=phone)
    call.wait_ended(timeout)
    return call


def seconds(call: FakeCall) -> float:
    return call.status_history[-1][0] - call.status_history[0][0]


# -- reading ----------------------------------------------------------------------------------------------------


def test_a_document_becomes_verbs() -> None:
    """Names, attributes, text and children, in order."""
    verbs, problems = parse_twiml(
        b'<Response><Say voice="man"> Hi </Say><Connect><Stream url="u"/></Connect></Response>'
    )
    assert problems == []
    assert verbs[0] == Verb("Say", {"voice": "man"}, "Hi", ())
    assert verbs[1].children == (Verb("Stream", {"url": "u"}, "", ()),)


@pytest.mark.parametrize(
    ("body", "code", "fatal"),
    [
        (b"", 12100, True),
        (b"<Response><Say></Response>", 12100, True),
        (b"<Answer/>", 12100, True),
        (b"<Response><say>hi</say></Response>", 12200, False),
        (b"<Response>" + b"x" * 65536 + b"</Response>", 11750, True),
    ],
)
def test_mistakes_have_their_codes(body: bytes, code: int, fatal: bool) -> None:
    """What is not XML or not TwiML cannot be executed; an unknown verb is skipped."""
    verbs, problems = parse_twiml(body)
    assert [(problem.code, problem.fatal) for problem in problems] == [(code, fatal)]
    assert verbs == []


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"url": "ws://voice.example.com/voice"}, 31922),
        ({"url": "https://voice.example.com/voice"}, 31922),
        ({"url": ""}, 31923),
        ({"url": "wss://[oops/voice"}, 31923),
        ({"url": "wss://h/v", "track": "both_tracks"}, 31941),
        ({"url": "wss://h/v", "track": "outbound_track"}, 31941),
    ],
)
def test_streams_that_are_not_connected(attributes: dict[str, str], code: int) -> None:
    """Wrong scheme, no URL, a track that <Connect> does not have."""
    order, problems = read_stream(
        Verb("Stream", attributes, "", ()), document_url="", bidirectional=True, insecure_ok=True
    )
    assert order is None
    assert [problem.code for problem in problems] == [code]


def test_streams_with_blemishes() -> None:
    """A query is dropped and reported; a parameter of 500 characters is dropped and reported; both go on."""
    parameters = (
        Verb("Parameter", {"name": "a", "value": "b"}, "", ()),
        Verb("Parameter", {"name": "long", "value": "x" * 496}, "", ()),
    )
    stream = Verb("Stream", {"url": "wss://h/v?token=1"}, "", parameters)
    order, problems = read_stream(stream, document_url="", bidirectional=True, insecure_ok=False)
    assert order is not None
    assert (order.url, order.parameters) == ("wss://h/v", {"a": "b"})
    assert [problem.code for problem in problems] == [31920, 12200]


@pytest.mark.parametrize(("insecure_ok", "connected"), [(True, True), (False, False)])
def test_ws_is_for_this_machine_only(insecure_ok: bool, connected: bool) -> None:
    """ws:// to 127.0.0.1 needs the flag."""
    stream = Verb("Stream", {"url": "ws://127.0.0.1:8000/voice"}, "", ())
    order, _ = read_stream(stream, document_url="", bidirectional=True, insecure_ok=insecure_ok)
    assert (order is not None) is connected


# -- executing --------------------------------------------------------------------------------------------------


def test_say_and_pause_take_their_time(fake: FakeTwilio, app: EchoApp) -> None:
    """Sixty ms a character, pauses in seconds, one after the other; then the call ends."""
    call = run(fake, app, '<Response><Say loop="2">0123456789</Say><Pause length="3"/></Response>')
    assert call.said == ["0123456789"] * 2
    assert seconds(call) == pytest.approx(1.2 + 3)


def test_a_leading_pause_lets_it_ring(fake: FakeTwilio, app: EchoApp) -> None:
    """The call is answered by the verb after it."""
    call = run(fake, app, '<Response><Pause length="4"/><Say>Hi</Say></Response>')
    answered = next(at for at, status in call.status_history if status == "in-progress")
    assert answered - call.status_history[0][0] == pytest.approx(4)


@pytest.mark.parametrize(
    ("twiml", "outcome"),
    [
        ("<Response><Reject/></Response>", "rejected"),
        ('<Response><Reject reason="busy"/></Response>', "busy"),
        ("<Response><Hangup/></Response>", "completed"),
        ("<Response/>", "completed"),
    ],
)
def test_calls_that_end_at_once(fake: FakeTwilio, app: EchoApp, twiml: str, outcome: str) -> None:
    """Reject leaves the call unanswered; Hangup and an empty document answer it first."""
    call = run(fake, app, twiml)
    assert call.outcome == outcome
    assert ("in-progress" in [status for _, status in call.status_history]) == (outcome == "completed")


def test_redirects_are_relative_to_the_document(fake: FakeTwilio, app: EchoApp) -> None:
    """What stands behind <Redirect> is not reached."""
    app.twiml["/twilio/next"] = "<Response><Say>Next</Say></Response>"
    call = run(fake, app, "<Response><Redirect>next</Redirect><Say>Never</Say></Response>")
    assert call.said == ["Next"]


def test_play_takes_as_long_as_the_recording(fake: FakeTwilio, app: EchoApp) -> None:
    """A WAV file's own length; a file that is not there is error 11200, and the document goes on."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(2 * 8000 * 2))

    async def recording() -> Response:
        return Response(sound.getvalue(), media_type="audio/wav")

    app.app.router.routes.insert(0, _route("/sound.wav", recording))
    call = run(fake, app, "<Response><Play>/sound.wav</Play></Response>")
    assert seconds(call) == pytest.approx(2)
    call = run(fake, app, "<Response><Play>/gone.wav</Play><Say>On</Say></Response>")
    assert call.said == ["On"]
    assert fake.warnings(call) == [11200]


def _route(path: str, endpoint: Callable[..., Any]) -> APIRoute:
    return APIRoute(path, endpoint, methods=["GET"])


def test_gathering_keys(fake: FakeTwilio, app: EchoApp) -> None:
    """A key ends the prompt; the digits go to the action; nothing pressed falls through."""
    gather = (
        '<Response><Gather numDigits="3" action="/keys"><Say>Please press three keys now</Say></Gather>'
        "<Say>Nothing</Say></Response>"
    )
    app.twiml["/keys"] = "<Response><Say>Thanks</Say></Response>"
    app.twiml["/twilio/voice"] = gather
    call = fake.place_call(from_=THEM)
    call.sleep(0.5)
    call.press("123")
    call.wait_ended()
    assert call.said == ["Please press three keys now", "Thanks"]
    assert app.forms("/keys")[0]["Digits"] == "123"
    assert run(fake, app, gather).said == ["Please press three keys now", "Nothing"]


def test_a_stream_gets_its_parameters(fake: FakeTwilio, app: EchoApp) -> None:
    """As strings, unicode included, and those nobody asked for."""
    fake.faults.extra_parameters = {"surprise": "ä" * 400}
    run(
        fake,
        app,
        f'<Response><Connect><Stream url="wss://{HOST}/voice"><Parameter name="n" value="5 €"/></Stream></Connect>'
        "</Response>",
        Phone(hang_up_after_s=2),
    )
    assert app.of("start")[0]["start"]["customParameters"] == {"n": "5 €", "surprise": "ä" * 400}


def test_stream_status_callbacks(fake: FakeTwilio, app: EchoApp) -> None:
    """started and stopped, or error with its code."""
    twiml = CONNECT.replace('/voice"', '/voice" statusCallback="/status-stream"')
    run(fake, app, twiml, Phone(hang_up_after_s=2))
    assert [form["StreamEvent"] for form in app.forms("/status-stream")] == ["stream-started", "stream-stopped"]
    example = VECTORS["stream_status_callbacks"][0]["body"]
    assert app.forms("/status-stream")[0].keys() == parse_qs(example).keys()
    assert app.forms("/status-stream")[0]["StreamSid"] == app.of("start")[0]["streamSid"]
    fake.faults.socket_refused = 1
    run(fake, app, twiml)
    last = app.forms("/status-stream")[-1]
    assert (last["StreamEvent"], last["StreamError"]) == ("stream-error", "31902")


def test_a_fork_listens_while_the_document_goes_on(fake: FakeTwilio, app: EchoApp) -> None:
    """<Start><Stream> runs beside <Say> and ends with <Stop>, or with the call."""
    stop = '<Stop><Stream name="f"/></Stop>'
    call = run(
        fake,
        app,
        f'<Response><Start><Stream name="f" url="wss://{HOST}/voice" track="both_tracks"/></Start><Pause length="2"/>'
        f'{stop}<Pause length="2"/></Response>',
    )
    assert app.of("start")[0]["start"]["tracks"] == ["inbound", "outbound"]
    assert len(app.of("stop")) == 1
    assert 150 < len(app.of("media")) < 180
    assert seconds(call) == pytest.approx(4)


def test_what_the_fake_cannot_do_fails_loudly(clock: object) -> None:
    """A verb it does not execute is an error of the test, not a silence."""
    fake = FakeTwilio(clock=clock)  # type: ignore[arg-type]
    app = EchoApp(fake.auth_token)
    fake.mount(HOST, app.app)
    fake.add_number(voice_url=f"https://{HOST}/twilio/voice")

    def whole_test() -> None:
        with fake:
            run(fake, app, "<Response><Refer><Sip>sip:a@example.com</Sip></Refer></Response>")

    with pytest.raises(RuntimeError, match="itself failed") as caught:
        whole_test()
    assert isinstance(caught.value.__cause__, NotImplementedError)


# -- dialling ---------------------------------------------------------------------------------------------------

AGENT = "+358401112233"
DIAL = f'<Response><Dial action="/dialled"><Number>{AGENT}</Number></Dial><Say>Never</Say></Response>'


def test_dial_joins_another_telephone(fake: FakeTwilio, app: EchoApp) -> None:
    """The action hears how it went, with the fields of the recorded one; what stands behind is not reached."""
    fake.phones[AGENT] = Phone(ring_ms=2000, hang_up_after_s=31)
    app.twiml["/dialled"] = "<Response><Say>Back</Say></Response>"
    call = run(fake, app, DIAL)
    form = app.forms("/dialled")[0]
    assert (form["DialCallStatus"], form["DialCallDuration"], form["DialBridged"]) == ("completed", "31", "true")
    assert call.said == ["Back"]
    leg = next(leg for leg in fake.calls if leg.to == AGENT)
    assert (leg.sid, leg.from_) == (form["DialCallSid"], THEM)
    assert leg.wait_ended() == "completed"


@pytest.mark.parametrize(
    ("phone", "status"),
    [(Phone(answer="busy"), "busy"), (Phone(answer="no-answer"), "no-answer"), (Phone(answer="failed"), "failed")],
)
def test_dial_tells_why_nobody_came(fake: FakeTwilio, app: EchoApp, phone: Phone, status: str) -> None:
    """Busy, no answer after 30 s, failed."""
    fake.phones[AGENT] = phone
    app.twiml["/dialled"] = "<Response/>"
    run(fake, app, DIAL)
    assert app.forms("/dialled")[0]["DialCallStatus"] == status


def test_dial_without_an_action_goes_on(fake: FakeTwilio, app: EchoApp) -> None:
    """The first of several to answer is joined, the others stop ringing; then the next verb."""
    app.twiml["/whisper"] = "<Response><Say>A call</Say></Response>"
    fake.phones["+358400000001"] = Phone(ring_ms=5000)
    fake.phones["+358400000002"] = Phone(ring_ms=2000, hang_up_after_s=5)
    call = run(
        fake,
        app,
        f'<Response><Dial callerId="{THEM}" timeLimit="60"><Number>+358400000001</Number>'
        '<Number url="/whisper">+358400000002</Number></Dial><Say>On</Say></Response>',
    )
    assert call.said == ["On"]
    legs = {leg.to: leg for leg in fake.calls}
    assert legs["+358400000001"].outcome == "canceled"
    assert legs["+358400000002"].outcome == "completed"
    assert app.forms("/whisper")[0]["ParentCallSid"] == call.sid


def test_the_callers_hang_up_ends_the_leg(fake: FakeTwilio, app: EchoApp) -> None:
    """Both are over, and the action is still told."""
    app.twiml["/dialled"] = "<Response/>"
    call = run(fake, app, DIAL, Phone(hang_up_after_s=10))
    leg = next(leg for leg in fake.calls if leg.to == AGENT)
    assert leg.wait_ended() == "completed"
    assert call.outcome == "completed"
    assert app.forms("/dialled")[0]["DialCallStatus"] == "completed"


def test_a_borrowed_caller_id_is_refused(fake: FakeTwilio, app: EchoApp) -> None:
    """13214, and the action hears that it failed."""
    app.twiml["/dialled"] = "<Response/>"
    call = run(fake, app, DIAL.replace("<Dial ", '<Dial callerId="+12125550100" '))
    assert fake.warnings(call) == [13214]
    assert app.forms("/dialled")[0]["DialCallStatus"] == "failed"


def test_documents_that_redirect_to_each_other(fake: FakeTwilio, app: EchoApp) -> None:
    """They go on until somebody hangs up, and time goes on with them."""
    app.twiml["/twilio/voice"] = "<Response><Redirect/></Response>"
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=3))
    assert call.wait_ended() == "completed"
    assert len(app.forms("/twilio/voice")) == 101


def test_attributes_that_are_no_numbers(fake: FakeTwilio, app: EchoApp) -> None:
    """A warning, and the default."""
    call = run(fake, app, '<Response><Say>x</Say><Pause length="long"/><Pause length="-3"/></Response>')
    assert fake.warnings(call) == [12200, 12200]
    assert seconds(call) == pytest.approx(0.06 + 1 + 1)
