"""A small HTTP server that records requests and answers what a test scripted: the REST API's place-holder."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    form: dict[str, list[str]]
    username: str
    password: str


@dataclass(frozen=True)
class Answer:
    """What to answer.

    Attributes:
        body: JSON unless it is already text.
        hold: wait for this event before answering; the test sets it when it has seen what it came for.
        reset: break the connection instead of answering.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    hold: threading.Event | None = None
    reset: bool = False


class RestServer:
    """``with RestServer(Answer(201, {...})) as server``: answers in the order given; the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Request] = []
        self._answers = list(answers)
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="rest-server")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> RestServer:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def _handler(self) -> Callable[..., http.server.BaseHTTPRequestHandler]:
        take = self._take

        class Handler(http.server.BaseHTTPRequestHandler):
            # One request per connection, so that closing the server never waits for an idle one.
            protocol_version = "HTTP/1.0"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                scheme, _, secret = (self.headers.get("Authorization") or "").partition(" ")
                username, _, password = (
                    base64.b64decode(secret).decode().partition(":") if scheme == "Basic" else ("", "", "")
                )
                answer = take(
                    Request(self.command, self.path, parse_qs(body, keep_blank_values=True), username, password)
                )
                if answer.hold is not None:
                    answer.hold.wait(10)
                if answer.reset:
                    # Linger 0: the peer gets RST instead of FIN.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.shutdown(socket.SHUT_RD)
                    self.close_connection = True
                    self.connection.close()
                    return
                content = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                try:
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.content_type)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content.encode())
                except OSError:
                    pass  # the client has given up waiting

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler
