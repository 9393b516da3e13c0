"""An app written by hand, to be called: answers webhooks with given TwiML, echoes what it hears, remembers all."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from twilio.request_validator import RequestValidator

HOST = "voice.example.com"
CONNECT = f'<Response><Connect><Stream url="wss://{HOST}/voice"/></Connect></Response>'


class EchoApp:
    """``app`` is the ASGI app.

    Attributes:
        twiml: path -> document; a path that is not there is a 404.
        requests: (path, form, whether the signature is right), in order.
        handshakes: (path, whether the signature is right).
        messages: everything that came over streams.
        close_after: the stream is closed by the app after so many frames.
    """

    def __init__(self, auth_token: str, base: str = f"https://{HOST}") -> None:
        self.base = base
        self.auth_token = auth_token
        self.twiml: dict[str, str] = {"/twilio/voice": CONNECT}
        self.content_type = "text/xml"
        self.requests: list[tuple[str, dict[str, str], bool]] = []
        self.headers: list[dict[str, str]] = []
        self.handshakes: list[tuple[str, bool]] = []
        self.messages: list[dict[str, Any]] = []
        self.close_after: int | None = None
        self.binary = False
        self.changed = threading.Condition()
        self.app = FastAPI()
        self.app.add_api_websocket_route("/voice", self._voice)
        self.app.add_api_route("/{path:path}", self._webhook, methods=["GET", "POST"])

    @property
    def validator(self) -> RequestValidator:
        return RequestValidator(self.auth_token)

    async def _webhook(self, request: Request, path: str) -> Response:
        path = "/" + path
        body = (await request.body()).decode()
        form = dict(parse_qsl(body, keep_blank_values=True))
        query = f"?{request.url.query}" if request.url.query else ""
        signature = request.headers.get("x-twilio-signature", "")
        valid = self.validator.validate(self.base + path + query, form, signature)
        if request.method == "GET":
            form = dict(parse_qsl(request.url.query, keep_blank_values=True))
        self.headers.append(dict(request.headers))
        self.requests.append((path, form, valid))
        if path.startswith("/status"):
            return Response(status_code=204)
        if path not in self.twiml:
            return Response(status_code=404)
        return Response(self.twiml[path], media_type=self.content_type)

    async def _voice(self, socket: WebSocket) -> None:
        url = self.base.replace("http", "wss" if self.base.startswith("http:") else "ws", 1) + "/voice"
        valid = self.validator.validate(url, {}, socket.headers.get("x-twilio-signature", ""))
        self.handshakes.append((url, valid))
        if not valid:
            await socket.close(1008)
            return
        await socket.accept()
        frames, sid = 0, ""
        try:
            while True:
                message = json.loads(await socket.receive_text())
                self.messages.append(message)
                if message["event"] == "start":
                    sid = message["streamSid"]
                    if self.binary:
                        await socket.send_bytes(b"\x00")
                elif message["event"] == "media":
                    frames += 1
                    payload = message["media"]["payload"]
                    await socket.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload}})
                    if frames == self.close_after:
                        await socket.close()
                        return
        except WebSocketDisconnect:
            pass

    def of(self, event: str) -> list[dict[str, Any]]:
        """Messages of a kind that came over streams."""
        return [message for message in self.messages if message["event"] == event]

    def forms(self, path: str) -> list[dict[str, str]]:
        """The forms that came to a path."""
        return [form for at, form, _ in self.requests if at == path]
