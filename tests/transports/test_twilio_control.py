"""Twilio's hand on one call: its webhooks, who was invited, and whose places under the caps are held for how long."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.test_webhooks import Twilio, voice
from tests.town import CALLER, VOICE, Sleeper, Town, town
from voice_runtime.config import Settings
from voice_runtime.exceptions import PolicyError, RestError
from voice_runtime.facts import DialOutcome
from voice_runtime.policy import CallPolicy
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.transports.twilio_control import CallUrls

AGENT = "+358409999999"
ONE_CALL = CallPolicy(allowed_countries="*", concurrent_calls=1)


class TestCallUrls:
    """The webhooks of one call."""

    @pytest.mark.parametrize(
        "base", ["https://voice.example.com", "https://voice.example.com/", "wss://voice.example.com"]
    )
    def test_below_the_public_url(self, base: str) -> None:
        """Each once, and none of another call's."""
        settings = Settings(**{"voice_public_url" if base.startswith("https") else "voice_stream_url": base})
        urls, other = CallUrls(lambda: settings, "one"), CallUrls(lambda: settings, "two")

        def every(urls: CallUrls) -> set[str]:
            named = {urls.status, urls.machine, urls.stream_status, urls.guest(1), urls.announce}
            return named | {urls.next(what) for what in ("stream", "digits", "dial", "conference")}

        assert len(every(urls)) == 9
        assert all(url.startswith("https://voice.example.com/voice/") and "/one" in url for url in every(urls))
        assert not every(urls) & every(other)

    def test_every_one_of_them_is_served(self) -> None:
        """Signed, they are answered."""
        with town() as t:
            twilio = Twilio(t, t.serve(Sleeper))
            urls = CallUrls(t.settings, "nobody")
            for url in (
                urls.status,
                urls.machine,
                urls.stream_status,
                urls.guest(1),
                urls.announce,
                urls.next("dial"),
            ):
                path = url.removeprefix("https://voice.example.com")
                assert twilio.ask(path, voice()).status_code in (200, 204)


class Away:
    """A server that may have one call out at a time, and a caller whose flow takes them to somebody else."""

    def __init__(self, t: Town, leave: Any, *, script: Any = None, **agent: Any) -> None:
        self.t = t
        self.caught: list[BaseException] = []
        t.fake.phones[AGENT] = Phone(**{"ring_ms": 100, **agent})

        class Flow(VoiceSession):
            def run(self) -> Any:
                self.say("one moment")
                with contextlib.suppress(RestError, PolicyError):
                    return leave(self)
                self.say("still here")
                return None

        self.server: VoiceServer = t.serve(Flow, policy=ONE_CALL)
        self.caller: FakeCall = t.call(script=script) if script is not None else t.call()
        self.caller.wait_streaming()

    @property
    def free(self) -> bool:
        """Whether somebody else may be called now."""
        admitted = []
        with contextlib.suppress(PolicyError):
            admitted.append(self.server.guard().admit_call(CALLER))
        for admission in admitted:
            admission.refuse()
        return bool(admitted)


class TestPlaces:
    """A party that is called out of a call is a call as any other."""

    @pytest.mark.parametrize("leave", [lambda self: self.transfer(AGENT), lambda self: self.conference(invite=AGENT)])
    def test_one_is_taken_until_the_call_is_back(self, leave: Any) -> None:
        """And then it is free."""
        with town() as t:
            away = Away(t, leave, hang_up_after_s=20, script=lambda call: call.sleep(300))
            t.clock.sleep(10)
            assert not away.free
            t.clock.sleep(20)
            assert away.free
            away.caller.wait_ended()

    @pytest.mark.parametrize("leave", [lambda self: self.transfer(AGENT), lambda self: self.conference(invite=AGENT)])
    @pytest.mark.parametrize("told", [True, False])
    def test_one_is_free_when_the_call_ends_away(
        self, leave: Any, told: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Also when nobody tells of its end."""
        with town() as t:
            away = Away(t, leave, script=lambda call: (call.sleep(10), call.hang_up()))
            if not told:
                t.clock.sleep(8)
                t.fake.faults.webhook_refused = 100
            away.caller.wait_ended()
            t.clock.sleep(90)
            assert away.server.calls == []
            assert away.free
            caplog.clear()

    def test_one_is_taken_while_twilio_asks_what_follows_the_stream(self) -> None:
        """It asks that too when it ends the stream for a transfer; the transfer goes on all the same."""
        with town() as t:
            away = Away(t, lambda self: self.transfer(AGENT), hang_up_after_s=30)
            t.clock.sleep(5)
            (ours,) = away.server.calls
            answer = Twilio(t, away.server).ask(f"/voice/next/{ours.key}/stream", voice(CallStatus="in-progress"))
            assert answer.status_code == 200
            assert not away.free
            t.clock.sleep(35)
            assert away.free

    @pytest.mark.parametrize("leave", [lambda self: self.transfer(AGENT), lambda self: self.conference(invite=AGENT)])
    def test_a_refusal_uses_nothing_up(self, leave: Any) -> None:
        """Twilio has said no, for certain: the call is still here, and the place free."""
        with town() as t:

            def refused(self: VoiceSession) -> Any:
                t.fake.faults.rest_429 = 100
                try:
                    return leave(self)
                finally:
                    t.fake.faults.rest_429 = 0

            away = Away(t, refused)
            assert away.caller.wait_ended() == "completed"
            assert away.caller.heard.heard_ulaw() == VOICE.audio("one moment") + VOICE.audio("still here")
            assert len(away.caller.streams) == 1
            assert away.free

    def test_a_transfer_whose_answer_was_lost_is_a_transfer(self) -> None:
        """It goes on, and its place is taken until it is over."""
        with town() as t:

            def lost(self: VoiceSession) -> Any:
                t.fake.faults.rest_500_after = 1
                return self.transfer(AGENT)

            away = Away(t, lost, hang_up_after_s=20)
            t.clock.sleep(10)
            assert not away.free
            assert away.caller.wait_ended() == "completed"
            assert away.server.finished[-1].result.outcome is DialOutcome.ANSWERED
            assert away.free

    def test_a_conference_whose_answer_was_lost_leaves_nobody_alone(self) -> None:
        """The caller may be in it, and the guests were not called: the caller is fetched back."""
        with town() as t:

            def lost(self: VoiceSession) -> Any:
                t.fake.faults.rest_500_after = 1
                result = self.conference(invite=AGENT)
                self.say("still here")
                return result

            away = Away(t, lost)
            assert away.caller.wait_ended(60) == "completed"
            assert away.caller.heard.heard_ulaw().endswith(VOICE.audio("still here"))
            result = away.server.finished[-1].result
            assert (result.outcome, result.invited) == (DialOutcome.FAILED, ())
            assert away.free

    def test_the_second_of_two_who_may_not_be_called_frees_the_first(self) -> None:
        """All of them pass, or none is called."""
        with town() as t:
            away = Away(t, lambda self: self.transfer([AGENT, CALLER]))
            assert away.caller.wait_ended() == "completed"
            assert away.caller.heard.heard_ulaw() == VOICE.audio("one moment") + VOICE.audio("still here")
            assert away.free


class TestTheCall:
    """Ending it, asking for it."""

    def test_a_call_that_is_over_can_be_ended_again(self) -> None:
        """False, and no error; and it is over."""
        with town() as t:
            server = t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            control: Any = server.calls[0].session.live.control
            assert not control.is_over()
            assert control.end_call()
            assert call.wait_ended() == "completed"
            assert not control.end_call()
            assert control.is_over()
