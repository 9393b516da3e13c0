"""Everything that can go wrong, as one tree.

::

    VoiceRuntimeError
    ├── ConfigurationError            a setting is missing or wrong             (also RuntimeError)
    │   └── MissingStreamUrlError     VOICE_STREAM_URL is not set
    ├── ProviderNotFoundError         no provider of that name                  (also ValueError)
    ├── ProviderUnavailableError      the provider's extra is not installed     (also RuntimeError)
    ├── UnsupportedCapabilityError    the provider or transport cannot do this
    ├── ProviderError                 a speech provider failed
    ├── WrongThreadError              a blocking verb on the event loop's thread (also RuntimeError)
    ├── PlayoutFullError              more audio queued than the line can hold
    ├── AudioFormatError              not audio that can be read or played      (also ValueError)
    ├── InvalidNumberError            not a number that can be called           (also ValueError)
    ├── PolicyError                   a rule does not let this call or message out
    ├── RestError                     Twilio's REST API refused or failed
    │   └── OptedOutError             the recipient of a text message has answered STOP
    ├── PeerProtocolError             the other end of the stream broke its protocol
    └── CallError                     something about this call
        ├── NotConnectedError         a verb before the call is up
        ├── CallNotAnsweredError      nobody answered, or the stream never came
        ├── CallHangupError           the call ended while a verb was waiting
        └── MachineAnsweredError      a machine has answered, and run() gives way to on_machine()

Every class keeps the facts it was made from as attributes; ``str()`` writes the sentence.
"""

from __future__ import annotations

from typing import Any

from .masking import mask_number

__all__ = [
    "AudioFormatError",
    "CallError",
    "CallHangupError",
    "CallNotAnsweredError",
    "ConfigurationError",
    "InvalidNumberError",
    "MachineAnsweredError",
    "MissingStreamUrlError",
    "NotConnectedError",
    "OptedOutError",
    "PeerProtocolError",
    "PlayoutFullError",
    "PolicyError",
    "ProviderError",
    "ProviderNotFoundError",
    "ProviderUnavailableError",
    "RestError",
    "UnsupportedCapabilityError",
    "VoiceRuntimeError",
    "WrongThreadError",
]


class VoiceRuntimeError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigurationError(VoiceRuntimeError, RuntimeError):
    """A setting is missing or cannot be used; the message names the variable and an example."""


class MissingStreamUrlError(ConfigurationError):
    """``VOICE_STREAM_URL`` is not set, so Twilio could not be told where to connect."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or "VOICE_STREAM_URL is not set. It is the public WebSocket base that Twilio connects to, "
            "for example wss://voice.example.com (the path /voice is added)."
        )


class ProviderNotFoundError(VoiceRuntimeError, ValueError):
    """No provider of this kind has this name.

    The message begins "Unknown STT provider", "Unknown TTS provider", "Unknown SMS transport" ...
    """

    def __init__(self, label: str, name: str, known: list[str]) -> None:
        self.label = label
        self.name = name
        self.known = known
        super().__init__(f"Unknown {label}: {name!r}. Known: {', '.join(known) or 'none'}.")


class ProviderUnavailableError(VoiceRuntimeError, RuntimeError):
    """The provider exists but what it needs is not installed; the message holds the install line."""

    def __init__(self, kind: str, name: str, extra: str | None, reason: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.extra = extra
        message = f"The {kind.upper()} provider {name!r} is not available"
        if reason:
            message += f" ({reason})"
        message += "."
        if extra:
            message += f" Install it with: pip install 'voice-runtime[{extra}]'"
        super().__init__(message)


class UnsupportedCapabilityError(VoiceRuntimeError):
    """The chosen provider or transport cannot do what was asked; the message says which one can."""


class ProviderError(VoiceRuntimeError):
    """A speech provider failed.

    Attributes:
        kind: auth, quota, rate_limit, concurrency, bad_request, unavailable, timeout, connection or protocol.
        provider: its registry name.
        retryable: whether the same request may succeed later.
    """

    def __init__(self, kind: str, message: str, *, provider: str = "", retryable: bool = False) -> None:
        self.kind = kind
        self.provider = provider
        self.retryable = retryable
        super().__init__(f"{provider}: {message}" if provider else message)


class WrongThreadError(VoiceRuntimeError, RuntimeError):
    """A blocking verb was called on the event loop's thread, where it would stop every call."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        super().__init__(
            f"{verb} blocks, and this is the event loop's thread: it would silence every call. "
            f"Call it from the call's own thread (run()), from a callback of the session, or with "
            f"`await asyncio.to_thread({verb.removesuffix('()')}, ...)`."
        )


class PlayoutFullError(VoiceRuntimeError):
    """The queue of audio to be played is full; nothing of the refused audio was queued."""

    def __init__(self, queued_ms: float, limit_ms: float) -> None:
        self.queued_ms = queued_ms
        self.limit_ms = limit_ms
        super().__init__(
            f"{queued_ms / 1000:.0f} s of audio are waiting to be played and the limit is "
            f"{limit_ms / 1000:.0f} s. Wait for some of it to be heard before queueing more."
        )


class AudioFormatError(VoiceRuntimeError, ValueError):
    """Not audio that can be read here; the message says what came and what would have been right."""


class InvalidNumberError(VoiceRuntimeError, ValueError):
    """Not a telephone number that can be dialled; raised before any request is made.

    Attributes:
        number: what came, in full; the message masks it.
        rule: as that of :class:`PolicyError`.
    """

    rule = "valid_number"

    def __init__(self, number: str, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(f"{mask_number(number)!r} cannot be called: {reason}")


class PolicyError(VoiceRuntimeError):
    """A rule of the :class:`~voice_runtime.policy.CallPolicy` refuses a call or a message; no request was made.

    Attributes:
        rule: which one: the name of the policy's field.
        number: who was to be called, in full; the message masks it.
        reason: why, and what to do about it.
    """

    def __init__(self, rule: str, number: str, reason: str) -> None:
        self.rule = rule
        self.number = number
        self.reason = reason
        super().__init__(f"{mask_number(number)} is refused by the rule {rule}: {reason}")


class RestError(VoiceRuntimeError):
    """A request to Twilio's REST API failed.

    Attributes:
        status: HTTP status, or None when no answer came.
        code: Twilio's error code (``https://www.twilio.com/docs/errors/<code>``), or None.
        maybe_done: True when Twilio may have carried the request out although no good answer came
            (a timeout, a 5xx): repeating it blindly could place a second call.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: int | None = None, maybe_done: bool = False
    ) -> None:
        self.status = status
        self.code = code
        self.maybe_done = maybe_done
        super().__init__(message)


class OptedOutError(RestError):
    """The recipient has answered STOP to this sender; nothing was sent (Twilio error 21610).

    Only they can undo it, by writing START to the number or service they stopped. Take them off the list: what is
    sent again is refused again.

    Attributes:
        number: the recipient; the message shows it masked.
    """

    def __init__(self, number: str, *, status: int | None = 400) -> None:
        self.number = number
        super().__init__(
            f"{mask_number(number)} has opted out of text messages from this sender by answering STOP. Do not try "
            "again: only they can change it, by writing START to it. See https://www.twilio.com/docs/errors/21610",
            status=status,
            code=21610,
        )


class PeerProtocolError(VoiceRuntimeError):
    """The other end sent something the protocol does not allow. Kept as a value and counted;
    a live call is not ended by it."""


class CallError(VoiceRuntimeError):
    """Something about one call."""


class NotConnectedError(CallError):
    """A verb was used before the call's stream was up."""


class CallNotAnsweredError(CallError):
    """The call was not answered, or its stream did not connect, within ``timeout`` seconds.

    Attributes:
        timeout: how long was waited (s).
        outcome: a :class:`~voice_runtime.facts.CallOutcome` (busy, no-answer, rejected, failed, canceled) where
            Twilio told one; None when the time ran out.
        failure: for ``failed``, a :class:`~voice_runtime.facts.Failure` with Twilio's code and sentence.
    """

    def __init__(
        self, timeout: float | None = None, message: str | None = None, *, outcome: Any = None, failure: Any = None
    ) -> None:
        self.timeout = timeout
        self.outcome = outcome
        self.failure = failure
        if message is None and outcome is not None:
            message = f"The call was not answered: {outcome}" + (f". {failure}" if failure is not None else "")
        super().__init__(message or f"WebSocket did not connect within {timeout}s")


class CallHangupError(CallError):
    """The call ended while a verb was waiting.

    Attributes:
        partial: what the verb had reached: for ``say`` what was heard, for ``listen`` the words so far;
            None where there is nothing to tell.
        reason: why the call ended, for example ``caller_hung_up``.
    """

    def __init__(self, message: str = "The call has ended", *, partial: Any = None, reason: str = "") -> None:
        self.partial = partial
        self.reason = reason
        super().__init__(f"{message} ({reason})" if reason else message)


class MachineAnsweredError(CallError):
    """An answering machine has taken the call: raised out of the verb ``run()`` is in, and every further one, when
    the session has an ``on_machine()``. Let it pass, as :class:`CallHangupError`.

    Attributes:
        answered_by: what Twilio's detection said, for example ``machine_end_beep``.
        partial: what ``say()`` had reached, where that was the verb.
    """

    def __init__(self, answered_by: str = "") -> None:
        self.answered_by = answered_by
        self.partial: Any = None
        super().__init__(f"A machine has answered ({answered_by})" if answered_by else "A machine has answered")
