"""Calls without Twilio, for development: this process plays Twilio and connects to a running server's ``/voice``.

::

    bridge = FakeWsBridge("CA" + "0" * 32)
    bridge.start("ws://127.0.0.1:8000/voice")      # a paced line: frames every 20 ms, marks when they are due
    ...
    bridge.stop()

    initiate_mock_call("ws://127.0.0.1:8001", "ws://127.0.0.1:8002")    # two servers talk to each other

The handshake is signed when ``TWILIO_AUTH_TOKEN`` is set. ``voice_runtime.testing.FakeTwilio`` is the whole thing:
webhooks, REST, TwiML, faults, virtual time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

from ..clock import Clock, SystemClock
from .mock_audio import AudioSource, Ear, HeardAudio
from .mock_line import LineEnd, MediaLine
from .mock_wire import ConnectFailure, TextWire, connect_socket, handshake_headers, make_sid, sign

__all__ = ["FakeWsBridge", "cleanup_bridges", "create_text_relay", "initiate_mock_call", "is_mock_transport"]

logger = logging.getLogger(__name__)

_RELAY_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 5.0

_bridges: set[FakeWsBridge] = set()
_bridges_lock = threading.Lock()


def is_mock_transport() -> bool:
    """Whether the environment asks for calls without Twilio: ``TRANSPORT=mock``."""
    return os.environ.get("TRANSPORT", "").strip().lower() == "mock"


class FakeWsBridge:
    """One call to a server, or to two that hear each other. Methods may be called from any thread.

    Attributes:
        call_sid: as given; every line of the bridge has it.
        failure: why a server could not be reached, or None.
        lines: the streams that are up; they belong to the bridge's own loop.
    """

    def __init__(self, call_sid: str, *, clock: Clock | None = None) -> None:
        self.call_sid = call_sid
        self.failure: str | None = None
        self.lines: list[MediaLine] = []
        self._clock: Clock = clock or SystemClock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()
        self._stopping = False
        self._connected = self._clock.event()
        self._ended = self._clock.event()

    def start(self, ws_url: str) -> None:
        """Connect to ``ws_url`` as Twilio would, and keep the line up until :meth:`stop`, or until the server closes.

        Returns at once; :meth:`wait_connected` tells how it went.

        Raises:
            RuntimeError: it was started before.
        """
        self._start([ws_url])

    def _start(self, urls: list[str]) -> None:
        with self._guard:
            if self._loop is not None:
                raise RuntimeError(
                    f"Bridge {self.call_sid} was started before; make a new FakeWsBridge for each call."
                )
            self._loop = self._clock.new_event_loop()
        with _bridges_lock:
            _bridges.add(self)
        self._clock.start_thread(lambda: self._run(urls), f"mock-bridge-{self.call_sid[-6:]}")

    def wait_connected(self, timeout: float = 10.0) -> bool:
        """Wait (seconds) until every stream is up; False when one could not be, see :attr:`failure`."""
        return self._connected.wait(timeout) and self.failure is None

    def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait (seconds) until the call is over and its thread is done with it."""
        return self._ended.wait(timeout)

    def stop(self) -> None:
        """Hang up: ``stop`` is sent and the sockets are closed. Does nothing when the call is over or never was."""
        with self._guard:
            self._stopping = True
            loop = self._loop
            if loop is None or self._ended.is_set():
                return
            loop.call_soon_threadsafe(self._stop_lines)
        if not self._ended.wait(_STOP_TIMEOUT_S):
            logger.warning("Mock call %s has not ended within %g s", self.call_sid, _STOP_TIMEOUT_S)

    def _stop_lines(self) -> None:
        for line in self.lines:
            line.stop()

    def _run(self, urls: list[str]) -> None:
        loop = self._loop
        assert loop is not None
        try:
            loop.run_until_complete(self._call(urls))
        except Exception:
            logger.exception("Mock call %s failed", self.call_sid)
        finally:
            with self._guard:
                self._ended.set()
                loop.close()
            self._connected.set()
            with _bridges_lock:
                _bridges.discard(self)

    async def _call(self, urls: list[str]) -> None:
        wires: list[TextWire] = []
        for url in urls:
            token = os.environ.get("TWILIO_AUTH_TOKEN")
            # Twilio signs the wss form of the URL, whatever a local server is reached by.
            signature = sign(token, "wss://" + url.split("://", 1)[1]) if token else None
            opened = await connect_socket(url, handshake_headers(url, signature))
            if isinstance(opened, ConnectFailure):
                self.failure = opened.message
                logger.error(
                    "Mock call %s cannot be made: %s (Twilio error %d)", self.call_sid, opened.message, opened.code
                )
                for other in wires:
                    await other.close()
                return
            wires.append(opened)
        account_sid = os.environ.get("TWILIO_ACCOUNT_SID") or make_sid("AC")
        origin_s = asyncio.get_running_loop().time()
        heard = [HeardAudio(origin_s) for _ in wires]

        def ear_of(index: int) -> Ear:
            return Ear(heard[index], lambda: self.lines[index].sync())

        for index, wire in enumerate(wires):
            sources: dict[str, AudioSource] | None = None
            if len(wires) == 2:
                sources = {"inbound": ear_of(1 - index)}
            self.lines.append(
                MediaLine(wire, call_sid=self.call_sid, account_sid=account_sid, sources=sources, heard=heard[index])
            )
        if self._stopping:
            self._stop_lines()
        await asyncio.gather(*(self._follow(line) for line in self.lines))

    async def _follow(self, line: MediaLine) -> None:
        up = asyncio.get_running_loop().create_task(self._when_up())
        try:
            end = await line.run()
        finally:
            up.cancel()
        if end is LineEnd.APP_CLOSED:
            logger.info("Mock call %s: the server closed the stream (code %s)", self.call_sid, line.close_code)
        for code, text in line.warnings.items():
            logger.warning("Mock call %s: Twilio would have warned, %d: %s", self.call_sid, code, text)
        self._stop_lines()  # one side hung up, and so the call is over

    async def _when_up(self) -> None:
        for line in self.lines:
            await line.flowing.wait()
        self._connected.set()


def _voice_url(base: str) -> str:
    """``http://host:8000`` and ``ws://host:8000/voice`` both mean the stream's endpoint there."""
    scheme, separator, rest = base.partition("://")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if not separator or scheme.lower() not in schemes or not rest:
        raise ValueError(f"expected the URL of a server, for example ws://127.0.0.1:8000; {base!r} came")
    rest = rest.rstrip("/")
    if not rest.endswith("/voice"):
        rest += "/voice"
    return f"{schemes[scheme.lower()]}://{rest}"


def initiate_mock_call(target_url: str, caller_url: str | None = None) -> str:
    """Call a server, or let one server call another; returns the call's sid at once.

    Args:
        target_url: base of the server that is called; its ``/voice`` is connected.
        caller_url: base of the server that calls. With it, what each of the two says reaches the other.

    Raises:
        ValueError: not the URL of a server.
    """
    urls = [_voice_url(url) for url in (target_url, caller_url) if url is not None]
    bridge = FakeWsBridge(make_sid("CA"))
    bridge._start(urls)
    return bridge.call_sid


def cleanup_bridges() -> None:
    """Hang up every mock call of this process."""
    with _bridges_lock:
        bridges = list(_bridges)
    for bridge in bridges:
        bridge.stop()


def create_text_relay(peer_url: str) -> Callable[[str], None]:
    """A function that hands a text to another process, as if its caller had said it.

    It POSTs ``{"text": ...}`` to ``{peer_url}/test/inject``, within five seconds. What goes wrong is logged, not
    raised: a conversation between two processes goes on without one sentence.
    """
    url = peer_url.rstrip("/") + "/test/inject"

    def relay(text: str) -> None:
        import httpx

        try:
            httpx.post(url, json={"text": text}, timeout=_RELAY_TIMEOUT_S, trust_env=False).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            logger.warning("A text could not be handed to %s: %s", url, error)

    return relay
