"""A WebSocket client (RFC 6455) as a bare asyncio protocol, and Twilio's messages as ready-made bytes.

The load generator shares the machine with what it measures, so it does as little as it can per message: no
framework, no JSON on the way out, no copy that is not needed. It trusts the server's framing: unmasked, unfragmented,
no extension; anything else ends the connection with an error.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import cast

from websockets.speedups import apply_mask

__all__ = ["CONNECTED", "FRAME_BYTES", "TextClient", "connect", "mark_text", "start_text", "stop_text"]

FRAME_BYTES = 160
"""20 ms of 8 kHz μ-law: what one of Twilio's media messages carries."""

CONNECTED = b'{"event":"connected","protocol":"Call","version":"1.0.0"}'

_TEXT = 0x81  # FIN and opcode 1, RFC 6455 section 5.2
_CLOSE = 0x88
_PING = 0x89
_PONG = 0x8A


def start_text(call_sid: str, stream_sid: str) -> bytes:
    """The message that begins a stream (sequenceNumber 1)."""
    text = (
        f'{{"event":"start","sequenceNumber":"1","start":{{"accountSid":"AC{0:032x}","streamSid":"{stream_sid}",'
        f'"callSid":"{call_sid}","tracks":["inbound"],"mediaFormat":{{"encoding":"audio/x-mulaw",'
        f'"sampleRate":8000,"channels":1}},"customParameters":{{}}}},"streamSid":"{stream_sid}"}}'
    )
    return text.encode()


def mark_text(sequence: int, stream_sid: str, name: str) -> bytes:
    """A mark that comes back."""
    text = f'{{"event":"mark","sequenceNumber":"{sequence}","streamSid":"{stream_sid}","mark":{{"name":"{name}"}}}}'
    return text.encode()


def stop_text(sequence: int, call_sid: str, stream_sid: str) -> bytes:
    """The message that ends a stream."""
    text = (
        f'{{"event":"stop","sequenceNumber":"{sequence}","streamSid":"{stream_sid}",'
        f'"stop":{{"accountSid":"AC{0:032x}","callSid":"{call_sid}"}}}}'
    )
    return text.encode()


class TextClient(asyncio.Protocol):
    """One connection. Override :meth:`text`.

    Attributes:
        opened: done when the handshake is; holds the error when it was refused.
        closed: done when the connection is gone.
    """

    def __init__(self, path: str = "/voice") -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._path = path
        # One key per connection instead of one per frame: what the server pays for unmasking is the same.
        self._mask = os.urandom(4)
        self._rest = b""
        self._upgraded = False
        self._transport: asyncio.Transport

    def text(self, payload: bytes) -> None:
        """A text message came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("the server closed the connection in the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def send_text(self, text: bytes) -> None:
        self._send(_TEXT, text)

    def send_close(self) -> None:
        """Begin the closing handshake; the server ends the connection."""
        self._send(_CLOSE, b"\x03\xe8")  # 1000, section 7.4.1

    def _send(self, first: int, payload: bytes) -> None:
        mask = self._mask
        size = len(payload)
        head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE, size >> 8, size & 0xFF))
        self._transport.write(b"".join((head, mask, apply_mask(payload, mask))))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0 if self._upgraded else self._handshake(data)
        size = len(data)
        while size - position >= 2:
            length = data[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                if size < start:
                    break
                length = data[position + 2] << 8 | data[position + 3]
            elif length > 126:
                self._fail(f"expected messages of less than 64 KiB; length byte {length} came")
                return
            end = start + length
            if size < end:
                break
            first = data[position]
            position = end
            if first == _TEXT:
                self.text(data[start:end])
            elif first == _CLOSE:
                self._send(_CLOSE, data[start:end])
                self._transport.close()
            elif first == _PING:
                self._send(_PONG, data[start:end])
            else:
                self._fail(f"expected whole text messages; a frame beginning with {first:#04x} came")
                return
        if position < size:
            self._rest = data[position:]

    def _handshake(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._rest = data
            return len(data)
        if not data.startswith(b"HTTP/1.1 101"):
            self._fail(f"expected HTTP 101; {data[:40]!r} came")
            return len(data)
        self._upgraded = True
        self.opened.set_result(None)
        return end + 4

    def _fail(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
        if not self.closed.done():
            self.closed.set_exception(ConnectionError(reason))
        self._transport.abort()


async def connect(port: int, client: TextClient) -> None:
    """Connect to this machine's ``port`` and wait for the end of the handshake."""
    await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
    await client.opened
