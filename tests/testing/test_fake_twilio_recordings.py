"""Recordings: what they hold, sample for sample, and how they are controlled, read and told of."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import wave
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import pytest
import requests
from twilio.base import values
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from voice_runtime.audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.mixer import mix_frames
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_settings import Timings
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import HOST, EchoApp

THEM = "+4930123456"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())
SECOND = 8000


def speech(seed: int, samples: int = SECOND) -> bytes:
    """Loud noise without the two zeros of μ-law, at which trimming would stop."""
    return bytes(random.Random(seed).choices([code for code in range(256) if code & 0x7F != 0x7F], k=samples))


ONE, TWO, THREE = speech(1), speech(2), speech(3)


@pytest.fixture
def call(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> FakeCall:
    """An inbound call whose stream is up; the app says what it hears."""
    call = fake.place_call(from_=THEM)
    call.wait_streaming()
    return call


class Wav(NamedTuple):
    """Tracks of μ-law."""

    rate: int
    width: int
    tracks: list[bytes]


def read_wav(content: bytes) -> Wav:
    with wave.open(io.BytesIO(content)) as sound:
        count = sound.getnchannels()
        frames = sound.readframes(sound.getnframes())
        tracks = [
            pcm16_to_ulaw(b"".join(frames[at : at + 2] for at in range(2 * place, len(frames), 2 * count)))
            for place in range(count)
        ]
        return Wav(sound.getframerate(), sound.getsampwidth(), tracks)


def get(fake: FakeTwilio, url: str, token: str | None = None) -> requests.Response:
    answer = requests.get(url, auth=(fake.account_sid, token or fake.auth_token), timeout=5)
    answer.close()
    return answer


def download(fake: FakeTwilio, sid: str, tail: str = ".wav") -> Wav:
    answer = get(fake, f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Recordings/{sid}{tail}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "audio/x-wav")
    return read_wav(answer.content)


def code_of(what: Any) -> tuple[int, int]:
    """(HTTP status, code) of the TwilioRestException that calling this raises."""
    with pytest.raises(TwilioRestException) as caught:
        what()
    return caught.value.status, caught.value.code


def same(ulaw: bytes) -> bytes:
    """As it comes out of PCM: one zero instead of two."""
    return pcm16_to_ulaw(ulaw_to_pcm16(ulaw))


# -- what they hold ---------------------------------------------------------------------------------------------


def test_both_tracks_stand_on_the_time_of_the_call(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Dual: what the caller says is on the left where it was said, what the caller hears on the right, as heard."""
    recording = client.calls(call.sid).recordings.create(recording_channels="dual")
    begin_ms = call.now_ms()
    clock.sleep(1)
    call.says(ONE)
    clock.sleep(2)
    call.says(TWO)
    clock.sleep(1)
    client.calls(call.sid).recordings(recording.sid).update(status="stopped")
    length_ms = call.now_ms() - begin_ms
    clock.sleep(2)
    rate, width, (inbound, outbound) = download(fake, recording.sid)
    assert (rate, width) == (8000, 2)
    assert len(inbound) == len(outbound) == round(length_ms * 8)
    assert inbound == b"\xff" * SECOND + ONE + inbound[2 * SECOND : -2 * SECOND - 160] + TWO + b"\xff" * 8160
    assert set(inbound[2 * SECOND : -2 * SECOND - 160]) == {0xFF}
    heard = call.heard.window(begin_ms, len(outbound))
    assert outbound == heard
    assert ONE in outbound


def test_a_recording_ends_to_the_sample(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """In the middle of a word, and of a frame, both tracks go on to the very moment."""
    recording = client.calls(call.sid).recordings.create(recording_channels="dual")
    begin_ms = call.now_ms()
    call.begins_to_say(ONE)
    clock.sleep(0.507)
    client.calls(call.sid).recordings(recording.sid).update(status="stopped")
    clock.sleep(3)
    inbound, outbound = download(fake, recording.sid).tracks
    assert inbound == ONE[:4056]
    assert outbound == call.heard.window(begin_ms, 4056)
    assert not outbound.endswith(b"\xff")


def test_a_mono_recording_is_both_at_once(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Mono is the default: the sum of the tracks; a dual one can be had so, too, but not the other way round."""
    mono = client.calls(call.sid).recordings.create()
    dual = client.calls(call.sid).recordings.create(recording_channels="dual")
    call.says(ONE)
    clock.sleep(1)
    call.hang_up()
    clock.sleep(2)
    inbound, outbound = download(fake, dual.sid).tracks
    assert ONE in inbound
    assert ONE in outbound
    assert download(fake, mono.sid).tracks == [same(mix_frames(inbound, outbound))]
    assert download(fake, dual.sid, ".wav?RequestedChannels=1").tracks == download(fake, mono.sid).tracks
    assert download(fake, dual.sid, ".wav?RequestedChannels=2").tracks == [inbound, outbound]
    assert download(fake, dual.sid, "").tracks == [inbound, outbound]
    base = f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Recordings"
    refused = get(fake, f"{base}/{mono.sid}.wav?RequestedChannels=2")
    assert (refused.status_code, refused.json()["code"]) == (400, 16113)
    assert get(fake, f"{base}/{mono.sid}.wav?RequestedChannels=three").status_code == 400


@pytest.mark.parametrize("track", ["inbound", "outbound"])
def test_one_track_alone_is_mono(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock, track: str
) -> None:
    """Whatever number of channels was asked for."""
    both = client.calls(call.sid).recordings.create(recording_channels="dual")
    one = client.calls(call.sid).recordings.create(recording_channels="dual", recording_track=track)
    assert (one.channels, one.track) == (1, track)
    call.says(ONE)
    clock.sleep(1)
    call.hang_up()
    clock.sleep(2)
    expected = download(fake, both.sid).tracks[["inbound", "outbound"].index(track)]
    assert ONE in expected
    assert download(fake, one.sid).tracks == [expected]


@pytest.mark.parametrize(("behavior", "pause"), [("silence", 3 * SECOND), ("skip", 0), (values.unset, 3 * SECOND)])
def test_a_pause_is_silence_or_nothing(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock, behavior: Any, pause: int
) -> None:
    """What is said meanwhile is in neither track; without a wish it is silence."""
    recordings = client.calls(call.sid).recordings
    sid = recordings.create(recording_channels="dual").sid
    call.says(ONE)
    clock.sleep(1 - 0.02)
    recordings(sid).update(status="paused", pause_behavior=behavior)
    call.says(TWO)
    clock.sleep(2 - 0.02)
    recordings(sid).update(status="in-progress")
    call.says(THREE)
    clock.sleep(1)
    recordings(sid).update(status="stopped")
    clock.sleep(2)
    inbound, outbound = download(fake, sid).tracks
    assert inbound == ONE + b"\xff" * SECOND + b"\xff" * pause + THREE + b"\xff" * 8160
    assert len(inbound) == len(outbound)
    assert ONE in outbound
    assert TWO not in outbound
    assert THREE in outbound
    assert client.recordings(sid).fetch().duration == str(round(len(inbound) / SECOND))


def test_a_recording_goes_on_from_stream_to_stream(
    fake: FakeTwilio, app: EchoApp, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """A redirect ends the stream, not the recording; the end of the call ends it."""
    sid = client.calls(call.sid).recordings.create(recording_channels="dual", recording_track="both").sid
    begin_ms = call.now_ms()
    call.says(ONE)
    clock.sleep(2)
    client.calls(call.sid).update(twiml=app.twiml["/twilio/voice"])
    clock.sleep(1)
    call.says(TWO)
    clock.sleep(2)
    call.hang_up()
    length_ms = call.now_ms() - begin_ms
    clock.sleep(2)
    assert len(call.streams) == 2
    inbound, outbound = download(fake, sid).tracks
    assert ONE in inbound
    assert TWO in inbound
    assert ONE in outbound
    assert TWO in outbound
    assert len(inbound) == round(length_ms * 8)


def test_much_speech_is_all_there(fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock) -> None:
    """A minute of sentences with pauses, of which the mouth itself remembers the last few."""
    sid = client.calls(call.sid).recordings.create(recording_track="inbound").sid
    said = [speech(seed, 4000) for seed in range(20)]
    for sentence in said:
        call.says(sentence)
        clock.sleep(2.5 - 0.02)
    call.hang_up()
    clock.sleep(2)
    assert download(fake, sid).tracks == [b"".join(sentence + b"\xff" * 20_000 for sentence in said)]


def test_trimming_takes_the_silence_at_both_ends(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """From the first sound of either track to the last; the pause in the middle stays."""
    sid = client.calls(call.sid).recordings.create(trim="trim-silence", recording_channels="dual").sid
    clock.sleep(3)
    call.says(ONE)
    clock.sleep(2)
    call.says(TWO)
    clock.sleep(4)
    call.hang_up()
    clock.sleep(2)
    inbound, outbound = download(fake, sid).tracks
    assert inbound.startswith(ONE)
    assert outbound.endswith(TWO)
    assert not outbound.startswith(ONE)


@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
def test_other_programs_read_it(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock, tmp_path: Path
) -> None:
    """The file is PCM of 16 bits, 8,000 Hz, and as long as it says."""
    sid = client.calls(call.sid).recordings.create(recording_channels="dual").sid
    call.says(ONE)
    clock.sleep(1 - 0.02)
    call.hang_up()
    clock.sleep(2)
    file = tmp_path / "recording.wav"
    file.write_bytes(get(fake, f"{client.recordings(sid).fetch().media_url}.wav").content)
    facts = [
        subprocess.run(["sox", "--i", f"-{what}", file], capture_output=True, text=True, check=True)
        for what in "crbes"
    ]
    assert [fact.stdout.strip() for fact in facts] == ["2", "8000", "16", "Signed Integer PCM", "16000"]


# -- how they are made and controlled ---------------------------------------------------------------------------


def test_a_call_can_be_recorded_from_its_answer(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """Record=true: from the answer to the end, without the silence around, and the last status callback tells."""

    def person(call: FakeCall) -> None:
        call.says(ONE)
        call.sleep(2)
        call.hang_up()

    fake.phones[THEM] = Phone(script=person)
    created = client.calls.create(
        to=THEM,
        from_=OURS,
        url=f"https://{HOST}/twilio/voice",
        record=True,
        recording_channels="dual",
        status_callback=f"https://{HOST}/status",
        recording_status_callback=f"https://{HOST}/status/recording",
    )
    fake.call(created.sid).wait_ended()
    clock.sleep(2)
    (recording,) = client.calls(created.sid).recordings.list()
    assert (recording.source, recording.status, recording.channels) == ("OutboundAPI", "completed", 2)
    inbound, outbound = download(fake, recording.sid).tracks
    assert inbound.startswith(ONE)
    assert outbound.endswith(ONE)
    (form,) = app.forms("/status")
    (told,) = app.forms("/status/recording")
    assert (form["RecordingSid"], form["RecordingDuration"]) == (recording.sid, recording.duration)
    assert form["RecordingUrl"] == told["RecordingUrl"] == client.recordings(recording.sid).fetch().media_url
    assert read_wav(get(fake, told["RecordingUrl"] + ".wav").content).tracks == [inbound, outbound]


def test_trimming_may_be_refused_and_recording_left_out(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """do-not-trim keeps the time before the stream; without Record nothing is recorded."""
    fake.phones[THEM] = Phone(ring_ms=10, hang_up_after_s=5)
    url = f"https://{HOST}/twilio/voice"
    options: list[dict[str, Any]] = [{"record": True, "trim": "do-not-trim"}, {"record": False}, {}]
    for more in options:
        fake.call(client.calls.create(to=THEM, from_=OURS, url=url, **more).sid).wait_ended()
    clock.sleep(2)
    assert [recording.duration_s for recording in fake.recordings] == [5]


def test_a_document_can_start_and_stop_a_recording(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """<Start><Recording> goes on beside other verbs: dual and trimmed unless told otherwise, stopped by its name."""
    app.twiml["/twilio/voice"] = (
        '<Response><Start><Recording name="a" trim="do-not-trim"/><Recording channels="mono" track="inbound" '
        f'recordingStatusCallback="https://{HOST}/status" recordingStatusCallbackEvent="in-progress completed"/>'
        '</Start><Pause length="3"/><Stop><Recording name="a"/></Stop><Pause length="2"/></Response>'
    )

    call = fake.place_call(from_=THEM)
    clock.sleep(1)
    call.says(ONE)
    call.wait_ended()
    clock.sleep(2)
    whole, trimmed = client.calls(call.sid).recordings.list()[::-1]
    assert (whole.source, whole.channels, whole.duration) == ("StartCallRecordingTwiML", 2, "3")
    assert (trimmed.channels, trimmed.track, trimmed.duration) == (1, "inbound", "1")
    assert download(fake, trimmed.sid).tracks == [ONE]
    assert [form["RecordingStatus"] for form in app.forms("/status")] == ["in-progress", "completed"]


def test_a_document_may_ask_for_a_recording_wrongly(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """An unknown word is a warning and no recording; a relative callback never comes."""
    app.twiml["/twilio/voice"] = (
        '<Response><Start><Recording channels="3"/><Recording recordingStatusCallback="/status" '
        'trim="do-not-trim"/></Start><Pause length="3"/></Response>'
    )
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    clock.sleep(2)
    assert fake.warnings(call) == [12200, 11100]
    assert [recording.status for recording in fake.recordings] == ["completed"]
    assert app.forms("/status") == []


def test_a_call_nobody_takes_has_no_recording(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """It begins with the answer."""
    fake.phones[THEM] = Phone(answer="busy")
    call = client.calls.create(to=THEM, from_=OURS, url=f"https://{HOST}/twilio/voice", record=True)
    assert fake.call(call.sid).wait_ended() == "busy"
    assert client.recordings.list() == []


def test_the_current_recording_needs_no_sid(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Twilio.CURRENT is the only active one; it is refused when there are two, and not found when there is none."""
    recordings = client.calls(call.sid).recordings
    current = recordings("Twilio.CURRENT")
    assert code_of(lambda: current.update(status="paused")) == (404, 20404)
    first = recordings.create()
    assert current.update(status="paused").sid == first.sid
    assert current.update(status="in-progress").status == "in-progress"
    second = recordings.create()
    assert code_of(lambda: current.update(status="stopped")) == (400, 20001)
    recordings(first.sid).update(status="stopped")
    assert current.fetch().sid == second.sid
    assert code_of(current.delete) == (409, 20009)
    assert current.update(status="stopped").sid == second.sid
    assert code_of(current.fetch) == (404, 20404)


def test_changes_tell_the_status_and_reading_does_not(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Answers to changes: in-progress, paused, stopped. Who reads sees processing, and completed a while later."""
    recordings = client.calls(call.sid).recordings
    recording = recordings.create()
    told, read = [recording.status], [recordings(recording.sid).fetch().status]
    for status in ("paused", "in-progress", "paused", "paused", "stopped"):
        clock.sleep(0.5)
        told.append(recordings(recording.sid).update(status=status).status)
        read.append(client.recordings(recording.sid).fetch().status)
    assert told == ["in-progress", "paused", "in-progress", "paused", "paused", "stopped"]
    assert set(read) == {"processing"}
    media = f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Recordings/{recording.sid}.wav"
    assert get(fake, media).status_code == 404
    clock.sleep(0.9)
    assert client.recordings(recording.sid).fetch().status == "processing"
    clock.sleep(0.2)
    assert client.recordings(recording.sid).fetch().status == "completed"
    assert get(fake, media).status_code == 200
    assert get(fake, media, "wrong").status_code == 401
    texts = ["in-progress", "paused", "in-progress", "paused", "paused", "stopped", "completed"]
    assert [entry.text for entry in call.events if entry.kind == "recording"] == texts


def test_what_cannot_be_recorded_is_refused(
    fake: FakeTwilio, app: EchoApp, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Calls that are not in progress, unknown sids, words nobody knows, recordings that are over."""
    ringing = client.calls.create(to=THEM, from_=OURS, url=f"https://{HOST}/twilio/voice").sid
    assert code_of(client.calls(ringing).recordings.create) == (400, 21220)
    assert code_of(client.calls("CA" + "f" * 32).recordings.create) == (404, 20404)
    recordings = client.calls(call.sid).recordings
    assert code_of(lambda: recordings.create(recording_channels="three")) == (400, 20001)
    assert code_of(lambda: recordings.create(recording_track="left")) == (400, 20001)
    assert code_of(lambda: recordings.create(trim="a little")) == (400, 20001)
    assert code_of(lambda: recordings.create(recording_status_callback_method="PUT")) == (400, 21209)
    assert client.recordings.list() == []
    sid = recordings.create().sid
    assert code_of(lambda: recordings(sid).update(status="completed")) == (400, 20001)
    assert code_of(lambda: recordings(sid).update(status="paused", pause_behavior="hum")) == (400, 20001)
    assert code_of(recordings("RE" + "f" * 32).fetch) == (404, 20404)
    assert code_of(client.recordings("RE" + "f" * 32).fetch) == (404, 20404)
    assert code_of(client.calls(ringing).recordings(sid).fetch) == (404, 20404)
    call.hang_up()
    call.wait_ended()
    assert code_of(lambda: recordings(sid).update(status="stopped")) == (400, 21220)
    assert code_of(recordings.create) == (400, 21220)
    calls = len(client.calls.list())
    options: dict[str, Any] = {"twiml": "<Response/>", "record": True, "recording_channels": "5"}
    assert code_of(lambda: client.calls.create(to=THEM, from_=OURS, **options)) == (400, 20001)
    assert len(client.calls.list()) == calls


# -- how they are read ------------------------------------------------------------------------------------------


def test_the_resource_has_every_field(fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock) -> None:
    """Under the call with its track, under the account with the way to its audio; the duration is a string."""
    common = {"account_sid", "api_version", "call_sid", "conference_sid", "channels", "date_created", "date_updated"}
    common |= {"start_time", "price", "price_unit", "duration", "sid", "source", "status", "error_code", "uri"}
    common |= {"encryption_details"}
    recordings = client.calls(call.sid).recordings
    began = datetime.fromtimestamp(clock.time(), UTC)
    sid = recordings.create(recording_channels="dual").sid
    raw = fake.log.entries("rest")[-1].data
    assert raw["status"] == 201
    assert raw["answer"].keys() == common | {"track"}
    assert raw["answer"]["channels"] == 2
    assert raw["answer"]["duration"] is None
    assert raw["answer"]["source"] == "StartCallRecordingAPI"
    assert raw["answer"]["uri"].endswith(f"/Calls/{call.sid}/Recordings/{sid}.json")
    clock.sleep(4)
    recordings(sid).update(status="stopped")
    clock.sleep(2)
    fetched = client.recordings(sid).fetch()
    raw = fake.log.entries("rest")[-1].data
    assert raw["answer"].keys() == common | {"subresource_uris", "media_url"}
    assert raw["answer"]["duration"] == "4"
    assert fetched.uri.endswith(f"{fake.account_sid}/Recordings/{sid}.json")
    assert abs((fetched.start_time - began).total_seconds()) <= 1
    assert (fetched.date_updated - fetched.date_created) == timedelta(seconds=5)
    assert recordings(sid).fetch().duration == "4"


def test_recordings_are_listed_by_call_and_date_and_can_be_deleted(
    fake: FakeTwilio, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Page by page, the newest first. Only completed ones can be deleted, after which facts are shown on demand."""
    recordings = client.calls(call.sid).recordings
    sids = [recordings.create().sid for _ in range(3)]
    assert [one.sid for one in client.recordings.list(page_size=2)] == sids[::-1]
    assert [one.sid for one in recordings.list(page_size=2)] == sids[::-1]
    assert [one.sid for one in client.recordings.list(call_sid=call.sid)] == sids[::-1]
    assert client.recordings.list(call_sid="CA" + "f" * 32) == []
    assert client.recordings.list(conference_sid="CF" + "f" * 32) == []
    today = datetime.fromtimestamp(clock.time(), UTC)
    assert len(client.recordings.list(date_created_after=today - timedelta(days=1))) == 3
    assert recordings.list(date_created_before=today - timedelta(days=1)) == []
    clock.sleep(1)
    assert code_of(client.recordings(sids[0]).delete) == (409, 20009)
    call.hang_up()
    clock.sleep(2)
    assert client.recordings(sids[0]).delete()
    assert fake.log.entries("rest")[-1].data["status"] == 204
    assert recordings(sids[1]).delete()
    assert [one.sid for one in client.recordings.list()] == [sids[2]]
    assert len(client.recordings.list(include_soft_deleted=True)) == 3
    assert code_of(client.recordings(sids[0]).fetch) == (404, 20404)
    assert code_of(client.recordings(sids[0]).delete) == (404, 20404)
    assert client.recordings(sids[0]).fetch(include_soft_deleted=True).status == "deleted"
    base = f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Recordings/{sids[0]}"
    assert get(fake, f"{base}.wav").status_code == 404
    assert get(fake, f"{base}.wav?IncludeSoftDeleted=true").status_code == 404


# -- how they are told of ---------------------------------------------------------------------------------------


def test_the_callback_is_twilios(
    fake: FakeTwilio, app: EchoApp, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Signed, with the fields of the real one, when the audio can be had; only of completion unless asked for."""
    recording = client.calls(call.sid).recordings.create(
        recording_channels="dual", recording_status_callback=f"https://{HOST}/status"
    )
    clock.sleep(12)
    call.hang_up()
    clock.sleep(2)
    ((_, form, valid),) = [request for request in app.requests if request[0] == "/status"]
    assert valid
    body = VECTORS["recording_status_callback"]["body"]
    example = {name: values_[0] for name, values_ in parse_qs(body, keep_blank_values=True).items()}
    assert form.keys() == example.keys() | {"ErrorCode"}
    assert form["ErrorCode"] == "0"
    for key in ("RecordingStatus", "RecordingDuration", "RecordingChannels", "RecordingTrack"):
        assert form[key] == example[key], key
    assert (form["RecordingSid"], form["RecordingSource"]) == (recording.sid, "StartCallRecordingAPI")
    ours, theirs = form["RecordingUrl"].split("/2010-04-01/"), example["RecordingUrl"].split("/2010-04-01/")
    assert ours[0] == fake.api_base_url
    assert [part[:2] for part in ours[1].split("/")] == [part[:2] for part in theirs[1].split("/")]
    assert datetime.strptime(form["RecordingStartTime"], "%a, %d %b %Y %H:%M:%S %z")
    callback = [entry for entry in fake.log.entries("callback") if entry.data["form"].get("RecordingSid")]
    assert callback[0].at_s == next(e.at_s for e in fake.log.entries("recording") if e.text == "completed") + 0.005


@pytest.mark.parametrize("events", [["in-progress", "completed", "absent"], ["in-progress completed absent"]])
def test_every_event_can_be_told(
    fake: FakeTwilio, app: EchoApp, client: Client, call: FakeCall, clock: VirtualClock, events: list[str]
) -> None:
    """Given as a list or in one string; by GET where asked for; a recording without a sample is absent."""
    recordings = client.calls(call.sid).recordings
    options: dict[str, Any] = {
        "recording_status_callback": f"https://{HOST}/status",
        "recording_status_callback_event": events,
        "recording_status_callback_method": "GET",
    }
    sid = recordings.create(**options).sid
    clock.sleep(1)
    recordings(sid).update(status="stopped")
    clock.sleep(2)
    empty = recordings.create(**options, trim="trim-silence").sid
    clock.sleep(1)
    recordings(empty).update(status="stopped")
    clock.sleep(2)
    told = [(form["RecordingSid"], form["RecordingStatus"]) for form in app.forms("/status")]
    assert told == [(sid, "in-progress"), (sid, "completed"), (empty, "in-progress"), (empty, "absent")]
    assert "RecordingDuration" not in app.forms("/status")[0]
    assert app.forms("/status")[3]["ErrorCode"] == "16101"
    absent = client.recordings(empty).fetch()
    assert (absent.status, absent.error_code, absent.duration) == ("absent", 16101, None)
    assert code_of(client.recordings(empty).delete) == (409, 20009)
    assert all(valid for _, _, valid in app.requests)


def test_only_wanted_events_are_told_and_faults_strike(
    fake: FakeTwilio, app: EchoApp, client: Client, call: FakeCall, clock: VirtualClock
) -> None:
    """Callbacks can be doubled, dropped, late, and refused by the app, as those of calls."""
    recordings = client.calls(call.sid).recordings
    fake.faults.duplicate_callbacks = True
    fake.faults.callback_delay_ms = 3000
    recordings.create(
        recording_status_callback=f"https://{HOST}/status", recording_status_callback_event=["in-progress"]
    )
    clock.sleep(2.9)
    assert app.forms("/status") == []
    clock.sleep(0.2)
    assert [form["RecordingStatus"] for form in app.forms("/status")] == ["in-progress"] * 2
    fake.faults.duplicate_callbacks = False
    fake.faults.callback_delay_ms = 0
    recordings.create(
        recording_status_callback=f"https://{HOST}/nowhere", recording_status_callback_event=["in-progress"]
    )
    clock.sleep(1)
    assert fake.warnings(call) == [11200]
    fake.faults.drop_callbacks = True
    recordings.create(recording_status_callback=f"https://{HOST}/status")
    call.hang_up()
    clock.sleep(2)
    assert len(app.forms("/status")) == 2


def test_a_fake_may_end_while_recording(clock: VirtualClock) -> None:
    """The recording ends with the call, and nothing is left behind."""
    with FakeTwilio(clock=clock, timings=Timings(stream_connect_ms=20)) as fake:
        app = EchoApp(fake.auth_token)
        fake.mount(HOST, app.app)
        fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
        call = fake.place_call(from_=THEM)
        call.wait_streaming()
        client = Client(fake.account_sid, fake.auth_token, environment={"_": "x"})
        client.api.base_url = fake.api_base_url
        client.calls(call.sid).recordings.create()
        clock.sleep(1)
    assert [recording.status for recording in fake.recordings] == ["stopped"]
    assert call.outcome == "completed"
