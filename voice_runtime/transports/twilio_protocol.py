"""The Media Streams protocol, held still: text in, messages out; commands in, text out.

Pure: no sockets, event loop, threads or clock, so a whole call can be replayed from a list of strings. Twilio is the
WebSocket client; this is the server's side. The messages are those of
https://www.twilio.com/docs/voice/media-streams/websocket-messages.

::

    stream = MediaStream()
    match stream.receive(text):           # one WebSocket text frame
        case Start(start=body): ...       # the stream is up: body.call_sid, body.custom_parameters
        case Media(media=body): ...       # body.payload: μ-law bytes; body.timestamp: ms since the stream's start
        case Mark() | Dtmf() | Stop(): ...
        case Refused(reason=reason): ...  # the stream cannot be served; close the socket
        case None: ...                    # counted and ignored
    await websocket.send_text(stream.media(audio))

States: *waiting* until ``start``, *started*, and *stopped* after ``stop`` or a refusal. Nothing a peer sends raises:

=====================================================  ===============================================================
What came                                              What happens (the counter of :class:`StreamStatistics`)
=====================================================  ===============================================================
not JSON, not an object, nested too deeply, NaN,       ignored (``malformed``)
no or wrong-typed fields, bad base64, numbers below
0 or above 2^53
an event this module does not know                     ignored (``unknown``)
a binary WebSocket frame                               ignored (``binary``), see :meth:`MediaStream.receive_binary`
a field this module does not know                      the field is ignored
numbers as JSON numbers or as strings                  both accepted; Twilio sends strings
media before ``start``                                 ignored (``media_before_start``)
dtmf, mark, stop before ``start``                      ignored (``other_before_start``)
``start`` with no streamSid or callSid                 ignored (``malformed``)
``start`` of anything but 8000 Hz mono μ-law           :class:`Refused`, stopped (``refused``)
a second ``start``                                     ignored; the first stands (``second_start``)
anything after ``stop``, also a second ``stop``        ignored (``after_stop``)
another stream's streamSid                             ignored (``wrong_stream``); no streamSid at all is accepted
media of another track than ``inbound``                ignored (``other_track``): only forked streams have them
empty payload                                          ignored (``empty_media``)
payload of any other size                              passed on as it is; cutting frames is not this module's matter
chunk numbers that skip                                passed on (``missing_chunks``); timestamps tell how much
the newest chunk once more                             ignored (``duplicate_chunks``)
an older chunk                                         ignored (``late_chunks``): its place has been played
a chunk number out of all proportion                   ignored (``chunk_jumps``) until the next one confirms it
a timestamp before the previous one's                  passed on (``timestamps_backwards``)
sequence numbers that skip, or go back                 passed on (``missing_messages``, ``out_of_order``)
a mark nobody sent                                     passed on: the timeline knows its own marks
=====================================================  ===============================================================
"""

from __future__ import annotations

import enum
import json
from binascii import b2a_base64
from typing import Annotated, TypeAlias

import msgspec

from ..exceptions import NotConnectedError, PeerProtocolError

__all__ = [
    "ClearCommand",
    "Connected",
    "Dtmf",
    "DtmfBody",
    "Event",
    "FromTwilio",
    "Mark",
    "MarkBody",
    "MarkCommand",
    "MarkEchoBody",
    "Media",
    "MediaBody",
    "MediaCommand",
    "MediaFormat",
    "MediaStream",
    "OutboundMediaBody",
    "Refused",
    "Start",
    "StartBody",
    "Stop",
    "StopBody",
    "StreamState",
    "StreamStatistics",
    "ToTwilio",
    "encode_from_twilio",
]

# 2^53 is where JSON numbers stop being exact (RFC 8259 section 6); a timestamp of that many ms is 285,000 years.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

# A jump of more than _MAX_DROPOUT ahead or _MAX_MISORDER back is not loss but a new numbering, and is believed when
# the next number follows it: RFC 3550, appendix A.1.
_MAX_DROPOUT = 3000
_MAX_MISORDER = 100


# -- from Twilio ------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct, tag_field="event", rename="camel", frozen=True, gc=False, kw_only=True):
    """One JSON object on the socket; the field ``event`` says which."""


class Connected(_Message, tag="connected", frozen=True, kw_only=True):
    """The socket is up. The first message; it has neither streamSid nor sequenceNumber."""

    protocol: str = "Call"
    version: str = "1.0.0"


class MediaFormat(msgspec.Struct, rename="camel", frozen=True, gc=False, kw_only=True):
    """How the payloads are encoded. Fields that did not come are empty, so that nothing is guessed."""

    encoding: str = ""
    sample_rate: Count = 0
    """Hz."""
    channels: Count = 0


class StartBody(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What the stream is about."""

    call_sid: str
    stream_sid: str = ""
    account_sid: str = ""
    tracks: list[str] = []
    media_format: MediaFormat = MediaFormat()
    custom_parameters: dict[str, str] = {}
    """The ``<Parameter>`` elements of the TwiML. Not covered by the handshake's signature."""


class Start(_Message, tag="start", frozen=True, gc=True, kw_only=True):
    """The stream begins. Its sequenceNumber is 1."""

    start: StartBody
    stream_sid: str = ""
    sequence_number: Count = 0


class MediaBody(msgspec.Struct, rename="camel", frozen=True, gc=False, kw_only=True):
    """Audio of the caller."""

    payload: bytes
    """μ-law, 8000 Hz, mono, no header: 8 bytes are 1 ms. On the wire base64. In practice 160 bytes."""
    timestamp: Count = 0
    """ms since the stream began; the first one is not 0."""
    chunk: Count = 0
    """Counts from 1 within the track; 0 when the peer does not number its chunks."""
    track: str = "inbound"


class Media(_Message, tag="media", frozen=True, kw_only=True):
    """One chunk of audio."""

    media: MediaBody
    stream_sid: str = ""
    sequence_number: Count = 0


class DtmfBody(msgspec.Struct, rename="camel", frozen=True, gc=False, kw_only=True):
    """A key the caller pressed."""

    digit: str
    track: str = "inbound_track"


class Dtmf(_Message, tag="dtmf", frozen=True, kw_only=True):
    """The caller pressed a key."""

    dtmf: DtmfBody
    stream_sid: str = ""
    sequence_number: Count = 0


class MarkBody(msgspec.Struct, rename="camel", frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A name of our choice."""

    name: str


class MarkEchoBody(msgspec.Struct, rename="camel", frozen=True, gc=False, kw_only=True):
    """The name of a mark that came back."""

    name: str


class Mark(_Message, tag="mark", frozen=True, kw_only=True):
    """A mark came back: everything sent before it has been played, or a clear has flushed it."""

    mark: MarkEchoBody
    stream_sid: str = ""
    sequence_number: Count = 0


class StopBody(msgspec.Struct, rename="camel", frozen=True, gc=False, kw_only=True):
    """Which call's stream ended; Twilio gives no reason."""

    account_sid: str = ""
    call_sid: str = ""


class Stop(_Message, tag="stop", frozen=True, kw_only=True):
    """The stream ended: the caller hung up, or the call was given other TwiML."""

    stop: StopBody = StopBody()
    stream_sid: str = ""
    sequence_number: Count = 0


FromTwilio: TypeAlias = Connected | Start | Media | Dtmf | Mark | Stop
"""Every message Twilio sends."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A ``start`` came whose audio cannot be served. Close the socket; the call goes on in its TwiML."""

    reason: str
    start: StartBody


Event: TypeAlias = Connected | Start | Media | Dtmf | Mark | Stop | Refused
"""Everything :meth:`MediaStream.receive` returns, besides None."""


def encode_from_twilio(message: FromTwilio) -> str:
    """The message as Twilio writes it: sequence numbers, chunks and timestamps are strings, sampleRate and channels
    are numbers.

    For the other side of the wire: simulators and tests.
    """
    plain = msgspec.to_builtins(message)
    if "sequenceNumber" in plain:
        plain["sequenceNumber"] = str(plain["sequenceNumber"])
    if isinstance(message, Media):
        body = plain["media"]
        body["chunk"] = str(body["chunk"])
        body["timestamp"] = str(body["timestamp"])
    return msgspec.json.encode(plain).decode()


# -- to Twilio --------------------------------------------------------------------------------------------------


class _Command(
    msgspec.Struct, tag_field="event", rename="camel", frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True
):
    """What a server may send. With a field missing or added Twilio warns (31951) and ignores the message."""

    stream_sid: str


class OutboundMediaBody(
    msgspec.Struct, rename="camel", frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True
):
    """Audio for the caller: μ-law, 8000 Hz, mono, any length, no header (a WAV header is played as noise)."""

    payload: bytes


class MediaCommand(_Command, tag="media", frozen=True, kw_only=True):
    """Play this after everything sent before it. Twilio buffers ten minutes."""

    media: OutboundMediaBody


class MarkCommand(_Command, tag="mark", frozen=True, kw_only=True):
    """Send the name back when everything before it has been played."""

    mark: MarkBody


class ClearCommand(_Command, tag="clear", frozen=True, kw_only=True):
    """Drop what has not been played. The marks among it come back at once."""


ToTwilio: TypeAlias = MediaCommand | MarkCommand | ClearCommand
"""Every message Twilio accepts. As a decoding type it rejects what Twilio warns about with 31951."""


# -- the stream -------------------------------------------------------------------------------------------------


class StreamState(enum.Enum):
    """Where a stream is in its life."""

    WAITING = "waiting"
    """``start`` has not come."""
    STARTED = "started"
    STOPPED = "stopped"
    """``stop`` has come, or the ``start`` was refused."""


class StreamStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages met which fate. The first six count what was acted on."""

    connected: int
    start: int
    media: int
    dtmf: int
    mark: int
    stop: int
    unknown: int
    malformed: int
    binary: int
    media_before_start: int
    other_before_start: int
    second_start: int
    refused: int
    after_stop: int
    wrong_stream: int
    other_track: int
    empty_media: int
    missing_chunks: int
    duplicate_chunks: int
    late_chunks: int
    chunk_jumps: int
    timestamps_backwards: int
    missing_messages: int
    out_of_order: int


class _Envelope(msgspec.Struct):
    """Only the kind of a message: tells an unknown event from a malformed one."""

    event: str


_STARTED = StreamState.STARTED  # on 3.11 a look-up on the enum class takes ten times as long

# strict=False is what lets "8" be 8.
_decode = msgspec.json.Decoder(FromTwilio, strict=False).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_KNOWN = frozenset({"connected", "start", "media", "dtmf", "mark", "stop"})

# msgspec's own errors and UnicodeError are ValueErrors; nesting ends in RecursionError.
_DECODE_ERRORS = (ValueError, RecursionError, OverflowError)


class MediaStream:
    """The server's side of one stream. Not thread-safe: one owner, normally the event loop's thread.

    Attributes:
        state: see :class:`StreamState`.
        start: the accepted ``start``'s body, or None.
        newest_timestamp_ms: ``media.timestamp`` of the newest accepted chunk, 0 before the first. It is Twilio's own
            clock and stamps marks better than the time at which they arrive.
        last_error: the latest message that was not as the protocol says, as a value; None when all was well.
    """

    __slots__ = (
        "_after_stop",
        "_binary",
        "_chunk_jumps",
        "_clear",
        "_connected",
        "_dtmf",
        "_duplicate_chunks",
        "_empty_media",
        "_jumped_to",
        "_late_chunks",
        "_malformed",
        "_mark_prefix",
        "_marks",
        "_media",
        "_media_before_start",
        "_media_prefix",
        "_missing_chunks",
        "_missing_messages",
        "_next_chunk",
        "_next_sequence",
        "_other_before_start",
        "_other_track",
        "_out_of_order",
        "_refused",
        "_second_start",
        "_starts",
        "_stops",
        "_stream_sid",
        "_timestamps_backwards",
        "_unknown",
        "_wrong_stream",
        "last_error",
        "newest_timestamp_ms",
        "start",
        "state",
    )

    def __init__(self) -> None:
        self.state = StreamState.WAITING
        self.start: StartBody | None = None
        self.newest_timestamp_ms = 0
        self.last_error: PeerProtocolError | None = None
        self._stream_sid = ""
        self._media_prefix: str | None = None
        self._mark_prefix = ""
        self._clear = ""
        self._next_chunk = 1
        self._jumped_to = -1
        self._next_sequence = 1

        self._connected = 0
        self._starts = 0
        self._media = 0
        self._dtmf = 0
        self._marks = 0
        self._stops = 0
        self._unknown = 0
        self._malformed = 0
        self._binary = 0
        self._media_before_start = 0
        self._other_before_start = 0
        self._second_start = 0
        self._refused = 0
        self._after_stop = 0
        self._wrong_stream = 0
        self._other_track = 0
        self._empty_media = 0
        self._missing_chunks = 0
        self._duplicate_chunks = 0
        self._late_chunks = 0
        self._chunk_jumps = 0
        self._timestamps_backwards = 0
        self._missing_messages = 0
        self._out_of_order = 0

    @property
    def stream_sid(self) -> str:
        """``MZ...``; empty before ``start``."""
        return self._stream_sid

    @property
    def call_sid(self) -> str:
        """``CA...``; empty before ``start``."""
        return self.start.call_sid if self.start is not None else ""

    def statistics(self) -> StreamStatistics:
        """The counters as they are now."""
        return StreamStatistics(
            connected=self._connected,
            start=self._starts,
            media=self._media,
            dtmf=self._dtmf,
            mark=self._marks,
            stop=self._stops,
            unknown=self._unknown,
            malformed=self._malformed,
            binary=self._binary,
            media_before_start=self._media_before_start,
            other_before_start=self._other_before_start,
            second_start=self._second_start,
            refused=self._refused,
            after_stop=self._after_stop,
            wrong_stream=self._wrong_stream,
            other_track=self._other_track,
            empty_media=self._empty_media,
            missing_chunks=self._missing_chunks,
            duplicate_chunks=self._duplicate_chunks,
            late_chunks=self._late_chunks,
            chunk_jumps=self._chunk_jumps,
            timestamps_backwards=self._timestamps_backwards,
            missing_messages=self._missing_messages,
            out_of_order=self._out_of_order,
        )

    # -- receiving --------------------------------------------------------------------------------------------

    def receive(self, text: str | bytes) -> Event | None:
        """One WebSocket text frame (as text, or as its UTF-8 bytes).

        Returns the message to act on, or None when it was counted and ignored. Never raises for what a peer sends.
        """
        try:
            message = _decode(text)
        except _DECODE_ERRORS as error:
            self._not_understood(text, error)
            return None

        if type(message) is Media and self.state is _STARTED:
            # Fifty times a second and call: everything unusual is a branch not taken.
            body = message.media
            if message.stream_sid != self._stream_sid and self._is_of_another_stream(message.stream_sid):
                return None
            if message.sequence_number == self._next_sequence:
                self._next_sequence += 1
            else:
                self._sequence_differs(message.sequence_number)
            if body.track != "inbound":
                self._other_track += 1
                return None
            if body.chunk == self._next_chunk:
                self._next_chunk += 1
            elif not self._accept_chunk(body.chunk):
                return None
            timestamp = body.timestamp
            if timestamp < self.newest_timestamp_ms:
                self._timestamps_backwards += 1
            self.newest_timestamp_ms = timestamp
            if not body.payload:
                self._empty_media += 1
                return None
            self._media += 1
            return message
        return self._receive_rare(message)

    def receive_binary(self, data: bytes) -> None:
        """One WebSocket binary frame. Twilio sends none; it is counted and ignored."""
        self._binary += 1
        self.last_error = PeerProtocolError(f"expected a text frame; a binary frame of {len(data)} bytes came")

    def _receive_rare(self, message: FromTwilio) -> Event | None:
        if isinstance(message, Connected):
            if self.state is StreamState.STOPPED:
                self._after_stop += 1
                return None
            self._connected += 1
            return message
        if self.state is StreamState.STOPPED:
            self._after_stop += 1
            return None
        if isinstance(message, Start):
            return self._receive_start(message)
        if self.state is StreamState.WAITING:
            if isinstance(message, Media):
                self._media_before_start += 1
            else:
                self._other_before_start += 1
            kind = type(message).__name__.lower()
            self.last_error = PeerProtocolError(f"expected start before any {kind}; {kind} came first")
            return None
        if message.stream_sid != self._stream_sid and self._is_of_another_stream(message.stream_sid):
            return None
        self._count_sequence(message.sequence_number)
        if isinstance(message, Mark):
            self._marks += 1
        elif isinstance(message, Dtmf):
            self._dtmf += 1
        elif isinstance(message, Stop):
            self._stops += 1
            self.state = StreamState.STOPPED
        return message

    def _receive_start(self, message: Start) -> Start | Refused | None:
        body = message.start
        if self.state is StreamState.STARTED:
            self._second_start += 1
            self.last_error = PeerProtocolError(f"expected one start; a second came for {body.call_sid[:40]!r}")
            return None
        # Both places hold the same value; the messages that follow carry the outer one.
        stream_sid = message.stream_sid or body.stream_sid
        if not stream_sid or not body.call_sid:
            self._malformed += 1
            missing = "callSid" if stream_sid else "streamSid"
            self.last_error = PeerProtocolError(f"expected a start with a {missing}; it came without")
            return None
        form = body.media_format
        if (form.encoding, form.sample_rate, form.channels) != ("audio/x-mulaw", 8000, 1):
            self._refused += 1
            self.state = StreamState.STOPPED
            reason = (
                "expected mediaFormat audio/x-mulaw, 8000 Hz, 1 channel; "
                f"{form.encoding or 'no encoding'}, {form.sample_rate} Hz, {form.channels} channel(s) came. "
                "Remove audioFormat and sampleRate from the <Stream> element."
            )
            self.last_error = PeerProtocolError(reason)
            return Refused(reason=reason, start=body)
        self._starts += 1
        self._count_sequence(message.sequence_number)
        self.state = StreamState.STARTED
        if message.stream_sid != body.stream_sid:
            body = msgspec.structs.replace(body, stream_sid=stream_sid)
            message = msgspec.structs.replace(message, stream_sid=stream_sid, start=body)
        self.start = body
        self._stream_sid = stream_sid
        sid = json.dumps(stream_sid)
        self._media_prefix = f'{{"event":"media","streamSid":{sid},"media":{{"payload":"'
        self._mark_prefix = f'{{"event":"mark","streamSid":{sid},"mark":{{"name":'
        self._clear = f'{{"event":"clear","streamSid":{sid}}}'
        return message

    def _not_understood(self, text: str | bytes, error: Exception) -> None:
        try:
            event = _decode_envelope(text).event
        except _DECODE_ERRORS:
            event = None
        if event is not None and event not in _KNOWN:
            self._unknown += 1
            self.last_error = PeerProtocolError(
                f"expected one of {', '.join(sorted(_KNOWN))}; event {event[:40]!r} came"
            )
        else:
            # The message's own text is not repeated: it may be the caller's audio.
            self._malformed += 1
            self.last_error = PeerProtocolError(
                f"expected a Media Streams message as JSON; {len(text)} characters came that are not one: "
                f"{str(error)[:200]}"
            )

    def _is_of_another_stream(self, stream_sid: str) -> bool:
        if not stream_sid:
            return False  # one socket carries one stream
        self._wrong_stream += 1
        self.last_error = PeerProtocolError(f"expected streamSid {self._stream_sid!r}; {stream_sid[:40]!r} came")
        return True

    def _count_sequence(self, number: int) -> None:
        if number == self._next_sequence:
            self._next_sequence += 1
        else:
            self._sequence_differs(number)

    def _sequence_differs(self, number: int) -> None:
        if number == 0:
            return  # not numbered
        ahead = number - self._next_sequence
        if 0 < ahead <= _MAX_DROPOUT:
            self._missing_messages += ahead
        else:
            self._out_of_order += 1
            if -_MAX_MISORDER <= ahead < 0:
                return
        self._next_sequence = number + 1

    def _accept_chunk(self, chunk: int) -> bool:
        """Decide about a chunk that is not the expected one."""
        if chunk == 0:
            return True  # not numbered
        ahead = chunk - self._next_chunk
        if 0 < ahead <= _MAX_DROPOUT:
            self._missing_chunks += ahead
        elif ahead == -1:
            self._duplicate_chunks += 1
            return False
        elif -_MAX_MISORDER <= ahead < 0:
            self._late_chunks += 1
            return False
        elif chunk != self._jumped_to + 1:
            self._chunk_jumps += 1
            self._jumped_to = chunk
            self.last_error = PeerProtocolError(f"expected chunk {self._next_chunk}; chunk {chunk} came")
            return False
        self._next_chunk = chunk + 1
        return True

    # -- sending ----------------------------------------------------------------------------------------------

    def media(self, audio: bytes) -> str:
        """The text that plays ``audio`` (μ-law, 8000 Hz, mono, at least one byte) after everything sent before.

        Raises:
            NotConnectedError: before ``start``.
            ValueError: ``audio`` is empty.
        """
        prefix = self._media_prefix
        if prefix is None or not audio:
            self._require_started()
            raise ValueError("expected at least one byte of audio; none came")
        return prefix + b2a_base64(audio, newline=False).decode() + '"}}'

    def mark(self, name: str) -> str:
        """The text that makes Twilio send ``name`` back once everything before it has been played.

        Raises:
            NotConnectedError: before ``start``.
        """
        self._require_started()
        return f"{self._mark_prefix}{json.dumps(name)}}}}}"

    def clear(self) -> str:
        """The text that drops whatever has not been played; the marks among it come back at once.

        Raises:
            NotConnectedError: before ``start``.
        """
        self._require_started()
        return self._clear

    def _require_started(self) -> None:
        if self._media_prefix is None:
            raise NotConnectedError(
                "Nothing can be sent before Twilio's start message has come: it names the stream. "
                "Wait until receive() has returned a Start."
            )
