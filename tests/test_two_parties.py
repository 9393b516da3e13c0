"""Two of our own flows on one call: one dials, the other answers; speech, keys, and a transfer to a third."""

from __future__ import annotations

from typing import Any

from tests.call_line import ScriptedVoice, speaking
from tests.town import NUMBER, Town, town
from voice_runtime.events import DtmfReceived
from voice_runtime.facts import CallOutcome, DialOutcome
from voice_runtime.flow import Call
from voice_runtime.mock.stt import MockStt
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.stt import create_stt
from voice_runtime.testing.phone import Phone
from voice_runtime.testing.speech import spoken
from voice_runtime.tts import create_tts

DESK = "+358401111111"
AGENT = "+358409999999"
HOST = "desk.example.com"


def serve_both(t: Town, dialler: Any, desk: Any, **options: Any) -> tuple[VoiceServer, VoiceServer]:
    """Two servers of two programs, behind two names."""
    ours = t.serve(dialler, **options)
    settings = t.settings(voice_stream_url=f"wss://{HOST}", twilio_phone_number=DESK)
    theirs = VoiceServer(
        desk, **{"tts": speaking(ScriptedVoice()), "stt": MockStt, "settings": settings, "clock": t.clock, **options}
    )
    t.fake.mount(HOST, theirs.app)
    t.fake.add_number(DESK, voice_url=f"https://{HOST}/voice")
    return ours, theirs


def finished(t: Town, server: VoiceServer) -> Call:
    """The server's one call, once it is over."""
    for _ in range(300):
        if server.finished:
            break
        t.clock.sleep(0.1)
    server.finished[-1].wait(10)
    return server.finished[-1]


def audio_of(session: VoiceSession) -> bytes:
    """What the other side says next, until it has been quiet for 0.6 s."""
    heard, quiet = bytearray(), 0
    for frame in session.frames():
        sound = frame.strip(b"\xff")
        quiet = 0 if sound else quiet + 1
        if heard or sound:
            heard += frame
        if heard and quiet >= 30:
            break
    return bytes(heard).strip(b"\xff")


def test_they_hear_each_other_press_keys_and_one_transfers_to_a_third() -> None:
    """Every sample of one is heard by the other, and back; the third hears the first."""
    with town() as t:
        voice = ScriptedVoice()
        heard: dict[str, Any] = {}

        class Dialler(VoiceSession):
            def run(self) -> str:
                heard["greeting"] = audio_of(self)
                self.say("this is the one who calls")
                self.send_digits("42#")
                heard["agent"] = audio_of(self)
                return "done"

        class Desk(VoiceSession):
            def run(self) -> Any:
                self.sleep(0.5)  # the other side's stream comes up a little later than ours
                self.say("welcome to the desk")
                heard["words"] = audio_of(self)
                heard["keys"] = self.gather(timeout=10)
                return self.transfer(AGENT)

        def agent(call: Any) -> None:
            call.wait_joined()
            call.sleep(1)
            call.says(spoken("hello"))
            call.hang_up()

        ours, theirs = serve_both(t, Dialler, Desk)
        t.fake.phones[AGENT] = Phone(ring_ms=500, script=agent)
        call = ours.dial(DESK)
        call.wait_answered()
        assert call.wait(120)
        assert call.error is None
        assert (call.result, call.outcome) == ("done", CallOutcome.ANSWERED)
        desk = finished(t, theirs)
        assert heard["greeting"] == voice.audio("welcome to the desk")
        assert heard["words"] == voice.audio("this is the one who calls")
        assert (heard["keys"].digits, heard["keys"].terminated) == ("42", True)
        assert spoken("hello").strip(b"\xff") in heard["agent"]
        assert desk.session.caller_number == NUMBER
        assert desk.result is not None
        assert desk.result.outcome is DialOutcome.ANSWERED
        assert len(t.events.of(DtmfReceived)) == 0


def test_they_understand_each_other() -> None:
    """Real voices and real recognition, over the wire of both."""
    with town() as t:
        heard: list[str | None] = []

        class Dialler(VoiceSession):
            def run(self) -> None:
                heard.append(self.listen(expect=["open", "closed"], timeout=20).choice)
                self.say("yes please")
                self.sleep(10)  # until the other side has understood, and hangs up

        class Desk(VoiceSession):
            def run(self) -> str | None:
                self.sleep(0.5)
                self.say("The museum is open.")
                return self.ask("Do you want a ticket?", expect=["yes", "no"]).choice

        ours, theirs = serve_both(
            t, Dialler, Desk, stt=lambda: create_stt("pocketsphinx"), tts=lambda: create_tts("espeak")
        )
        call = ours.dial(DESK)
        assert call.wait(120)
        assert heard == ["open"]
        assert call.ended_reason == "caller_hung_up"
        assert finished(t, theirs).result == "yes"
