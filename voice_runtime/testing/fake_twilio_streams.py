"""Media streams of calls: connecting them, what the log and the callbacks tell of them, and forks.

https://www.twilio.com/docs/voice/twiml/stream
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from ..transports.mock_audio import AudioSource, Ear
from ..transports.mock_line import LineEnd, MediaLine
from ..transports.mock_wire import ConnectFailure, TextWire, handshake_headers, make_sid
from .fake_twilio_congestion import WatchedWire
from .fake_twilio_exchange import Exchange
from .fake_twilio_records import CallRecord, StreamRecord
from .fake_twilio_twiml import StreamOrder

__all__ = ["StreamEngine"]


class StreamEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def connect(self, call: CallRecord, order: StreamOrder) -> None:
        """``<Connect><Stream>``: returns when the stream has ended, or could not be had."""
        await asyncio.sleep(self._exchange.timings.stream_connect_ms / 1000)
        stream = await self._open(call, order, {"inbound": call.mouth}, bidirectional=True)
        if stream is not None:
            await self._follow(call, stream, order)

    async def _open(
        self,
        call: CallRecord,
        order: StreamOrder,
        sources: dict[str, AudioSource],
        *,
        bidirectional: bool,
        sid: str = "",
    ) -> StreamRecord | None:
        exchange = self._exchange
        # The signature is over the URL of the TwiML, as wss: that is what the world sees.
        signed = "wss://" + order.url.split("://", 1)[1]
        headers = handshake_headers(order.url, None) + exchange.webhooks.signature_headers(signed, [])
        sid = sid or make_sid("MZ")
        exchange.note("stream", sid=call.sid, text="connecting", url=order.url, stream_sid=sid)
        if exchange.faults.take("socket_refused"):
            wire: TextWire | ConnectFailure = ConnectFailure(31902, f"nobody listens at {order.url}")
        elif exchange.faults.take("handshake_403"):
            wire = ConnectFailure(31920, f"expected 101 from {order.url}; it answered 403", 403)
        else:
            wire = await exchange.network.connect(order.url, headers)
        if isinstance(wire, ConnectFailure):
            exchange.note("error", sid=call.sid, code=wire.code, text=wire.message, http_status=wire.http_status)
            await self._stream_event(call, sid, order, "stream-error", str(wire.code))
            return None
        told: set[int] = set()

        def warn(code: int, text: str) -> None:
            if code not in told:  # of 31930 the line knows only once the app reads again
                told.add(code)
                exchange.note("warning", sid=call.sid, code=code, text=text)

        def congested(seconds: float) -> None:
            warn(31930, f"the app has not read for {seconds:.1f} s; caller audio is discarded until it does")

        line = MediaLine(
            WatchedWire(wire, exchange.faults.line.congestion_ms / 1000, congested),
            stream_sid=sid,
            call_sid=call.sid,
            account_sid=exchange.account_sid,
            parameters={**order.parameters, **exchange.faults.extra_parameters},
            sources=sources,
            heard=call.heard,
            bidirectional=bidirectional,
            faults=exchange.faults.line,
            first_media_ms=exchange.timings.first_media_ms,
            first_timestamp_ms=exchange.timings.first_timestamp_ms,
            on_warning=warn,
        )
        stream = StreamRecord(
            sid=sid,
            name=order.name or sid,
            url=order.url,
            line=line,
            parameters=order.parameters,
            bidirectional=bidirectional,
        )
        call.streams.append(stream)
        return stream

    async def _follow(self, call: CallRecord, stream: StreamRecord, order: StreamOrder) -> None:
        exchange = self._exchange
        started = exchange.spawn(self._when_started(call, stream, order))
        try:
            stream.ended = await stream.line.run()
        finally:
            started.cancel()
            stream.ended = stream.ended or LineEnd.DROPPED
            stream.close_code = stream.line.close_code
            exchange.note(
                "stream",
                sid=call.sid,
                text=f"ended: {stream.ended}",
                stream_sid=stream.sid,
                frames_sent=stream.line.frames_sent,
                messages_received=stream.line.messages_received,
                close_code=stream.close_code,
            )
        if stream.ended is LineEnd.APP_CLOSED:
            text = f"the server closed the stream's socket with code {stream.close_code}"
            exchange.note("error", sid=call.sid, code=31921, text=text)
        elif stream.ended is LineEnd.DROPPED:
            exchange.note("error", sid=call.sid, code=31903, text="the stream's connection broke")
        exchange.spawn(self._stream_event(call, stream.sid, order, "stream-stopped"))

    async def _when_started(self, call: CallRecord, stream: StreamRecord, order: StreamOrder) -> None:
        await stream.line.started.wait()
        self._exchange.note("stream", sid=call.sid, text="started", stream_sid=stream.sid)
        self._exchange.spawn(self._stream_event(call, stream.sid, order, "stream-started"))
        await stream.line.flowing.wait()
        if stream.bidirectional and not call.streaming.is_set():
            call.streaming.set()
            self._exchange.awake(call)

    async def _stream_event(
        self, call: CallRecord, sid: str, order: StreamOrder, event: str, error: str = ""
    ) -> None:
        if not order.status_callback:
            return
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("CallSid", call.sid),
            ("StreamSid", sid),
            ("StreamName", order.name or sid),
            ("StreamEvent", event),
            ("Timestamp", _iso_nanoseconds(self._exchange.now())),
        ]
        if error:
            form.append(("StreamError", error))
        await self._exchange.webhooks.callback(
            order.status_callback, form, method=order.status_callback_method, sid=call.sid
        )

    # -- forks --------------------------------------------------------------------------------------------------

    def start_fork(self, call: CallRecord, order: StreamOrder) -> str:
        """Begin a unidirectional stream in the background of the call; returns its sid."""
        sources: dict[str, AudioSource] = {}
        if order.track in ("inbound_track", "both_tracks"):
            sources["inbound"] = call.mouth
        if order.track in ("outbound_track", "both_tracks"):
            sources["outbound"] = Ear(call.heard, call.sync)
        sid = make_sid("MZ")
        call.forks.append(self._exchange.spawn(self._fork(call, order, sources, sid)))
        return sid

    async def _fork(self, call: CallRecord, order: StreamOrder, sources: dict[str, AudioSource], sid: str) -> None:
        await asyncio.sleep(self._exchange.timings.stream_connect_ms / 1000)
        stream = await self._open(call, order, sources, bidirectional=False, sid=sid)
        if stream is not None:
            await self._follow(call, stream, order)

    def stop_fork(self, call: CallRecord, name: str) -> StreamRecord | None:
        """Stop a unidirectional stream by its name or sid; None when there is none of it."""
        for stream in call.streams:
            if not stream.bidirectional and name in (stream.name, stream.sid):
                stream.line.stop()
                return stream
        return None

    async def stop_forks(self, call: CallRecord) -> None:
        """The call is over: so are its forks."""
        for stream in call.streams:
            stream.line.stop()
        if call.forks:
            _, late = await asyncio.wait(call.forks, timeout=1)
            for task in late:
                task.cancel()


def _iso_nanoseconds(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
