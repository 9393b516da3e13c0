"""Twilio Media Streams on an ASGI app: who may connect, and the driver between the socket and the call.

The route is a raw ASGI handler, which costs half of what a framework's WebSocket class does per message. Nothing is
accepted, made or opened before the handshake has been found genuine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import config
from ..clock import Clock
from ..exceptions import ConfigurationError
from ..flow import APOLOGY, Call
from ..live_call import LiveCall
from ..session import VoiceSession
from ..workers import run_in_thread
from .twilio_connection import TOO_BIG, ConnectionLimits, StreamConnection
from .twilio_protocol import StartBody
from .twilio_signature import SignatureValidator, public_url_of_scope
from .twilio_token import TokenBook

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = [
    "CHECK_TOKEN",
    "MAX_MESSAGE_BYTES",
    "StreamEndpoint",
    "end_call_by_rest",
    "register_voice_websocket",
    "serve_stream",
]

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 65_536
"""A media message of Twilio's has some 400 bytes; whoever sends more than this is not Twilio (close 1009)."""

CHECK_TOKEN = "check"
"""In the place of a token: a genuine handshake is accepted and closed at once (1000), and no call comes of it. Proves
that signed handshakes get here (``voice-runtime doctor``)."""

_REFUSED = {"type": "websocket.close", "code": 1008}  # before accept: servers answer the handshake with HTTP 403

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
OpenCall: TypeAlias = Callable[[StartBody, Any], LiveCall | None]


async def end_call_by_rest(clock: Clock, settings: config.Settings, call_sid: str) -> None:
    """Have Twilio end the call, where there are credentials to ask it with; in a thread of its own."""
    if not call_sid or not settings.twilio_account_sid or not (settings.rest_token or settings.twilio_api_key):
        return
    from .twilio_call import hang_up_call

    await run_in_thread(clock, lambda: hang_up_call(call_sid, settings=settings), f"hang-up of {call_sid}")


class StreamEndpoint:
    """The ASGI application behind a stream's route.

    Args:
        open_call: called with the ``start`` body and what the token stands for (None without tokens); returns the
            call to connect, or None to refuse the stream.
        clock: the clock of the calls.
        settings: read at each handshake; default: the environment.
        tokens: the last part of the path must be one of these, or :data:`CHECK_TOKEN`. None: no token, the signature
            alone guards.
        insecure: accept handshakes without a valid signature. For a line on your own machine only.
    """

    def __init__(
        self,
        open_call: OpenCall,
        *,
        clock: Clock,
        settings: Callable[[], config.Settings] = config.load,
        tokens: TokenBook[Any] | None = None,
        insecure: bool = False,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._open_call = open_call
        self._clock = clock
        self._settings = settings
        self._tokens = tokens
        self._insecure = insecure
        self._limits = limits

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            raise ConfigurationError("The stream endpoint serves WebSockets only; mount it on a WebSocket route")
        await receive()  # websocket.connect
        if not self._signed(scope):
            await send(_REFUSED)
            return
        meaning: Any = None
        if self._tokens is not None:
            token = scope["path"].rpartition("/")[2]
            if token == CHECK_TOKEN:
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.close", "code": 1000})
                return
            meaning = self._tokens.redeem(token, self._clock.monotonic())
            if meaning is None:
                log.warning("Refused a stream: its token is unknown, used or expired")
                await send(_REFUSED)
                return
        await send({"type": "websocket.accept"})
        await self._serve(receive, send, meaning)

    def _signed(self, scope: MutableMapping[str, Any]) -> bool:
        if self._insecure:
            return True
        try:
            settings = self._settings()
            # wss, whatever a local line was told: Twilio accepts nothing else in its TwiML, and signs that.
            base = "wss:" + settings.stream_url("").partition(":")[2]
            url = public_url_of_scope(scope, base)
        except ConfigurationError as error:
            log.error("Refused a stream: its signature cannot be checked. %s", error)
            return False
        validator = SignatureValidator(settings.auth_tokens, settings.shared_keys)
        return validator.valid_handshake(url, scope["headers"])

    async def _serve(self, receive: Receive, send: Send, meaning: Any) -> None:
        # Plain functions that return the server's own awaitable: one coroutine less for each message.
        def send_text(text: str) -> Awaitable[None]:
            return send({"type": "websocket.send", "text": text})

        def close(code: int) -> Awaitable[None]:
            return send({"type": "websocket.close", "code": code})

        reader = asyncio.current_task()
        assert reader is not None
        broken = False

        def abort() -> None:
            """Leave the application, and have the server drop the connection without waiting for its buffer."""
            nonlocal broken
            broken = True
            reader.cancel()
            # ASGI has no word for that. uvicorn's send is a method of its protocol object, which has the transport.
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()

        connection = StreamConnection(
            clock=self._clock,
            open_call=lambda body: self._open_call(body, meaning),
            send=send_text,
            close=close,
            abort=abort,
            end_call=self._end_call,
            limits=self._limits or ConnectionLimits(call=self._longest_call()),
        )
        writer = asyncio.get_running_loop().create_task(connection.write())
        try:
            await self._read(connection, receive, close)
        except asyncio.CancelledError:
            if not broken:
                raise
            reader.uncancel()
        finally:
            connection.socket_closed()
            writer.cancel()
            await asyncio.wait([writer])
            await connection.closed()

    async def _read(
        self, connection: StreamConnection, receive: Receive, close: Callable[[int], Awaitable[None]]
    ) -> None:
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            if text is not None and len(text) <= MAX_MESSAGE_BYTES:
                connection.receive(text)
                if connection.dirty:
                    await connection.flush()
                continue
            data = message.get("bytes") or b""
            if text is not None or len(data) > MAX_MESSAGE_BYTES:
                log.warning("Stream closed: a message of %d characters is not Twilio's", len(text or data))
                await close(TOO_BIG)
                return
            connection.receive_binary(data)

    def _longest_call(self) -> float:
        try:
            return self._settings().voice_max_call_seconds
        except ConfigurationError:
            return float("inf")  # an insecure line needs no settings

    async def _end_call(self, call_sid: str) -> None:
        await end_call_by_rest(self._clock, self._settings(), call_sid)


def register_voice_websocket(
    app: FastAPI,
    session: VoiceSession | type[VoiceSession] | Callable[[], VoiceSession],
    *,
    path: str = "/voice",
    insecure: bool = False,
    settings: Callable[[], config.Settings] = config.load,
    clock: Clock | None = None,
) -> None:
    """Serve Twilio Media Streams at ``path`` of a FastAPI app.

    Args:
        session: an instance serves one call at a time: a stream of another call is refused while one is up, and the
            next call finds it reset. A class (or any callable) makes a session for each call, whose ``run()`` runs
            in a thread of its own. It is made on the event loop, so its constructor must not block; who called
            whom is not known in this form (a :class:`~voice_runtime.server.VoiceServer` knows).
        insecure: accept streams without a valid signature. For a line on your own machine only: without it a
            handshake is refused (403) unless it is signed with ``TWILIO_AUTH_TOKEN`` for ``VOICE_STREAM_URL``.
    """
    if isinstance(session, VoiceSession):
        shared = session
        clock = clock or session.clock
        open_call: OpenCall = lambda body, _: _open_shared(shared, body)  # noqa: E731
    else:
        make = session
        own_clock = clock = clock or VoiceSession.clock
        open_call = lambda body, _: _open_fresh(make, body, own_clock)  # noqa: E731
    endpoint = StreamEndpoint(open_call, clock=clock, settings=settings, insecure=insecure)
    serve_stream(app, path, endpoint)


def serve_stream(app: FastAPI, path: str, endpoint: StreamEndpoint) -> None:
    """Put the endpoint at ``path`` (which may hold ``{parameters}``) of an app.

    It goes behind the app's own middleware but before Starlette's layer for exceptions, which would wrap ``send`` in
    one more coroutine for every message. An app that runs already cannot take middleware: there it is a route.
    """
    from starlette.middleware import Middleware
    from starlette.routing import WebSocketRoute

    if app.middleware_stack is None:
        app.user_middleware.append(Middleware(_StreamShortcut, path=path, endpoint=endpoint))
    else:
        app.router.routes.append(WebSocketRoute(path, endpoint))


class _StreamShortcut:
    """The ASGI middleware of :func:`serve_stream`."""

    def __init__(self, app: AsgiApp, *, path: str, endpoint: StreamEndpoint) -> None:
        from starlette.routing import compile_path

        self._app = app
        self._path, _, _ = compile_path(path)
        self._endpoint = endpoint

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if self._path.match(path):
                await self._endpoint(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _open_shared(session: VoiceSession, body: StartBody) -> LiveCall | None:
    live = session.live
    expected = session.call_sid
    if live.ended:
        if expected not in (None, "", live.call_sid, body.call_sid):
            return None  # set for the next call, and this is not it
        session.reset()
        live = session.live
    elif live.leg is not None or expected not in (None, "", body.call_sid):
        return None
    session.call_sid = body.call_sid
    return live


def _open_fresh(make: Callable[[], VoiceSession], body: StartBody, clock: Clock) -> LiveCall | None:
    session = make()
    session.use_clock(clock)
    session.call_sid = body.call_sid
    call = Call(session)
    live = session.live
    live.on_begun.append(lambda: call.start(APOLOGY))
    return live
