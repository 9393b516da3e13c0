"""One call: its legs, its end, and that a tap cannot break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.call_line import Call, Exchange, Line, Recorder, ScriptedVoice, exchange, speaking
from voice_runtime.audio.mixer import AudioMixer
from voice_runtime.events import CallEnded, CallStarted, LegEnded, LegStarted
from voice_runtime.exceptions import CallHangupError, RestError
from voice_runtime.facts import DialOutcome
from voice_runtime.results import TransferResult
from voice_runtime.session import VoiceSession
from voice_runtime.transports.mock_line import LineEnd

SID = "CA" + "7" * 32


def make(voice: ScriptedVoice | None = None) -> VoiceSession:
    session = VoiceSession()
    session.tts_factory = speaking(voice or ScriptedVoice())
    return session


def test_a_call_goes_on_over_its_next_stream() -> None:
    """Same session, new stream: a verb between them waits."""
    voice = ScriptedVoice()
    session = make(voice)
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        first = line_of.connect(call_sid=SID)
        session.wait_for_ws_connect(5)
        assert session.say("before the seam").complete
        session.live.await_next_leg(5)
        first.hang_up()
        line_of.clock.sleep(0.3)
        assert not session.is_disconnected
        assert session.stream_sid is None
        call = line_of.thread(lambda: session.say("behind the seam"))
        line_of.clock.sleep(0.5)
        second = line_of.connect(call_sid=SID)
        assert call.join().complete
        assert second.heard == voice.audio("behind the seam")
        assert session.heard_ms == 1800
        second.hang_up()
        line_of.clock.sleep(1)
        assert session.ended_reason == "caller_hung_up"
    assert [type(event) for event in events if isinstance(event, (CallStarted, LegStarted, LegEnded, CallEnded))] == [
        CallStarted,
        LegStarted,
        LegEnded,
        LegStarted,
        LegEnded,
        CallEnded,
    ]


def test_a_next_stream_that_does_not_come_ends_the_call() -> None:
    """A verb that waits for it is released."""
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect(call_sid=SID)
        session.wait_for_ws_connect(5)
        session.live.await_next_leg(3)
        line.drop()
        with pytest.raises(CallHangupError, match="next_stream_missing"):
            session.say("nobody there")
        assert line_of.clock.monotonic() < 5


def test_hanging_up_while_a_stream_is_awaited() -> None:
    """Our own hang-up is the end, whatever was awaited."""
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect(call_sid=SID)
        session.wait_for_ws_connect(5)
        session.live.await_next_leg(30)
        session.hang_up()
        assert session.ended_reason == "hung_up"
        assert line.ended() is LineEnd.APP_CLOSED


def test_a_tap_that_fails_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    """A recorder cannot break the call it records, nor its end."""

    class Broken:
        def write_caller(self, *_: Any, **__: Any) -> None:
            raise OSError("no")

        write_agent = write_caller

    session = make()
    session.set_mixer(Broken())  # type: ignore[arg-type]
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        assert session.say("one two three").complete
        line.hang_up()
        line_of.clock.sleep(1)
        assert session.is_disconnected
    assert "The mixer failed" in caplog.text
    caplog.clear()


def test_a_mixer_is_started_and_completed_with_the_call(tmp_path: Path) -> None:
    """set_mixer() in run() is all it takes."""
    path = tmp_path / "call.wav"
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        mixer = AudioMixer(record_path=path, stereo=True, clock=line_of.clock)
        session.set_mixer(mixer)
        assert mixer.running
        session.say("one two three")
        line.hang_up()
        line_of.clock.sleep(2)
        assert not mixer.running
    assert ScriptedVoice().audio("one two three") in path.read_bytes()[59::2]


def test_a_mixer_is_of_one_call(tmp_path: Path) -> None:
    """reset() lets go of it: the next call is not laid over the first."""
    session = make()
    with exchange(session) as line_of, AudioMixer(record_path=tmp_path / "one.wav", clock=line_of.clock) as mixer:
        session.set_mixer(mixer)
        line = line_of.connect(call_sid="CA" + "1" * 32)
        session.wait_for_ws_connect(5)
        line.hang_up()
        line_of.clock.sleep(1)
        before = mixer.recorded_ms
        line = line_of.connect(call_sid="CA" + "2" * 32)
        line_of.clock.sleep(0.5)
        session.say("second call")
        assert mixer.recorded_ms == before
        line.hang_up()


def test_the_flow_of_an_earlier_hang_up_does_not_cut_the_next_call() -> None:
    """reset() while hang_up() drains: the wish was for the old call."""
    session = make()
    with exchange(session) as line_of:
        line_of.connect(call_sid="CA" + "1" * 32)
        session.wait_for_ws_connect(5)
        session.put_outbound_sync(b"\x11" * 8000)
        call = line_of.thread(session.hang_up)
        line_of.clock.sleep(0.2)
        session.reset()
        call.join()
        line = line_of.connect(call_sid="CA" + "2" * 32)
        line_of.clock.sleep(0.5)
        assert session.say("welcome").complete
        line.hang_up()


def test_call_sid_set_for_the_next_call_is_kept() -> None:
    """After an ended call, too: another call's stream is refused."""
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect(call_sid="CA" + "1" * 32)
        session.wait_for_ws_connect(5)
        line.hang_up()
        line_of.clock.sleep(1)
        session.call_sid = "CA" + "2" * 32
        stranger = line_of.connect(call_sid="CA" + "3" * 32)
        assert stranger.ended(5) is LineEnd.APP_CLOSED
        line = line_of.connect(call_sid="CA" + "2" * 32)
        line_of.clock.sleep(0.3)
        assert not session.is_disconnected
        line.hang_up()


def test_class_level_factories_count() -> None:
    """A subclass may set them where it is written."""
    from voice_runtime.mock.stt import MockStt

    class Flow(VoiceSession):
        stt_factory = MockStt

    session = Flow()
    with exchange(session) as line_of:
        line = line_of.connect()
        line_of.clock.sleep(0.5)
        assert isinstance(session.stt, MockStt)
        line.hang_up()


# -- streams that break -------------------------------------------------------------------------------------------

TEXT = "one two three four five six seven eight nine ten"  # three seconds


class Broken:
    """A call whose stream is waited for when it breaks."""

    def __init__(self, line_of: Exchange, session: VoiceSession, *, reconnect_s: float = 8.0) -> None:
        self.line_of = line_of
        self.session = session
        self.lost: list[float] = []
        session.live.reconnect_s = reconnect_s
        session.live.on_lost = lambda: self.lost.append(line_of.clock.monotonic())
        self.line = self.connect()
        session.wait_for_ws_connect(5)

    def connect(self) -> Line:
        return self.line_of.connect(call_sid=SID)

    def drop(self, line: Line) -> bytes:
        """What was heard until the stream broke: what Twilio had buffered is never heard."""
        heard = line.heard
        line.drop()
        return heard


def test_a_sentence_goes_on_where_the_stream_broke() -> None:
    """say() returns when it was heard to its end, over as many streams as that takes; nothing is lost or doubled."""
    voice = ScriptedVoice()
    session = make(voice)
    with exchange(session) as line_of:
        broken = Broken(line_of, session)
        call = line_of.thread(lambda: session.say(TEXT))
        line, heard = broken.line, b""
        for seconds in (1.0, 0.5, 0.8):
            line_of.clock.sleep(seconds)
            heard += broken.drop(line)
            line_of.clock.sleep(1.3)
            assert not session.is_disconnected
            assert session.stream_sid is None
            line = broken.connect()
        result = call.join()
        assert result.complete
        assert result.heard_ms == result.duration_ms == 3000
        assert heard + line.heard == voice.audio(TEXT)
        assert len(broken.lost) == 3
        line.hang_up()


def test_a_voice_that_is_still_made_is_heard_whole() -> None:
    """Also when the stream breaks in the middle of its making."""
    voice = ScriptedVoice(pace=0.2)
    session = make(voice)
    with exchange(session) as line_of:
        broken = Broken(line_of, session)
        call = line_of.thread(lambda: session.say(TEXT))
        line_of.clock.sleep(0.9)
        heard = broken.drop(broken.line)
        line_of.clock.sleep(0.7)
        second = broken.connect()
        assert call.join().complete
        assert heard + second.heard == voice.audio(TEXT)
        second.hang_up()


def test_the_time_without_a_stream_is_nobodys_fault() -> None:
    """A sentence is not given up as unconfirmed because the next stream took seven seconds."""
    session = make()
    with exchange(session) as line_of:
        broken = Broken(line_of, session)
        call = line_of.thread(lambda: session.say("one two"))
        line_of.clock.sleep(0.3)
        broken.line.drop()
        line_of.clock.sleep(7)
        second = broken.connect()
        assert call.join().complete
        second.hang_up()


def test_a_stream_that_does_not_come_back_is_the_end() -> None:
    """After the time it is waited for; every verb is released with what it had reached."""
    session = make()
    with exchange(session) as line_of:
        broken = Broken(line_of, session, reconnect_s=4)
        call = line_of.thread(lambda: session.say(TEXT))
        line_of.clock.sleep(1)
        broken.line.drop()
        at = line_of.clock.monotonic()
        with pytest.raises(CallHangupError, match="stream_lost") as caught:
            call.join()
        assert call.ended_at == pytest.approx(at + 4, abs=0.01)
        assert caught.value.partial.heard_ms == pytest.approx(1000, abs=40)
        assert session.ended_reason == "stream_lost"


@pytest.mark.parametrize("way", ["stop", "hang_up", "drop"])
def test_only_a_loss_is_waited_out(way: str) -> None:
    """Somebody who hangs up has hung up, and without a wish to reconnect every end is the end."""
    session = make()
    with exchange(session) as line_of:
        broken = Broken(line_of, session, reconnect_s=0 if way == "drop" else 8)
        if way == "hang_up":
            session.hang_up()
        else:
            broken.line.hang_up() if way == "stop" else broken.line.drop()
            line_of.clock.sleep(0.1)
        reasons = {"stop": "caller_hung_up", "hang_up": "hung_up", "drop": "stream_lost"}
        assert session.ended_reason == reasons[way]
        assert broken.lost == []


def test_hanging_up_while_the_stream_is_lost() -> None:
    """Without a carrier to ask, the next stream is closed as soon as it is there."""
    session = make()
    with exchange(session) as line_of:
        broken = Broken(line_of, session)
        broken.line.drop()
        line_of.clock.sleep(0.5)
        line_of.thread(session.hang_up).join()
        second = broken.connect()
        assert second.ended(5) is LineEnd.APP_CLOSED
        assert session.ended_reason == "hung_up"


def test_a_new_stream_takes_the_place_of_one_whose_path_is_dead() -> None:
    """The old socket is closed and says nothing any more; the sentence goes on on the new one."""
    voice = ScriptedVoice()
    session = make(voice)
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        broken = Broken(line_of, session, reconnect_s=0)
        call = line_of.thread(lambda: session.say(TEXT))
        line_of.clock.sleep(1)
        heard = broken.line.heard
        line_of.loop.call(session.live.replace_leg)
        second = broken.connect()
        assert broken.line.ended(5) is LineEnd.APP_CLOSED
        assert call.join().complete
        assert heard + second.heard == voice.audio(TEXT)
        assert not session.is_disconnected
        second.hang_up()
        line_of.clock.sleep(0.5)
        assert session.ended_reason == "caller_hung_up"
    assert [event.reason for event in events.of(LegEnded)] == ["stream_lost", "caller_hung_up"]


@pytest.mark.parametrize(("away_s", "silence_ms"), [(0.5, 500), (5.0, 1000)])
def test_the_time_without_a_stream_is_silence_to_the_ear(away_s: float, silence_ms: int) -> None:
    """A second of it at most is handed on, enough to end a sentence; all of it counts on the call's time line."""
    session = make()
    with exchange(session) as line_of:
        broken = Broken(line_of, session)
        line_of.clock.sleep(1)
        frames: list[bytes] = []

        def collect() -> None:
            frames.extend(session.frames())

        listening = line_of.thread(collect)
        broken.drop(broken.line)
        before_ms, before_s, heard = session.live.now_ms(), line_of.clock.monotonic(), len(frames)
        line_of.clock.sleep(away_s - 0.1)
        second = broken.connect()
        line_of.clock.sleep(1)
        second.hang_up()
        listening.join()
        passed_ms = (line_of.clock.monotonic() - before_s) * 1000
        assert session.live.now_ms() - before_ms == pytest.approx(passed_ms, abs=40)
        assert (len(frames) - heard) * 20 == pytest.approx(silence_ms + 900, abs=60)


# -- calls that are taken away ------------------------------------------------------------------------------------


class Hand:
    """The carrier, as far as a call that is away asks it anything."""

    def __init__(self, clock: Any, *answers: bool | Exception) -> None:
        self._clock = clock
        self._answers: Iterator[bool | Exception] = iter(answers)
        self.asked: list[float] = []

    def is_over(self) -> bool:
        self.asked.append(self._clock.monotonic())
        answer = next(self._answers, False)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Away:
    """A call that leave() takes from its stream."""

    def __init__(self, line_of: Exchange, session: VoiceSession, *answers: bool | Exception) -> None:
        self.line_of = line_of
        self.live = session.live
        self.hand = Hand(line_of.clock, *answers)
        session.live.control = self.hand  # type: ignore[assignment]
        self.line = self.connect()
        session.wait_for_ws_connect(5)

    def connect(self) -> Line:
        return self.line_of.connect(call_sid=SID)

    def leave(self, act: Any, patience: float = 1000) -> Call:
        call = self.line_of.thread(lambda: self.live.leave(act, patience=patience))
        self.line_of.clock.sleep(0.01)
        return call


REPORT = TransferResult(outcome=DialOutcome.BUSY, call_sid="CA1")


def test_leaving_and_coming_back() -> None:
    """It blocks until the next stream is up, and brings what the carrier reported."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        acts: list[float] = []
        call = away.leave(lambda: acts.append(line_of.clock.monotonic()))
        line_of.clock.sleep(0.5)
        away.line.hang_up()
        line_of.clock.sleep(60)
        assert call.ended_at is None
        assert away.live.away
        line_of.loop.call(away.live.report, REPORT)
        back = away.connect()
        assert call.join() == REPORT
        assert len(acts) == 1
        assert not away.live.away
        back.hang_up()
        line_of.clock.sleep(0.1)
        assert session.ended_reason == "caller_hung_up"


def test_without_a_report_there_is_none() -> None:
    """And that of an earlier absence is not taken for it."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        line_of.loop.call(away.live.report, REPORT)
        call = away.leave(lambda: None)
        away.line.hang_up()
        back = away.connect()
        assert call.join() is None
        back.hang_up()


def test_a_call_that_ends_while_it_is_away_is_looked_for_ever_more_rarely() -> None:
    """Nobody tells of it; a carrier that cannot be asked is asked again."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session, False, RestError("no answer"), False, True)
        call = away.leave(lambda: None)
        away.line.hang_up()
        at = line_of.clock.monotonic()
        with pytest.raises(CallHangupError, match="caller_hung_up"):
            call.join()
        assert [round(asked - at) for asked in away.hand.asked] == [4, 10, 19, 32]


def test_a_refusal_leaves_everything_as_it_is() -> None:
    """The error comes out, and the end of the stream is the end of the call again."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)

        def refuse() -> None:
            raise RestError("no", status=400)

        with pytest.raises(RestError, match="no"):
            away.leave(refuse).join()
        assert not away.live.away
        assert session.say("still here").complete
        away.line.hang_up()
        line_of.clock.sleep(0.1)
        assert session.ended_reason == "caller_hung_up"


@pytest.mark.parametrize("done", [True, False])
def test_where_the_answer_is_lost_the_stream_tells(done: bool) -> None:
    """It goes: the order was carried out. It stays for three seconds: it was not, and the error comes out."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)

        def doubtful() -> None:
            raise RestError("no answer", maybe_done=True)

        call = away.leave(doubtful)
        if done:
            line_of.clock.sleep(1)
            away.line.hang_up()
            line_of.clock.sleep(5)
            back = away.connect()
            assert call.join() is None
            back.hang_up()
        else:
            at = line_of.clock.monotonic()
            with pytest.raises(RestError, match="no answer"):
                call.join()
            assert call.ended_at == pytest.approx(at + 3, abs=0.1)
            assert not away.live.away
            away.line.hang_up()


def test_an_order_that_is_taken_and_not_carried_out_is_an_error() -> None:
    """The stream goes on for ten seconds as if nothing had been said."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        with pytest.raises(RestError, match="as if it had not") as caught:
            away.leave(lambda: None).join()
        assert caught.value.maybe_done
        assert session.say("still here").complete
        away.line.hang_up()


def test_patience_ends() -> None:
    """A call that does not come back in time is over."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        call = away.leave(lambda: None, patience=20)
        away.line.hang_up()
        with pytest.raises(CallHangupError, match="next_stream_missing"):
            call.join()
        assert session.ended_reason == "next_stream_missing"


def test_a_call_that_has_ended_does_not_leave() -> None:
    """Nothing is asked of the carrier."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        away.line.hang_up()
        line_of.clock.sleep(0.1)
        acts: list[int] = []
        with pytest.raises(CallHangupError, match="caller_hung_up"):
            away.leave(lambda: acts.append(1)).join()
        assert acts == []


def test_leaving_waits_for_a_stream_that_is_lost_just_now() -> None:
    """First back, then away."""
    session = make()
    with exchange(session) as line_of:
        away = Away(line_of, session)
        away.live.reconnect_s = 8
        away.line.drop()
        line_of.clock.sleep(0.1)
        acts: list[float] = []
        call = away.leave(lambda: acts.append(line_of.clock.monotonic()))
        line_of.clock.sleep(1)
        assert acts == []
        second = away.connect()
        line_of.clock.sleep(0.1)
        assert len(acts) == 1
        second.hang_up()
        third = away.connect()
        assert call.join() is None
        third.hang_up()
