"""The whole: real time over real sockets, virtual time in memory, and nothing left behind."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from twilio.rest import Client

from voice_runtime import testing
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_settings import Faults, Timings
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.transports.mock_line import LineEnd, LineFaults

from .conftest import OURS
from .echo_app import CONNECT, HOST, EchoApp

THEM = "+4930123456"
SPEECH = random.Random(5).randbytes(2400)  # 300 ms


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], int]]:
    """Serves an app with uvicorn on a real port until the test ends."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def run(app: FastAPI) -> int:
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", ws_ping_interval=None))
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

    yield run
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def speak_and_listen(call: FakeCall) -> None:
    call.says(SPEECH)
    call.hears(SPEECH, timeout=5)
    call.press("7")
    call.hang_up()


def test_a_real_call_over_real_sockets(serve: Callable[[FastAPI], int]) -> None:
    """Webhook by HTTP, signed; media by WebSocket, signed; both directions; then an outbound one by REST."""
    app = EchoApp("token")
    port = serve(app.app)
    app.base = f"http://127.0.0.1:{port}"
    app.twiml["/twilio/voice"] = CONNECT.replace(f"wss://{HOST}", f"ws://127.0.0.1:{port}")
    fast = Timings(stream_connect_ms=20, dialing_ms=20, callback_ms=1)
    with FakeTwilio(auth_token="token", timings=fast) as fake:
        fake.add_number(OURS, voice_url=f"{app.base}/twilio/voice", status_callback=f"{app.base}/status")
        call = fake.place_call(from_=THEM, phone=Phone(script=speak_and_listen))
        assert call.wait_ended() == "completed"
        assert fake.warnings(call) == []
        assert [valid for _, _, valid in app.requests] == [True, True]
        assert app.handshakes == [(f"wss://127.0.0.1:{port}/voice", True)]
        assert [m["dtmf"]["digit"] for m in app.of("dtmf")] == ["7"]

        client = Client(fake.account_sid, "token", environment={"_": "x"})
        client.api.base_url = fake.api_base_url
        fake.phones[THEM] = Phone(ring_ms=50)
        created = client.calls.create(to=THEM, from_=OURS, url=f"{app.base}/twilio/voice")
        out = fake.wait_for_call(to=THEM, timeout=5)
        assert out.sid == created.sid
        out.wait_streaming(5)
        client.calls(out.sid).update(status="completed")
        assert out.wait_ended(5) == "completed"
        assert out.streams[0].ended is LineEnd.STOPPED


def test_a_server_behind_a_public_name(serve: Callable[[FastAPI], int]) -> None:
    """Signed for https and wss of the public name, delivered to the port."""
    app = EchoApp("token")
    port = serve(app.app)
    with FakeTwilio(auth_token="token", timings=Timings(stream_connect_ms=20)) as fake:
        fake.route(HOST, ("127.0.0.1", port))
        fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
        call = fake.place_call(from_=THEM, phone=Phone(script=speak_and_listen))
        assert call.wait_ended() == "completed"
        assert fake.warnings(call) == []
    assert app.requests[0][2]
    assert app.handshakes == [(f"wss://{HOST}/voice", True)]


def test_a_real_connection_may_break(serve: Callable[[FastAPI], int]) -> None:
    """The app's handler ends, 31903 is logged, and a server that is gone is 11205."""
    app = EchoApp("token")
    port = serve(app.app)
    faults = Faults(line=LineFaults(drop_after_ms=300))
    with FakeTwilio(auth_token="token", timings=Timings(stream_connect_ms=20), faults=faults) as fake:
        fake.route(HOST, ("127.0.0.1", port))
        fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
        call = fake.place_call(from_=THEM)
        assert call.wait_ended(10) == "completed"
        assert fake.warnings(call) == [31903]
        assert app.of("stop") == []


def test_a_host_that_is_not_there(unused_tcp_port: int) -> None:
    """No connection is 11205, no such name 11210; the caller hears a prompt and the call ends."""
    with FakeTwilio(timings=Timings(error_prompt_ms=10)) as fake:
        fake.add_number(OURS, voice_url=f"http://127.0.0.1:{unused_tcp_port}/voice")
        call = fake.place_call(from_=THEM)
        call.wait_ended(10)
        assert fake.warnings(call) == [11205]
        fake.add_number(OURS, voice_url="http://nowhere.invalid/voice")
        call = fake.place_call(from_=THEM)
        call.wait_ended(30)
        assert fake.warnings(call) == [11210]


def test_ten_minutes_take_no_time() -> None:
    """A virtual call of ten minutes, echoed frame by frame, in well under five seconds."""

    def person(call: FakeCall) -> None:
        call.says(SPEECH)
        call.hears(SPEECH)
        call.sleep(600)
        call.hang_up()

    began = time.process_time()
    with VirtualClock() as clock, FakeTwilio(clock=clock) as fake:
        app = EchoApp(fake.auth_token)
        fake.mount(HOST, app.app)
        fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
        call = fake.place_call(from_=THEM, phone=Phone(script=person))
        assert call.wait_ended(700) == "completed"
        assert len(app.of("media")) > 30_000
        assert clock.monotonic() > 600
    if not sys.flags.dev_mode:  # which makes asyncio ten times slower
        assert time.process_time() - began < 10, "CPU seconds; 2 to 3 are usual"


def test_virtual_runs_are_the_same_every_time() -> None:
    """Times and events of two runs are equal."""

    def once() -> list[tuple[float, str, str]]:
        with VirtualClock() as clock, FakeTwilio(clock=clock) as fake:
            app = EchoApp(fake.auth_token)
            fake.mount(HOST, app.app)
            fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
            fake.faults.line = LineFaults(jitter_ms=30, latency_from_app_ms=20)
            call = fake.place_call(from_=THEM, phone=Phone(script=speak_and_listen))
            call.wait_ended()
            return [(entry.at_s, entry.kind, entry.text) for entry in fake.log.entries()]

    assert once() == once()


def test_line_faults_reach_the_app(fake: FakeTwilio, app: EchoApp) -> None:
    """Each call's streams take the faults of the moment they begin."""
    fake.faults.line = LineFaults(stop_twice=True, numbers_as_numbers=True)
    fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=2)).wait_ended()
    assert len(app.of("stop")) == 2
    assert app.of("start")[0]["sequenceNumber"] == 1
    app.binary = True
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=2))
    call.wait_ended()
    assert fake.warnings(call) == [31950]


def test_nothing_is_left_behind() -> None:
    """Calls, scripts, streams, REST connections: all end with the block."""
    before = set(threading.enumerate())
    with VirtualClock() as clock, FakeTwilio(clock=clock) as fake:
        app = EchoApp(fake.auth_token)
        fake.mount(HOST, app.app)
        fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
        call = fake.place_call(from_=THEM, phone=Phone(script=lambda call: call.sleep(1e6)))
        call.wait_streaming()
        client = Client(fake.account_sid, fake.auth_token, environment={"_": "x"})
        client.api.base_url = fake.api_base_url
        client.calls.create(to=THEM, from_=OURS, url=f"https://{HOST}/twilio/voice")
        clock.sleep(10)
    assert call.outcome == "completed"
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that has done its work takes a moment to be gone
    assert not left
    assert len(app.of("stop")) == 2


def test_a_program_may_lend_its_loop() -> None:
    """The fake lives on a loop that runs already, and leaves it running."""
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        thread = clock.start_thread(loop.run_forever, "program")
        fake = FakeTwilio(clock=clock)
        app = EchoApp(fake.auth_token)
        fake.mount(HOST, app.app)
        with fake.running(loop=loop):
            fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
            assert fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=1)).wait_ended() == "completed"
        assert thread.is_alive()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_mistakes_of_the_test_are_told() -> None:
    """Used before it runs, or on its own loop's thread."""
    fake = FakeTwilio()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = fake.api_base_url
    with pytest.raises(RuntimeError, match="does not run"):
        fake.place_call(from_=THEM)

    async def on_the_loop() -> None:
        with pytest.raises(RuntimeError, match="to_thread"):
            fake.send_message(from_=THEM, body="x")

    with fake:
        loop = fake._running_loop()
        asyncio.run_coroutine_threadsafe(on_the_loop(), loop).result(5)


def test_the_package_names_its_doors() -> None:
    """What tests need stands in voice_runtime.testing."""
    for name in testing.__all__:
        assert getattr(testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Twilio'"):
        _ = testing.Twilio


def test_an_app_that_cannot_start_is_told_and_leaves_nothing() -> None:
    """Its own words come out, and the fake's threads are gone."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    before = set(threading.enumerate())
    fake = FakeTwilio()
    fake.mount(HOST, FastAPI(lifespan=lifespan))
    with pytest.raises(RuntimeError, match="no database"), fake:
        pass
    assert not set(threading.enumerate()) - before


def test_a_handshake_that_is_given_up_leaves_the_app(fake: FakeTwilio, clock: VirtualClock) -> None:
    """A caller who hangs up while the app still thinks about accepting is a disconnect to the app."""
    left: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            raise RuntimeError("no lifespan here")
        left.extend([(await receive())["type"], (await receive())["type"]])

    app = EchoApp(fake.auth_token)
    app.twiml["/twilio/voice"] = CONNECT.replace(HOST, "slow.example.com")
    fake.mount(HOST, app.app)
    fake.mount("slow.example.com", slow)
    fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=2))
    assert call.wait_ended() == "completed"
    clock.sleep(1)
    assert left == ["websocket.connect", "websocket.disconnect"]


def test_anybody_may_knock(fake: FakeTwilio, app: EchoApp) -> None:
    """Requests and handshakes of a test's own, signed or not."""
    app.twiml["/page"] = "<Response/>"
    answer = fake.request("POST", f"https://{HOST}/page", form=[("a", "b"), ("c", "")], signed=True)
    assert (answer.status_code, answer.text) == (200, "<Response/>")
    assert app.requests[-1] == ("/page", {"a": "b", "c": ""}, True)
    fake.request("GET", f"https://{HOST}/page?x=1", headers={"X-Forwarded-Host": "evil.example.com"})
    assert app.requests[-1] == ("/page", {"x": "1"}, False)
    assert fake.knock(f"wss://{HOST}/voice") == 101
    assert fake.knock(f"wss://{HOST}/voice", signed=False) == 403
    assert fake.knock(f"wss://{HOST}/nowhere") == 403
