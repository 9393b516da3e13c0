"""Twilio's requests to a server: whose they are, what they may hold, and that no bad one reaches anybody's call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI

from tests.call_line import speaking
from tests.town import CALLER, NUMBER, VOICE, Greeter, Town, town
from voice_runtime.events import StreamReported
from voice_runtime.exceptions import VoiceRuntimeError
from voice_runtime.facts import CallFacts
from voice_runtime.flow import Call
from voice_runtime.mock.stt import MockStt
from voice_runtime.policy import CallPolicy
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults
from voice_runtime.testing.phone import FakeCall, Phone, block_on
from voice_runtime.transports.twilio_signature import sign

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
HOST = "https://voice.example.com"
LONG = "there is a long sentence " * 10  # fifteen seconds


class Twilio:
    """Requests to a server, signed as Twilio would or otherwise."""

    def __init__(self, t: Town, server: VoiceServer) -> None:
        self.t = t
        self.server = server
        self.token = t.fake.auth_token

    def ask(
        self,
        path: str,
        fields: Any = (),
        *,
        method: str = "POST",
        signature: str | None = "right",
        headers: Iterable[tuple[str, str]] = (),
        content: bytes | None = None,
        content_type: str = "application/x-www-form-urlencoded; charset=UTF-8",
        base: str = HOST,
        root_path: str = "",
    ) -> httpx.Response:
        """``signature``: ``right``, None for none, or what stands in the header. ``content``: instead of the fields;
        what is signed are the fields all the same."""
        pairs = list(fields.items()) if isinstance(fields, dict) else list(fields)
        grouped: dict[str, list[str]] = {}
        url = base + path
        if method == "GET":
            path, url = (f"{text}?{urlencode(pairs)}" if pairs else text for text in (path, url))
        else:
            for name, value in pairs:
                grouped.setdefault(name, []).append(value)
        every = [("Content-Type", content_type), *headers]
        if signature is not None:
            right = sign(url, grouped, self.token)
            every.append(("X-Twilio-Signature", right if signature == "right" else signature))
        body = urlencode(pairs).encode() if content is None and method == "POST" else content

        async def fetch() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.server.app, root_path=root_path)
            async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.5:8080") as client:
                return await client.request(method, path, headers=every, content=body)

        assert self.t.fake._loop is not None
        return block_on(fetch(), self.t.fake._loop, self.t.clock)

    def ask_json(self, path: str, value: Any, *, digest: str | None = None, **options: Any) -> httpx.Response:
        """A JSON body, whose hash stands in the signed URL."""
        content = json.dumps(value).encode()
        path += f"?bodySHA256={digest or hashlib.sha256(content).hexdigest()}"
        return self.ask(path, content=content, content_type="application/json", **options)


def fields(body: str) -> dict[str, str]:
    return dict(parse_qsl(body, keep_blank_values=True))


def voice(**changes: str) -> dict[str, str]:
    """The request for a call that comes in."""
    return {**fields(VECTORS["voice_webhooks"]["inbound_request"]), "From": CALLER, "To": NUMBER, **changes}


class Talker(VoiceSession):
    """Somebody else's call, which nothing may disturb."""

    def run(self) -> str:
        self.say(LONG)
        return "said"


def talking(t: Town, server: VoiceServer) -> tuple[FakeCall, Call]:
    """A call in the middle of its sentence, as its caller and as the server has it."""
    phone = t.call()
    phone.hears(500)
    return phone, server.calls[-1]


def undisturbed(t: Town, phone: FakeCall, ours: Call) -> None:
    """It was heard to its end, every sample, and ended by itself."""
    assert phone.wait_ended(60) == "completed"
    assert phone.heard.heard_ulaw() == VOICE.audio(LONG)
    assert ours.wait(10)
    assert (ours.result, ours.error, ours.ended_reason) == ("said", None, "hung_up")


ROUTES = [
    "/voice",
    "/voice/check",
    "/voice/status/{key}",
    "/voice/machine/{key}",
    "/voice/next/{key}/stream",
    "/voice/next/{key}/dial",
    "/voice/next/{key}/conference",
    "/voice/next/{key}/digits",
    "/voice/announce/{key}",
    "/voice/guest/{key}/1",
    "/voice/stream/{key}",
    "/sms",
    "/sms/status/{key}",
]


class TestWhoseRequest:
    """Every route is closed to everybody but Twilio."""

    @pytest.mark.parametrize("route", ROUTES)
    def test_only_what_is_signed_gets_in(self, route: str, caplog: pytest.LogCaptureFixture) -> None:
        """403 without a signature, with a forged one, with one for another address, over other fields, by another
        account; no session is made, no call notices, and the genuine request is answered."""
        made: list[CallFacts] = []
        texts: list[Any] = []

        def make(facts: CallFacts) -> VoiceSession:
            made.append(facts)
            return Talker()

        with town() as t:
            server = t.serve(make, on_sms=texts.append)
            phone, ours = talking(t, server)
            path = route.format(key=ours.key)
            body = voice(CallSid=ours.call_sid, CallStatus="completed", DialCallStatus="busy", AnsweredBy="fax")
            twilio = Twilio(t, server)
            forged = [
                None,
                "",
                "AAAA",
                "right ",
                sign(HOST + path, body, "f" * 32),
                sign(HOST + path + "/", body, t.fake.auth_token),
                sign("http://10.0.0.5:8080" + path, body, t.fake.auth_token),
                sign(HOST + path, {**body, "CallStatus": "busy"}, t.fake.auth_token),
            ]
            for method in ("POST", "GET"):
                for signature in forged:
                    answer = twilio.ask(path, body, method=method, signature=signature)
                    assert (answer.status_code, answer.content) == (403, b"")
            assert twilio.ask_json(path, body, digest="0" * 64).status_code == 403
            assert len(made) == 1
            assert texts == []
            undisturbed(t, phone, ours)
            assert twilio.ask(path, body).status_code in (200, 204)
            caplog.clear()

    @pytest.mark.parametrize("route", ROUTES)
    def test_every_way_of_signing(self, route: str, caplog: pytest.LogCaptureFixture) -> None:
        """A form, a GET, JSON with its hash; either token while one is rotated; a SharedKey."""
        with town() as t:
            settings = t.settings(
                twilio_auth_token=f"{'e' * 32},{t.fake.auth_token}", twilio_shared_keys={"one": "s" * 32}
            )
            server = t.serve(Greeter, settings=settings)
            path = route.format(key="nobody")
            twilio = Twilio(t, server)
            answers = [
                twilio.ask(path, voice()),
                twilio.ask(path, voice(), method="GET"),
                twilio.ask_json(path, voice()),
                twilio.ask(
                    path,
                    voice(),
                    signature=sign(HOST + path, voice(), "s" * 32, algorithm="HMAC_SHA256"),
                    headers=[("X-Twilio-Webhooks-Signature-Settings", "key=one,algorithm=HMAC_SHA256")],
                ),
            ]
            twilio.token = "e" * 32
            answers.append(twilio.ask(path, voice()))
            assert {answer.status_code for answer in answers} <= {200, 204}
            assert len({answer.status_code for answer in answers}) == 1
            caplog.clear()

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
    def test_other_methods_do_not_exist(self, method: str) -> None:
        """405, whoever asks."""
        with town() as t:
            twilio = Twilio(t, t.serve(Greeter))
            assert twilio.ask("/voice", voice(), method=method).status_code == 405

    @pytest.mark.parametrize(
        ("public", "path", "root_path"),
        [
            ("https://voice.example.com", "/voice", ""),
            ("https://voice.example.com/", "/voice", ""),
            ("https://voice.example.com:443", "/voice", ""),
            ("https://voice.example.com/calls", "/voice", ""),
            ("https://voice.example.com/calls", "/calls/voice", "/calls"),
            ("https://voice.example.com", "/calls/voice", "/calls"),
        ],
    )
    def test_behind_proxies(self, public: str, path: str, root_path: str) -> None:
        """VOICE_PUBLIC_URL is what Twilio requests, whatever the proxy does to paths and headers."""
        with town() as t:
            server = t.serve(Greeter, settings=t.settings(voice_public_url=public))
            twilio = Twilio(t, server)
            seen = [("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "internal"), ("X-Forwarded-For", "1.2.3.4")]
            signature = sign(public.rstrip("/") + "/voice", voice(), t.fake.auth_token)
            answer = twilio.ask(path, voice(), signature=signature, headers=seen, root_path=root_path)
            assert answer.status_code == 200
            assert "<Stream" in answer.text
            assert public.rstrip("/") in answer.text


class TestBadInput:
    """Signed, and yet nothing Twilio would send: no error, and nobody else's business."""

    def mutations(self, body: dict[str, str]) -> Iterable[list[tuple[str, str]]]:
        """Each field left out, doubled, huge, in another encoding, of another kind."""
        for name in body:
            pairs = list(body.items())
            rest = [pair for pair in pairs if pair[0] != name]
            yield rest
            yield [*pairs, (name, "again")]
            yield [(name, "first"), *pairs]
            odd = ["", "x" * 60_000, "\x00", "\U0001f600\u202e\n", "-1", "[]", "999999999999999999999", " ", "<a&b>"]
            for value in odd:
                yield [*rest, (name, value)]

    @pytest.mark.parametrize(
        ("route", "bodies"),
        [
            ("/voice", list(VECTORS["voice_webhooks"].values())),
            ("/voice/status/{key}", [v["bodies"][-1] for v in VECTORS["call_status_callbacks"]]),
            ("/voice/guest/{key}/1", [v["bodies"][-1] for v in VECTORS["call_status_callbacks"][:2]]),
            ("/voice/machine/{key}", [VECTORS["async_amd_callback"]["body"]]),
            ("/voice/next/{key}/dial", [VECTORS["voice_webhooks"]["dial_action"]]),
            ("/voice/next/{key}/stream", [VECTORS["voice_webhooks"]["inbound_request"]]),
            ("/voice/announce/{key}", [VECTORS["voice_webhooks"]["outbound_url_request"]]),
            ("/voice/stream/{key}", [v["body"] for v in VECTORS["stream_status_callbacks"]]),
            ("/sms/status/{key}", [v["body"] for v in VECTORS["message_status_callbacks"][-2:]]),
            ("/sms", [VECTORS["message_status_callbacks"][0]["body"] + "&Body=Hello&NumMedia=0&NumSegments=1"]),
        ],
    )
    def test_fields_missing_repeated_huge_and_odd(
        self, route: str, bodies: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """For a call that rings: an answer each time, no number in the log, and the call next to it goes on."""
        caplog.set_level(logging.DEBUG)
        with town() as t:
            server = t.serve(Talker, settings=t.settings(voice_max_calls=100_000), on_sms=lambda message: "thanks")
            phone, ours = talking(t, server)
            t.fake.phones[CALLER] = Phone(ring_ms=30_000)
            twilio = Twilio(t, server)
            for body in bodies:
                target = server.dial(CALLER) if "{key}" in route else None
                key = target.key if target is not None else ""
                for pairs in self.mutations(fields(body)):
                    answer = twilio.ask(route.format(key=key), pairs)
                    assert answer.status_code in (200, 204), pairs
                    if answer.status_code == 200:
                        assert ElementTree.fromstring(answer.text).tag == "Response"
            undisturbed(t, phone, ours)
            server.end_calls()
            t.clock.sleep(120)
            assert (server.calls, len(server._switchboard)) == ([], 0)
        no_numbers(caplog)

    @pytest.mark.parametrize("route", ROUTES)
    def test_bodies_that_are_none(self, route: str, caplog: pytest.LogCaptureFixture) -> None:
        """Binary, another encoding, too large, other kinds of content, each with a signature over something else."""
        with town() as t:
            server = t.serve(Talker)
            phone, ours = talking(t, server)
            twilio = Twilio(t, server)
            path = route.format(key=ours.key)
            for content in (b"\xff\xfe\x00", b"a=%FF", b"x" * 100_000, b"a=1&" * 5000, "From=ä".encode("latin-1")):
                for kind in ("application/x-www-form-urlencoded", "application/json", "multipart/form-data", ""):
                    assert twilio.ask(path, content=content, content_type=kind).status_code == 403
            undisturbed(t, phone, ours)
            caplog.clear()

    @pytest.mark.parametrize("key", ["", "nobody", "%00", "..", "x" * 5000, "%F0%9F%98%80", "a/b/c", "{key}"])
    def test_calls_nobody_knows(self, key: str, caplog: pytest.LogCaptureFixture) -> None:
        """Signed requests about them are answered, or there is no such page; who calls hears an apology."""
        with town() as t:
            server = t.serve(Talker, apology="so sorry")
            phone, ours = talking(t, server)
            twilio = Twilio(t, server)
            for route in ROUTES:
                if "{key}" in route:
                    answer = twilio.ask(route.format(key=key), voice())
                    assert answer.status_code in (200, 204, 307, 403, 404), route
                    if "next" in route and answer.status_code == 200:
                        assert "so sorry" in answer.text
            undisturbed(t, phone, ours)
            caplog.clear()


class TestWhoCalls:
    """What the first request tells, and what becomes of it."""

    def test_everything_reaches_the_flow(self) -> None:
        """The verdict about the number, who forwarded, the name, a SIP header, and the stream's parameters."""
        with town() as t:
            t.fake.faults.extra_parameters = {"order": "17", "name": "Zo\u00eb \U0001f44d", "long": "x" * 490}
            server = t.serve(Greeter)
            call = t.fake.place_call(
                to=NUMBER,
                from_=CALLER,
                phone=Phone(),
                extra=[
                    ("StirVerstat", "TN-Validation-Passed-B"),
                    ("ForwardedFrom", "+358409999999"),
                    ("CallerName", "ADA LOVELACE"),
                    ("SipHeader_X-Queue", "sales"),
                ],
            )
            call.wait_ended()
            session = server.finished[-1].session
            facts = session.facts
            assert (facts.call_sid, facts.caller, facts.called, facts.direction) == (
                call.sid,
                CALLER,
                NUMBER,
                "inbound",
            )
            assert (facts.verstat, facts.attestation) == ("TN-Validation-Passed-B", "B")
            assert (facts.forwarded_from, facts.caller_name) == ("+358409999999", "ADA LOVELACE")
            assert facts.fields["SipHeader_X-Queue"] == "sales"
            assert session.parameters == t.fake.faults.extra_parameters

    def test_somebody_without_a_number(self) -> None:
        """Is a caller like any other."""
        with town(faults=Faults(anonymous_caller=True)) as t:
            server = t.serve(Greeter)
            assert t.call().wait_ended() == "completed"
            assert server.finished[-1].session.caller_number == "anonymous"
            assert server.finished[-1].session.facts.attestation == ""

    def test_a_number_configured_for_get(self) -> None:
        """From the webhook to the end."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.add_number(NUMBER, voice_url="https://voice.example.com/voice", voice_method="GET")
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.heard.heard_ulaw() == VOICE.audio("hello and goodbye")
            assert server.finished[-1].session.caller_number == CALLER

    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration(), KeyboardInterrupt()])
    def test_whatever_a_constructor_raises_is_one_callers_business(
        self, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        """They hear an apology at once; the server and the other calls go on."""
        with town() as t:
            flows: Iterator[type[VoiceSession] | BaseException] = iter([Talker, error, Greeter])

            def make(facts: CallFacts) -> VoiceSession:
                flow = next(flows)
                if isinstance(flow, BaseException):
                    raise flow
                return flow()

            server = t.serve(make, apology="so sorry")
            phone, ours = talking(t, server)
            unlucky = t.call(from_="+358400000001")
            assert unlucky.wait_ended(5) == "completed"
            assert unlucky.said == ["so sorry"]
            assert unlucky.sid in caplog.text
            lucky = t.call(from_="+358400000002")
            assert lucky.wait_ended() == "completed"
            assert lucky.heard.heard_ulaw() == VOICE.audio("hello and goodbye")
            undisturbed(t, phone, ours)
            caplog.clear()

    @pytest.mark.parametrize("apology", ["so sorry", None])
    def test_a_server_without_a_public_address_gives_up_on_the_caller(
        self, apology: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """VOICE_STREAM_URL is what Twilio must be told, and the log says so; nothing is left of the call."""
        with town() as t:
            settings = t.settings(voice_stream_url=None, voice_public_url=HOST)
            server = t.serve(Greeter, settings=settings, apology=apology)
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.said == ([] if apology is None else [apology])
            assert "VOICE_STREAM_URL" in caplog.text
            t.clock.sleep(70)
            assert len(server._switchboard) == 0
            caplog.clear()

    def test_a_handful_of_webhooks_that_fail_on_the_way(self) -> None:
        """Twilio's second attempt reaches us, and is a call as any other."""
        with town(faults=Faults(webhook_refused=1)) as t:
            server = t.serve(Greeter)
            assert t.call().wait_ended() == "completed"
            assert len(server.finished) == 1

    def test_as_a_part_of_another_app(self) -> None:
        """Below a path of somebody else's, which does not run our lifespan: calls come in all the same."""
        with town() as t:
            settings = t.settings(
                voice_stream_url="wss://voice.example.com/calls", voice_public_url="https://voice.example.com/calls"
            )
            server = VoiceServer(Greeter, settings=settings, clock=t.clock, tts=speaking(VOICE), stt=MockStt)
            theirs = FastAPI()
            theirs.mount("/calls", server.app)
            t.fake.mount("voice.example.com", theirs)
            t.fake.add_number(NUMBER, voice_url=f"{HOST}/calls/voice")
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.heard.heard_ulaw() == VOICE.audio("hello and goodbye")


class TestWhatNext:
    """Twilio asks how a call goes on."""

    def test_after_the_end_it_hangs_up(self) -> None:
        """For a call that is over, whoever ended it; and no stream is offered."""
        with town() as t:
            server = t.serve(Greeter)
            call = t.call()
            call.wait_ended()
            t.clock.sleep(1)
            twilio = Twilio(t, server)
            path = f"/voice/next/{server.finished[-1].key}"
            for what in ("stream", "dial", "conference", "digits", "anything"):
                answer = twilio.ask(f"{path}/{what}", voice(CallSid=call.sid, CallStatus="in-progress"))
                assert "<Hangup" in answer.text
                assert "<Stream" not in answer.text

    @pytest.mark.parametrize("status", ["completed", "busy", "no-answer", "failed", "canceled"])
    def test_a_status_that_says_it_is_over_is_believed(self, status: str) -> None:
        """The call ends here, too."""
        with town() as t:
            server = t.serve(Talker)
            _, ours = talking(t, server)
            answer = Twilio(t, server).ask(f"/voice/next/{ours.key}/stream", voice(CallStatus=status))
            assert "<Hangup" in answer.text
            assert ours.wait(5)
            assert ours.ended_reason == "completed"

    def test_what_twilio_tells_of_streams_are_events(self, caplog: pytest.LogCaptureFixture) -> None:
        """Started, and an error with its number, which is logged."""
        with town() as t:
            server = t.serve(Talker)
            phone, ours = talking(t, server)
            assert [event.report for event in t.events.of(StreamReported)] == ["stream-started"]
            body = {"CallSid": phone.sid, "StreamSid": "MZ1", "StreamEvent": "stream-error", "StreamError": "31920"}
            Twilio(t, server).ask(f"/voice/stream/{ours.key}", body)
            undisturbed(t, phone, ours)
            told = t.events.of(StreamReported)[1]
            assert (told.call_sid, told.stream_sid, told.report, told.error) == (
                phone.sid,
                "MZ1",
                "stream-error",
                "31920",
            )
            assert "31920" in caplog.text
            caplog.clear()


def test_nothing_that_goes_wrong_tells_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG: calls in and out, refused, unreachable, transferred, texted, with a handler and a flow that fail."""
    caplog.set_level(logging.DEBUG)
    with town() as t:
        agent = "+358409999999"

        class Unlucky(VoiceSession):
            def run(self) -> None:
                for attempt in (
                    lambda: self.transfer(agent, announce="somebody calls"),
                    lambda: self.transfer("+442079460000"),
                    lambda: self.send_sms("hello"),
                    lambda: self.conference(invite=agent),
                ):
                    t.fake.phones[agent] = Phone(answer="busy")
                    with contextlib.suppress(VoiceRuntimeError):
                        attempt()
                t.fake.faults.rest_503_before = 1
                self.send_sms("hello")

        server = t.serve(
            Unlucky,
            policy=CallPolicy(allowed_countries={"FI", "US"}, do_not_call=[agent + "1"]),
            on_sms=lambda m: 1 / 0,
        )
        t.fake.add_number(NUMBER, voice_url=f"{HOST}/voice", sms_url=f"{HOST}/sms")
        t.call().wait_ended(120)
        t.fake.send_message(to=NUMBER, from_=CALLER, body="hello")
        answers: list[Any] = ["busy", "reject", "failed", "answer"]
        for answer in answers:
            t.fake.phones[CALLER] = Phone(answer=answer, ring_ms=100)
            assert server.dial(CALLER).wait(120)
        for fault in ("rest_429", "rest_503_before", "rest_500_after", "rest_reset"):
            setattr(t.fake.faults, fault, 100)
            with contextlib.suppress(VoiceRuntimeError):
                server.dial(CALLER)
            setattr(t.fake.faults, fault, 0)
        t.fake.allowed_countries = {"SE"}
        for number in (CALLER, "+442079460000", "+358409999998", "0401234567"):
            with pytest.raises(VoiceRuntimeError):
                server.dial(number)
        t.clock.sleep(130)
        assert len(server._switchboard) == 0
    no_numbers(caplog)


def no_numbers(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that was logged holds a number of anybody. (httpx logs for the test's own client.)"""
    digits = [
        number.lstrip("+")
        for number in (CALLER, NUMBER, "+4930123456", "+358409999999", "+358409999998", "+442079460000")
    ]
    digits.append("0401234567")
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore", "voice_runtime.testing"))]
    assert ours
    for record in ours:
        text = logging.Formatter().format(record)
        assert not any(number in text for number in digits), f"{record.name}: {text[:500]}"
    caplog.clear()
