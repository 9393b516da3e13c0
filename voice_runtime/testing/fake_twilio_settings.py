"""What a fake Twilio is told: how long things take and what goes wrong."""

from __future__ import annotations

import dataclasses
from typing import Literal

import msgspec

from ..transports.mock_line import LineFaults

__all__ = ["Faults", "Timings"]


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long Twilio takes, ms unless the name says otherwise. The defaults of queue, dialling, streams and
    interrupted dialling are from published recordings of the real service; the others are plausible choices."""

    calls_per_second: float = 1
    """Outbound calls above it wait in the queue, as on a new account."""
    queued_ms: float = 20
    dialing_ms: float = 300
    """From initiated to ringing."""
    busy_ms: float = 500
    webhook_ms: float = 30
    """From the answer, or from a verb that asks for another document, to the request for TwiML."""
    webhook_timeout_ms: float = 15_000
    """https://www.twilio.com/docs/api/errors/11200"""
    callback_ms: float = 5
    stream_connect_ms: float = 365
    """From the TwiML to the stream's WebSocket handshake."""
    first_media_ms: float = 100
    first_timestamp_ms: int = 102
    say_ms_per_character: float = 60
    play_ms: float = 1000
    """How long ``<Play>`` of something that is not WAV or μ-law takes."""
    error_prompt_ms: float = 3000
    """What callers hear when a document cannot be had: "an application error has occurred"."""
    recording_processing_ms: float = 1000
    """From the end of a recording to the moment its audio can be had."""
    dial_interrupted_leg_ms: float = 166
    """From the redirect of a call that dials to the end of the leg it dialled."""
    dial_interrupted_action_ms: float = 320
    """From there to the request for the action of its ``<Dial>``, whose answer is not used."""
    dial_interrupted_target_ms: float = 651
    """From there to the document it is redirected to."""
    message_accepted_ms: float = 50
    """Until a messaging service has picked the sender."""
    message_sent_ms: float = 200
    message_delivered_ms: float = 800
    time_limit_s: float = 14_400
    """The longest call without a ``TimeLimit``."""


@dataclasses.dataclass(kw_only=True)
class Faults:
    """What goes wrong; without arguments nothing does. Fields that count go down by one each time.

    May be changed while the fake runs.
    """

    # REST
    rest_429: int = 0
    """So many requests are answered 429, not carried out, with ``Retry-After``."""
    retry_after_s: int | None = 1
    rest_500_after: int = 0
    """So many POSTs are carried out and then answered 500."""
    rest_503_before: int = 0
    """So many requests are answered 503 and not carried out."""
    list_page_fails: int = 0
    """So many requests for the second or a later page of a list are answered 503."""
    rest_slow_s: float = 0
    """Every answer takes so long: real seconds, also in virtual time, since the client's timeout is real."""
    rest_reset: int = 0
    """So many requests are carried out and the connection is reset instead of an answer."""
    early_callback: bool = False
    """The ``initiated`` callback is delivered before the answer to the request that made the call; of a message, the
    first callback."""

    # webhooks and callbacks
    webhook_502: int = 0
    """So many requests for TwiML are answered 502 by a proxy before the app."""
    webhook_timeout: int = 0
    """So many requests for TwiML get no answer in time."""
    webhook_refused: int = 0
    """So many requests for TwiML find nobody listening."""
    signature: Literal["right", "wrong", "missing", "secondary", "shared_key"] = "right"
    """How webhooks and handshakes are signed. ``secondary``: with the fake's ``secondary_auth_token``."""
    duplicate_callbacks: bool = False
    reorder_callbacks: bool = False
    """Each pair of callbacks of a call or message changes places."""
    drop_callbacks: bool = False
    callback_delay_ms: float = 0
    anonymous_caller: bool = False
    """Inbound calls come from ``anonymous``."""

    # streams
    socket_refused: int = 0
    """So many streams find nobody listening: 31902."""
    handshake_403: int = 0
    """So many handshakes are answered 403 by a proxy before the app: 31920."""
    line: LineFaults = dataclasses.field(default_factory=LineFaults)
    """For every stream that begins from now on."""
    extra_parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    """Custom parameters nobody asked for."""

    # messages
    undelivered_code: int | None = None
    """Messages end as ``undelivered`` with this error code (30003, 30007 ...)."""
    failed_code: int | None = None
    """Messages end as ``failed`` with this error code before they are sent."""
    message_queue_full: int = 0
    """So many messages meet a full queue: a number's are refused (21611), a messaging service's fail (30001)."""

    def take(self, name: str) -> bool:
        """Whether a counted fault strikes now; counts it down."""
        left: int = getattr(self, name)
        if left <= 0:
            return False
        setattr(self, name, left - 1)
        return True
