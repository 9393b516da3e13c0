"""What the fake Twilio keeps about numbers, telephones, calls, streams, recordings and messages."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from ..transports.mock_line import LineEnd, MediaLine
from .fake_twilio_sound import AttentiveMouth, HeardSamples, SoundPath
from .fake_twilio_webhooks import Form

__all__ = [
    "ENDED",
    "CallRecord",
    "Callback",
    "Direction",
    "FarEnd",
    "MessageRecord",
    "OwnedNumber",
    "RecordingOrder",
    "RecordingRecord",
    "Source",
    "StreamRecord",
]

Direction: TypeAlias = Literal["inbound", "outbound-api", "outbound-dial"]

ENDED = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})


class OwnedNumber(msgspec.Struct, kw_only=True):
    """A number of the account, as configured in Twilio's console."""

    number: str
    voice_url: str = ""
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    status_callback: str = ""
    """Told when an inbound call ends."""
    sms_url: str = ""
    sms_method: str = "POST"
    sid: str = ""


_ANSWERS = ("answer", "busy", "no-answer", "reject", "failed")
_ANSWERED_BY = ("human", "machine", "fax", "unknown")


class FarEnd(msgspec.Struct, kw_only=True):
    """How a telephone behaves when it is called.

    An answering machine needs nothing else: it says its greeting, beeps, and keeps what it hears from then on.
    """

    ring_ms: float = 1500
    answer: Literal["answer", "busy", "no-answer", "reject", "failed"] = "answer"
    answered_by: Literal["human", "machine", "fax", "unknown"] = "human"
    """What answering machine detection finds out, when the call asks for it."""
    detection_ms: float = 2500
    """How long after the answer it has found out. Of ``DetectMessageEnd`` the greeting and the beep of a machine
    decide instead."""
    greeting: bytes = b""
    """μ-law, said at once after the answer. A machine without one is silent until ``detection_ms``, when its beep
    ends."""
    beep_ms: float = 500
    """1 kHz after the greeting of a machine; 0 for a machine that does not beep."""
    hang_up_after_s: float | None = None
    """After the answer."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("answer", self.answer, _ANSWERS),
            ("answered_by", self.answered_by, _ANSWERED_BY),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next TwiML comes from: inline, or a URL."""

    twiml: str | None = None
    url: str = ""
    method: str = "POST"
    fallback_url: str = ""
    fallback_method: str = "POST"
    extra: Form = []
    """Parameters of the request, besides the call's."""


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A callback on its way. ``delivered`` is set once it has been made."""

    url: str
    method: str
    form: Form
    delivered: asyncio.Event | None = None


class RecordingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a call is to be recorded, and who is told."""

    channels: int = 1
    track: Literal["inbound", "outbound", "both"] = "both"
    """``inbound`` is what Twilio hears of the far end, ``outbound`` what the far end hears."""
    trim: bool = False
    """Without the silence at the beginning and at the end."""
    callback_url: str = ""
    callback_method: str = "POST"
    callback_events: frozenset[str] = frozenset({"completed"})


@dataclasses.dataclass(eq=False, kw_only=True)
class StreamRecord:
    """One media stream of a call."""

    sid: str
    name: str
    url: str
    line: MediaLine
    parameters: dict[str, str]
    bidirectional: bool
    ended: LineEnd | None = None
    close_code: int | None = None
    """The code the app closed the socket with."""


@dataclasses.dataclass(eq=False, kw_only=True)
class CallRecord:
    """One call. Written on the fake's loop only."""

    sid: str
    to: str
    from_: str
    direction: Direction
    phone: FarEnd
    heard: HeardSamples
    """What the far end hears."""
    mouth: AttentiveMouth
    """What the far end says."""
    created_at: float
    """Seconds since 1970, as the other dates."""
    first: Source
    number_sid: str | None = None
    status: str = "queued"
    parent_sid: str | None = None
    start_at: float | None = None
    end_at: float | None = None
    queue_ms: int = 0
    answered_by: str | None = None
    detection_ms: int = 0
    sip_code: int = 0
    timeout_s: float = 60
    time_limit_s: float = 14_400
    machine_detection: str = ""
    detection_timeout_s: float = 30
    detection_silence_ms: float = 1200
    """After a greeting, until it counts as over."""
    async_amd: bool = False
    async_amd_callback: str = ""
    async_amd_callback_method: str = "POST"
    recording: RecordingOrder | None = None
    """From the answer on."""
    callback_url: str = ""
    callback_method: str = "POST"
    callback_events: frozenset[str] = frozenset({"completed"})
    extra_voice: Form = dataclasses.field(default_factory=list)
    callbacks: asyncio.Queue[Callback | None] = dataclasses.field(default_factory=asyncio.Queue)
    """Waiting to be delivered, in order; None ends them."""
    sequence: int = 0
    send_digits: str = ""
    status_history: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    """(loop time, status), with ``initiated``, which only callbacks show."""
    streams: list[StreamRecord] = dataclasses.field(default_factory=list)
    forks: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)
    """Texts of ``<Say>``."""
    played: list[str] = dataclasses.field(default_factory=list)
    """URLs of ``<Play>``."""
    keys_heard: str = ""
    """Digits of ``<Play digits>`` and ``SendDigits``, and keys of whom the far end is joined with."""
    keys_pressed: asyncio.Queue[str] = dataclasses.field(default_factory=asyncio.Queue)
    """Pressed while nothing else takes them; ``<Gather>`` reads them."""
    keys_to: Callable[[str], None] | None = None
    """Takes the far end's keys while the call is joined with others."""

    far: CallRecord | None = None
    """The call at the far end, which is then no telephone but a number of the account."""
    rang_for: str = ""
    """What became of those it last dialled; of use while it is not answered (``answerOnBridge``)."""
    peer: CallRecord | None = None
    """The call it is joined with, or was last."""
    path: SoundPath | None = None
    """What the far end hears now, unless a stream plays to it."""
    message_from: int | None = None
    """The sample at which a machine at the far end begins to record."""

    claimed: bool = False
    """A test has taken hold of it."""
    scripted: bool = False
    """The person at the far end has begun to act."""
    picked_up: bool = False
    """The far end has answered; the call may have to wait for the detection of machines all the same."""
    interrupted: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    next_source: Source | None = None
    streaming: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """The first stream has started."""
    answered: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    joined: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """A leg of a ``<Dial>`` has answered and heard its whisper."""
    left: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """A leg of a ``<Dial>`` was given TwiML of its own, which takes it away from there."""
    done: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """The call is over, and its callbacks are delivered."""
    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """The call is over."""
    task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.status not in ENDED

    @property
    def line(self) -> MediaLine | None:
        """The bidirectional stream that is up."""
        for stream in reversed(self.streams):
            if stream.bidirectional and stream.ended is None:
                return stream.line
        return None

    def sync(self) -> None:
        """Bring :attr:`heard` up to now; it is otherwise up to date to the last 20 ms."""
        if (line := self.line) is not None:
            line.sync()
        if self.path is not None:
            self.path.sync()

    @property
    def duration_s(self) -> int:
        if self.start_at is None or self.end_at is None:
            return 0
        return round(self.end_at - self.start_at)


@dataclasses.dataclass(eq=False, kw_only=True)
class RecordingRecord:
    """One recording of a call."""

    sid: str
    call: CallRecord
    order: RecordingOrder
    source: str
    name: str = ""
    created_at: float
    """Seconds since 1970, as the other dates."""
    updated_at: float
    position: int
    """Sample of the loop's time (8,000 a second) up to which it is written."""
    status: Literal["in-progress", "paused", "stopped", "completed", "absent", "deleted"] = "in-progress"
    skips: bool = False
    """A pause leaves nothing behind, not even silence."""
    inbound: bytearray = dataclasses.field(default_factory=bytearray)
    """μ-law, as long as :attr:`outbound`."""
    outbound: bytearray = dataclasses.field(default_factory=bytearray)
    error_code: int | None = None
    listener: Callable[[], None] | None = None
    """Stands in the listeners of the call's mouth while this is being written."""

    @property
    def active(self) -> bool:
        return self.status in ("in-progress", "paused")

    @property
    def duration_s(self) -> int:
        return round(len(self.inbound) / 8000)


@dataclasses.dataclass(eq=False, kw_only=True)
class MessageRecord:
    """One text message."""

    sid: str
    to: str
    from_: str
    body: str
    direction: str
    status: str
    created_at: float
    segments: int
    num_media: int = 0
    messaging_service_sid: str | None = None
    error_code: int | None = None
    sent_at: float | None = None
    send_at: float | None = None
    """When it is to be sent, if it is scheduled."""
    callback_url: str = ""
    callbacks: asyncio.Queue[Form | None] = dataclasses.field(default_factory=asyncio.Queue)
    """Waiting to be delivered, in order; None ends them."""
    task: asyncio.Task[None] | None = None
