"""The way from a public name to a server on this machine: name resolution, TLS, and a proxy that forwards."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HOST = "voice.example.com"
_BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def free_port() -> int:
    """A port that stays free while others are taken: the system hands out those from 32768 on by itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def make_certificate(folder: Path, host: str = HOST) -> tuple[Path, Path]:
    """A certificate that its own key has signed, and the key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; apt-get install openssl")
    certificate, key = folder / f"{host}.pem", folder / f"{host}.key"
    options = "-x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    subprocess.run(
        [
            *("openssl", "req", *options.split(), "-subj", f"/CN={host}"),
            *("-addext", f"subjectAltName=DNS:{host}", "-addext", "keyUsage=digitalSignature,keyCertSign"),
            *("-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def resolve_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``voice.example.com`` is this machine; what ends in ``.invalid`` is nowhere (RFC 6761)."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1" if host == HOST else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


class Tunnel:
    """A reverse proxy: whatever comes is passed on to a port of this machine, and 502 is the answer where nobody is.

    Args:
        certificate: with its key: TLS towards the outside.
        rewrite: is given the request, head and body, and returns what is passed on.
    """

    def __init__(
        self,
        port: int,
        *,
        certificate: tuple[Path, Path] | None = None,
        rewrite: Callable[[bytes], bytes] = lambda request: request,
    ) -> None:
        self._target = ("127.0.0.1", port)
        self._rewrite = rewrite
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = int(self._listening.getsockname()[1])

    @contextlib.contextmanager
    def running(self) -> Iterator[Tunnel]:
        accepting = threading.Thread(target=self._accept, name="tunnel")
        accepting.start()
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            accepting.join()
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()
            for end in self._open:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(client)
            self._start(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="tunnel-connection")
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._open.append(client)
            request = self._read_request(client)
            if not request:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.sendall(_BAD_GATEWAY)
                return
            self._open.append(server)
            server.sendall(self._rewrite(request))
            self._start(lambda: self._pump(server, client))
            self._pump(client, server)
        except OSError:
            pass  # one side has gone, or does not like the certificate
        finally:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _read_request(client: socket.socket) -> bytes:
        request, wanted = b"", 1
        while len(request) < wanted:
            piece = client.recv(65536)
            if not piece:
                return b""
            request += piece
            head, end, _ = request.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            wanted = len(head + end) + (int(length[1]) if length else 0) if end else len(request) + 1
        return request

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
        except OSError:
            pass  # the other side has gone
        finally:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


def without_upgrade(request: bytes) -> bytes:
    """As a proxy does that knows nothing of WebSockets: hop-by-hop headers end with it (RFC 9110 section 7.6.1)."""
    lines = [line for line in request.split(b"\r\n") if not line.lower().startswith((b"upgrade:", b"connection:"))]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])
