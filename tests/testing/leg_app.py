"""An app with a stream for each leg of a call: says what it is told to, remembers what it hears."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from .echo_app import HOST, EchoApp

_ZEROS = 0x7F  # of both signs, without the sign


def speech(seed: int, ms: int = 500) -> bytes:
    """Loud noise without the two zeros of μ-law."""
    return bytes(random.Random(seed).choices([code for code in range(256) if code & 0x7F != _ZEROS], k=ms * 8))


def to_leg(name: str) -> str:
    """TwiML that connects the stream of this name."""
    return f'<Response><Connect><Stream url="wss://{HOST}/leg/{name}"/></Connect></Response>'


class LegApp(EchoApp):
    """Also echoes at ``/voice``, as :class:`EchoApp`.

    Attributes:
        lines: name -> what to say on that stream: (ms after its start, μ-law).
        heard: name -> everything that stream carried.
        events: name -> its messages without the media.
    """

    def __init__(self, auth_token: str, base: str = f"https://{HOST}") -> None:
        super().__init__(auth_token, base)
        self.lines: dict[str, list[tuple[float, bytes]]] = {}
        self.heard: dict[str, bytearray] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.app.add_api_websocket_route("/leg/{name}", self._leg)

    async def _leg(self, socket: WebSocket, name: str) -> None:
        await socket.accept()
        heard = self.heard.setdefault(name, bytearray())
        events = self.events.setdefault(name, [])
        speaking: asyncio.Task[None] | None = None
        try:
            while True:
                message = json.loads(await socket.receive_text())
                if message["event"] == "media":
                    heard += base64.b64decode(message["media"]["payload"])
                    continue
                events.append(message)
                if message["event"] == "start":
                    speaking = asyncio.ensure_future(self._speak(socket, name, message["streamSid"]))
        except WebSocketDisconnect:
            pass
        finally:
            if speaking is not None:
                speaking.cancel()

    async def _speak(self, socket: WebSocket, name: str, sid: str) -> None:
        began_s = asyncio.get_running_loop().time()
        for ms, ulaw in self.lines.get(name, []):
            await asyncio.sleep(began_s + ms / 1000 - asyncio.get_running_loop().time())
            payload = base64.b64encode(ulaw).decode()
            await socket.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload}})

    def keys(self, name: str) -> str:
        """The keys that came over a stream."""
        return "".join(event["dtmf"]["digit"] for event in self.events.get(name, []) if event["event"] == "dtmf")
