"""Twilio's end of a WebSocket, after and including the handshake: signed, uncompressed, text frames.

:func:`connect_socket` opens a real one; ``voice_runtime.testing.memory_wire`` has one in memory. Both are a
:class:`TextWire`, and a :class:`LatencyWire` puts distance in front of either.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import random
import secrets
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = [
    "ConnectFailure",
    "LatencyWire",
    "SocketWire",
    "TextWire",
    "connect_socket",
    "handshake_headers",
    "make_sid",
    "sign",
]

_CONNECT_TIMEOUT_S = 10.0  # https://www.twilio.com/docs/api/errors/31901


def make_sid(prefix: str) -> str:
    """A new identifier of Twilio's form: two letters (``CA``, ``MZ``, ``SM`` ...) and 32 hexadecimal digits."""
    return prefix + secrets.token_hex(16)


def sign(
    auth_token: str, url: str, form: Sequence[tuple[str, str]] = (), *, digest: Literal["sha1", "sha256"] = "sha1"
) -> str:
    """The value of ``X-Twilio-Signature`` for a request.

    An HMAC over the URL followed by every name and value of the form, names sorted, repeated values sorted and
    counted once: https://www.twilio.com/docs/usage/webhooks/webhooks-security. ``sha256`` is for shared keys.
    """
    text = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.new(auth_token.encode(), text.encode(), digest).digest()).decode()


def handshake_headers(url: str, signature: str | None) -> list[tuple[str, str]]:
    """What Twilio's handshake carries besides the WebSocket's own headers.

    No ``Origin``, no ``Sec-WebSocket-Protocol``, no ``Sec-WebSocket-Extensions``.
    """
    headers = [("Host", urlsplit(url).netloc), ("User-Agent", "Twilio.TmeWs/1.0")]
    if signature is not None:
        headers.append(("X-Twilio-Signature", signature))
    return headers


class TextWire(Protocol):
    """A WebSocket seen from Twilio, after the handshake."""

    close_code: int | None
    """The code the server closed with; None while open, or when the connection just broke."""

    async def send(self, text: str) -> None:
        """Raises ConnectionError once the wire is closed."""

    async def receive(self) -> str | bytes | None:
        """The next message: text, bytes (a binary frame), or None when the server is gone."""

    async def close(self, code: int = 1000) -> None:
        """Close properly. Nothing happens when it is closed already."""

    def abort(self) -> None:
        """Break the connection without a word."""


class ConnectFailure(msgspec.Struct, frozen=True):
    """Why no stream came to be, as Twilio's debugger would tell it.

    ``code``: 31901 timeout, 31902 refused, 31904 unreachable, 31910 TLS, 31920 the handshake was answered with
    something else than 101, which ``http_status`` holds.
    """

    code: int
    message: str
    http_status: int | None = None


class SocketWire:
    """A real WebSocket; made by :func:`connect_socket`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.close_code: int | None = None

    async def send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise ConnectionError("the server has closed the stream's socket") from error

    async def receive(self) -> str | bytes | None:
        from websockets.exceptions import ConnectionClosed

        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            self.close_code = error.rcvd.code if error.rcvd is not None else None
            return None

    async def close(self, code: int = 1000) -> None:
        await self._connection.close(code)

    def abort(self) -> None:
        self._connection.transport.abort()


async def connect_socket(
    url: str, headers: Sequence[tuple[str, str]], *, address: tuple[str, int] | None = None
) -> SocketWire | ConnectFailure:
    """Open a WebSocket as Twilio does: the headers of :func:`handshake_headers`, no compression, ten seconds.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: sent as they are; a ``Host`` among them stands for the one of the URL.
        address: host and port to connect to in the clear, whatever the URL says: the server stands there, behind a
            name that the world reaches through a proxy.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    elsewhere: dict[str, Any] = {}
    if address is not None:
        elsewhere = {"host": address[0], "port": address[1]}
        url = "ws://" + url.split("://", 1)[1]
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            connection = await connect(
                url,
                compression=None,
                origin=None,
                additional_headers=[(name, value) for name, value in headers if name not in ("User-Agent", "Host")],
                user_agent_header=dict(headers).get("User-Agent"),
                ping_interval=None,
                close_timeout=2,
                max_size=None,
                open_timeout=None,
                proxy=None,
                **elsewhere,
            )
    except TimeoutError:
        return ConnectFailure(31901, f"no answer from {url} within {_CONNECT_TIMEOUT_S:g} s")
    except InvalidStatus as error:
        status = error.response.status_code
        return ConnectFailure(31920, f"expected 101 from {url}; it answered {status}", status)
    except InvalidHandshake as error:
        return ConnectFailure(31920, f"{url}: {error}")
    except ssl.SSLError as error:
        return ConnectFailure(31910, f"{url}: {error}")
    except (ConnectionRefusedError, ConnectionResetError) as error:
        return ConnectFailure(31902, f"{url}: {error}")
    except socket.gaierror as error:
        return ConnectFailure(31904, f"{url}: {error}")
    except OSError as error:  # what asyncio makes of several addresses that all refuse
        return ConnectFailure(31902, f"{url}: {error}")
    except EOFError as error:
        return ConnectFailure(31920, f"{url}: {error}")
    return SocketWire(connection)


class LatencyWire:
    """Another wire, some milliseconds away. Messages keep their order; ``jitter_ms`` is added at random, seeded."""

    def __init__(self, wire: TextWire, *, to_app_ms: float = 0, from_app_ms: float = 0, jitter_ms: float = 0) -> None:
        self._wire = wire
        self._to_app_s = to_app_ms / 1000
        self._from_app_s = from_app_ms / 1000
        self._jitter_s = jitter_ms / 1000
        self._random = random.Random(20)
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[tuple[float, str | None]] = asyncio.Queue()
        self._incoming: asyncio.Queue[tuple[float, str | bytes | None]] = asyncio.Queue()
        self._last_due = 0.0
        self._broken = False
        self._sender = self._loop.create_task(self._send_all())
        self._receiver = self._loop.create_task(self._receive_all())

    @property
    def close_code(self) -> int | None:
        return self._wire.close_code

    @close_code.setter
    def close_code(self, code: int | None) -> None:
        self._wire.close_code = code

    async def send(self, text: str) -> None:
        if self._broken:
            raise ConnectionError("the server has closed the stream's socket")
        self._post(text)

    def _post(self, text: str | None) -> None:
        due = self._loop.time() + self._to_app_s + self._random.random() * self._jitter_s
        self._last_due = max(self._last_due, due)
        self._outgoing.put_nowait((self._last_due, text))

    async def receive(self) -> str | bytes | None:
        due, message = await self._incoming.get()
        await self._sleep_until(due)
        return message

    async def close(self, code: int = 1000) -> None:
        if not self._sender.done():
            self._post(None)
            await asyncio.wait({self._sender})
        self._receiver.cancel()
        await self._wire.close(code)

    def abort(self) -> None:
        self._broken = True
        self._sender.cancel()
        self._receiver.cancel()
        self._wire.abort()

    async def _sleep_until(self, due: float) -> None:
        left = due - self._loop.time()
        if left > 0:
            await asyncio.sleep(left)

    async def _send_all(self) -> None:
        while True:
            due, text = await self._outgoing.get()
            await self._sleep_until(due)
            if text is None:
                return
            try:
                await self._wire.send(text)
            except ConnectionError:
                self._broken = True
                return

    async def _receive_all(self) -> None:
        while True:
            message = await self._wire.receive()
            self._incoming.put_nowait((self._loop.time() + self._from_app_s, message))
            if message is None:
                return
