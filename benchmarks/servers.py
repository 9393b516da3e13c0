"""The servers that are measured; ``python -m benchmarks.servers KIND`` prints its port and serves until SIGINT.

All run on uvicorn with the same settings:

============  ========================================================================================================
loop          our endpoint; each frame is echoed on the event loop
thread        our endpoint; a thread per call reads each frame and writes it
fastapi       what most people write: a FastAPI WebSocket route with json and base64
short         our endpoint; a call says something short, waits until it was heard, and ends
stall         our endpoint; plays a recording while the event loop stands still again and again
stall-paced   a FastAPI route that paces 20 ms frames a little ahead of real time, under the same stalls
============  ========================================================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import cProfile
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from voice_runtime.clock import SystemClock
from voice_runtime.live_call import LiveCall
from voice_runtime.session import VoiceSession
from voice_runtime.transports.twilio_protocol import StartBody
from voice_runtime.transports.twilio_ws import StreamEndpoint, register_voice_websocket, serve_stream

from .processes import resident_kib
from .speech import speech
from .wire import FRAME_BYTES

__all__ = ["KINDS", "STALL_EVERY_S", "STALL_S", "main"]

STALL_S = 0.3
STALL_EVERY_S = 1.0

_PACED_AHEAD_S = 0.06  # as far ahead as frameworks that pace by the clock are


def echo_on_loop() -> FastAPI:
    """Our endpoint; what comes in goes out, on the event loop's thread."""

    def open_call(body: StartBody, _: Any) -> LiveCall:
        session = VoiceSession()
        session.call_sid = body.call_sid
        session.live.hearing.on_frame = session.put_outbound_sync
        return session.live

    app = FastAPI()
    serve_stream(app, "/voice", StreamEndpoint(open_call, clock=SystemClock(), insecure=True))
    return app


class EchoFlow(VoiceSession):
    """A call that reads and writes every frame in its own thread."""

    def run(self) -> None:
        for frame in self.frames():
            self.put_outbound_sync(frame)


def echo_in_thread() -> FastAPI:
    app = FastAPI()
    register_voice_websocket(app, EchoFlow, insecure=True)
    return app


def echo_by_hand() -> FastAPI:
    """The yardstick."""
    app = FastAPI()

    @app.websocket("/voice")
    async def voice(ws: WebSocket) -> None:
        await ws.accept()
        stream_sid = ""
        try:
            while True:
                message = json.loads(await ws.receive_text())
                event = message["event"]
                if event == "media":
                    audio = base64.b64decode(message["media"]["payload"])
                    payload = base64.b64encode(audio).decode("ascii")
                    await ws.send_text(
                        json.dumps({"event": "media", "streamSid": stream_sid, "media": {"payload": payload}})
                    )
                elif event == "start":
                    stream_sid = message["start"]["streamSid"]
                elif event == "stop":
                    break
        except WebSocketDisconnect:
            pass

    return app


class ShortFlow(VoiceSession):
    """A call that says 20 ms of audio and waits until it was heard."""

    def run(self) -> None:
        self.put_outbound_sync(b"\x55" * FRAME_BYTES)
        self.send_mark_and_wait("said")


def short_calls() -> FastAPI:
    app = FastAPI()
    register_voice_websocket(app, ShortFlow, insecure=True)

    @app.get("/held")
    async def held() -> dict[str, int]:
        """What the process holds right now."""
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "tasks": len(asyncio.all_tasks()),
            "fds": len(os.listdir("/proc/self/fd")),
            "rss_kib": resident_kib(os.getpid()),
        }

    return app


class PlayFlow(VoiceSession):
    """A call that plays a recording."""

    def run(self) -> None:
        self.play(speech())


@contextlib.asynccontextmanager
async def _stalling(_: FastAPI) -> AsyncIterator[None]:
    """The event loop stands still for STALL_S out of every STALL_EVERY_S, as under a blocking library call."""
    loop = asyncio.get_running_loop()
    stopped = False

    def stall() -> None:
        if not stopped:
            time.sleep(STALL_S)
            loop.call_later(STALL_EVERY_S - STALL_S, stall)

    loop.call_later(STALL_EVERY_S, stall)
    yield
    stopped = True


def play_under_stalls() -> FastAPI:
    app = FastAPI(lifespan=_stalling)
    register_voice_websocket(app, PlayFlow, insecure=True)
    return app


def pace_under_stalls() -> FastAPI:
    """For comparison: frames are sent when the clock says so, a cushion of a few frames ahead."""
    app = FastAPI(lifespan=_stalling)

    @app.websocket("/voice")
    async def voice(ws: WebSocket) -> None:
        await ws.accept()
        stream_sid = ""
        while not stream_sid:
            message = json.loads(await ws.receive_text())
            if message["event"] == "start":
                stream_sid = message["start"]["streamSid"]
        audio = speech()
        due = time.monotonic() - _PACED_AHEAD_S
        for position in range(0, len(audio), FRAME_BYTES):
            payload = base64.b64encode(audio[position : position + FRAME_BYTES]).decode("ascii")
            await ws.send_text(json.dumps({"event": "media", "streamSid": stream_sid, "media": {"payload": payload}}))
            # After a stall the pace starts anew: what was late stays late, and the far end has heard a gap.
            due = max(due + 0.02, time.monotonic() - _PACED_AHEAD_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await ws.receive_text()  # the peer's stop, or its close
        await ws.close()

    return app


KINDS: dict[str, Callable[[], FastAPI]] = {
    "loop": echo_on_loop,
    "thread": echo_in_thread,
    "fastapi": echo_by_hand,
    "short": short_calls,
    "stall": play_under_stalls,
    "stall-paced": pace_under_stalls,
}


def serve(kind: str) -> None:
    """Serve on a free port of this machine, printed first, until SIGINT."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        KINDS[kind](),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="warning",
        access_log=False,
    )
    print(listener.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has shut down
        uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--profile", metavar="PATH", help="cProfile of the event loop's thread; read it with pstats")
    arguments = parser.parse_args()
    if arguments.profile is None:
        serve(arguments.kind)
        return
    profile = cProfile.Profile()
    profile.runcall(serve, arguments.kind)
    profile.dump_stats(arguments.profile)
    print(f"profile written to {arguments.profile}", file=sys.stderr)


if __name__ == "__main__":
    main()
