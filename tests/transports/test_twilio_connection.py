"""The connection without a socket's help: peers that hang, stay, talk nonsense or press keys."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from fastapi import FastAPI

from tests.call_line import Recorder, ScriptedVoice, exchange, speaking
from tests.transports.test_twilio_ws import START
from voice_runtime.config import Settings
from voice_runtime.events import DtmfReceived
from voice_runtime.exceptions import CallHangupError
from voice_runtime.session import VoiceSession
from voice_runtime.transports.mock_line import LineEnd, LineFaults
from voice_runtime.transports.twilio_ws import register_voice_websocket


def make() -> VoiceSession:
    session = VoiceSession()
    session.tts_factory = speaking(ScriptedVoice())
    return session


def test_keys_and_parameters_reach_the_session() -> None:
    """DtmfReceived for each key; the TwiML's parameters as a dict."""
    session = make()
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        for digit in "12#":
            line_of.loop.call(line.media.press, digit)
        line_of.clock.sleep(0.2)
        line.hang_up()
        line_of.clock.sleep(0.5)
    assert [event.digit for event in events.of(DtmfReceived)] == ["1", "2", "#"]


def test_nonsense_is_no_sign_of_life() -> None:
    """A path that carries junk instead of media is dead."""
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect(faults=LineFaults(gaps=((1000, 1e9),)))
        session.wait_for_ws_connect(5)

        def junk() -> None:
            while not session.is_disconnected:
                line.send("junk")
                line_of.clock.sleep(1)

        call = line_of.thread(junk)
        with pytest.raises(CallHangupError, match="media_stopped"):
            session.sleep(60)
        call.join()
        assert line_of.clock.monotonic() < 13


def test_a_peer_that_stays_after_stop_is_closed() -> None:
    """No socket is left behind by a stop without a close."""
    session = make()
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        line.send(json.dumps({"event": "stop", "streamSid": line.media.stream_sid, "stop": {}}))
        assert line.ended(5) is LineEnd.APP_CLOSED
        assert session.ended_reason == "caller_hung_up"


def test_the_longest_call_ends_in_every_form() -> None:
    """The cap of the settings holds for a shared session, too."""
    session = make()
    settings = Settings(voice_max_call_seconds=30)
    with exchange(session, settings=lambda: settings) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        with pytest.raises(CallHangupError, match="too_long"):
            session.sleep(300)
        assert 30 <= line_of.clock.monotonic() <= 31.5
        assert line.ended() is LineEnd.APP_CLOSED


@pytest.fixture
async def serving(unused_port: int) -> AsyncIterator[tuple[VoiceSession, uvicorn.Server, int]]:
    session = VoiceSession()
    app = FastAPI()
    register_voice_websocket(app, session, insecure=True)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=unused_port, log_level="error", ws="websockets-sansio")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield session, server, unused_port
    server.should_exit = True
    await asyncio.wait_for(task, 10)


async def test_a_peer_that_reads_nothing_is_dropped(serving: tuple[VoiceSession, uvicorn.Server, int]) -> None:
    """Its TCP window is full and stays so: the verb ends at the send's deadline, connection and task with it."""
    session, server, port = serving
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    request = (
        f"GET /voice HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(raw, request.encode())
    assert b"101" in await loop.sock_recv(raw, 1000)
    body = json.dumps(START).encode()
    await loop.sock_sendall(raw, bytes([0x81, 0x80 | 126, len(body) >> 8, len(body) & 255, 0, 0, 0, 0]) + body)
    await asyncio.to_thread(session.wait_for_ws_connect, 5)
    session.live.timeline.lead_ms = float("inf")
    session.put_outbound_sync(b"\x11" * 3_000_000)
    with pytest.raises(CallHangupError, match="send_stalled"):
        await asyncio.wait_for(asyncio.to_thread(session.sleep, 30), 12)
    for _ in range(60):
        if not server.server_state.connections and not server.server_state.tasks:
            break
        await asyncio.sleep(0.1)
    assert not server.server_state.connections
    assert not server.server_state.tasks
    raw.close()
