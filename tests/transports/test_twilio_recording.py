"""Recordings made by Twilio, against the fake Twilio."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, RestError
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_settings import Timings
from voice_runtime.transports import twilio_rest
from voice_runtime.transports.twilio_recording import (
    RecordingHandle,
    RecordingStatus,
    delete_recording,
    download_recording,
    list_recordings,
    start_recording,
)

OURS = "+15005550006"
THEM = "+4930123456"
HOST = "voice.example.com"
WAIT = '<Response><Pause length="600"/></Response>'
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def running(clock: VirtualClock) -> Iterator[Callable[[], FakeTwilio]]:
    """Makes fakes, one for each region."""
    fakes: list[FakeTwilio] = []

    def run() -> FakeTwilio:
        fakes.append(FakeTwilio(clock=clock, timings=Timings(calls_per_second=1000)))
        return fakes[-1].__enter__()

    yield run
    for fake in fakes:
        fake.__exit__(None, None, None)


@pytest.fixture
def fake(running: Callable[[], FakeTwilio]) -> FakeTwilio:
    return running()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between the attempts of a request; and no .env of the working directory."""
    monkeypatch.setattr(twilio_rest, "_BACKOFF_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)


def settings_for(fake: FakeTwilio, **more: Any) -> Settings:
    return load(
        twilio_account_sid=fake.account_sid,
        twilio_auth_token=fake.auth_token,
        twilio_api_base_url=fake.api_base_url,
        **more,
    )


def call(fake: FakeTwilio, clock: VirtualClock, **more: Any) -> str:
    """A call that is in progress."""
    sid = twilio_rest.client(settings_for(fake)).calls.create(to=THEM, from_=OURS, twiml=WAIT, **more).sid
    clock.sleep(5)
    return str(sid)


def seconds(wav: bytes) -> tuple[int, float]:
    """Channels, and how long it is."""
    with wave.open(io.BytesIO(wav)) as sound:
        return sound.getnchannels(), sound.getnframes() / sound.getframerate()


# -- a recording's life -----------------------------------------------------------------------------------------


def test_a_recording_of_a_call(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Both sides on channels of their own, from now until it is stopped; then the audio can be had."""
    settings = settings_for(fake)
    sid = call(fake, clock)
    recording = start_recording(sid, settings=settings)
    assert recording.recording_sid.startswith("RE")
    assert (recording.call_sid, repr(recording)) == (sid, f"<RecordingHandle {recording.recording_sid} of {sid}>")
    clock.sleep(3)
    assert recording.stop() is True
    (listed,) = list_recordings(sid, settings=settings)
    assert (listed.status, listed.duration_s) == ("processing", None)
    clock.sleep(3)
    (listed,) = list_recordings(sid, settings=settings)
    assert (listed.recording_sid, listed.call_sid) == (recording.recording_sid, sid)
    assert (listed.status, listed.duration_s, listed.channels, listed.track) == ("completed", 3, 2, "both")
    assert (listed.source, listed.error_code, listed.price) == ("StartCallRecordingAPI", None, None)
    assert listed.started_at == datetime.fromtimestamp(int(fake.recordings[0].created_at), UTC)
    wav = download_recording(recording.recording_sid, settings=settings)
    channels, length = seconds(wav)
    assert (channels, round(length, 1)) == (2, 3.0)


@pytest.mark.parametrize(("silence", "length"), [(True, 30.0), (False, 20.0)])
def test_a_pause(fake: FakeTwilio, clock: VirtualClock, silence: bool, length: float) -> None:
    """It is silence of its length, or nothing at all."""
    recording = start_recording(call(fake, clock), settings=settings_for(fake))
    clock.sleep(10)
    assert recording.pause(silence) is True
    clock.sleep(10)
    assert recording.resume() is True
    clock.sleep(10)
    recording.stop()
    clock.sleep(3)
    wav = download_recording(recording.recording_sid, settings=settings_for(fake))
    assert seconds(wav)[1] == pytest.approx(length, abs=0.1)


def test_what_is_over_stays_over(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Stopping again, pausing and resuming say False; so they do when the call has ended or the recording is gone."""
    settings = settings_for(fake)
    sid = call(fake, clock)
    stopped, ended = start_recording(sid, settings=settings), start_recording(sid, settings=settings)
    clock.sleep(1)
    assert stopped.stop() is True
    assert (stopped.stop(), stopped.pause(), stopped.resume()) == (False, False, False)
    fake.call(sid).hang_up()
    clock.sleep(3)
    assert (ended.pause(), ended.resume(), ended.stop()) == (False, False, False)
    assert delete_recording(ended.recording_sid, settings=settings) is True
    assert ended.stop() is False


def test_a_failure_is_no_end(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Whatever else goes wrong is raised: what was said may be on the recording then."""
    recording = start_recording(call(fake, clock), settings=settings_for(fake))
    fake.faults.rest_503_before = 1
    with pytest.raises(RestError, match="Pausing the recording failed") as caught:
        recording.pause()
    assert (caught.value.status, caught.value.maybe_done) == (503, True)
    assert recording.pause() is True


def test_a_recording_that_something_else_has_started(fake: FakeTwilio, clock: VirtualClock) -> None:
    """The call's SID is enough while there is one; with two it is said that it is not."""
    settings = settings_for(fake)
    sid = call(fake, clock, record=True)
    current = RecordingHandle(sid, settings=settings)
    assert (current.pause(), current.resume()) == (True, True)
    second = start_recording(sid, settings=settings)
    with pytest.raises(RestError, match="the call has 2"):
        current.stop()
    assert second.stop() is True
    assert (current.stop(), current.stop()) == (True, False)
    by_sid = RecordingHandle(sid, second.recording_sid, settings=settings)
    assert by_sid.stop() is False


def test_a_call_that_is_not_in_progress(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Nothing to record yet, or not any more."""
    settings = settings_for(fake)
    ringing = twilio_rest.client(settings).calls.create(to=THEM, from_=OURS, twiml=WAIT).sid
    with pytest.raises(RestError, match="not been answered yet, or it is over") as caught:
        start_recording(ringing, settings=settings)
    assert (caught.value.status, caught.value.code) == (400, 21220)
    with pytest.raises(RestError) as caught:
        start_recording("CA" + "f" * 32, settings=settings)
    assert (caught.value.status, caught.value.code) == (404, 20404)


def test_what_is_asked_for(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Mono, one track, trimmed, and somebody is told."""
    sid = call(fake, clock)
    start_recording(
        sid, settings=settings_for(fake), channels="mono", track="inbound", trim=True, status_callback="https://h/r"
    )
    order = fake.recordings[0].order
    assert (order.channels, order.track, order.trim) == (1, "inbound", True)
    assert (order.callback_url, order.callback_method) == ("https://h/r", "POST")
    assert order.callback_events == {"in-progress", "completed", "absent"}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"channels": "stereo"}, "channels is 'stereo'; expected one of mono, dual"),
        ({"track": "left"}, "track is 'left'; expected one of both"),
        ({"status_callback": "/recorded"}, "expected a whole URL"),
        ({"call_sid": "../Calls"}, "expected a call SID"),
    ],
)
def test_wrong_orders(wrong: dict[str, Any], complaint: str) -> None:
    """Are refused before any request."""
    with pytest.raises(ValueError, match=complaint):
        start_recording(**{"call_sid": "CA1", "settings": load(), **wrong})


def test_sids_are_no_paths() -> None:
    """What is not a SID does not get into a request."""
    for use in (download_recording, delete_recording):
        with pytest.raises(ValueError, match="expected a recording SID"):
            use("RE1/../x", settings=load())
    with pytest.raises(ValueError, match="expected a recording SID"):
        RecordingHandle("CA1", "RE1/x", settings=load())
    with pytest.raises(ValueError, match="expected a call SID"):
        list_recordings("", settings=load())


def test_an_answer_without_sid() -> None:
    """The recording may be going on all the same."""
    with RestServer(Answer(201, {"sid": None})) as server:
        settings = load(twilio_account_sid="AC1", twilio_auth_token="t", twilio_api_base_url=server.url)
        with pytest.raises(RestError, match="holds no SID") as caught:
            start_recording("CA1", settings=settings)
    assert caught.value.maybe_done is True


def test_the_environment_is_the_default(
    fake: FakeTwilio, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without settings= they are read when the function is called."""
    sid = call(fake, clock)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", fake.account_sid)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", fake.auth_token)
    monkeypatch.setenv("TWILIO_API_BASE_URL", fake.api_base_url)
    assert start_recording(sid).stop() is True
    assert RecordingHandle(sid).stop() is False
    assert len(list_recordings(sid)) == 1


# -- lists, audio, deletion -------------------------------------------------------------------------------------


def test_every_recording_is_listed(fake: FakeTwilio, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages, the newest first; or an error."""
    monkeypatch.setattr(twilio_rest, "PAGE_SIZE", 2)
    settings = settings_for(fake)
    sid = call(fake, clock)
    made = [start_recording(sid, settings=settings).recording_sid for _ in range(5)]
    fake.faults.list_page_fails = 1
    assert [one.recording_sid for one in list_recordings(sid, settings=settings)] == made[::-1]
    fake.faults.list_page_fails = 100
    with pytest.raises(RestError, match="Listing the recordings failed"):
        list_recordings(sid, settings=settings)


def test_channels_of_a_download(fake: FakeTwilio, clock: VirtualClock) -> None:
    """A dual recording can be had in mono, a mono one not in two channels."""
    settings = settings_for(fake)
    sid = call(fake, clock)
    dual, mono = start_recording(sid, settings=settings), start_recording(sid, settings=settings, channels="mono")
    clock.sleep(2)
    fake.call(sid).hang_up()
    clock.sleep(3)
    assert seconds(download_recording(dual.recording_sid, settings=settings))[0] == 2
    assert seconds(download_recording(dual.recording_sid, settings=settings, channels="mono"))[0] == 1
    assert seconds(download_recording(dual.recording_sid, settings=settings, channels="dual"))[0] == 2
    assert seconds(download_recording(mono.recording_sid, settings=settings))[0] == 1
    with pytest.raises(RestError) as caught:
        download_recording(mono.recording_sid, settings=settings, channels="dual")
    assert (caught.value.status, caught.value.code) == (400, 16113)
    with pytest.raises(ValueError, match="channels is 'stereo'"):
        download_recording(mono.recording_sid, settings=settings, channels="stereo")  # type: ignore[arg-type]


def test_audio_that_is_not_there_yet(fake: FakeTwilio, clock: VirtualClock) -> None:
    """It is a 404, and what to wait for is said."""
    recording = start_recording(call(fake, clock), settings=settings_for(fake))
    with pytest.raises(RestError, match="once its status is completed") as caught:
        download_recording(recording.recording_sid, settings=settings_for(fake))
    assert (caught.value.status, caught.value.code) == (404, 20404)


def test_a_download_is_robust(fake: FakeTwilio, clock: VirtualClock) -> None:
    """It is repeated after a failure, and no larger than it may be."""
    settings = settings_for(fake)
    recording = start_recording(call(fake, clock), settings=settings)
    clock.sleep(2)
    recording.stop()
    clock.sleep(3)
    fake.faults.rest_503_before = 1
    fake.faults.rest_reset = 1
    assert seconds(download_recording(recording.recording_sid, settings=settings))[1] == pytest.approx(2, abs=0.1)
    assert (fake.faults.rest_503_before, fake.faults.rest_reset) == (0, 0)
    with pytest.raises(RestError, match="expected 1000 bytes at most"):
        download_recording(recording.recording_sid, settings=settings, max_bytes=1000)


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "", "RIFFxxxxAVI "])
def test_what_is_no_audio(body: str) -> None:
    """A proxy's page, or an encrypted recording, is not handed on as a WAV file."""
    with RestServer(Answer(200, body)) as server:
        settings = load(twilio_account_sid="AC1", twilio_auth_token="t", twilio_api_base_url=server.url)
        with pytest.raises(RestError, match="expected a WAV file"):
            download_recording("RE1", settings=settings)


def test_deleting(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Once it is made; after that there is nothing to delete or to download."""
    settings = settings_for(fake)
    sid = call(fake, clock)
    recording = start_recording(sid, settings=settings)
    clock.sleep(2)
    with pytest.raises(RestError, match="Only what is completed can be deleted") as caught:
        delete_recording(recording.recording_sid, settings=settings)
    assert (caught.value.status, caught.value.code) == (409, 20009)
    recording.stop()
    clock.sleep(3)
    assert delete_recording(recording.recording_sid, settings=settings) is True
    assert delete_recording(recording.recording_sid, settings=settings) is False
    assert list_recordings(sid, settings=settings) == []
    with pytest.raises(RestError):
        download_recording(recording.recording_sid, settings=settings)


# -- callbacks --------------------------------------------------------------------------------------------------


def test_callbacks_tell_of_a_recording(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Its beginning and its end, signed by Twilio and read into values."""
    told: list[RecordingStatus] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = (await receive())["body"].decode()
            told.append(RecordingStatus.from_form(dict(parse_qsl(body, keep_blank_values=True))))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    fake.mount(HOST, app)
    sid = call(fake, clock)
    recording = start_recording(sid, settings=settings_for(fake), status_callback=f"https://{HOST}/recorded")
    clock.sleep(10)
    recording.stop()
    clock.sleep(3)
    begun, done = told
    assert (begun.status, begun.duration_s, begun.error_code) == ("in-progress", None, None)
    assert (done.status, done.duration_s, done.channels, done.track) == ("completed", 10, 2, "both")
    for one in told:
        assert (one.account_sid, one.call_sid, one.recording_sid) == (fake.account_sid, sid, recording.recording_sid)
    assert done.url.endswith(f"/Recordings/{recording.recording_sid}")
    (listed,) = list_recordings(sid, settings=settings_for(fake))
    assert (done.started_at, done.source) == (listed.started_at, listed.source)


def test_a_callback_as_it_was_recorded() -> None:
    """Every field of the documented form is read."""
    status = RecordingStatus.from_form(dict(parse_qsl(VECTORS["recording_status_callback"]["body"])))
    assert (status.status, status.duration_s, status.channels) == ("completed", 12, 2)
    assert status.started_at == datetime(2026, 9, 29, 10, 0, 6, tzinfo=UTC)
    assert (status.source, status.track, status.error_code) == ("OutboundAPI", "both", None)


def test_odd_callbacks_are_read_as_far_as_possible() -> None:
    """What is missing is empty, what is no number or date is None, what is unknown does not matter."""
    assert RecordingStatus.from_form({}) == RecordingStatus()
    odd = {
        "RecordingStatus": "absent",
        "ErrorCode": "16101",
        "RecordingDuration": "-1",
        "RecordingChannels": "two",
        "RecordingStartTime": "soon",
        "Later": "x",
    }
    assert RecordingStatus.from_form(odd) == RecordingStatus(status="absent", error_code=16101)
    zoned = RecordingStatus.from_form({"RecordingStartTime": "Tue, 29 Sep 2026 12:00:06 +0200"}).started_at
    assert zoned == datetime(2026, 9, 29, 10, 0, 6, tzinfo=UTC)
    placeless = RecordingStatus.from_form({"RecordingStartTime": "Tue, 29 Sep 2026 10:00:06 -0000"}).started_at
    assert placeless == zoned


# -- regions ----------------------------------------------------------------------------------------------------


def test_a_call_in_another_region(fake: FakeTwilio, clock: VirtualClock, running: Callable[[], FakeTwilio]) -> None:
    """The call is found, and from then on its recording is where the call is."""
    ireland = running()
    region = {
        "edge": "dublin",
        "account_sid": ireland.account_sid,
        "auth_token": ireland.auth_token,
        "api_base_url": ireland.api_base_url,
    }
    settings = settings_for(fake, twilio_regions={"ie1": region})
    sid = call(ireland, clock)
    recording = start_recording(sid, settings=settings)
    asked = len(fake.log.entries("rest"))
    clock.sleep(1)
    assert (recording.pause(), recording.resume(), recording.stop(), recording.stop()) == (True, True, True, False)
    assert len(fake.log.entries("rest")) == asked
    clock.sleep(3)
    assert RecordingHandle(sid, recording.recording_sid, settings=settings).stop() is False
    assert len(list_recordings(sid, settings=settings, region="ie1")) == 1
    assert download_recording(recording.recording_sid, settings=settings, region="ie1")[:4] == b"RIFF"
    assert delete_recording(recording.recording_sid, settings=settings) is True
    with pytest.raises(ConfigurationError, match="known are us1, ie1"):
        RecordingHandle(sid, settings=settings, region="au1")
