"""The text messages of a server: received, answered, sent under its rules, reported on."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import pytest

from tests.call_line import Recorder
from tests.test_webhooks import Talker, Twilio, talking, undisturbed
from tests.town import CALLER, NUMBER, Greeter, Sleeper, Town, town
from voice_runtime.events import SmsSent, SmsStatusChanged
from voice_runtime.exceptions import InvalidNumberError, OptedOutError, PolicyError, RestError
from voice_runtime.policy import CallPolicy
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults
from voice_runtime.transports.twilio_sms_webhooks import IncomingSms

EMPTY = '<?xml version="1.0" encoding="UTF-8"?><Response />'


def serve(t: Town, on_sms: Any, flow: Any = Greeter, **options: Any) -> VoiceServer:
    """A server that is told of text messages."""
    server = t.serve(flow, on_sms=on_sms, **options)
    t.fake.add_number(NUMBER, voice_url="https://voice.example.com/voice", sms_url="https://voice.example.com/sms")
    return server


def sms(**changes: str) -> dict[str, str]:
    return {"MessageSid": "SM1", "From": CALLER, "To": NUMBER, "Body": "hello", **changes}


class TestReceived:
    """Somebody writes to us."""

    def test_what_the_handler_returns_is_sent_back(self) -> None:
        """It is given who wrote what, and pictures; through Twilio and back."""
        with town() as t:
            seen: list[IncomingSms] = []

            def answer(message: IncomingSms) -> str:
                seen.append(message)
                return f"<You> said & wrote {message.body!r}"

            serve(t, answer)
            t.fake.send_message(to=NUMBER, from_=CALLER, body="hi", media=[("https://x.example.com/1", "image/png")])
            assert [(m.sender, m.recipient, m.body) for m in seen] == [(CALLER, NUMBER, "hi")]
            assert seen[0].media == (("https://x.example.com/1", "image/png"),)
            assert [(m.to, m.body) for m in t.fake.messages[1:]] == [(CALLER, "<You> said & wrote 'hi'")]

    def test_none_is_no_answer(self) -> None:
        """The message was taken, and nothing goes back."""
        with town() as t:
            serve(t, lambda message: None)
            t.fake.send_message(to=NUMBER, from_=CALLER, body="hi")
            assert len(t.fake.messages) == 1

    def test_without_a_handler_nothing_is_answered(self, caplog: pytest.LogCaptureFixture) -> None:
        """The log names what was forgotten, and neither number nor text."""
        caplog.set_level(logging.DEBUG, logger="voice_runtime")
        with town() as t:
            serve(t, None)
            t.fake.send_message(to=NUMBER, from_=CALLER, body="my secret")
            assert len(t.fake.messages) == 1
        ours = [r.getMessage() for r in caplog.records if not r.name.startswith("voice_runtime.testing")]
        assert any("on_sms=" in line for line in ours)
        assert not any(CALLER in line or "my secret" in line for line in ours)
        caplog.clear()

    @pytest.mark.parametrize("outcome", [ValueError("no"), SystemExit(2), StopIteration(), 7, b"bytes", "x" * 2000])
    def test_a_handler_that_fails_is_answered_for(self, outcome: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever it raises or returns: an empty answer, a traceback under the message's id, and calls go on."""
        with town() as t:

            def handler(message: IncomingSms) -> Any:
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

            server = serve(t, handler, Talker)
            phone, ours = talking(t, server)
            answer = Twilio(t, server).ask("/sms", sms(MessageSid="SM77"))
            assert (answer.status_code, answer.text) == (200, EMPTY)
            record = next(r for r in caplog.records if "SM77" in r.getMessage())
            assert record.exc_info
            undisturbed(t, phone, ours)
            caplog.clear()

    def test_a_slow_handler_keeps_nobody_waiting(self) -> None:
        """Neither calls nor other messages; each is answered when it is."""
        with town() as t:

            def handler(message: IncomingSms) -> str:
                t.clock.sleep(10 if message.body == "slow" else 0)
                return message.body

            server = serve(t, handler, Talker)
            phone, ours = talking(t, server)
            done: list[tuple[str, float]] = []

            def write(sid: str, body: str) -> None:
                Twilio(t, server).ask("/sms", sms(MessageSid=sid, Body=body))
                done.append((body, t.clock.monotonic()))

            began = t.clock.monotonic()
            threads = [
                t.clock.start_thread(lambda n=n: write(f"SM{n}", "slow" if n < 20 else "quick"), f"writer {n}")  # type: ignore[misc]
                for n in range(21)
            ]
            for thread in threads:
                thread.join()
            assert done[0] == ("quick", began)
            assert [at - began for _, at in done[1:]] == [10] * 20
            undisturbed(t, phone, ours)

    def test_a_request_that_is_repeated_is_handled_once(self) -> None:
        """Afterwards, and while the handler is still at it: the same answer, and one question."""
        with town() as t:
            asked: list[str] = []

            def handler(message: IncomingSms) -> str:
                asked.append(message.message_sid)
                t.clock.sleep(5)
                return f"answer {len(asked)}"

            server = serve(t, handler)
            answers: list[tuple[float, str]] = []

            def write() -> None:
                text = Twilio(t, server).ask("/sms", sms()).text
                answers.append((t.clock.monotonic(), text))

            began = t.clock.monotonic()
            threads = [t.clock.start_thread(write, f"writer {n}") for n in range(3)]
            for thread in threads:
                thread.join()
            write()
            assert asked == ["SM1"]
            assert [at - began for at, _ in answers] == [5] * 4
            assert len({text for _, text in answers}) == 1
            assert "answer 1" in answers[0][1]
            assert "answer 2" in Twilio(t, server).ask("/sms", sms(MessageSid="SM2")).text

    def test_messages_without_an_id_are_each_their_own(self) -> None:
        """What cannot be told apart is not taken for the same."""
        with town() as t:
            server = serve(t, lambda message: f"to {message.body}")
            twilio = Twilio(t, server)
            for body in ("one", "two"):
                assert f"to {body}" in twilio.ask("/sms", sms(MessageSid="", Body=body)).text


class TestSent:
    """We write."""

    def told(self, events: Recorder) -> list[tuple[str, str]]:
        return [(event.call_sid, event.status) for event in events.of(SmsStatusChanged)]

    def test_a_calls_message_is_told_of_to_its_call(self) -> None:
        """Sent, delivered: events of that call, to its own observers, too."""
        with town() as t:
            mine = Recorder()

            class Texter(VoiceSession):
                def run(self) -> None:
                    self.subscribe(mine.append)
                    self.send_sms("See you at eight!")
                    self.sleep(5)

            serve(t, None, Texter)
            call = t.call()
            call.wait_ended()
            assert self.told(mine) == [(call.sid, "sent"), (call.sid, "delivered")]
            assert self.told(t.events) == self.told(mine)
            assert mine.of(SmsSent)[0].to == CALLER
            assert {event.to for event in mine.of(SmsStatusChanged)} == {CALLER}

    def test_news_after_the_call_goes_to_the_server(self) -> None:
        """The observer still learns whose message it was."""
        with town() as t:

            class Texter(VoiceSession):
                def run(self) -> None:
                    self.hang_up(after=0)
                    self.send_sms("Goodbye!")

            serve(t, None, Texter)
            call = t.call()
            call.wait_ended()
            t.clock.sleep(5)
            assert self.told(t.events) == [(call.sid, "sent"), (call.sid, "delivered")]

    def test_a_message_of_no_call(self) -> None:
        """Of the server's own: told to the observer, once each, however the callbacks come."""
        for fault in ("", "duplicate_callbacks", "early_callback"):
            with town() as t:
                if fault:
                    setattr(t.fake.faults, fault, True)
                server = serve(t, None)
                result = server.send_sms(CALLER, "Hello")
                t.clock.sleep(5)
                assert self.told(t.events) == [("", "sent"), ("", "delivered")]
                assert {event.message_sid for event in t.events.of(SmsStatusChanged)} == {result["message_sid"]}

    def test_a_message_that_does_not_arrive(self) -> None:
        """With Twilio's code for it."""
        with town(faults=Faults(undelivered_code=30003)) as t:
            serve(t, None).send_sms(CALLER, "Hello")
            t.clock.sleep(5)
            last = t.events.of(SmsStatusChanged)[-1]
            assert (last.status, last.error_code) == ("undelivered", 30003)

    def test_an_observer_that_fails_is_named_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """And nothing else happens."""
        with town() as t:

            def broken(event: Any) -> None:
                raise ValueError("not mine")

            server = serve(t, None, observer=broken)
            sid = server.send_sms(CALLER, "Hello")["message_sid"]
            t.clock.sleep(5)
            assert f"The observer failed with the status of message {sid}" in caplog.text
            caplog.clear()

    def test_later(self) -> None:
        """Scheduled, and taken back."""
        with town() as t:
            service = t.fake.add_messaging_service()
            server = serve(t, None, Sleeper, settings=t.settings(twilio_messaging_service_sid=service))
            at = datetime.datetime.fromtimestamp(t.clock.time(), datetime.UTC) + datetime.timedelta(hours=1)
            call = t.call()
            call.wait_streaming()
            session = server.calls[0].session
            sid = session.send_sms("Wake up!", send_at=at)["message_sid"]
            assert t.fake.messages[0].status == "scheduled"
            assert session.cancel_sms(sid)
            assert not session.cancel_sms(sid)
            call.hang_up()

    @pytest.mark.parametrize(
        ("to", "policy", "error"),
        [
            ("12", CallPolicy(allowed_countries="*"), InvalidNumberError),
            ("+442079460000", CallPolicy(allowed_countries={"FI"}), PolicyError),
            (CALLER, CallPolicy(allowed_countries="*", do_not_call=[CALLER]), PolicyError),
            (CALLER, CallPolicy(allowed_countries="*", messages_per_day=0), PolicyError),
        ],
    )
    def test_the_rules_hold_for_messages(self, to: str, policy: CallPolicy, error: type[Exception]) -> None:
        """Of the server and of its calls; Twilio hears nothing."""
        with town() as t:
            caught: list[Exception] = []

            class Texter(VoiceSession):
                def run(self) -> None:
                    with pytest.raises(error) as info:
                        self.send_sms("Hello", to=to)
                    caught.append(info.value)

            server = serve(t, None, Texter, policy=policy)
            with pytest.raises(error) as info:
                server.send_sms(to, "Hello")
            t.call().wait_ended()
            assert len(caught) == 1
            assert to not in f"{info.value}{caught[0]}" or to == "12"
            assert t.fake.messages == []

    def test_somebody_who_said_stop(self) -> None:
        """Is not written to, and the error says so."""
        with town() as t:
            server = serve(t, None)
            t.fake.send_message(to=NUMBER, from_=CALLER, body="STOP")
            with pytest.raises(OptedOutError) as info:
                server.send_sms(CALLER, "Hello")
            assert CALLER not in str(info.value)

    @pytest.mark.parametrize("fault", ["rest_500_after", "rest_reset"])
    def test_an_answer_that_is_lost_is_not_asked_for_again(self, fault: str) -> None:
        """One message at most; the error says that it may have gone."""
        with town() as t:
            setattr(t.fake.faults, fault, 1)
            server = serve(t, None)
            with pytest.raises(RestError) as info:
                server.send_sms(CALLER, "Hello")
            assert info.value.maybe_done
            assert len(t.fake.messages) == 1


def test_no_more_is_remembered_than_ten_thousand_messages() -> None:
    """The oldest are forgotten first."""
    with town() as t:
        desk = serve(t, lambda message: None)._messages
        for n in range(10_050):
            desk.received(sms(MessageSid=f"SM{n}"))
            desk.status({"MessageSid": f"SM{n}", "MessageStatus": "sent"}, None)
        assert len(desk._answers) == len(desk._progress) == 10_000
        assert "SM49" not in desk._answers
        assert "SM50" in desk._answers
