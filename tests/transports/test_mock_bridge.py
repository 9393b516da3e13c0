"""Calls without Twilio: the published names of the mock transport, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from twilio.request_validator import RequestValidator

from voice_runtime.transports.mock_bridge import (
    FakeWsBridge,
    cleanup_bridges,
    create_text_relay,
    initiate_mock_call,
    is_mock_transport,
)

SOUND = bytes(range(200)) * 8  # 200 ms


class Talker:
    """A server that says one thing, marks it, and remembers what it is told."""

    def __init__(self, sound: bytes = b"", thinks_s: float = 0) -> None:
        self.sound = sound
        self.thinks_s = thinks_s
        self.messages: list[tuple[float, dict[str, Any]]] = []
        self.audio = b""
        self.headers: dict[str, str] = {}
        self.close_after_start = False
        self.changed = threading.Condition()
        self.app = FastAPI()
        self.app.add_api_websocket_route("/voice", self.voice)

    async def voice(self, socket: WebSocket) -> None:
        self.headers = dict(socket.headers)
        await socket.accept()
        try:
            while True:
                message = json.loads(await socket.receive_text())
                with self.changed:
                    self.messages.append((time.monotonic(), message))
                    if message["event"] == "media":
                        self.audio += base64.b64decode(message["media"]["payload"])
                    self.changed.notify_all()
                if message["event"] == "start" and self.close_after_start:
                    await socket.close()
                    return
                if message["event"] == "start" and self.sound:
                    await asyncio.sleep(self.thinks_s)
                    sid = message["streamSid"]
                    payload = base64.b64encode(self.sound).decode()
                    await socket.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload}})
                    await socket.send_json({"event": "mark", "streamSid": sid, "mark": {"name": "said"}})
        except WebSocketDisconnect:
            pass

    def wait(self, predicate: Callable[[Talker], bool], timeout: float = 5) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: predicate(self), timeout)

    def events(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        return [(at, message) for at, message in self.messages if message["event"] == name]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Talker], int]]:
    """Serves a talker with uvicorn until the test ends."""
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(talker: Talker) -> int:
        config = uvicorn.Config(talker.app, port=0, lifespan="off", log_level="error", ws_ping_interval=None)
        server = uvicorn.Server(config)
        up = threading.Event()
        startup = server.startup

        async def and_tell(*args: Any, **kwargs: Any) -> None:
            await startup(*args, **kwargs)
            up.set()

        server.startup = and_tell  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert up.wait(10)
        servers.append((server, thread))
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return port

    yield serve
    cleanup_bridges()
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def test_the_bridge_keeps_a_paced_line_up(served: Callable[[Talker], int]) -> None:
    """A complete start, frames every 20 ms, the mark when its audio has been played, stop at the end."""
    talker = Talker(SOUND)
    bridge = FakeWsBridge("CA" + "1" * 32)
    bridge.start(f"ws://127.0.0.1:{served(talker)}/voice")
    assert bridge.wait_connected()
    assert talker.wait(lambda t: bool(t.events("mark")) and len(t.events("media")) > 50)
    bridge.stop()
    assert bridge.wait_ended(5)
    assert talker.wait(lambda t: bool(t.events("stop")))
    (started, start), (marked, _) = talker.events("start")[0], talker.events("mark")[0]
    assert start["start"]["callSid"] == "CA" + "1" * 32
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    assert start["start"]["customParameters"] == {}
    assert marked - started >= 0.195
    times = [at for at, _ in talker.events("media")]
    assert (times[-1] - times[0]) / (len(times) - 1) == pytest.approx(0.02, abs=0.005)
    assert bridge.lines[0].heard.heard_ulaw() == SOUND
    bridge.stop()  # once more does nothing


def test_the_handshake_is_signed_when_there_is_a_token(
    served: Callable[[Talker], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is Twilio's, over the wss form of the URL; without a token there is none."""
    talker = Talker()
    port = served(talker)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "secret")
    bridge = FakeWsBridge("CA" + "2" * 32)
    bridge.start(f"ws://127.0.0.1:{port}/voice")
    assert bridge.wait_connected()
    bridge.stop()
    validator = RequestValidator("secret")
    assert validator.validate(f"wss://127.0.0.1:{port}/voice", {}, talker.headers["x-twilio-signature"])
    assert talker.headers["user-agent"] == "Twilio.TmeWs/1.0"
    monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    bridge = FakeWsBridge("CA" + "3" * 32)
    bridge.start(f"ws://127.0.0.1:{port}/voice")
    assert bridge.wait_connected()
    bridge.stop()
    assert "x-twilio-signature" not in talker.headers


def test_two_servers_hear_each_other(served: Callable[[Talker], int]) -> None:
    """What each says reaches the other, in one piece; when one closes, the other's call ends."""
    target, caller = Talker(SOUND, 0.4), Talker(SOUND[::-1], 0.4)
    call_sid = initiate_mock_call(f"http://127.0.0.1:{served(target)}", f"ws://127.0.0.1:{served(caller)}/")
    assert call_sid.startswith("CA")
    assert target.wait(lambda t: SOUND[::-1] in t.audio)
    assert caller.wait(lambda t: SOUND in t.audio)
    assert target.events("start")[0][1]["start"]["callSid"] == call_sid
    assert caller.events("start")[0][1]["start"]["callSid"] == call_sid
    cleanup_bridges()
    assert target.wait(lambda t: bool(t.events("stop")))
    assert caller.wait(lambda t: bool(t.events("stop")))


def test_a_server_that_closes_ends_the_call(served: Callable[[Talker], int]) -> None:
    """The bridge's thread ends by itself."""
    talker = Talker()
    talker.close_after_start = True
    bridge = FakeWsBridge("CA" + "4" * 32)
    bridge.start(f"ws://127.0.0.1:{served(talker)}/voice")
    assert bridge.wait_ended(5)


def test_a_server_that_is_not_there_is_logged(unused_tcp_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """start() does not raise; wait_connected() is False and the log says why."""
    bridge = FakeWsBridge("CA" + "5" * 32)
    with caplog.at_level(logging.ERROR):
        bridge.start(f"ws://127.0.0.1:{unused_tcp_port}/voice")
        assert not bridge.wait_connected()
        assert bridge.wait_ended(5)
    assert "31902" in caplog.text
    assert bridge.failure is not None


def test_a_bridge_is_one_call(served: Callable[[Talker], int]) -> None:
    """A second start is refused with what to do."""
    bridge = FakeWsBridge("CA" + "6" * 32)
    url = f"ws://127.0.0.1:{served(Talker())}/voice"
    bridge.start(url)
    with pytest.raises(RuntimeError, match="new FakeWsBridge"):
        bridge.start(url)
    bridge.stop()


def test_what_is_not_a_server_is_refused() -> None:
    """The error shows an example."""
    with pytest.raises(ValueError, match=r"ws://127\.0\.0\.1:8000"):
        initiate_mock_call("localhost")


def test_the_relay_posts_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """{"text": ...} arrives at /test/inject; a peer that is gone or refuses is logged, not raised."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, json.loads(body)))
            self.send_response(204 if len(seen) == 1 else 500)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    relay = create_text_relay(f"http://127.0.0.1:{server.server_port}/")
    relay("hyvää päivää")
    assert seen == [("/test/inject", {"text": "hyvää päivää"})]
    assert caplog.text == ""
    relay("again")
    assert "500" in caplog.text
    server.shutdown()
    thread.join()
    server.server_close()
    caplog.clear()
    relay("nobody there")
    assert "could not be handed" in caplog.text


@pytest.mark.parametrize(("value", "expected"), [("mock", True), (" MOCK ", True), ("twilio", False), (None, False)])
def test_the_environment_chooses_the_mock_transport(
    value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRANSPORT=mock, read when asked."""
    if value is None:
        monkeypatch.delenv("TRANSPORT", raising=False)
    else:
        monkeypatch.setenv("TRANSPORT", value)
    assert is_mock_transport() is expected
