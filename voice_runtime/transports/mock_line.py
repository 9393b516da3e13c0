"""Twilio's end of one media stream: what a server sees when Twilio connects to it.

:class:`MediaLine` speaks the protocol of https://www.twilio.com/docs/voice/media-streams/websocket-messages over a
:class:`~voice_runtime.transports.mock_wire.TextWire`, real or in memory. It sends ``connected`` and ``start``, a
frame of 20 ms every 20 ms on a schedule that does not drift, keys, mark echoes, ``stop``; it plays what it is sent at
line speed (:class:`~voice_runtime.transports.twilio_playback.PlaybackBuffer`) into what the far end heard, and notes
the warnings Twilio would put into its debugger. What can go wrong on a real line is switched on by
:class:`LineFaults`.

Everything here runs on one asyncio loop and is not thread-safe; the loop's ``time()`` is the only clock.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import enum
import json
from collections.abc import Callable, Mapping

import msgspec

from .mock_audio import FRAME_BYTES, FRAME_S, SAMPLES_PER_SECOND, Alarm, AudioSource, HeardAudio, Mouth
from .mock_wire import LatencyWire, TextWire, make_sid
from .twilio_playback import MarkEcho, Overflow, PlaybackBuffer, Played
from .twilio_protocol import ClearCommand, MarkCommand, MediaCommand, ToTwilio

__all__ = ["LineEnd", "LineFaults", "MediaLine"]

_SILENCE = base64.b64encode(b"\xff" * FRAME_BYTES).decode()
_EPSILON_S = 1e-6  # timers may fire that much early, by the rounding of floats
_decode_command = msgspec.json.Decoder(ToTwilio).decode


class LineFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong on one stream; without arguments nothing does. Times in ms of the stream (0 is ``start``)."""

    latency_to_app_ms: float = 0
    latency_from_app_ms: float = 0
    jitter_ms: float = 0
    """Each message to the app is late by 0 to this much at random; the order is kept."""
    stalls: tuple[tuple[float, float], ...] = ()
    """(begin, length): frames are held back and then come all at once."""
    gaps: tuple[tuple[float, float], ...] = ()
    """(begin, length): the frames of that time never come; timestamps jump."""
    lose_every: int = 0
    """Every so manieth frame never comes."""
    clock_drift_ppm: float = 0
    """Positive: the line's frames come slower than the clock says."""
    marks_lost: bool = False
    mark_delay_ms: float = 0
    clear_ignored: bool = False
    drop_after_ms: float | None = None
    """The connection breaks without ``stop``."""
    no_stop: bool = False
    """The far end's hang-up closes the socket without ``stop``."""
    stop_twice: bool = False
    media_after_stop: int = 0
    """So many frames follow ``stop``."""
    close_code: int = 1000
    """After ``stop``; 1006 breaks the connection instead of closing it."""
    never_start: bool = False
    """``connected`` comes and nothing else."""
    numbers_as_numbers: bool = False
    """sequenceNumber, chunk and timestamp as JSON numbers."""
    unknown_event: bool = False
    """An event nobody knows follows ``start``."""
    congestion_ms: float = 2000
    """An app that leaves frames unread for so long loses caller audio, with warning 31930."""


class LineEnd(enum.StrEnum):
    """How a stream ended."""

    STOPPED = "stopped"
    """Twilio's side stopped it: hang-up or redirect."""
    APP_CLOSED = "app_closed"
    """The server closed the socket, or it broke. Twilio logs 31921."""
    DROPPED = "dropped"
    """The connection was made to break."""


class MediaLine:
    """One stream, Twilio's side.

    Attributes:
        heard: what the far end heard.
        mouth: what the far end says; a :class:`Mouth` unless another source was given.
        warnings: code -> text, each code once: 31930, 31931, 31950, 31951, and the error 31924.
        frames_sent, marks_echoed, messages_received, clears: counters.
        started: set when ``start`` has been sent.
        flowing: set when the first frame has been sent; what is said from then on is transmitted.
    """

    def __init__(
        self,
        wire: TextWire,
        *,
        stream_sid: str = "",
        call_sid: str = "",
        account_sid: str = "",
        parameters: Mapping[str, str] | None = None,
        sources: Mapping[str, AudioSource] | None = None,
        heard: HeardAudio | None = None,
        bidirectional: bool = True,
        faults: LineFaults | None = None,
        first_media_ms: float = 100,
        first_timestamp_ms: int = 100,
        on_warning: Callable[[int, str], None] | None = None,
    ) -> None:
        """
        Args:
            sources: track -> audio; one ``inbound`` track with a new :class:`Mouth` when not given.
            bidirectional: False for a fork (``<Start><Stream>``): it plays nothing and sends no marks.
            first_media_ms: from ``start`` to the first frame.
            first_timestamp_ms: the stream's clock starts before its socket is up, so the first frame's timestamp is
                not 0 (recordings of the real service show 88 to 171).
            on_warning: called with each new warning.
        """
        self.faults = faults or LineFaults()
        if self.faults.latency_to_app_ms or self.faults.latency_from_app_ms or self.faults.jitter_ms:
            wire = LatencyWire(
                wire,
                to_app_ms=self.faults.latency_to_app_ms,
                from_app_ms=self.faults.latency_from_app_ms,
                jitter_ms=self.faults.jitter_ms,
            )
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self.stream_sid = stream_sid or make_sid("MZ")
        self.call_sid = call_sid or make_sid("CA")
        self.account_sid = account_sid or make_sid("AC")
        self.parameters = dict(parameters or {})
        self.mouth = Mouth()
        self._sources: dict[str, AudioSource] = dict(sources) if sources is not None else {"inbound": self.mouth}
        if isinstance(given := self._sources.get("inbound"), Mouth):
            self.mouth = given
        self.heard = heard or HeardAudio(self._loop.time())
        self._bidirectional = bidirectional
        self._first_media_s = first_media_ms / 1000
        self._first_timestamp_ms = first_timestamp_ms
        self._on_warning = on_warning
        self._playback = PlaybackBuffer()
        self._alarm = Alarm()
        self._outbox: collections.deque[str] = collections.deque()  # keys
        self._echoes: collections.deque[tuple[float, str]] = collections.deque()  # (loop time, mark)
        self._stopping = False
        self._up = False  # start has been sent, at _started_s
        self._started_s = 0.0
        self._playback_ms = 0.0
        self._sequence = 0
        self._chunk = 0
        self.started = asyncio.Event()
        self.flowing = asyncio.Event()
        self.ended: LineEnd | None = None
        self.warnings: dict[int, str] = {}
        self.frames_sent = 0
        self.marks_echoed = 0
        self.messages_received = 0
        self.clears = 0

    # -- what the far end does ----------------------------------------------------------------------------------

    def press(self, digit: str) -> None:
        """A key: 0-9, *, #, A-D. Sent as ``dtmf`` at once."""
        if len(digit) != 1 or digit not in "0123456789*#ABCD":
            raise ValueError(f"expected one of 0123456789*#ABCD; {digit!r} came")
        if self._bidirectional:  # forks have no dtmf messages
            self._outbox.append(digit)
            self._alarm.ring()

    async def say(self, ulaw: bytes) -> None:
        """Speak, after what is already being said; returns when the last of it has left."""
        self.mouth.say(ulaw)
        await self.mouth.spoken()

    def stop_talking(self) -> int:
        """Fall silent at once; returns how many bytes stay unsaid."""
        return self.mouth.stop()

    def stop(self) -> None:
        """End the stream from Twilio's side: ``stop``, then the close. :meth:`run` returns soon after."""
        self._stopping = True
        self._alarm.ring()

    @property
    def close_code(self) -> int | None:
        """The code the server closed the socket with."""
        return self._wire.close_code

    @property
    def idle(self) -> bool:
        """Whether nothing is being played to the far end."""
        self._advance(self._loop.time())
        return self._playback.idle_at_ms() is None

    def sync(self) -> None:
        """Bring :attr:`heard` up to now; it is otherwise up to date to the last 20 ms."""
        self._advance(self._loop.time())

    # -- the stream ---------------------------------------------------------------------------------------------

    async def run(self) -> LineEnd:
        """Speak the protocol until the stream ends. Cancelling breaks the connection."""
        reader: asyncio.Task[None] | None = None
        pump: asyncio.Task[LineEnd] | None = None
        try:
            reader = self._loop.create_task(self._listen())
            pump = self._loop.create_task(self._pump())
            await asyncio.wait({reader, pump}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                self.ended = pump.result()
            else:
                reader.result()
                self.ended = LineEnd.APP_CLOSED
            self._advance(self._loop.time())
            if self.ended is LineEnd.STOPPED and self.faults.close_code != 1006:
                await self._wire.close(self.faults.close_code)
            elif self.ended is LineEnd.APP_CLOSED:
                await self._wire.close()
            return self.ended
        finally:
            tasks = [task for task in (reader, pump) if task is not None]
            for task in tasks:
                task.cancel()
            self._wire.abort()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while (message := await self._wire.receive()) is not None:
            self._accept(message)

    async def _pump(self) -> LineEnd:
        try:
            return await self._send_all()
        except ConnectionError:
            return LineEnd.APP_CLOSED

    async def _send_all(self) -> LineEnd:
        loop, wire, faults = self._loop, self._wire, self.faults
        await wire.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        if faults.never_start:
            while not self._stopping:
                await self._alarm.sleep_until(None)
            return LineEnd.STOPPED
        self._started_s = loop.time()
        self._up = True
        await wire.send(self._start_message())
        self.started.set()
        if faults.unknown_event:
            await wire.send(self._message("weather", {"weather": {"sky": "blue"}}))
        first = self._started_s + self._first_media_s
        step = FRAME_S * (1 + faults.clock_drift_ppm * 1e-6)
        sample = round(first * SAMPLES_PER_SECOND) - FRAME_BYTES
        drop_at = None if faults.drop_after_ms is None else self._started_s + faults.drop_after_ms / 1000
        loses = bool(faults.lose_every or faults.gaps)
        index = 0
        while True:
            frame_at = first + index * step
            held_until = self._held_until(frame_at) if faults.stalls else frame_at
            due = held_until
            echo_ms = self._playback.next_event_ms()
            if echo_ms is not None:
                due = min(due, self._started_s + echo_ms / 1000)
            if self._echoes:
                due = min(due, self._echoes[0][0])
            if drop_at is not None:
                due = min(due, drop_at)
            if loop.time() + _EPSILON_S < due:
                await self._alarm.sleep_until(due)
            now = loop.time()
            if due - _EPSILON_S <= now < due:
                now = due
            if self._stopping:
                await self._send_stop()
                return LineEnd.STOPPED
            if drop_at is not None and now >= drop_at:
                return LineEnd.DROPPED
            self._advance(now)
            while self._echoes and self._echoes[0][0] <= now + _EPSILON_S:
                self.marks_echoed += 1
                await wire.send(self._message("mark", {"mark": {"name": self._echoes.popleft()[1]}}))
            while self._outbox:
                digit = self._outbox.popleft()
                await wire.send(self._message("dtmf", {"dtmf": {"track": "inbound_track", "digit": digit}}))
            if now + _EPSILON_S < held_until:
                continue
            timestamp = self._first_timestamp_ms + 20 * index
            if not (loses and self._is_lost(index, frame_at)):
                self._chunk += 1
                offset = FRAME_BYTES * index
                if faults.clock_drift_ppm:
                    offset = round(offset * (1 + faults.clock_drift_ppm * 1e-6))
                for track, source in self._sources.items():
                    await wire.send(self._frame(track, timestamp, source.read(sample + offset, FRAME_BYTES)))
                self.frames_sent += 1
                if self.frames_sent == 1:
                    self.flowing.set()
            index += 1
            blocked = loop.time() - now
            if blocked > faults.congestion_ms / 1000:
                self._warn(31930, f"the app has not read for {blocked:.1f} s; caller audio was discarded")
                index += int(blocked / step)

    def _held_until(self, frame_at: float) -> float:
        for begin_ms, length_ms in self.faults.stalls:
            begin = self._started_s + begin_ms / 1000
            if begin <= frame_at < begin + length_ms / 1000:
                return begin + length_ms / 1000
        return frame_at

    def _is_lost(self, index: int, frame_at: float) -> bool:
        if self.faults.lose_every and (index + 1) % self.faults.lose_every == 0:
            return True
        at_ms = (frame_at - self._started_s) * 1000
        return any(begin <= at_ms < begin + length for begin, length in self.faults.gaps)

    async def _send_stop(self) -> None:
        if self.faults.no_stop:
            return
        body = {"stop": {"accountSid": self.account_sid, "callSid": self.call_sid}}
        for _ in range(2 if self.faults.stop_twice else 1):
            await self._wire.send(self._message("stop", body))
        for _ in range(self.faults.media_after_stop):
            self._chunk += 1
            await self._wire.send(self._frame("inbound", self._first_timestamp_ms + 20 * self._chunk, b""))

    # -- messages out -------------------------------------------------------------------------------------------

    def _number(self, value: int) -> str | int:
        return value if self.faults.numbers_as_numbers else str(value)

    def _message(self, event: str, body: Mapping[str, object]) -> str:
        self._sequence += 1
        head = {"event": event, "sequenceNumber": self._number(self._sequence), "streamSid": self.stream_sid}
        return json.dumps({**head, **body}, ensure_ascii=False)

    def _start_message(self) -> str:
        return self._message(
            "start",
            {
                "start": {
                    "accountSid": self.account_sid,
                    "streamSid": self.stream_sid,
                    "callSid": self.call_sid,
                    "tracks": list(self._sources),
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                    "customParameters": self.parameters,
                }
            },
        )

    def _frame(self, track: str, timestamp: int, audio: bytes) -> str:
        self._sequence += 1
        payload = base64.b64encode(audio).decode() if audio else _SILENCE
        quote = "" if self.faults.numbers_as_numbers else '"'
        return (
            f'{{"event":"media","sequenceNumber":{quote}{self._sequence}{quote},"media":{{"track":"{track}",'
            f'"chunk":{quote}{self._chunk}{quote},"timestamp":{quote}{timestamp}{quote},"payload":"{payload}"}},'
            f'"streamSid":"{self.stream_sid}"}}'
        )

    # -- messages in --------------------------------------------------------------------------------------------

    def _warn(self, code: int, text: str) -> None:
        if code not in self.warnings:
            self.warnings[code] = text
            if self._on_warning is not None:
                self._on_warning(code, text)

    def _accept(self, message: str | bytes) -> None:
        """The table of https://www.twilio.com/docs/api/errors/31950, 31951 and 31924: warn once, ignore, go on."""
        self.messages_received += 1
        if isinstance(message, bytes):
            self._warn(31950, f"expected a text frame; a binary frame of {len(message)} bytes came")
            return
        if not self._bidirectional:
            self._warn(31924, f"expected no message on a unidirectional stream; {message[:80]!r} came")
            return
        try:
            command = _decode_command(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self._warn(31951, f"invalid message {message[:200]!r}: {error}")
            return
        if not self._up or command.stream_sid != self.stream_sid:
            self._warn(31951, f"expected streamSid {self.stream_sid}; {command.stream_sid!r} came")
            return
        now_ms = self._stream_ms(self._loop.time())
        playback = self._playback
        if isinstance(command, MediaCommand):
            playback.media(command.media.payload, now_ms)
        elif isinstance(command, MarkCommand):
            playback.mark(command.mark.name, now_ms)
            self._alarm.ring()  # its echo may be due before the next frame
        elif isinstance(command, ClearCommand):
            self.clears += 1
            if not self.faults.clear_ignored:
                playback.clear(now_ms)
                self._alarm.ring()

    def _stream_ms(self, now: float) -> float:
        """Time of the stream. It never goes back, although a timer may be taken for due a hair before its time."""
        self._playback_ms = max(self._playback_ms, (now - self._started_s) * 1000)
        return self._playback_ms

    def _advance(self, now: float) -> None:
        if not self._up:
            return
        base_ms = (self._started_s - self.heard.origin_s) * 1000
        for event in self._playback.advance(self._stream_ms(now)):
            if isinstance(event, Played):
                self.heard.add(base_ms + event.at_ms, event.data)
            elif isinstance(event, MarkEcho):
                if not self.faults.marks_lost:
                    at_ms = event.at_ms + self.faults.mark_delay_ms
                    self._echoes.append((self._started_s + at_ms / 1000, event.name))
            elif isinstance(event, Overflow):
                self._warn(31931, "more than 10 minutes of audio are buffered; the rest was discarded")
