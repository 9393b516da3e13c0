"""An ASGI app in memory sees what a real server would show it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.responses import PlainTextResponse

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.memory_wire import MemoryServer, MemoryWire
from voice_runtime.transports.mock_wire import ConnectFailure, handshake_headers

URL = "wss://voice.example.com/voice/a%20b"


def virtually(work: Coroutine[Any, Any, Any]) -> Any:
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        try:
            return loop.run_until_complete(work)
        finally:
            loop.close()


async def connected(server: MemoryServer, url: str = URL) -> MemoryWire:
    wire = await server.connect(url, handshake_headers(url, "signature"))
    assert isinstance(wire, MemoryWire)
    return wire


def test_the_scope_is_that_of_a_real_handshake() -> None:
    """Path decoded, raw path not, Twilio's headers in lower case, no extensions offered."""
    seen: dict[str, Any] = {}
    app = FastAPI()

    @app.websocket("/voice/{token}")
    async def voice(socket: WebSocket, token: str) -> None:
        seen.update(socket.scope, token=token)
        await socket.accept()
        await socket.close(4000)

    async def work() -> int | None:
        async with MemoryServer(app) as server:
            wire = await connected(server)
            assert await wire.receive() is None
            return wire.close_code

    assert virtually(work()) == 4000
    assert (seen["token"], seen["path"], seen["raw_path"]) == ("a b", "/voice/a b", b"/voice/a%20b")
    assert (seen["scheme"], seen["http_version"]) == ("wss", "1.1")
    headers = dict(seen["headers"])
    assert headers[b"host"] == b"voice.example.com"
    assert headers[b"user-agent"] == b"Twilio.TmeWs/1.0"
    assert headers[b"x-twilio-signature"] == b"signature"
    assert headers[b"sec-websocket-version"] == b"13"
    assert not {b"origin", b"sec-websocket-extensions", b"sec-websocket-protocol"} & headers.keys()


def test_refusals_are_values() -> None:
    """A close before accept is 403, a missing route too, a denial response its status, an exception 500."""
    app = FastAPI()

    @app.websocket("/closed")
    async def closed(socket: WebSocket) -> None:
        await socket.close(1008)

    @app.websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.send_denial_response(PlainTextResponse("no", status_code=429))

    @app.websocket("/broken")
    async def broken(socket: WebSocket) -> None:
        raise RuntimeError("broken")

    async def work() -> list[int | None]:
        statuses = []
        async with MemoryServer(app) as server:
            for path in ("closed", "nowhere", "denied", "broken"):
                failure = await server.connect(f"wss://h/{path}")
                assert isinstance(failure, ConnectFailure)
                assert failure.code == 31920
                statuses.append(failure.http_status)
        return statuses

    assert virtually(work()) == [403, 403, 429, 500]


def test_an_app_that_never_answers_times_out() -> None:
    """After ten seconds, 31901."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await receive()

    async def work() -> Any:
        async with MemoryServer(silent) as server:
            return await server.connect(URL), asyncio.get_running_loop().time()

    failure, took = virtually(work())
    assert (failure.code, took) == (31901, 10)


def test_the_app_learns_how_its_peer_left() -> None:
    """A close has its code, an abort is 1006; sending afterwards is a disconnect, too."""
    codes: list[int] = []
    app = FastAPI()

    @app.websocket("/voice/{token}")
    async def voice(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await socket.receive_text()
        except WebSocketDisconnect as left:
            codes.append(left.code)
        try:
            await socket.send_text("too late")
        except (WebSocketDisconnect, RuntimeError):
            codes.append(-1)

    async def work() -> None:
        async with MemoryServer(app) as server:
            wire = await connected(server)
            await wire.close(1000)
            wire = await connected(server)
            wire.abort()
            with pytest.raises(ConnectionError):
                await wire.send("after the end")

    virtually(work())
    assert codes == [1000, -1, 1006, -1]


def test_messages_keep_their_order_and_kind() -> None:
    """Text is text and bytes are bytes, however many come at once."""
    app = FastAPI()

    @app.websocket("/voice/{token}")
    async def voice(socket: WebSocket) -> None:
        await socket.accept()
        for _ in range(2000):
            await socket.send_text(await socket.receive_text())
        await socket.send_bytes(await socket.receive_bytes())
        await socket.close()

    async def work() -> list[Any]:
        async with MemoryServer(app) as server:
            wire = await connected(server)

            async def send() -> None:
                for number in range(2000):
                    await wire.send(str(number))
                await wire.send_bytes(b"\x00")

            sending = asyncio.ensure_future(send())
            got = []
            while (message := await wire.receive()) is not None:
                got.append(message)
            await sending
            return got

    assert virtually(work()) == [*map(str, range(2000)), b"\x00"]


def test_the_lifespan_surrounds_everything() -> None:
    """Startup before the first client, its state in every scope, shutdown after the last."""
    happened: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        happened.append("startup")
        yield {"colour": "blue"}
        happened.append("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.get("/colour")
    async def colour(request: Request) -> str:
        return str(request.state.colour)

    @app.websocket("/voice/{token}")
    async def voice(socket: WebSocket) -> None:
        happened.append(socket.state.colour)
        await socket.accept()
        try:
            await socket.receive_text()
        except WebSocketDisconnect as left:
            happened.append(str(left.code))

    async def work() -> None:
        async with MemoryServer(app) as server:
            async with httpx.AsyncClient(transport=server.http_transport()) as client:
                answer = await client.get("https://voice.example.com/colour")
                happened.append(answer.json())
            await connected(server)

    virtually(work())
    assert happened == ["startup", "blue", "blue", "1012", "shutdown"]


def test_a_startup_that_fails_is_told() -> None:
    """With the app's own words."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    async def work() -> None:
        async with MemoryServer(FastAPI(lifespan=lifespan)):
            pass

    with pytest.raises(RuntimeError, match="no database"):
        virtually(work())
