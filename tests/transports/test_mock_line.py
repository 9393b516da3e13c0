"""Twilio's end of a stream: what it sends and when, what it makes of what it is sent, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import Any

import pytest
import uvicorn

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.memory_wire import MemoryServer
from voice_runtime.transports.mock_audio import Ear, HeardAudio
from voice_runtime.transports.mock_line import LineEnd, LineFaults, MediaLine
from voice_runtime.transports.mock_wire import ConnectFailure, connect_socket, handshake_headers, sign
from voice_runtime.transports.twilio_protocol import MediaStream

URL = "wss://voice.example.com/voice"
SPEECH = random.Random(7).randbytes(4000)  # half a second


class Server:
    """The app's side, by hand: remembers what came and when, answers as its script says."""

    def __init__(self, script: Callable[[Server], Awaitable[None]] | None = None) -> None:
        self.script = script
        self.texts: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.disconnected: int | None = None
        self.stream_sid = ""
        self._send: Any = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            raise RuntimeError("no lifespan here")
        self.headers = list(scope["headers"])
        self._send = send
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        script: asyncio.Task[None] | None = None
        while (event := await receive())["type"] != "websocket.disconnect":
            self.texts.append(event["text"])
            message = json.loads(event["text"])
            self.messages.append(message)
            self.times.append(asyncio.get_running_loop().time())
            if message["event"] == "start" and self.script is not None:
                self.stream_sid = message["streamSid"]
                script = asyncio.ensure_future(self.script(self))
        self.disconnected = event["code"]
        if script is not None:
            await script

    async def send(self, **message: Any) -> None:
        await self.send_text(json.dumps({**message, "streamSid": self.stream_sid}))

    async def send_text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def media(self, audio: bytes) -> None:
        await self.send(event="media", media={"payload": base64.b64encode(audio).decode()})

    async def mark(self, name: str) -> None:
        await self.send(event="mark", mark={"name": name})

    async def clear(self) -> None:
        await self.send(event="clear")

    async def close(self, code: int = 1000) -> None:
        await self._send({"type": "websocket.close", "code": code})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["event"] == event]

    def at(self, event: str) -> list[float]:
        """Arrival times, ms since start."""
        begin = next(t for t, m in zip(self.times, self.messages, strict=True) if m["event"] == "start")
        return [
            round((t - begin) * 1000, 3)
            for t, message in zip(self.times, self.messages, strict=True)
            if message["event"] == event
        ]

    def audio(self) -> bytes:
        return b"".join(base64.b64decode(message["media"]["payload"]) for message in self.of("media"))


def virtually(work: Coroutine[Any, Any, Any]) -> Any:
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        try:
            return loop.run_until_complete(work)
        finally:
            loop.close()


def call(
    server: Server,
    far_end: Callable[[MediaLine], Awaitable[Any]] | float = 1.0,
    faults: LineFaults | None = None,
    **options: Any,
) -> MediaLine:
    """A whole stream in virtual time: the far end does its part, then hangs up."""

    async def work() -> MediaLine:
        async with MemoryServer(server) as memory:
            wire = await memory.connect(URL, handshake_headers(URL, "signature"))
            assert not isinstance(wire, ConnectFailure)
            line = MediaLine(wire, faults=faults, **options)
            running = asyncio.ensure_future(line.run())
            if callable(far_end):
                await far_end(line)
            else:
                await asyncio.sleep(far_end)
            line.stop()
            await running
            return line

    line: MediaLine = virtually(work())
    return line


def test_a_stream_opens_as_twilio_documents_it() -> None:
    """connected, then start with the call's facts, then media; numbers are strings but for the media format's."""
    server = Server()
    line = call(server, parameters={"order": "42 € & <x>"}, account_sid="AC1", call_sid="CA1", stream_sid="MZ1")
    assert server.messages[0] == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert server.messages[1] == {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "accountSid": "AC1",
            "streamSid": "MZ1",
            "callSid": "CA1",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"order": "42 € & <x>"},
        },
    }
    assert server.messages[2] == {
        "event": "media",
        "sequenceNumber": "2",
        "streamSid": "MZ1",
        "media": {
            "track": "inbound",
            "chunk": "1",
            "timestamp": "100",
            "payload": base64.b64encode(b"\xff" * 160).decode(),
        },
    }
    assert line.ended is LineEnd.STOPPED


def test_frames_come_every_20_ms_and_never_drift() -> None:
    """Frame n arrives 20 ms times n after the first, to the microsecond, for five minutes."""
    server = Server()
    call(server, 300)
    times = server.at("media")
    assert len(times) == 14_995
    assert all(abs(at - (100 + 20 * n)) < 0.001 for n, at in enumerate(times))
    assert [int(m["media"]["chunk"]) for m in server.of("media")] == list(range(1, len(times) + 1))
    assert [int(m["media"]["timestamp"]) for m in server.of("media")] == [100 + 20 * n for n in range(len(times))]
    assert [int(m["sequenceNumber"]) for m in server.messages[1:]] == list(range(1, len(times) + 3))


def test_speech_arrives_as_it_was_spoken() -> None:
    """What the far end says comes in one piece, whenever it begins, with silence around it."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(0.3337)
        began = asyncio.get_running_loop().time()
        await line.say(SPEECH)
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.5 + 0.02, abs=0.001)
        await asyncio.sleep(0.1)

    call(server, far_end)
    heard = server.audio()
    at = heard.find(SPEECH)
    assert at > 0
    assert set(heard[:at]) == {0xFF}
    assert set(heard[at + len(SPEECH) :]) == {0xFF}


def test_two_sayings_follow_each_other() -> None:
    """The second begins where the first ends."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(0.2)
        await asyncio.gather(line.say(SPEECH), line.say(SPEECH[::-1]))

    call(server, far_end)
    assert SPEECH + SPEECH[::-1] in server.audio()


def test_the_far_end_can_fall_silent() -> None:
    """stop_talking() cuts the speech and wakes whoever waits for its end."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(0.2)
        speaking = asyncio.ensure_future(line.say(SPEECH))
        await asyncio.sleep(0.1)
        assert line.stop_talking() == 3200
        await speaking
        assert asyncio.get_running_loop().time() == pytest.approx(0.32, abs=0.001)
        await asyncio.sleep(0.3)

    call(server, far_end)
    assert SPEECH[:800] in server.audio()
    assert SPEECH[:801] not in server.audio()


def test_marks_come_back_when_their_audio_has_been_played() -> None:
    """A mark after 300 ms of audio returns after 300 ms; one on an idle line at once; cleared ones with the clear."""

    async def script(server: Server) -> None:
        await server.mark("idle")
        await server.media(b"\x11" * 2400)
        await server.mark("played")
        await server.media(b"\x22" * 8000)
        await server.mark("cut")
        await asyncio.sleep(0.5)
        await server.clear()

    server = Server(script)
    line = call(server)
    assert [m["mark"]["name"] for m in server.of("mark")] == ["idle", "played", "cut"]
    assert server.at("mark") == [0, 300, 500]
    assert line.heard.heard_ulaw() == b"\x11" * 2400 + b"\x22" * 1600
    assert (line.marks_echoed, line.clears) == (3, 1)


def test_what_was_heard_has_times_and_gaps() -> None:
    """The sink knows when each piece was heard, and what lay between."""

    async def script(server: Server) -> None:
        await asyncio.sleep(0.25)
        await server.media(b"\x11" * 800)
        await server.media(b"\x22" * 800)
        await asyncio.sleep(0.3)
        await server.media(b"\x33" * 160)

    line = call(Server(script))
    spans = line.heard.spans
    assert [(round(span.at_ms, 3), len(span.data)) for span in spans] == [(250, 1600), (550, 160)]
    assert [(round(at, 3), round(length, 3)) for at, length in line.heard.gaps()] == [(450, 100)]
    assert line.heard.heard_bytes() == 1760
    assert line.heard.heard_ulaw(with_gaps=True) == b"\x11" * 800 + b"\x22" * 800 + b"\xff" * 800 + b"\x33" * 160
    assert line.heard.between(300, 400) == b"\x11" * 400 + b"\x22" * 400
    assert line.heard.last_ms() == pytest.approx(570)
    assert line.heard.find(b"\x22\x33") == 1599


INVALID = {
    "unknown event": ('{"event": "stop", "streamSid": "MZ1"}', 31951),
    "missing payload": ('{"event": "media", "streamSid": "MZ1", "media": {}}', 31951),
    "mark without mark object": ('{"event": "mark", "streamSid": "MZ1"}', 31951),
    "missing streamSid": ('{"event": "clear"}', 31951),
    "extra field": ('{"event": "clear", "streamSid": "MZ1", "foo": 1}', 31951),
    "extra field inside": ('{"event":"media","streamSid":"MZ1","media":{"payload":"/w==","track":"x"}}', 31951),
    "another stream's sid": ('{"event": "clear", "streamSid": "MZ2"}', 31951),
    "bad base64": ('{"event":"media","streamSid":"MZ1","media":{"payload":"?"}}', 31951),
    "a number as the mark's name": ('{"event":"mark","streamSid":"MZ1","mark":{"name":1}}', 31951),
    "not JSON": ("clear", 31951),
    "an array": ("[]", 31951),
    "a binary frame": (b"\x00\xff", 31950),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_message_is_warned_of_once_and_ignored(name: str) -> None:
    """One warning with Twilio's code however often it comes; the stream goes on."""
    message, code = INVALID[name]
    warned: list[int] = []

    async def script(server: Server) -> None:
        for _ in range(3):
            if isinstance(message, str):
                await server.send_text(message)
            else:
                assert isinstance(message, bytes)
                await server.send_bytes(message)
        await server.media(b"\x01" * 160)
        await server.mark("after")

    server = Server(script)
    line = call(server, stream_sid="MZ1", on_warning=lambda code, text: warned.append(code))
    assert warned == [code]
    assert list(line.warnings) == [code]
    assert server.at("mark") == [20]
    assert line.heard.heard_bytes() == 160


def test_valid_messages_pass_without_a_warning() -> None:
    """Any size of audio, a mark, a clear, in any order of keys."""

    async def script(server: Server) -> None:
        await server.send_text('{"event":"media","streamSid":"MZ1","media":{"payload":"/////w=="}}')
        await server.send_text('{"streamSid":"MZ1","mark":{"name":"m1"},"event":"mark"}')
        await server.send_text('{"event":"clear","streamSid":"MZ1"}')

    assert call(Server(script), stream_sid="MZ1").warnings == {}


def test_more_than_ten_minutes_are_dropped_with_a_warning() -> None:
    """Warning 31931, once."""

    async def script(server: Server) -> None:
        for _ in range(13):
            await server.media(bytes(400_000))

    assert list(call(Server(script)).warnings) == [31931]


def test_keys_come_as_dtmf_on_the_shared_counter() -> None:
    """One message a key, at once, numbered with the frames."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(0.205)
        line.press("5")
        line.press("#")
        await asyncio.sleep(0.1)
        with pytest.raises(ValueError, match="expected one of"):
            line.press("55")

    call(server, far_end)
    assert [m["dtmf"] for m in server.of("dtmf")] == [
        {"track": "inbound_track", "digit": "5"},
        {"track": "inbound_track", "digit": "#"},
    ]
    assert server.at("dtmf") == [205, 205]
    assert [int(m["sequenceNumber"]) for m in server.messages[1:]] == list(range(1, len(server.messages)))


def test_a_hang_up_is_stop_and_then_the_close() -> None:
    """Nothing follows stop; the socket closes with 1000."""
    server = Server()
    line = call(server, account_sid="AC1", call_sid="CA1")
    assert server.messages[-1]["event"] == "stop"
    assert server.messages[-1]["stop"] == {"accountSid": "AC1", "callSid": "CA1"}
    assert server.disconnected == 1000
    assert line.ended is LineEnd.STOPPED


def test_the_app_may_close() -> None:
    """The line ends, what was not played is lost, and the code is known."""

    async def script(server: Server) -> None:
        await server.media(bytes(8000))
        await asyncio.sleep(0.5)
        await server.close(1011)

    line = call(Server(script), 2)
    assert line.ended is LineEnd.APP_CLOSED
    assert line.close_code == 1011
    assert line.heard.heard_bytes() == 4000


def test_everything_is_understood_by_the_servers_protocol() -> None:
    """The receiving side of this package finds nothing wrong with a whole stream."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(0.3)
        line.press("1")
        await line.say(SPEECH)

    call(server, far_end)
    stream = MediaStream()
    assert all(stream.receive(text) is not None for text in server.texts)
    assert stream.last_error is None
    assert stream.statistics().dtmf == 1


def test_a_fork_only_sends() -> None:
    """A unidirectional stream has its tracks, each with frames; a message to it is error 31924."""

    async def script(server: Server) -> None:
        await server.clear()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(1)
        line.press("1")

    heard = HeardAudio(0)
    heard.add(200, SPEECH)
    server = Server(script)
    line = call(server, far_end, bidirectional=False, sources={"outbound": Ear(heard)})
    assert server.messages[1]["start"]["tracks"] == ["outbound"]
    assert {m["media"]["track"] for m in server.of("media")} == {"outbound"}
    assert SPEECH in server.audio()
    assert list(line.warnings) == [31924]
    assert server.of("dtmf") == []


# -- faults -----------------------------------------------------------------------------------------------------


async def one_second_and_marks(server: Server) -> None:
    await server.media(bytes(800))
    await server.mark("a")
    await server.media(bytes(4000))
    await server.mark("b")


def test_latency_delays_both_ways() -> None:
    """50 ms to the app and 30 ms from it: an idle mark makes the round trip in 80 ms more."""

    async def script(server: Server) -> None:
        await server.mark("now")

    server = Server(script)
    call(server, faults=LineFaults(latency_to_app_ms=50, latency_from_app_ms=30))
    assert server.at("mark") == [80]
    assert server.at("media")[0] == 100
    assert server.messages[-1]["event"] == "stop"


def test_jitter_keeps_the_order() -> None:
    """Frames are late by up to the jitter, and still in order."""
    server = Server()
    call(server, 5, LineFaults(jitter_ms=60))
    late = [at - (100 + 20 * n) for n, at in enumerate(server.at("media"))]
    assert 20 < max(late) - min(late) <= 60.001
    assert [int(m["sequenceNumber"]) for m in server.messages[1:]] == list(range(1, len(server.messages)))


def test_stalls_end_in_a_burst() -> None:
    """For 200 ms nothing comes, then ten frames at once; none is missing."""
    server = Server()
    call(server, 1, LineFaults(stalls=((400, 200),)))
    times = server.at("media")
    assert times.count(600) == 11
    assert not [at for at in times if 400 <= at < 600]
    assert [int(m["media"]["timestamp"]) for m in server.of("media")] == [100 + 20 * n for n in range(len(times))]


def test_gaps_make_timestamps_jump() -> None:
    """Frames of the gap never come; chunks count on, timestamps show the loss."""
    server = Server()
    call(server, 1, LineFaults(gaps=((400, 200),)))
    stamps = [int(m["media"]["timestamp"]) for m in server.of("media")]
    assert 380 in stamps
    assert not [stamp for stamp in stamps if 400 <= stamp < 600]
    assert 600 in stamps
    assert [int(m["media"]["chunk"]) for m in server.of("media")] == list(range(1, len(stamps) + 1))


def test_every_tenth_frame_can_be_lost() -> None:
    """lose_every=10 leaves nine of ten."""
    server = Server()
    call(server, 2.1, LineFaults(lose_every=10))
    assert len(server.of("media")) == 90


def test_the_lines_clock_can_drift() -> None:
    """With +100 ppm a minute of frames comes 6 ms late, and the caller's audio still comes through."""
    server = Server()

    async def far_end(line: MediaLine) -> None:
        await asyncio.sleep(60)
        await line.say(SPEECH)

    call(server, far_end, LineFaults(clock_drift_ppm=100))
    assert server.at("media")[3000] == pytest.approx(100 + 60_006, abs=0.01)
    assert SPEECH[:3000] in server.audio()


def test_marks_can_be_lost_or_late_and_clears_ignored() -> None:
    """Lost marks never come, late ones two seconds later, an ignored clear lets the audio play on."""
    server = Server(one_second_and_marks)
    call(server, 3, LineFaults(marks_lost=True))
    assert server.of("mark") == []
    server = Server(one_second_and_marks)
    call(server, 4, LineFaults(mark_delay_ms=2000))
    assert server.at("mark") == [2100, 2600]

    async def script(server: Server) -> None:
        await one_second_and_marks(server)
        await server.clear()

    server = Server(script)
    line = call(server, 3, LineFaults(clear_ignored=True))
    assert server.at("mark") == [100, 600]
    assert line.clears == 1


def test_the_connection_can_break() -> None:
    """Without stop, in the middle of an utterance."""
    server = Server()
    line = call(server, 2, LineFaults(drop_after_ms=700))
    assert line.ended is LineEnd.DROPPED
    assert server.of("stop") == []
    assert server.disconnected == 1006
    assert len(server.of("media")) == 30


@pytest.mark.parametrize(
    ("faults", "stops", "code"),
    [
        (LineFaults(no_stop=True), 0, 1000),
        (LineFaults(stop_twice=True), 2, 1000),
        (LineFaults(close_code=1001), 1, 1001),
        (LineFaults(close_code=1006), 1, 1006),
    ],
)
def test_the_end_can_be_untidy(faults: LineFaults, stops: int, code: int) -> None:
    """No stop, two stops, other close codes, or none."""
    server = Server()
    assert call(server, faults=faults).ended is LineEnd.STOPPED
    assert len(server.of("stop")) == stops
    assert server.disconnected == code


def test_media_can_follow_stop() -> None:
    """So many frames come after stop."""
    server = Server()
    call(server, faults=LineFaults(media_after_stop=3))
    assert [m["event"] for m in server.messages[-4:]] == ["stop", "media", "media", "media"]


def test_start_can_stay_away() -> None:
    """Only connected comes."""
    server = Server()
    line = call(server, 20, LineFaults(never_start=True))
    assert [m["event"] for m in server.messages] == ["connected"]
    assert line.frames_sent == 0


def test_numbers_can_be_numbers() -> None:
    """sequenceNumber, chunk and timestamp as JSON numbers."""
    server = Server()
    call(server, faults=LineFaults(numbers_as_numbers=True))
    assert server.messages[1]["sequenceNumber"] == 1
    assert server.messages[2]["media"]["chunk"] == 1
    assert server.messages[2]["media"]["timestamp"] == 100


def test_an_unknown_event_can_come() -> None:
    """Something new after start, on the shared counter."""
    server = Server()
    call(server, faults=LineFaults(unknown_event=True))
    assert server.messages[2]["event"] == "weather"
    assert server.messages[2]["sequenceNumber"] == "2"


def test_an_app_that_does_not_read_loses_caller_audio() -> None:
    """After two seconds of a full connection frames are dropped, with warning 31930."""
    release = asyncio.Event()
    seen: list[dict[str, Any]] = []

    async def deaf(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            raise RuntimeError("no lifespan here")
        await receive()
        await send({"type": "websocket.accept"})
        await release.wait()
        while (event := await receive())["type"] != "websocket.disconnect":
            seen.append(json.loads(event["text"]))

    async def work() -> MediaLine:
        async with MemoryServer(deaf) as memory:
            wire = await memory.connect(URL)
            assert not isinstance(wire, ConnectFailure)
            line = MediaLine(wire)
            running = asyncio.ensure_future(line.run())
            await asyncio.sleep(30)
            release.set()
            await asyncio.sleep(1)
            line.stop()
            await running
            return line

    line: MediaLine = virtually(work())
    assert list(line.warnings) == [31930]
    stamps = [int(m["media"]["timestamp"]) for m in seen if m["event"] == "media"]
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    assert sum(step > 20 for step in steps) == 1
    assert max(steps) > 15_000


# -- real sockets -----------------------------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[Callable[[Any], int]]:
    """Serves an app with uvicorn on a real port until the test ends."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: Any) -> int:
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", ws_ping_interval=None))
        started = threading.Event()
        original = server.startup

        async def startup(*args: Any, **kwargs: Any) -> None:
            await original(*args, **kwargs)
            started.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert started.wait(10)
        servers.append((server, thread))
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return port

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


async def test_a_real_socket_carries_the_same_stream(served: Callable[[Any], int]) -> None:
    """Speech, marks and the end over a real WebSocket; the handshake has Twilio's headers and no others of note."""

    async def script(server: Server) -> None:
        await server.media(b"\x11" * 1600)
        await server.mark("m")

    server = Server(script)
    port = served(server)
    url = f"ws://127.0.0.1:{port}/voice"
    wire = await connect_socket(url, handshake_headers(url, sign("token", url)))
    assert not isinstance(wire, ConnectFailure)
    line = MediaLine(wire, first_media_ms=20)
    running = asyncio.ensure_future(line.run())
    await line.flowing.wait()
    await line.say(SPEECH)
    line.stop()
    assert await running is LineEnd.STOPPED
    assert SPEECH in server.audio()
    assert line.heard.heard_ulaw() == b"\x11" * 1600
    assert [m["mark"]["name"] for m in server.of("mark")] == ["m"]
    assert server.messages[-1]["event"] == "stop"
    headers = dict(server.headers)
    assert set(headers) == {
        b"host",
        b"user-agent",
        b"connection",
        b"upgrade",
        b"sec-websocket-version",
        b"sec-websocket-key",
        b"x-twilio-signature",
    }
    assert headers[b"user-agent"] == b"Twilio.TmeWs/1.0"
    assert headers[b"host"] == f"127.0.0.1:{port}".encode()


async def test_a_server_may_stand_behind_a_public_name(served: Callable[[Any], int]) -> None:
    """The Host header is the public one, the connection goes to the given address in the clear."""
    server = Server()
    port = served(server)
    wire = await connect_socket(URL, handshake_headers(URL, None), address=("127.0.0.1", port))
    assert not isinstance(wire, ConnectFailure)
    await wire.close()
    assert dict(server.headers)[b"host"] == b"voice.example.com"
    assert b"x-twilio-signature" not in dict(server.headers)


async def test_a_socket_that_cannot_be_had_is_a_value(served: Callable[[Any], int], unused_tcp_port: int) -> None:
    """Refused is 31902, an unknown host 31904, any answer but 101 is 31920 with its status."""
    refused = await connect_socket(f"ws://127.0.0.1:{unused_tcp_port}/voice", [])
    assert isinstance(refused, ConnectFailure)
    assert refused.code == 31902
    unknown = await connect_socket("ws://nowhere.invalid/voice", [])
    assert isinstance(unknown, ConnectFailure)
    assert unknown.code == 31904

    async def closed(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    rejected = await connect_socket(f"ws://127.0.0.1:{served(closed)}/voice", [])
    assert isinstance(rejected, ConnectFailure)
    assert (rejected.code, rejected.http_status) == (31920, 403)
