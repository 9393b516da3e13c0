"""An app that does not read is told of in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import Phone
from voice_runtime.transports.mock_line import LineFaults

from .conftest import OURS
from .echo_app import CONNECT, HOST, EchoApp

THEM = "+4930123456"
DEAF = "deaf.example.com"
BUFFER_S = 512 * 0.02  # what lies between the line and the app


class DeafApp:
    """Accepts a stream and reads nothing until told to."""

    def __init__(self) -> None:
        self._reading = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = False

    def read(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._reading.set)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "websocket":
            raise RuntimeError("no lifespan here")
        await receive()
        await send({"type": "websocket.accept"})
        self._loop = asyncio.get_running_loop()
        await self._reading.wait()
        while (event := await receive())["type"] != "websocket.disconnect":
            self.stopped = self.stopped or '"stop"' in event["text"]


@pytest.fixture
def deaf(fake: FakeTwilio) -> DeafApp:
    app, deaf = EchoApp(fake.auth_token), DeafApp()
    app.twiml["/twilio/voice"] = CONNECT.replace(HOST, DEAF)
    fake.mount(HOST, app.app)
    fake.mount(DEAF, deaf)
    fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
    return deaf


@pytest.mark.parametrize("faults", [LineFaults(), LineFaults(latency_to_app_ms=50)])
def test_an_app_that_never_reads_again_is_warned_of(
    fake: FakeTwilio, deaf: DeafApp, clock: VirtualClock, faults: LineFaults
) -> None:
    """31930, once, two seconds after the connection is full; the call can still be hung up."""
    fake.faults.line = faults
    call = fake.place_call(from_=THEM)
    call.wait_streaming()
    clock.sleep(BUFFER_S + 1.8)
    assert fake.warnings(call) == []
    clock.sleep(0.4)
    assert fake.warnings(call) == [31930]
    assert "has not read for 2.0 s" in call.events[-1].text
    clock.sleep(60)
    call.hang_up()
    assert call.wait_ended(10) == "completed"
    assert fake.warnings(call) == [31930]
    deaf.read()


def test_an_app_that_reads_again_is_warned_of_once(fake: FakeTwilio, deaf: DeafApp, clock: VirtualClock) -> None:
    """What the line itself finds out afterwards is the same warning."""
    call = fake.place_call(from_=THEM)
    call.wait_streaming()
    clock.sleep(20)
    deaf.read()
    clock.sleep(20)
    assert list(call.streams[0].line.warnings) == [31930]
    assert fake.warnings(call) == [31930]
    call.hang_up()
    call.wait_ended()
    assert deaf.stopped


def test_an_app_that_reads_in_time_is_not_warned_of(fake: FakeTwilio, deaf: DeafApp, clock: VirtualClock) -> None:
    """Neither for a pause that the buffers take, nor in the minute after it; the limit can be another."""
    fake.faults.line = LineFaults(congestion_ms=5000)
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=90))
    call.wait_streaming()
    clock.sleep(BUFFER_S + 4.5)
    deaf.read()
    assert call.wait_ended(100) == "completed"
    assert fake.warnings(call) == []
