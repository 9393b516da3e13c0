"""The Media Streams protocol as an object."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.exceptions import NotConnectedError, PeerProtocolError
from voice_runtime.transports.twilio_protocol import (
    ClearCommand,
    Connected,
    Dtmf,
    FromTwilio,
    Mark,
    MarkCommand,
    Media,
    MediaCommand,
    MediaStream,
    Refused,
    Start,
    Stop,
    StreamState,
    StreamStatistics,
    ToTwilio,
    encode_from_twilio,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
FROM_TWILIO: dict[str, Any] = VECTORS["ws_from_twilio"]
MESSAGES = {name: value for name, value in FROM_TWILIO.items() if name != "header_facts"}
SID = FROM_TWILIO["start"]["streamSid"]


def start_text(**changes: Any) -> str:
    message = json.loads(json.dumps(FROM_TWILIO["start"]))
    message["start"].update(changes)
    return json.dumps(message)


def media_text(chunk: Any = 1, *, timestamp: Any = 20, payload: str = "/w==", **changes: Any) -> str:
    body = {"track": "inbound", "chunk": str(chunk), "timestamp": str(timestamp), "payload": payload}
    return json.dumps({"event": "media", "streamSid": SID, "media": {**body, **changes.pop("media", {})}, **changes})


def started() -> MediaStream:
    stream = MediaStream()
    assert isinstance(stream.receive(start_text()), Start)
    return stream


def state(stream: MediaStream) -> StreamState:
    return stream.state


def counted(stream: MediaStream) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: value for name, value in msgspec.structs.asdict(stream.statistics()).items() if value}


# -- what Twilio sends ------------------------------------------------------------------------------------------


def test_the_canonical_call_is_understood() -> None:
    """Every message of Twilio's documentation arrives with its fields as Python values."""
    stream = MediaStream()
    assert state(stream) is StreamState.WAITING
    assert isinstance(stream.receive(json.dumps(MESSAGES["connected"])), Connected)

    start = stream.receive(json.dumps(MESSAGES["start"]))
    assert isinstance(start, Start)
    assert state(stream) is StreamState.STARTED
    assert stream.start is start.start
    assert start.start.account_sid == "AC00000000000000000000000000000001"
    assert start.start.tracks == ["inbound"]
    assert start.start.media_format.sample_rate == 8000
    assert start.start.custom_parameters == {"session": "s-1", "FirstName": "Jane"}
    assert (stream.stream_sid, stream.call_sid) == (SID, "CA00000000000000000000000000000001")

    media = stream.receive(json.dumps(MESSAGES["media_silence"]))
    assert isinstance(media, Media)
    assert media.media.payload == b"\xff" * 160
    assert (media.media.chunk, media.media.timestamp, stream.newest_timestamp_ms) == (1, 102, 102)
    tone = stream.receive(json.dumps(MESSAGES["media_tone"]))
    assert isinstance(tone, Media)
    assert tone.media.payload == base64.b64decode(MESSAGES["media_tone"]["media"]["payload"])

    dtmf = stream.receive(json.dumps(MESSAGES["dtmf"]))
    assert isinstance(dtmf, Dtmf)
    assert dtmf.dtmf.digit == "1"
    mark = stream.receive(json.dumps(MESSAGES["mark"]))
    assert isinstance(mark, Mark)
    assert mark.mark.name == "u7:16000"
    stop = stream.receive(json.dumps(MESSAGES["stop"]))
    assert isinstance(stop, Stop)
    assert stop.stop.call_sid == stream.call_sid
    assert state(stream) is StreamState.STOPPED
    assert counted(stream) == {"connected": 1, "start": 1, "media": 2, "dtmf": 1, "mark": 1, "stop": 1}
    assert stream.last_error is None


@pytest.mark.parametrize("vector", VECTORS["ws_from_twilio_robustness"], ids=lambda vector: vector["name"])
def test_what_a_lenient_reader_accepts(vector: dict[str, Any]) -> None:
    """Unknown events and fields, numbers for strings, media before start and noise do not end the stream."""
    stream = MediaStream()
    if vector["expect"] == "media":
        stream = started()
    event = stream.receive(vector["text"])
    match vector["expect"]:
        case "ignore":
            assert event is None
            assert counted(stream) == {"unknown": 1}
        case "start":
            assert isinstance(event, Start)
        case "media":
            assert isinstance(event, Media)
            assert (event.sequence_number, event.media.chunk, event.media.timestamp) == (2, 1, 102)
        case "buffer-or-drop, never crash":
            assert event is None
            assert counted(stream) == {"media_before_start": 1}
        case "protocol-error, keep call":
            assert event is None
            assert counted(stream) == {"malformed": 1}
            assert isinstance(stream.last_error, PeerProtocolError)
        case other:
            pytest.fail(f"the vectors expect {other!r}, which this test does not know")


def test_text_may_come_as_bytes() -> None:
    """A driver that has UTF-8 bytes at hand need not decode them."""
    stream = MediaStream()
    assert isinstance(stream.receive(start_text().encode()), Start)
    assert isinstance(stream.receive(media_text().encode()), Media)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"media"',
        "{}",
        '{"event":5}',
        '{"event":"media"}',
        '{"event":"media","media":NaN}',
        '{"event":"media","media":{}}',
        media_text(payload="!!!!"),
        media_text(payload="AAA"),
        media_text(payload="AA-_"),
        media_text(media={"payload": 5}),
        media_text(media={"payload": None}),
        media_text(media={"chunk": "one"}),
        media_text(media={"chunk": -1}),
        media_text(media={"chunk": 1.5}),
        media_text(media={"chunk": True}),
        media_text(media={"timestamp": 2**53 + 1}),
        media_text(media={"timestamp": "9" * 5000}),
        media_text(media={"track": 1}),
        media_text(streamSid=7),
        media_text(sequenceNumber=1).replace('"sequenceNumber": 1', '"sequenceNumber": 1e999'),
        media_text(x=1).replace('"x": 1', '"x": ' + "[" * 100_000 + "]" * 100_000),
        '{"event":"dtmf","dtmf":{"digit":null}}',
        '{"event":"mark"}',
        '{"event":"mark","mark":{"name":"\\ud800"}}',
        "\ud800",
        "\ufeff{}",
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_nonsense_is_counted_and_the_call_goes_on(text: str) -> None:
    """Whatever is not a message is counted as malformed, kept as the last error, and changes nothing else."""
    stream = started()
    assert stream.receive(text) is None
    assert counted(stream) == {"start": 1, "malformed": 1}
    assert "expected a Media Streams message" in str(stream.last_error)
    assert isinstance(stream.receive(media_text()), Media)


def test_bytes_that_are_not_utf8_are_malformed() -> None:
    """Broken UTF-8 inside a string is malformed like any other noise."""
    stream = started()
    assert stream.receive(b'{"event":"mark","mark":{"name":"\xff"}}') is None
    assert counted(stream) == {"start": 1, "malformed": 1}


def test_the_error_does_not_repeat_what_the_caller_said() -> None:
    """A malformed message's payload does not reach the error, and so no log."""
    stream = started()
    stream.receive(media_text(payload="SECRETSECRET", media={"chunk": []}))
    assert "SECRET" not in str(stream.last_error)


def test_an_unknown_event_is_told_from_a_malformed_one() -> None:
    """A future event is counted as unknown and its name is in the last error."""
    stream = started()
    assert stream.receive('{"event":"clear","streamSid":"x"}') is None
    assert counted(stream) == {"start": 1, "unknown": 1}
    assert "'clear'" in str(stream.last_error)


def test_a_binary_frame_is_counted() -> None:
    """Binary frames do not exist in this protocol."""
    stream = started()
    stream.receive_binary(b"\x00\xff")
    assert counted(stream) == {"start": 1, "binary": 1}


# -- the order of things ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dtmf", "mark", "stop"])
def test_before_start_nothing_but_start_counts(kind: str) -> None:
    """A message before start is ignored and the stream still waits."""
    stream = MediaStream()
    assert stream.receive(json.dumps(MESSAGES[kind])) is None
    assert counted(stream) == {"other_before_start": 1}
    assert state(stream) is StreamState.WAITING
    assert isinstance(stream.receive(start_text()), Start)


def test_the_first_start_stands() -> None:
    """A second start is ignored, even one for another call."""
    stream = started()
    first = stream.start
    assert stream.receive(start_text(callSid="CAother", streamSid="MZother")) is None
    assert stream.start is first
    assert counted(stream) == {"start": 1, "second_start": 1}


def test_nothing_counts_after_stop() -> None:
    """After stop everything is ignored: media, another stop, another start, connected."""
    stream = started()
    assert isinstance(stream.receive(json.dumps(MESSAGES["stop"])), Stop)
    for kind in ("media_silence", "stop", "start", "connected", "mark"):
        assert stream.receive(json.dumps(MESSAGES[kind])) is None
    assert stream.statistics().after_stop == 5
    assert stream.newest_timestamp_ms == 0


def test_another_streams_messages_are_ignored() -> None:
    """A foreign streamSid is dropped; a message without one is taken, since a socket carries one stream."""
    stream = started()
    assert stream.receive(media_text(streamSid="MZother")) is None
    assert stream.receive('{"event":"stop","streamSid":"MZother"}') is None
    assert state(stream) is StreamState.STARTED
    assert counted(stream) == {"start": 1, "wrong_stream": 2}
    assert isinstance(stream.receive('{"event":"media","media":{"payload":"/w=="}}'), Media)


def test_the_streams_sid_may_stand_in_one_place_only() -> None:
    """The streamSid is taken from the start's body when the outer one is missing, and the other way round."""
    message = json.loads(start_text())
    del message["streamSid"]
    stream = MediaStream()
    event = stream.receive(json.dumps(message))
    assert isinstance(event, Start)
    assert (stream.stream_sid, event.stream_sid) == (SID, SID)

    message = json.loads(start_text())
    del message["start"]["streamSid"]
    stream = MediaStream()
    event = stream.receive(json.dumps(message))
    assert isinstance(event, Start)
    assert (stream.stream_sid, event.start.stream_sid) == (SID, SID)


@pytest.mark.parametrize("missing", ["streamSid", "callSid"])
def test_a_start_without_its_sids_is_malformed(missing: str) -> None:
    """A start that does not say which stream or call it is about does not start anything."""
    message = json.loads(start_text(**{missing: ""}))
    if missing == "streamSid":
        message["streamSid"] = ""
    stream = MediaStream()
    assert stream.receive(json.dumps(message)) is None
    assert counted(stream) == {"malformed": 1}
    assert missing in str(stream.last_error)
    assert state(stream) is StreamState.WAITING


@pytest.mark.parametrize(
    "media_format",
    [
        {"encoding": "audio/l16", "sampleRate": 8000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
        {},
    ],
)
def test_audio_that_cannot_be_served_is_refused(media_format: dict[str, Any]) -> None:
    """Any other media format yields Refused instead of Start, and nothing can be sent."""
    stream = MediaStream()
    event = stream.receive(start_text(mediaFormat=media_format))
    assert isinstance(event, Refused)
    assert "expected mediaFormat audio/x-mulaw, 8000 Hz, 1 channel" in event.reason
    assert event.start.call_sid == "CA00000000000000000000000000000001"
    assert state(stream) is StreamState.STOPPED
    assert stream.receive(media_text()) is None
    assert counted(stream) == {"refused": 1, "after_stop": 1}
    with pytest.raises(NotConnectedError):
        stream.clear()


# -- chunks, timestamps and sequence numbers --------------------------------------------------------------------


def test_the_other_track_is_ignored() -> None:
    """Outbound media, which only forked streams carry, does not disturb the inbound numbering."""
    stream = started()
    assert stream.receive(json.dumps(MESSAGES["media_outbound_track_only_on_start_stream"])) is None
    assert isinstance(stream.receive(media_text(1)), Media)
    assert stream.statistics().other_track == 1
    assert stream.statistics().missing_chunks == 0


@pytest.mark.parametrize("size", [1, 7, 159, 161, 4000, 60_000])
def test_payloads_of_any_size_are_passed_on(size: int) -> None:
    """A payload need not be a frame of 160 bytes."""
    event = started().receive(media_text(payload=base64.b64encode(b"\x55" * size).decode()))
    assert isinstance(event, Media)
    assert event.media.payload == b"\x55" * size


def test_an_empty_payload_is_counted() -> None:
    """There is nothing to do for a chunk without audio, but its number counts."""
    stream = started()
    assert stream.receive(media_text(1, payload="")) is None
    assert isinstance(stream.receive(media_text(2)), Media)
    assert counted(stream) == {"start": 1, "empty_media": 1, "media": 1}


def test_missing_chunks_are_counted_and_the_audio_passed_on() -> None:
    """A gap in the numbers is counted by the number of chunks that never came."""
    stream = started()
    accepted = [stream.receive(media_text(chunk)) is not None for chunk in (1, 2, 5, 6)]
    assert accepted == [True] * 4
    assert counted(stream) == {"start": 1, "media": 4, "missing_chunks": 2}


def test_duplicate_and_late_chunks_are_dropped() -> None:
    """Audio whose place has passed is never heard twice or in the wrong order."""
    stream = started()
    accepted = [chunk for chunk in (1, 2, 4, 4, 3, 5) if stream.receive(media_text(chunk)) is not None]
    assert accepted == [1, 2, 4, 5]
    assert counted(stream) == {"start": 1, "media": 4, "missing_chunks": 1, "duplicate_chunks": 1, "late_chunks": 1}


def test_a_wild_chunk_number_does_not_deafen_the_stream() -> None:
    """One absurd number is dropped; a new numbering is followed as soon as a second chunk confirms it."""
    stream = started()
    accepted = [chunk for chunk in (1, 2**50, 2, 3) if stream.receive(media_text(chunk)) is not None]
    assert accepted == [1, 2, 3]
    accepted = [chunk for chunk in (90_000, 90_001, 90_002) if stream.receive(media_text(chunk)) is not None]
    assert accepted == [90_001, 90_002]
    accepted = [chunk for chunk in (1, 2, 3) if stream.receive(media_text(chunk)) is not None]
    assert accepted == [2, 3]
    assert stream.statistics().chunk_jumps == 3


def test_unnumbered_chunks_are_taken_as_they_come() -> None:
    """A peer that does not number its chunks is served all the same."""
    stream = started()
    for _ in range(3):
        assert isinstance(stream.receive('{"event":"media","media":{"payload":"/w=="}}'), Media)
    assert counted(stream) == {"start": 1, "media": 3}


def test_a_timestamp_going_back_is_counted() -> None:
    """The newest timestamp is the newest chunk's, also when the peer's clock went back."""
    stream = started()
    stream.receive(media_text(1, timestamp=100))
    stream.receive(media_text(2, timestamp=60))
    assert stream.newest_timestamp_ms == 60
    assert stream.statistics().timestamps_backwards == 1


def test_sequence_numbers_are_watched() -> None:
    """Messages lost and messages out of order are counted; none is dropped for its sequence number."""
    stream = started()
    sequence = [2, 3, 6, 5, 7, 2**40, 2**40 + 1]
    for chunk, number in enumerate(sequence, start=1):
        assert isinstance(stream.receive(media_text(chunk, sequenceNumber=str(number))), Media)
    assert stream.receive(json.dumps({**MESSAGES["mark"], "sequenceNumber": str(2**40 + 3)})) is not None
    statistics = stream.statistics()
    assert (statistics.missing_messages, statistics.out_of_order) == (3, 2)


# -- what we send -----------------------------------------------------------------------------------------------


def test_nothing_can_be_sent_before_start() -> None:
    """Without a streamSid no message can be built, and the error says what to wait for."""
    stream = MediaStream()
    with pytest.raises(NotConnectedError, match="start message"):
        stream.media(b"\xff")
    with pytest.raises(NotConnectedError, match="start message"):
        stream.mark("m")
    with pytest.raises(NotConnectedError, match="start message"):
        stream.clear()


def test_sending_after_stop_still_builds_text() -> None:
    """A writer that is one message behind a hang-up is not an error."""
    stream = started()
    stream.receive(json.dumps(MESSAGES["stop"]))
    assert json.loads(stream.clear())["event"] == "clear"


def test_empty_audio_is_our_own_mistake() -> None:
    """A media message without audio is never sent."""
    with pytest.raises(ValueError, match="at least one byte"):
        started().media(b"")


@given(audio=st.binary(min_size=1, max_size=2000))
def test_media_is_read_back_by_an_independent_decoder(audio: bytes) -> None:
    """Audio of any length arrives unchanged, in a message with exactly the documented fields."""
    message = json.loads(started().media(audio))
    assert message == {"event": "media", "streamSid": SID, "media": {"payload": message["media"]["payload"]}}
    assert base64.b64decode(message["media"]["payload"], validate=True) == audio


@given(name=st.text(), sid=st.text(st.characters(codec="utf-8"), min_size=1))
def test_marks_and_clears_are_read_back_whatever_the_names(name: str, sid: str) -> None:
    """Any mark name and any streamSid is escaped so that JSON gives it back."""
    stream = MediaStream()
    message = json.loads(start_text())
    message["streamSid"] = sid
    assert isinstance(stream.receive(json.dumps(message)), Start)
    assert json.loads(stream.mark(name)) == {"event": "mark", "streamSid": sid, "mark": {"name": name}}
    assert json.loads(stream.clear()) == {"event": "clear", "streamSid": sid}
    assert json.loads(stream.media(b"\x00"))["streamSid"] == sid


def test_what_we_send_is_what_twilio_documents() -> None:
    """Our texts equal the valid examples byte for byte."""
    valid = {vector["name"]: vector["text"] for vector in VECTORS["ws_to_twilio"] if vector["ok"]}
    stream = started()
    assert stream.media(b"\xff" * 101) == valid["media odd size (101 bytes)"]
    assert stream.mark("m1").replace(": ", ":") == valid["mark"]
    assert stream.clear() == valid["clear"]


# 31950 and 31924 are about the kind of frame and the direction of the stream, not about the message.
@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS["ws_to_twilio"] if vector.get("error") not in (31950, 31924)],
    ids=lambda vector: vector["name"],
)
def test_the_vocabulary_rejects_what_twilio_rejects(vector: dict[str, Any]) -> None:
    """The command definitions accept exactly what Twilio accepts without a warning 31951."""
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ToTwilio)
    if vector["ok"]:
        assert isinstance(decoder.decode(vector["text"]), MediaCommand | MarkCommand | ClearCommand)
    else:
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(vector["text"])


# -- the other side ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_simulator_writes_what_twilio_writes(name: str) -> None:
    """Decoding and encoding again gives Twilio's message, strings and numbers included."""
    message: FromTwilio = msgspec.json.decode(json.dumps(MESSAGES[name]), type=FromTwilio, strict=False)
    assert json.loads(encode_from_twilio(message)) == MESSAGES[name]


# -- anything at all --------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NUMBER = st.integers(-5, 12).map(str) | st.integers() | st.just("9" * 30) | JSON
EVENT = st.sampled_from([*(message["event"] for message in MESSAGES.values()), "future"])


@st.composite
def distorted(draw: st.DrawFn) -> str:
    """A canonical message with fields removed, replaced or renumbered."""
    message = json.loads(json.dumps(draw(st.sampled_from(sorted(MESSAGES.values(), key=json.dumps)))))
    inner = message.get(message["event"])
    if "sequenceNumber" in message:
        message["sequenceNumber"] = draw(NUMBER)
    if message["event"] == "media":
        inner["chunk"] = draw(NUMBER)
        inner["timestamp"] = draw(NUMBER)
        inner["payload"] = draw(st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode()) | JSON)
    target = draw(st.sampled_from([message, inner] if inner else [message]))
    action = draw(st.sampled_from(["keep", "keep", "drop", "replace", "add", "cut"]))
    key = draw(st.sampled_from(sorted(target)))
    if action == "drop":
        del target[key]
    elif action == "replace":
        target[key] = draw(JSON)
    elif action == "add":
        target[draw(st.text(max_size=5))] = draw(JSON)
    text = json.dumps(message)
    return text[: draw(st.integers(0, len(text)))] if action == "cut" else text


# These count chunks, messages or clocks within messages that another counter has counted.
GAUGES = {"missing_chunks", "missing_messages", "out_of_order", "timestamps_backwards"}
ACTED_ON = {"connected", "start", "media", "dtmf", "mark", "stop", "refused"}


@given(texts=st.lists(distorted() | st.text() | JSON.map(json.dumps), max_size=12), already_started=st.booleans())
def test_no_peer_can_raise(texts: list[str], already_started: bool) -> None:
    """Any sequence of texts ends in messages or None, and every text is counted exactly once."""
    stream = MediaStream()
    if already_started:
        texts = [start_text(), *texts]
    events = [event for text in texts if (event := stream.receive(text)) is not None]
    fates = {name: count for name, count in counted(stream).items() if name not in GAUGES}
    assert sum(fates.values()) == len(texts)
    assert sum(count for name, count in fates.items() if name in ACTED_ON) == len(events)
    assert isinstance(stream.statistics(), StreamStatistics)
    if any(
        name not in {*ACTED_ON, "after_stop", "other_track", "empty_media", "duplicate_chunks", "late_chunks"}
        for name in fates
    ):
        assert isinstance(stream.last_error, PeerProtocolError)


@given(data=st.binary(max_size=200))
def test_no_bytes_can_raise(data: bytes) -> None:
    """Bytes that are not a message are counted, whatever they are."""
    stream = started()
    stream.receive(data)
    stream.receive_binary(data)
    assert stream.statistics().binary == 1
