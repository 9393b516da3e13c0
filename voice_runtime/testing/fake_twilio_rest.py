"""The REST API's HTTP server: 127.0.0.1, threads of its own, real time.

Requests are carried out on the fake's loop. In virtual time the thread that asks counts as busy, so time stands still
until it has its answer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import http.server
import json
import logging
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .fake_twilio_api import RestApi
from .fake_twilio_requests import RestAnswer, RestRequest
from .fake_twilio_settings import Faults

__all__ = ["RestServer"]

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 30.0  # real seconds; only a loop that does not run takes so long


class _Server(socketserver.TCPServer):
    """A thread for each connection, and all of them can be ended at once."""

    allow_reuse_address = True

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._connections: set[Any] = set()
        self._threads: set[threading.Thread] = set()
        self._ending = False

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def serve(self) -> None:
        """Take connections until :meth:`end`."""
        while True:
            try:
                request, address = self.get_request()
            except OSError:
                return
            if self._ending:
                request.close()
                return
            self.process_request(request, address)

    def process_request(self, request: Any, client_address: Any) -> None:
        def serve() -> None:
            try:
                self.finish_request(request, client_address)
            except OSError:
                pass  # the client is gone
            finally:
                self._connections.discard(request)
                self.shutdown_request(request)
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=serve, name="fake-twilio-rest-connection", daemon=True)
        self._connections.add(request)
        self._threads.add(thread)
        thread.start()

    def end(self) -> None:
        """Take no more connections; end those that are open and wait for their threads."""
        self._ending = True
        # accept() waits without a timeout, since polling costs every test some of its time; this wakes it.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            if thread.ident is not None:  # else accepted this very moment: its connection is shut already
                thread.join()


class RestServer:
    """Start and stop from any thread but the loop's."""

    def __init__(
        self,
        api: RestApi,
        loop: asyncio.AbstractEventLoop,
        faults: Callable[[], Faults],
        now: Callable[[], float],
    ) -> None:
        self._api = api
        self._loop = loop
        self._faults = faults
        self._now = now
        self._server = _Server(self._handler())
        self._thread = threading.Thread(target=self._server.serve, name="fake-twilio-rest", daemon=True)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``"""
        return f"http://127.0.0.1:{self._server.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait for the threads."""
        self._server.end()
        self._thread.join()
        self._server.server_close()

    def _ask(self, request: RestRequest) -> RestAnswer:
        future = asyncio.run_coroutine_threadsafe(self._api.answer(request), self._loop)
        answer = future.result(_ANSWER_TIMEOUT_S)
        if slow := self._faults().rest_slow_s:
            time.sleep(slow)
        return answer

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        ask, now = self._ask, self._now

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version = "FakeTwilio"
            # Headers and body leave as two segments; without this the second waits for the first's confirmation.
            disable_nagle_algorithm = True

            def date_time_string(self, timestamp: float | None = None) -> str:
                """The Date of every answer is the fake's."""
                return super().date_time_string(now() if timestamp is None else timestamp)

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def do_DELETE(self) -> None:
                self._serve()

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                username, password = self._credentials()
                answer = ask(
                    RestRequest(
                        method=self.command,
                        path=parts.path,
                        query=parse_qsl(parts.query, keep_blank_values=True),
                        form=parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True),
                        username=username,
                        password=password,
                    )
                )
                if answer.reset:
                    # SO_LINGER of 0 makes the close a reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                payload = answer.content or b""
                if answer.body is not None:
                    payload = json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="Twilio API"')
                if answer.body is not None:
                    self.send_header("Content-Type", "application/json;charset=utf-8")
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def _credentials(self) -> tuple[str, str]:
                kind, _, value = self.headers.get("Authorization", "").partition(" ")
                if kind.lower() != "basic":
                    return "", ""
                try:
                    username, _, password = base64.b64decode(value).decode().partition(":")
                except (binascii.Error, UnicodeDecodeError):
                    return "", ""
                return username, password

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                logger.debug(format, *args)

        return Handler
