"""One Media Stream, without its socket: texts come in, texts go out through a send function.

The driver (an ASGI handler, an in-memory wire, a faster socket later) calls :meth:`StreamConnection.receive` with
each text, awaits :meth:`StreamConnection.flush` when it says so, runs :meth:`StreamConnection.write` as a
task and tells :meth:`StreamConnection.socket_closed` when the socket is gone. Everything here runs on the event
loop's thread; ``wake`` and ``hang_up`` of the leg may be called from any.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from threading import get_ident

import msgspec

from ..clock import Clock
from ..leg import Leg
from ..live_call import LiveCall
from ..playout import Clear, Mark, Timeline
from .twilio_protocol import Dtmf, Media, MediaStream, Refused, Start, StartBody, Stop
from .twilio_protocol import Mark as MarkEcho

__all__ = ["ConnectionLimits", "StreamConnection"]

log = logging.getLogger(__name__)

_TICK_S = 0.5

# Close codes of RFC 6455 section 7.4.1. What Twilio makes of them is the same: error 31921, and the TwiML goes on.
NORMAL = 1000
POLICY = 1008
TOO_BIG = 1009


def _nobody(*_: object) -> None:
    """There is no call yet, or it was refused."""


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines of a stream, in seconds."""

    start: float = 5.0
    """From the handshake to the ``start`` message (Twilio's comes within milliseconds)."""
    media: float = 10.0
    """Without any message that makes sense, while Twilio sends 50 a second: the path is dead."""
    send: float = 5.0
    """For one message to leave; a peer that reads nothing must not freeze the call."""
    close: float = 2.0
    """For the socket to close, and for Twilio to close it after ``stop``; then it is aborted."""
    call: float = float("inf")
    """The longest call."""


class StreamConnection:
    """See the module's text.

    Args:
        open_call: finds or makes the call for a ``start``; None refuses it (the socket is closed with 1008).
        send: hands one text to the socket; may wait while the socket's buffer is full.
        close: closes the socket with a code; may wait while the socket's buffer is full.
        abort: breaks the connection without waiting for anything.
        end_call: has the carrier end the call, whatever the socket does; awaited before the socket is closed.
    """

    __slots__ = (
        "_abort",
        "_close",
        "_end_call",
        "_flushing",
        "_hanging_up",
        "_hear",
        "_heard_at",
        "_leaver",
        "_limits",
        "_lock",
        "_loop",
        "_monotonic",
        "_note_timestamp",
        "_open_call",
        "_opened_at",
        "_over",
        "_receiving",
        "_send",
        "_send_since",
        "_socket_gone",
        "_thread",
        "_ticker",
        "_timeline",
        "_waiter",
        "_wake_pending",
        "_writer",
        "dirty",
        "leg",
        "live",
        "stream",
    )

    def __init__(
        self,
        *,
        clock: Clock,
        open_call: Callable[[StartBody], LiveCall | None],
        send: Callable[[str], Awaitable[None]],
        close: Callable[[int], Awaitable[None]],
        abort: Callable[[], None],
        end_call: Callable[[str], Awaitable[None]],
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.stream = MediaStream()
        self.live: LiveCall | None = None
        self.leg: Leg | None = None
        self.dirty = False
        """The driver shall await :meth:`flush` after :meth:`receive`."""
        self._monotonic = clock.monotonic
        # What media meets before its call is there; the protocol object lets none pass before the start.
        self._note_timestamp: Callable[[float, float], None] = _nobody
        self._hear: Callable[[bytes, float], None] = _nobody
        self._open_call = open_call
        self._send = send
        self._close = close
        self._abort = abort
        self._end_call = end_call
        self._limits = limits or ConnectionLimits()
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._timeline: Timeline | None = None
        self._lock = threading.Lock()  # the call's own, once there is one
        self._over = False
        self._socket_gone = False
        self._flushing = False
        self._receiving = False
        self._wake_pending = False
        self._waiter: asyncio.Future[None] | None = None
        self._opened_at = self._heard_at = self._monotonic()
        self._send_since: float | None = None
        self._writer: asyncio.Task[None] | None = None
        self._hanging_up: asyncio.Task[None] | None = None
        self._leaver: asyncio.TimerHandle | None = None
        self._ticker = self._loop.call_later(_TICK_S, self._tick)

    # -- in -------------------------------------------------------------------------------------------------------

    def receive(self, text: str | bytes) -> None:
        """One text message of the peer. When ``dirty`` is set afterwards, await :meth:`flush`."""
        event = self.stream.receive(text)
        now = self._monotonic()
        if event is not None:
            self._heard_at = now
        if type(event) is Media:
            media = event.media
            now_ms = now * 1000
            self._note_timestamp(media.timestamp, now_ms)
            self._receiving = True
            try:
                self._hear(media.payload, now_ms)
            finally:
                self._receiving = False
        elif event is not None:
            self._receive_rare(event, now)

    def _receive_rare(self, event: object, now: float) -> None:
        live, leg = self.live, self.leg
        match event:
            case MarkEcho(mark=body) if live is not None and leg is not None:
                live.speaker.echoed(body.name, leg.stream_clock.sent_at(now * 1000))
            case Start(start=body):
                self._start(body)
            case Stop():
                self._finish("caller_hung_up")
                # Twilio closes the socket behind it; whoever does not is not waited for.
                self._leaver = self._loop.call_later(self._limits.close, self._close_after_stop)
            case Refused(reason=reason):
                log.warning("Stream refused: %s", reason)
                self._shut(POLICY)
            case Dtmf(dtmf=body) if live is not None:
                live.key_pressed(body.digit)

    def receive_binary(self, data: bytes) -> None:
        """A binary message: nothing Twilio sends. Counted and ignored."""
        self.stream.receive_binary(data)

    def socket_closed(self) -> None:
        """The socket is gone, with or without a ``stop`` before."""
        self._socket_gone = True
        self._finish("stream_lost")
        self._release_writer()

    def _start(self, body: StartBody) -> None:
        live = self._open_call(body)
        if live is None:
            log.warning("Stream of call %s refused: it is not a call this endpoint waits for", body.call_sid)
            self._shut(POLICY)
            return
        self.live = live
        self._lock = live.bridge.lock
        self._hear = live.hearing.frame if live.started_at is None else self._hear_again
        live.parameters.update(body.custom_parameters)
        live.bridge.attach(self._loop)
        self.leg = leg = live.begin_leg(
            call_sid=body.call_sid,
            stream_sid=body.stream_sid,
            wake=self.wake,
            hang_up=self.hang_up,
            close=self._abandon,
        )
        self._timeline = leg.timeline
        self._note_timestamp = leg.stream_clock.media
        self._release_writer()

    def _hear_again(self, audio: bytes, now_ms: float) -> None:
        """The first frame of a stream that is not the call's first."""
        live = self.live
        assert live is not None
        live.hearing.bridge_gap(now_ms)
        self._hear = live.hearing.frame
        self._hear(audio, now_ms)

    # -- out ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """The timeline has something new; any thread."""
        if get_ident() == self._thread:
            self.dirty = True
            if not self._receiving:  # else the driver is about to flush, without the detour through the writer
                self._release_writer()
        elif not self._wake_pending:
            self._wake_pending = True
            try:
                self._loop.call_soon_threadsafe(self._woken)
            except RuntimeError:
                pass  # the loop is closed: there is no line any more

    def _woken(self) -> None:
        self._wake_pending = False
        self._release_writer()

    def _release_writer(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def write(self) -> None:
        """The one writer, a task of the driver: sends what is due until the stream is over."""
        self._writer = asyncio.current_task()
        try:
            await self._write_until_over()
        except Exception:
            log.exception("Call %s cannot be written to any longer, hanging up", self.stream.call_sid)
            self._hang_up("failed")

    async def _write_until_over(self) -> None:
        while not self._over:
            self._waiter = self._loop.create_future()
            await self.flush()
            due_ms = self._due_in_ms()
            timer = None if due_ms is None else self._loop.call_later(due_ms / 1000, self._release_writer)
            try:
                await self._waiter
            finally:
                if timer is not None:
                    timer.cancel()

    def _due_in_ms(self) -> float | None:
        timeline, live = self._timeline, self.live
        if timeline is None or live is None:
            return None
        with live.bridge.lock:
            return timeline.due_in_ms(self._monotonic() * 1000)

    async def flush(self) -> None:
        """Send everything that is due. One at a time: a second caller leaves it to the first. Audio that is not due
        yet is left to the writer."""
        self.dirty = False
        timeline = self._timeline
        if self._flushing or timeline is None:
            return
        self._flushing = True
        send = self._send
        try:
            while timeline.outgoing and not self._over:
                self._send_since = now = self._monotonic()
                lock = self._lock
                lock.acquire()  # spelt out: `with` costs twice as much, and this is every frame of every call
                try:
                    items = timeline.take(now * 1000)
                finally:
                    lock.release()
                if not items:
                    if asyncio.current_task() is not self._writer:
                        self._release_writer()
                    return
                for item in items:
                    if self._over:  # the send before this one may have waited
                        return  # type: ignore[unreachable]
                    if type(item) is bytes:
                        await send(self.stream.media(item))
                    elif isinstance(item, Mark):
                        await send(self.stream.mark(item.name))
                    else:
                        assert isinstance(item, Clear)
                        await send(self.stream.clear())
        except OSError:
            self._finish("stream_lost")  # the peer went away while we wrote; uvicorn and others raise an OSError
        except RuntimeError:
            if not self._over:  # else the socket was closed while this message waited to leave
                raise
        finally:
            self._send_since = None
            self._flushing = False

    # -- the end --------------------------------------------------------------------------------------------------

    def hang_up(self, reason: str) -> None:
        """End the call in Twilio's way; any thread, does not wait. Every verb of the call ends at once."""
        try:
            self._loop.call_soon_threadsafe(self._hang_up, reason)
        except RuntimeError:
            pass  # the loop is closed, and the line with it

    def _hang_up(self, reason: str) -> None:
        if self._hanging_up is not None or self._over:
            return
        call_sid = self.stream.call_sid
        self._finish(reason)
        self._hanging_up = self._loop.create_task(self._end_and_close(call_sid))

    async def _end_and_close(self, call_sid: str) -> None:
        try:
            await self._end_call(call_sid)
        except Exception:
            # Closing the socket ends the call as well, because the TwiML ends behind it.
            log.exception("Call %s could not be ended through the REST API; its stream is closed instead", call_sid)
        await self._close_quietly(NORMAL)

    def _abandon(self) -> None:
        """The call has another stream: let go of this one, whose path is dead. Loop thread."""
        self._finish("replaced")
        if self._hanging_up is None:
            self._hanging_up = self._loop.create_task(self._close_quietly(NORMAL))

    def _shut(self, code: int) -> None:
        self._finish("refused")
        self._hanging_up = self._loop.create_task(self._close_quietly(code))

    def _close_after_stop(self) -> None:
        if self._hanging_up is None and not self._socket_gone:
            self._hanging_up = self._loop.create_task(self._close_quietly(NORMAL))

    async def _close_quietly(self, code: int) -> None:
        """Close, and where the peer does not even take that, break the connection."""
        try:
            async with asyncio.timeout(self._limits.close):
                await self._close(code)
        except TimeoutError:  # before OSError, of which it is one
            self._abort()
        except (OSError, RuntimeError):
            pass  # closed already, by the peer or by the server

    async def closed(self) -> None:
        """Wait for a hang-up under way; the driver's last step."""
        self._ticker.cancel()
        if self._leaver is not None:
            self._leaver.cancel()
        if self._hanging_up is not None:
            await asyncio.wait([self._hanging_up])

    def _finish(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._ticker.cancel()
        self._release_writer()
        if self.live is not None and self.leg is not None:
            self.live.leg_ended(self.leg, reason)

    def _tick(self) -> None:
        """Watchdogs: a stream that never starts, a path gone silent, a peer that does not read, a lost fence."""
        now = self._monotonic()
        live, limits = self.live, self._limits
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        if live is None:
            if now - self._opened_at >= limits.start:
                log.warning("Stream closed: no start message within %g s", limits.start)
                self._shut(POLICY)
            return
        if now - self._heard_at >= limits.media:
            log.warning("Call %s: no media for %g s, hanging up", live.call_sid, limits.media)
            self._hang_up("media_stopped")
        elif self._send_since is not None and now - self._send_since >= limits.send:
            log.warning("Call %s: the peer has not read for %g s, hanging up", live.call_sid, limits.send)
            self._hang_up("send_stalled")
        elif live.started_at is not None and now - live.started_at >= limits.call:
            log.warning("Call %s: longer than %g s, hanging up", live.call_sid, limits.call)
            self._hang_up("too_long")
        elif live.timeline.fences_pending:
            with live.bridge.lock:
                live.timeline.give_up_on_fences(now * 1000)
                live.bridge.condition.notify_all()
