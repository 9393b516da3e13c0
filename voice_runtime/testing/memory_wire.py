"""An ASGI app served in memory, on the running event loop: no sockets, so virtual time works.

::

    async with MemoryServer(app) as server:                        # runs the app's lifespan
        wire = await server.connect("wss://voice.example.com/voice", headers)
        async with httpx.AsyncClient(transport=server.http_transport()) as client:
            await client.post("https://voice.example.com/voice", data=form)

What the app sees is what uvicorn would show it: scope, header names, a 403 for a refused handshake, 1006 for a broken
connection, OSError when it sends to a peer that is gone, 1012 and the end of its lifespan when the server stops.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import httpx

from ..transports.mock_wire import ConnectFailure

__all__ = ["AsgiApp", "MemoryServer", "MemoryWire"]

logger = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
AsgiApp: TypeAlias = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

_PEER = ("54.172.60.2", 50412)  # a caller from outside; an address of Twilio's range in Virginia
_TO_APP_LIMIT = 512  # frames: ten seconds, as much as the buffers of a real connection hold
_FROM_APP_LIMIT = 8192
_HANDSHAKE_TIMEOUT_S = 10.0  # https://www.twilio.com/docs/api/errors/31901
_GRACE_S = 5.0  # what a handler gets to end after its peer has gone


class _Pipe:
    """A bounded queue between two coroutines of one loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: collections.deque[Any] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self.open = True

    async def put(self, item: Any) -> None:
        """Waits while the pipe is full; nothing is kept once it is shut."""
        while self.open and len(self._items) >= self._limit:
            future = self._loop.create_future()
            self._writers.append(future)
            await future
        if self.open:
            self._add(item)

    def finish(self, item: Any) -> None:
        """A last item, however full the pipe is."""
        if self.open:
            self.open = False
            self._add(item)
            self._wake_writers()

    def _add(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        for future in self._writers:
            if not future.done():
                future.set_result(None)
        self._writers.clear()

    async def get(self) -> Any:
        """The last item is given again and again."""
        while not self._items:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if len(self._items) == 1 and not self.open:
            return self._items[0]
        item = self._items.popleft()
        if self._writers and len(self._items) < self._limit:
            self._wake_writers()
        return item


class MemoryWire:
    """The client's end of a WebSocket to an app in memory; a ``TextWire``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._to_app = _Pipe(_TO_APP_LIMIT)
        self._from_app = _Pipe(_FROM_APP_LIMIT)
        self._handshake: asyncio.Future[ConnectFailure | None] = self._loop.create_future()
        self._refusal = 403
        self.close_code: int | None = None

    # -- the client's side --------------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        if not self._to_app.open:
            raise ConnectionError("the server has closed the stream's socket")
        await self._to_app.put({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """A binary frame."""
        if not self._to_app.open:
            raise ConnectionError("the server has closed the stream's socket")
        await self._to_app.put({"type": "websocket.receive", "bytes": data})

    async def receive(self) -> str | bytes | None:
        message: str | bytes | None = await self._from_app.get()
        return message

    async def close(self, code: int = 1000) -> None:
        self.disconnect(code)

    def abort(self) -> None:
        self.disconnect(1006)

    def disconnect(self, code: int) -> None:
        """The app learns that its peer is gone."""
        self._to_app.finish({"type": "websocket.disconnect", "code": code, "reason": ""})
        self._from_app.finish(None)

    # -- the app's side -----------------------------------------------------------------------------------------

    async def _serve(self, app: AsgiApp, scope: MutableMapping[str, Any]) -> None:
        await self._to_app.put({"type": "websocket.connect"})
        try:
            await app(scope, self._to_app.get, self._from_the_app)
        except Exception:
            logger.exception("Exception in ASGI application")
        finally:
            if not self._handshake.done():
                self._handshake.set_result(ConnectFailure(31920, "the app ended without an answer: 500", 500))
            self.disconnect(1006)

    async def _from_the_app(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._answer(None)
        elif kind == "websocket.send":
            if not self._from_app.open:
                raise OSError("the peer is gone")
            text = message.get("text")
            await self._from_app.put(message["bytes"] if text is None else text)
        elif kind == "websocket.close":
            if not self._handshake.done():
                self._answer(ConnectFailure(31920, "the app closed before accepting: 403", 403))
            elif self._from_app.open:
                self.close_code = message.get("code", 1000)
            self.disconnect(self.close_code or 1006)
        elif kind == "websocket.http.response.start":
            self._refusal = message["status"]
        elif kind == "websocket.http.response.body":
            self._answer(ConnectFailure(31920, f"the app answered {self._refusal}", self._refusal))
        else:
            raise RuntimeError(f"expected an ASGI WebSocket message; {kind!r} came")

    def _answer(self, result: ConnectFailure | None) -> None:
        if not self._handshake.done():
            self._handshake.set_result(result)


class MemoryServer:
    """Serves one app to clients on the same loop; ``async with`` runs its lifespan."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self._state: dict[str, Any] = {}
        self._wires: dict[asyncio.Task[None], MemoryWire] = {}
        self._lifespan: asyncio.Task[None] | None = None
        self._lifespan_in: asyncio.Queue[Message] = asyncio.Queue()

    # -- lifespan -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> MemoryServer:
        """Raises RuntimeError when the app's startup fails."""
        started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()

        async def send(message: Message) -> None:
            kind = message["type"]
            if kind == "lifespan.startup.complete" and not started.done():
                started.set_result(None)
            elif kind == "lifespan.startup.failed" and not started.done():
                started.set_result(message.get("message", "") or "no reason given")
            elif kind.startswith("lifespan.shutdown"):
                self._stopped.set()

        async def run() -> None:
            scope = {
                "type": "lifespan",
                "asgi": {"version": "3.0", "spec_version": "2.0"},
                "state": self._state,
            }
            try:
                await self.app(scope, self._lifespan_in.get, send)
            except Exception:
                # An app without a lifespan raises, and that is how a server finds out.
                logger.debug("the app has no lifespan", exc_info=True)
            finally:
                self._stopped.set()
                if not started.done():
                    started.set_result(None)

        self._lifespan = asyncio.get_running_loop().create_task(run())
        self._lifespan_in.put_nowait({"type": "lifespan.startup"})
        if (failure := await started) is not None:
            await self._lifespan
            raise RuntimeError(f"the app's startup failed: {failure}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for wire in self._wires.values():
            wire.disconnect(1012)
        if self._wires:
            _, late = await asyncio.wait(self._wires, timeout=_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._lifespan is not None:
            self._lifespan_in.put_nowait({"type": "lifespan.shutdown"})
            await self._stopped.wait()
            await self._lifespan

    # -- clients ------------------------------------------------------------------------------------------------

    async def connect(self, url: str, headers: Sequence[tuple[str, str]] = ()) -> MemoryWire | ConnectFailure:
        """The WebSocket handshake.

        Args:
            url: ``ws://`` or ``wss://``; the app sees this scheme, as behind a proxy it trusts.
            headers: what the client adds; ``Host`` is taken from the URL when it is not among them.
        """
        wire = MemoryWire()
        task = asyncio.get_running_loop().create_task(wire._serve(self.app, self._scope(url, headers)))
        self._wires[task] = wire
        task.add_done_callback(self._wires.pop)
        try:
            async with asyncio.timeout(_HANDSHAKE_TIMEOUT_S):
                failure = await asyncio.shield(wire._handshake)
        except TimeoutError:
            failure = ConnectFailure(31901, f"no answer from {url} within {_HANDSHAKE_TIMEOUT_S:g} s")
        except asyncio.CancelledError:
            wire.disconnect(1006)
            raise
        if failure is not None:
            wire.disconnect(1006)
            return failure
        return wire

    def _scope(self, url: str, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
        parts = urlsplit(url)
        given = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        names = {name for name, _ in given}
        fixed = [
            (b"host", parts.netloc.encode()),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", base64.b64encode(secrets.token_bytes(16))),
        ]
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": parts.scheme,
            "server": (parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)),
            "client": _PEER,
            "root_path": "",
            "path": unquote(parts.path) or "/",
            "raw_path": (parts.path or "/").encode(),
            "query_string": parts.query.encode(),
            "headers": [header for header in fixed if header[0] not in names] + given,
            "subprotocols": [],
            "state": dict(self._state),
            "extensions": {"websocket.http.response": {}},
        }

    def http_transport(self) -> httpx.AsyncBaseTransport:
        """For ``httpx.AsyncClient(transport=...)`` or its ``mounts``. An exception of the app is its 500."""

        async def with_state(
            scope: MutableMapping[str, Any],
            receive: Callable[[], Awaitable[Message]],
            send: Callable[[Message], Awaitable[None]],
        ) -> None:
            scope["state"] = dict(self._state)
            await self.app(scope, receive, send)

        return httpx.ASGITransport(app=with_state, raise_app_exceptions=False, client=_PEER)
