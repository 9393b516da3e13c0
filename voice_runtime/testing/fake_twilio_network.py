"""How the fake Twilio reaches the app: by name over real sockets, or in memory.

A host may be *mounted* (an ASGI app, served in memory on the fake's loop) or *routed* (a local server stands behind
a public name). Every other host is reached as it says.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from ..transports.mock_wire import ConnectFailure, TextWire, connect_socket
from .memory_wire import AsgiApp, MemoryServer

__all__ = ["Network"]


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Reading the certificates takes tens of ms, as long as a call of a minute in virtual time.
    return httpx.create_ssl_context(trust_env=False)


class _Rerouted(httpx.AsyncBaseTransport):
    """Sends requests to an address in the clear; the ``Host`` header keeps the public name."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._inner = httpx.AsyncHTTPTransport(verify=_ssl_context(), trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host=self._host, port=self._port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Network:
    """Belongs to the fake's loop."""

    def __init__(self) -> None:
        self._mounted: dict[str, MemoryServer] = {}
        self._routed: dict[str, tuple[str, int]] = {}
        self._client: httpx.AsyncClient | None = None
        self._stale: list[httpx.AsyncClient] = []

    def _forget_client(self) -> None:
        if self._client is not None:
            self._stale.append(self._client)
            self._client = None

    def route(self, host: str, address: tuple[str, int]) -> None:
        """Requests to ``host`` go to this address, without TLS."""
        self._routed[host.lower()] = address
        self._forget_client()

    async def mount(self, host: str, app: AsgiApp) -> None:
        """Requests to ``host`` go to this app, in memory. Runs its startup."""
        server = MemoryServer(app)
        await server.__aenter__()
        self._mounted[host.lower()] = server
        self._forget_client()

    @property
    def client(self) -> httpx.AsyncClient:
        """For webhooks. Follows redirects as Twilio does: a POST becomes a GET."""
        if self._client is None:
            mounts: dict[str, httpx.AsyncBaseTransport | None] = {
                f"all://{host}": server.http_transport() for host, server in self._mounted.items()
            }
            mounts.update({f"all://{host}": _Rerouted(*address) for host, address in self._routed.items()})
            self._client = httpx.AsyncClient(
                mounts=mounts, verify=_ssl_context(), trust_env=False, timeout=None, follow_redirects=True
            )
        return self._client

    async def connect(self, url: str, headers: Sequence[tuple[str, str]]) -> TextWire | ConnectFailure:
        """The WebSocket handshake of a stream."""
        host = (urlsplit(url).hostname or "").lower()
        if host in self._mounted:
            return await self._mounted[host].connect(url, headers)
        return await connect_socket(url, headers, address=self._routed.get(host))

    async def close(self) -> None:
        """End the mounted apps' lifespans and close the client."""
        self._forget_client()
        for client in self._stale:
            await client.aclose()
        self._stale.clear()
        for server in self._mounted.values():
            await server.__aexit__(None, None, None)
        self._mounted.clear()
