"""The stream's endpoint: who is accepted, what a bad peer may send, and that nothing of a call stays behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI

from tests.call_line import URL, ScriptedVoice, exchange, speaking
from voice_runtime.clock import SystemClock
from voice_runtime.config import Settings
from voice_runtime.events import Outcome
from voice_runtime.exceptions import CallHangupError
from voice_runtime.session import VoiceSession
from voice_runtime.testing.memory_wire import MemoryWire
from voice_runtime.transports.mock_line import LineEnd, LineFaults
from voice_runtime.transports.mock_wire import ConnectFailure
from voice_runtime.transports.twilio_signature import sign
from voice_runtime.transports.twilio_token import TokenBook
from voice_runtime.transports.twilio_ws import StreamEndpoint, register_voice_websocket

TOKEN = "0123456789abcdef0123456789abcdef"


def make() -> VoiceSession:
    session = VoiceSession()
    session.tts_factory = speaking(ScriptedVoice())
    return session


def settings(**values: Any) -> Any:
    made = Settings(**{"voice_stream_url": "wss://voice.example.com", "twilio_auth_token": TOKEN, **values})
    return lambda: made


class TestHandshake:
    """Checked before it is accepted; a refusal touches nothing."""

    @pytest.mark.parametrize(
        ("signed", "configured", "accepted"),
        [
            (URL, {}, True),
            (URL, {"voice_stream_url": "https://voice.example.com"}, True),
            (URL, {"voice_stream_url": "ws://voice.example.com"}, True),
            ("https://voice.example.com/voice", {}, False),
            (URL + "/", {}, False),
            ("wss://evil.example.com/voice", {}, False),
            (None, {}, False),
            ("", {}, False),
            (URL, {"twilio_auth_token": "another"}, False),
            (URL, {"twilio_auth_token": f"another,{TOKEN}"}, True),
            (URL, {"twilio_auth_token": None}, False),
            (URL, {"voice_stream_url": None}, False),
        ],
    )
    def test_signature_decides(self, signed: str | None, configured: dict[str, Any], accepted: bool) -> None:
        """Only Twilio's own signature over the TwiML's wss URL opens the stream; anything missing closes it."""
        session = make()
        headers = [] if signed is None else [("x-twilio-signature", sign(signed, None, TOKEN) if signed else "")]
        with exchange(session, insecure=False, settings=settings(**configured)) as line_of:

            async def knock() -> Any:
                return await line_of._server.connect(URL, headers)

            answer = line_of.loop.run(knock())
            if accepted:
                assert isinstance(answer, MemoryWire)
                line_of.loop.call(answer.abort)
            else:
                assert isinstance(answer, ConnectFailure)
                assert "403" in repr(answer)
            assert session.stream_sid is None
            assert session.live.started_at is None

    def test_insecure_must_be_said(self) -> None:
        """insecure=True lets an unsigned line in."""
        with exchange(make(), insecure=True) as line_of:
            line = line_of.connect()
            line_of.clock.sleep(0.2)
            line.hang_up()
            assert line.ended() is LineEnd.STOPPED

    def test_http_on_the_endpoint_is_not_served(self) -> None:
        """A plain request to the stream's path is not found; it does not crash the app."""
        app = FastAPI()
        register_voice_websocket(app, make(), insecure=True)

        async def ask() -> int:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
                return (await client.get("/voice")).status_code

        assert asyncio.run(ask()) == 404


class TestCheck:
    """``check`` in the place of the token proves that signed handshakes arrive."""

    CHECK_URL = "wss://voice.example.com/voice/check"

    async def knock(self, tokens: TokenBook[str], signature: str | None) -> list[Any]:
        def never(body: Any, meaning: Any) -> Any:
            raise AssertionError("a call was opened")

        endpoint = StreamEndpoint(never, clock=SystemClock(), settings=settings(), tokens=tokens)
        came = iter([{"type": "websocket.connect"}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(came)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1:8080")]
        if signature is not None:
            headers.append((b"x-twilio-signature", signature.encode()))
        scope = {"type": "websocket", "scheme": "ws", "path": "/voice/check", "query_string": b"", "headers": headers}
        await endpoint(scope, receive, send)
        return sent

    async def test_signed_it_is_accepted_and_closed(self) -> None:
        """With 1000, at once; no token is used up and no call is opened. As often as one likes."""
        tokens: TokenBook[str] = TokenBook()
        tokens.issue("a call", 0.0, 1e9)
        for _ in range(2):
            sent = await self.knock(tokens, sign(self.CHECK_URL, None, TOKEN))
            assert sent == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}]
        assert len(tokens) == 1

    @pytest.mark.parametrize("signature", [None, "", sign(URL, None, TOKEN), sign(CHECK_URL, None, "another")])
    async def test_otherwise_it_is_refused(self, signature: str | None) -> None:
        """As any stream."""
        assert await self.knock(TokenBook(), signature) == [{"type": "websocket.close", "code": 1008}]

    def test_where_there_are_no_tokens_it_is_a_path_as_any(self) -> None:
        """An app of one's own may have its stream there."""
        session = make()
        with exchange(session, path="/check") as line_of:
            line = line_of.connect(url="wss://voice.example.com/check")
            session.wait_for_ws_connect(5)
            assert session.say("hello").complete
            line.hang_up()


class TestBadPeers:
    """Nothing a peer sends raises, and only what is not Twilio's is closed."""

    @pytest.mark.parametrize(
        "text",
        [
            "hello",
            "[]",
            "{}",
            '{"event": 7}',
            '{"event": "media"}',
            '{"event": "media", "media": {"payload": "***"}}',
            '{"event": "weather"}',
            '{"event": "mark", "mark": {"name": "nobody sent this"}}',
            '{"event": "start", "start": {"callSid": "CAother", "streamSid": "MZother"}}',
            "[" * 2000,
            "\u0000\ud7ff\U0001f600",
        ],
    )
    def test_nonsense_does_not_end_the_call(self, text: str) -> None:
        """Counted, ignored, and the next sentence is heard."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            line.send(text)
            assert session.say("still here").complete
            line.hang_up()

    def test_binary_frames_are_ignored(self) -> None:
        """Twilio sends none."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            line_of.loop.run(line.wire.send_bytes(b"\x00" * 500))
            assert session.say("still here").complete
            line.hang_up()

    def test_a_message_above_64_kib_is_closed_with_1009(self) -> None:
        """It is not Twilio; the call that it was ends."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            line.send(json.dumps({"event": "media", "media": {"payload": "A" * 70_000}}))
            assert line.ended() is LineEnd.APP_CLOSED
            assert line.media.close_code == 1009
            with pytest.raises(CallHangupError):
                session.say("nobody there")

    def test_a_stream_that_never_starts_is_closed(self) -> None:
        """After five seconds, and no session was touched."""
        session = make()
        with exchange(session) as line_of:
            began = line_of.clock.monotonic()
            line = line_of.connect(faults=LineFaults(never_start=True))
            assert line.ended() is LineEnd.APP_CLOSED
            assert line_of.clock.monotonic() - began == pytest.approx(5, abs=0.6)
            assert session.live.started_at is None

    @pytest.mark.parametrize(
        "faults",
        [
            LineFaults(stop_twice=True),
            LineFaults(media_after_stop=5),
            LineFaults(no_stop=True),
            LineFaults(numbers_as_numbers=True),
            LineFaults(unknown_event=True),
            LineFaults(lose_every=7),
            LineFaults(jitter_ms=80),
            LineFaults(clock_drift_ppm=100),
            LineFaults(clock_drift_ppm=-100),
            LineFaults(latency_to_app_ms=120, latency_from_app_ms=90),
            LineFaults(stalls=((500, 400), (1500, 300))),
            LineFaults(mark_delay_ms=2000),
        ],
        ids=lambda faults: repr(faults)[:60],
    )
    def test_what_real_lines_do(self, faults: LineFaults) -> None:
        """Late, lost, doubled and drifting messages: the sentence is heard whole and without a gap."""
        voice = ScriptedVoice()
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect(faults=faults)
            session.wait_for_ws_connect(5)
            result = session.say("one two three four five six seven")
            assert result.outcome is Outcome.PLAYED
            assert line.heard == voice.audio("one two three four five six seven")
            assert line.media.heard.gaps() == []
            line.hang_up()
            line_of.clock.sleep(1)
            assert session.is_disconnected

    def test_a_clear_that_is_ignored_is_told_truly(self) -> None:
        """The far end plays on: the interruption is reported, and what was sent before it is not denied."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect(faults=LineFaults(clear_ignored=True))
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say("one two three four five six seven"))
            line_of.clock.sleep(0.5)
            session.clear()
            result = call.join()
            assert result.outcome is Outcome.INTERRUPTED
            line.hang_up()


class YieldingSend:
    """An ASGI middleware whose send gives the loop away once: an ordering that hangs on luck breaks here."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def yielding(message: Any) -> None:
            await asyncio.sleep(0)
            await send(message)

        await self.app(scope, receive, yielding)


@pytest.fixture
async def real_server(unused_port: int) -> AsyncIterator[tuple[VoiceSession, str]]:
    session = VoiceSession()
    app = FastAPI()
    app.add_middleware(YieldingSend)
    register_voice_websocket(app, session, insecure=True)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=unused_port, log_level="error", ws="websockets-sansio")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield session, f"ws://127.0.0.1:{unused_port}/voice"
    server.should_exit = True
    await task


START = {
    "event": "start",
    "sequenceNumber": "1",
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "callSid": "CA1",
        "accountSid": "AC1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"name": "Ada"},
    },
}


async def test_order_holds_on_a_real_server_whose_send_yields(real_server: tuple[VoiceSession, str]) -> None:
    """500 frames and a mark: the mark arrives behind the last byte, over a real socket, through a middleware that
    gives the loop away at each send."""
    session, url = real_server
    async with websockets.connect(url, compression=None) as socket:
        await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await socket.send(json.dumps(START))
        await asyncio.to_thread(session.wait_for_ws_connect, 5)
        assert session.parameters == {"name": "Ada"}
        session.live.timeline.lead_ms = 60_000
        for n in range(500):
            session.put_outbound_sync((n % 128).to_bytes(1, "big") * 160)
        waiting = asyncio.create_task(asyncio.to_thread(session.send_mark_and_wait, "end", 20))
        received = b""
        while True:
            message = json.loads(await asyncio.wait_for(socket.recv(), 10))
            if message["event"] == "media":
                received += base64.b64decode(message["media"]["payload"])
            elif message["event"] == "mark":
                assert set(message) == {"event", "streamSid", "mark"}
                await socket.send(json.dumps({**message, "sequenceNumber": "9"}))
                if message["mark"]["name"].startswith("end__"):
                    break
        assert received == b"".join((n % 128).to_bytes(1, "big") * 160 for n in range(500))
        assert await waiting is Outcome.PLAYED


async def test_a_killed_connection_ends_the_call(real_server: tuple[VoiceSession, str]) -> None:
    """The peer's process dies: TCP is reset, and a verb under way ends at once."""
    session, url = real_server
    socket = await websockets.connect(url, compression=None)
    await socket.send(json.dumps(START))
    await asyncio.to_thread(session.wait_for_ws_connect, 5)
    listening = asyncio.create_task(asyncio.to_thread(session.sleep, 30))
    await asyncio.sleep(0.05)
    socket.transport.abort()
    with pytest.raises(CallHangupError, match="stream_lost"):
        await asyncio.wait_for(listening, 2)


class TestOnePerCall:
    """register_voice_websocket(app, FlowClass)."""

    def test_each_call_gets_its_own_session_and_thread(self) -> None:
        """Three callers at once are three sessions; run() ends, the line is hung up."""
        made: list[VoiceSession] = []
        voice = ScriptedVoice()

        class Flow(VoiceSession):
            def run(self) -> None:
                made.append(self)
                self.tts_factory = speaking(ScriptedVoice())
                self.say(f"hello {self.call_sid}")

        with exchange(Flow) as line_of:
            lines = [line_of.connect(call_sid=f"CA{n:032d}") for n in range(3)]
            for n, line in enumerate(lines):
                assert line.ended() is LineEnd.APP_CLOSED
                assert line.heard == voice.audio(f"hello CA{n:032d}")
        assert len({id(session) for session in made}) == 3
