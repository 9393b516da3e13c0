"""One call: its legs, its end, and that a tap cannot break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.call_line import Recorder, ScriptedVoice, exchange, speaking
from voice_runtime.audio.mixer import AudioMixer
from voice_runtime.events import CallEnded, CallStarted, LegEnded, LegStarted
from voice_runtime.exceptions import CallHangupError
from voice_runtime.session import VoiceSession
from voice_runtime.transports.mock_line import LineEnd

SID = "CA" + "7" * 32


def make(voice: ScriptedVoice | None = None) -> VoiceSession:
    session = VoiceSession()
    session.tts_factory = speaking(voice or ScriptedVoice())
    return session


def test_a_call_goes_on_over_its_next_stream() -> None:
    """Same session, new stream: a verb between them waits, marks and positions begin anew."""
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
        assert session.heard_ms == 900
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
