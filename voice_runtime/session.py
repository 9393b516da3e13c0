"""A telephone call as call code sees it.

Subclass :class:`VoiceSession`, write ``run()`` as ordinary blocking Python, give the class to a
:class:`~voice_runtime.server.VoiceServer`; each call gets an instance and a thread of its own. The session imports no
transport and no provider.

Verbs block the calling thread and may be used from any thread but the event loop's. When the call ends they raise
:class:`~voice_runtime.exceptions.CallHangupError` within 100 ms; what they had reached is its ``partial``.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from .audio.frames import BYTES_PER_MS
from .bridge import refuse_on_event_loop
from .clock import Clock, SystemClock
from .control_verbs import ControlVerbs
from .events import CallEvent, Outcome, SmsSent
from .exceptions import (
    CallHangupError,
    CallNotAnsweredError,
    ConfigurationError,
    MissingStreamUrlError,
    ProviderError,
)
from .facts import CallFacts
from .gathering import gather_once
from .inbound import InboundQueue
from .live_call import LiveCall
from .machine import listening, wait_for_beep
from .outbound_pull import OutboundPull
from .results import GatherResult, ListenResult, PlayResult, SayResult
from .speaking import SpeakerLimits
from .transport import SmsTransport, get_sms_transport
from .tts import Synthesizer, SynthesizerTts
from .workers import run_in_thread

if TYPE_CHECKING:
    from .audio.mixer import AudioMixer
    from .stt import SttProvider
    from .tts import TtsProvider

__all__ = [
    "CallHangupError",
    "CallNotAnsweredError",
    "MissingStreamUrlError",
    "VoiceSession",
]

log = logging.getLogger(__name__)

_MESSAGE_ATTEMPTS = 3


@dataclass(eq=False)
class VoiceSession(ControlVerbs):
    """One call at a time.

    It is a dataclass, so subclasses may be dataclasses with fields of their own; an ``__init__`` that forgets
    ``super().__init__()`` does no harm either. Compare calls by ``call_sid``, never sessions.

    Attributes:
        stt_factory: makes the speech recogniser. Called when the stream is up, or at once when it is set on a live
            one; in a worker thread.
        stt_secondary_factory: makes a second one that hears the same and is only compared.
        tts_factory: makes the voice of :meth:`say`.
        sms_factory: makes what :meth:`send_sms` sends with.
        on_stt_ready: called with the recogniser before it is started, to set its callbacks; on the call's
            callback thread, as every callback of a call.
        call_sid: Twilio's id of the call. Set before the stream comes, it is the only call accepted.
    """

    stt_factory: Callable[[], SttProvider] | None = None
    stt_secondary_factory: Callable[[], SttProvider] | None = None
    tts_factory: Callable[[], TtsProvider] | None = None
    on_stt_ready: Callable[[Any], None] | None = None
    sms_factory: Callable[[], SmsTransport] | None = None
    call_sid: str | None = None

    live: LiveCall = field(init=False, repr=False)
    """The call's inside, for transports."""
    _settings: dict[str, Any] = field(init=False, repr=False)
    _observers: list[Callable[[CallEvent], None]] = field(init=False, repr=False)
    _mixer: AudioMixer | None = field(init=False, repr=False)
    _warned: bool = field(init=False, repr=False)
    _outbound_pull: OutboundPull | None = field(init=False, repr=False)
    _disconnect_requested: asyncio.Event = field(init=False, repr=False)
    _clear_queue: asyncio.Queue[bool] = field(init=False, repr=False)

    clock: ClassVar[Clock] = SystemClock()
    """The clock of every session, unless the server that makes it has another."""
    lead_ms: ClassVar[float] = 1000.0
    """How far (ms) audio is sent ahead of the caller's ear: stalls of the event loop up to this stay inaudible."""
    listen_timeout: ClassVar[float] = 10.0
    """How long (s) ``listen`` and ``ask`` wait for the caller to begin, unless told otherwise."""
    key_pause: ClassVar[float] = 4.0
    """How long (s) ``gather`` waits between two keys, unless told otherwise."""
    hang_up_tail: ClassVar[float] = 0.3
    """Silence (s) between the last word's mark and hanging up: marks are timed at Twilio, the handset is later."""
    speaker_limits: ClassVar[SpeakerLimits] = SpeakerLimits()
    """How long (s) the voice may take."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__, because a dataclass subclass replaces __init__ and may not call ours.
        self = super().__new__(cls)
        self._settings = {}
        self._observers = []
        self._mixer = None
        self._warned = False
        self._new_call()
        return self

    def run(self) -> Any:
        """The call, from the first word to the last. Override it. What it returns is the call's result; when it
        returns, everything said is heard to its end and the line is hung up."""

    def on_machine(self) -> Any:
        """What to do when a machine has answered a call that was dialled with ``machine_detection``. Override it:
        then the agent falls silent, ``run()`` is left through
        :class:`~voice_runtime.exceptions.MachineAnsweredError`, and this runs in its place, in its thread; see
        :meth:`leave_message`. Not overridden, ``run()`` simply goes on; :attr:`answered_by` tells. What detection
        calls ``unknown`` is taken for a person."""

    # -- facts ----------------------------------------------------------------------------------------------------

    @property
    def is_disconnected(self) -> bool:
        """Whether the call has ended."""
        return bool(self.live.ended)

    @property
    def ended_reason(self) -> str:
        """Why it ended: ``caller_hung_up``, ``hung_up``, ``cut``, ``media_stopped``, ...; empty while it lives."""
        return self.live.ended

    @property
    def stream_sid(self) -> str | None:
        """Twilio's id of the current media stream."""
        leg = self.live.leg
        return leg.stream_sid if leg is not None else None

    @property
    def facts(self) -> CallFacts:
        """Who calls whom, forwarded by whom, vouched for by whom, and the rest of what the webhook said."""
        return self.live.facts

    @property
    def caller_number(self) -> str:
        """Who called, as Twilio says it (E.164, ``sip:``, or ``anonymous``); empty when it was not told."""
        return self.live.facts.caller

    @caller_number.setter
    def caller_number(self, number: str) -> None:
        self.live.facts = msgspec.structs.replace(self.live.facts, caller=number)

    @property
    def called_number(self) -> str:
        """Who was called."""
        return self.live.facts.called

    @property
    def direction(self) -> str:
        """``inbound`` or ``outbound-api``; empty when it was not told."""
        return self.live.facts.direction

    @property
    def answered_by(self) -> str:
        """``human``, ``machine_start``, ``machine_end_beep``, ``machine_end_silence``, ``machine_end_other``, ``fax``
        or ``unknown``; empty until machine detection has decided, and without it."""
        return self.live.answered_by

    @property
    def parameters(self) -> dict[str, str]:
        """The ``<Parameter>`` elements of the TwiML that opened the stream."""
        return self.live.parameters

    @property
    def heard_ms(self) -> float:
        """How much of our audio the caller has heard so far (ms)."""
        live = self.live
        with live.bridge.lock:
            return live.timeline.heard_ms(live.speaker.now_ms())

    def subscribe(self, observer: Callable[[CallEvent], None]) -> None:
        """Have ``observer`` called with every :class:`~voice_runtime.events.CallEvent`, on the callback thread."""
        self._observers.append(observer)

    # -- speaking -------------------------------------------------------------------------------------------------

    def say(self, text: str, *, stop_event: threading.Event | None = None) -> SayResult:
        """Say ``text`` and block until the caller has heard it, or it was cut.

        Args:
            stop_event: set it from another thread to cut the sentence.

        Raises:
            CallHangupError: the call ended; ``partial`` is the :class:`~voice_runtime.results.SayResult`.
            ProviderError: the voice failed; what it had made before was played.
        """
        return self._say(text, stop_event)

    def _say(self, text: str, stop_event: threading.Event | None = None) -> SayResult:
        refuse_on_event_loop("say()")
        tts = self._voice()
        synthesizer = getattr(tts, "synthesizer", None)
        if synthesizer is None:
            return self._say_through(tts, text, stop_event)
        result = self.speak_with(synthesizer, text, stop_event=stop_event)
        if result.outcome is Outcome.FAILED:
            raise ProviderError("unavailable", result.error or "no audio", provider=synthesizer.name)
        return result

    def speak_with(
        self, synthesizer: Synthesizer, text: str, *, stop_event: threading.Event | None = None
    ) -> SayResult:
        """As :meth:`say` with this voice, but its failure is told by ``outcome`` and ``error``."""
        return self.live.speaker.say(synthesizer, text, stop_event)

    def play(self, audio: bytes | str | os.PathLike[str], *, stop_event: threading.Event | None = None) -> PlayResult:
        """Play a recording and block until the caller has heard it, or it was cut.

        Args:
            audio: the path of a WAV file (PCM, μ-law or A-law, any rate), or raw 8 kHz μ-law bytes.

        Raises:
            CallHangupError: the call ended; ``partial`` is the :class:`~voice_runtime.results.PlayResult`.
            AudioFormatError: not a WAV file that can be played; the message says what it is.
            OSError: it cannot be read.
        """
        refuse_on_event_loop("play()")
        return self.live.speaker.play(*self._ulaw_of(audio), stop_event)

    def _ulaw_of(self, audio: bytes | str | os.PathLike[str]) -> tuple[bytes, str]:
        """A recording as μ-law, and its name."""
        if isinstance(audio, (bytes, bytearray, memoryview)):
            return bytes(audio), "audio"
        path = os.fspath(audio)
        return self._off_loop(lambda: _read_ulaw(path)), os.path.basename(path)

    def leave_message(self, text: str, *, timeout: float = 60.0) -> SayResult:
        """Leave a message on an answering machine: wait for its beep, or for its silence, then say ``text`` to the
        end. Should the machine go on talking, because its greeting had a long pause, the message is left again.

        Args:
            timeout: seconds of greeting to sit through, messages left in vain included; then it is left anyway.

        Raises:
            CallHangupError: the machine hung up; ``partial`` tells how much of the message it has.
            ProviderError: the voice failed.
        """
        refuse_on_event_loop("leave_message()")
        self._clear()
        heard_beep = self.live.answered_by == "machine_end_beep"
        deadline = self.clock.monotonic() + timeout
        wait_for_beep(self.live, self.live.answered_by, timeout)
        for _ in range(_MESSAGE_ATTEMPTS - 1):
            with listening(self.live) as ear:
                result = self._say(text, ear.beeped)
            if ear.beeped.is_set():
                continue  # the recording begins now
            if heard_beep or not ear.talked or self.clock.monotonic() >= deadline:
                return result
            wait_for_beep(self.live, "", deadline - self.clock.monotonic())
        return self._say(text)

    def clear(self) -> None:
        """Silence the agent at once: nothing queued before is heard after. Any thread, does not block."""
        self._clear()

    def _clear(self) -> None:
        self.live.speaker.clear()

    def _voice(self) -> TtsProvider:
        live = self.live
        bridge = live.bridge
        with bridge.lock:
            bridge.wait(lambda: not live.voice_in_the_making or live.ended, None)
            if live.ended:
                raise CallHangupError(reason=live.ended)
            if live.voice is not None:
                return live.voice
            factory = self.setting("tts_factory")
            if factory is None:
                raise ConfigurationError(
                    "say() needs a voice and this call has none. Give one to the server, for example "
                    "VoiceServer(Flow, tts='espeak'), or set session.tts_factory."
                )
            live.voice_in_the_making = True
        try:
            voice = self._off_loop(factory)
            live.voice = SynthesizerTts(voice) if isinstance(voice, Synthesizer) else voice
        finally:
            live.voice_in_the_making = False
            bridge.notify()
        return live.voice

    def _say_through(self, tts: TtsProvider, text: str, stop_event: threading.Event | None) -> SayResult:
        """A voice of one's own, which knows only ``speak``: its audio is measured between two marks."""
        speaker = self.live.speaker
        before = self.heard_ms
        with speaker.voice(text) as voice:
            told = tts.speak(text, self, stop_event) or {}
            outcome = speaker.drain("end") or Outcome.UNCONFIRMED
            heard_ms = self.heard_ms - before
            if told.get("interrupted"):
                outcome = Outcome.INTERRUPTED
            heard = str(told.get("last_spoken") or (text if outcome is Outcome.PLAYED else ""))
            voice.ended(heard, heard_ms, outcome)
        result = SayResult(
            text=text,
            heard_text=heard,
            heard_ms=heard_ms,
            duration_ms=heard_ms,
            outcome=outcome,
            error=told.get("error"),
        )
        if told.get("call_disconnected") or outcome is Outcome.HUNG_UP:
            raise CallHangupError(partial=result, reason=self.ended_reason)
        if result.error is not None:
            raise ProviderError("unavailable", result.error)
        return result

    # -- listening ------------------------------------------------------------------------------------------------

    def listen(
        self, *, timeout: float | None = None, expect: Sequence[str] | None = None, digits: int | None = None
    ) -> ListenResult:
        """Block until the caller has said something.

        Args:
            timeout: seconds to wait for the caller to begin; a sentence under way is heard to its end.
            expect: the answers that count; the result's ``choice`` is the one that was heard.
            digits: expect that many spoken digits. (For keys: :meth:`gather`.)

        Raises:
            CallHangupError: the call ended.
            UnsupportedCapabilityError: neither ``expect`` nor ``digits`` was given and the recogniser takes no
                dictation; the message says which do.
            ProviderError: recognition failed.
            ConfigurationError: there is no recogniser.
        """
        _check_expect(expect)
        hearing = self.live.hearing
        from_ms = hearing.prepare(expect, digits)
        return hearing.listen(self.listen_timeout if timeout is None else timeout, expect, from_ms)

    def ask(
        self,
        question: str,
        *,
        expect: Sequence[str] | None = None,
        digits: int | None = None,
        timeout: float | None = None,
        attempts: int = 2,
    ) -> ListenResult:
        """Say ``question`` and listen; ask again when nothing expected is heard, ``attempts`` times in all.

        An answer that comes while the question is still being said counts. The result is false (``if not answer``)
        when no attempt brought an answer. Raises as :meth:`say` and :meth:`listen`.
        """
        _check_expect(expect)
        hearing = self.live.hearing
        seconds = self.listen_timeout if timeout is None else timeout
        result = ListenResult()
        for _ in range(max(1, attempts)):
            from_ms = hearing.prepare(expect, digits)
            self._say(question)
            result = hearing.listen(seconds, expect, from_ms)
            if result:
                break
        return result

    def gather(
        self,
        prompt: str | None = None,
        *,
        digits: int | None = None,
        terminator: str = "#",
        timeout: float | None = None,
        pause: float | None = None,
        speech: bool | Sequence[str] = False,
        attempts: int = 2,
        retry_prompt: str | None = None,
    ) -> GatherResult:
        """Say ``prompt`` and take keys, or speech where that is allowed, whichever comes first.

        A key silences the prompt at once and counts. Keys pressed before count, too: callers type ahead
        (:meth:`clear_inbound` forgets them). The result is false when no attempt brought what was asked for.

        Args:
            digits: how many keys; None: as many as come before ``terminator`` or a pause.
            terminator: ends the entry and is no part of it, nor, pressed behind a full one, of anything else; empty:
                no such key.
            timeout: seconds until the caller begins; ``pause``: between two keys.
            speech: True: what the caller says counts as well, with ``digits`` that many spoken digits; or the answers
                that count (the result's ``choice``).
            attempts: how often in all; from the second on ``retry_prompt`` is said, where there is one.

        Raises:
            ValueError: an entry that could never be complete.
            CallHangupError: the call ended; ``partial`` has the keys so far.
            ProviderError: recognition failed, and no key came in time either.
        """
        refuse_on_event_loop("gather()")
        if not isinstance(speech, bool):
            _check_expect(speech)
        result = GatherResult()
        for attempt in range(max(1, attempts)):
            words = retry_prompt if attempt and retry_prompt is not None else prompt
            if attempt:
                self.live.keypad.clear()  # the rest of an entry that was wrong is not the beginning of the next
            result = gather_once(
                self.live,
                lambda pressed, words=words: self._say(words, pressed) if words else None,  # type: ignore[misc]
                digits=digits,
                terminator=terminator,
                timeout=self.listen_timeout if timeout is None else timeout,
                pause=self.key_pause if pause is None else pause,
                speech=speech,
            )
            if result:
                break
        return result

    def frames(self, *, timeout: float | None = None) -> Iterator[bytes]:
        """The caller's audio from now on, as it arrives (μ-law 8 kHz, in practice 160 bytes = 20 ms); ends with the
        call. A reader that falls 30 s behind loses frames.

        Raises:
            TimeoutError: no frame for ``timeout`` seconds.
        """
        return self.live.hearing.frames(timeout)

    # -- other verbs ----------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Wait, as ``time.sleep`` but on the call's clock and not beyond its end.

        Raises:
            CallHangupError: the call ended.
        """
        refuse_on_event_loop("sleep()")
        live = self.live
        if live.bridge.wait_until(lambda: live.ended, seconds):
            raise CallHangupError(reason=live.ended)

    def send_sms(
        self, body: str, *, to: str | None = None, send_at: datetime.datetime | None = None
    ) -> dict[str, Any]:
        """Send a text message; without ``to`` to the other party of this call. Works after the call has ended, too.
        How it fares comes as :class:`~voice_runtime.events.SmsStatusChanged` events, from a server's calls.

        Args:
            send_at: when to send it, with a time zone; needs ``TWILIO_MESSAGING_SERVICE_SID``.

        Returns:
            ``message_sid``, ``status`` and ``to``; Twilio's also has ``segments``, what it is billed as.

        Raises:
            ConfigurationError: no number to send to is known, or ``send_at`` needs a messaging service.
            ValueError: the text is empty or too long, or ``send_at`` out of reach.
            InvalidNumberError: not a valid number.
            PolicyError: it must not be written to.
            OptedOutError: the recipient has answered STOP.
            RestError: Twilio refused or could not be reached.
        """
        refuse_on_event_loop("send_sms()")
        live = self.live
        facts = live.facts
        number = to or (facts.called if facts.direction.startswith("outbound") else facts.caller)
        if not number:
            raise ConfigurationError("send_sms() does not know the other party's number: give it as to='+358...'.")
        make = self.setting("sms_factory") or get_sms_transport
        options: dict[str, Any] = {} if send_at is None else {"send_at": send_at}
        result: dict[str, Any] = self._off_loop(lambda: make().send_sms(to=number, body=body, **options))
        live.emit(SmsSent, to=number, body=body, message_sid=str(result.get("message_sid", "")))
        return result

    def cancel_sms(self, message_sid: str) -> bool:
        """Cancel a message that was given ``send_at``; False when it was sent or cancelled already.

        Raises:
            RestError: Twilio refused or could not be reached.
        """
        refuse_on_event_loop("cancel_sms()")
        make: Any = self.setting("sms_factory") or get_sms_transport
        return bool(self._off_loop(lambda: make().cancel_sms(message_sid)))

    def _off_loop(self, work: Callable[[], Any]) -> Any:
        """Blocking work of a verb, in a thread so that the verb can end with the call; the work goes on."""
        live = self.live
        if live.ended or live.bridge.loop is None:
            return work()
        future = live.bridge.start(lambda: run_in_thread(live.clock, work, f"work of call {live.call_sid}"))
        live.bridge.wait_until(lambda: future.done() or live.ended, None)
        if not future.done() or future.cancelled():
            raise CallHangupError("The call ended while a request was under way", reason=live.ended)
        return future.result(timeout=0)

    def hang_up(self, *, after: float | None = None) -> None:
        """Let everything said be heard to its end, then end the call. Idempotent; any thread but the loop's.

        Args:
            after: seconds between the last word's mark and the end, for the way from Twilio to the handset; default
                :attr:`hang_up_tail`.
        """
        refuse_on_event_loop("hang_up()")
        live, requested = self.live, self._disconnect_requested
        for end_hold in list(live.holds):
            end_hold()
        if not live.ended and live.leg is not None:
            live.speaker.drain("end-of-call")
            live.bridge.wait_until(lambda: live.ended, self.hang_up_tail if after is None else after)
        # Of this call, whatever reset() has put in its place meanwhile.
        live.bridge.call_soon(requested.set)
        live.hang_up("hung_up")
        if live.leg is not None:
            live.bridge.wait_until(lambda: live.ended, 15.0)

    # -- the interface of 0.1.0: audio ----------------------------------------------------------------------------

    @property
    def inbound(self) -> InboundQueue:
        """The caller's frames for a speech provider (asyncio.Queue; 30 s at most, then the oldest is dropped)."""
        return self.live.hearing.inbound

    @property
    def stt(self) -> SttProvider | None:
        """The speech provider of this call, once it was made."""
        return self.live.hearing.stt

    @stt.setter
    def stt(self, provider: SttProvider | None) -> None:
        self.live.hearing.stt = provider

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that carries the call."""
        return self.live.bridge.loop

    def set_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop; transports of this package do it themselves."""
        self.live.bridge.attach(loop)

    def put_inbound(self, data: bytes | None) -> None:
        """A transport hands over audio of the caller (None: no more comes). Any thread."""
        live = self.live
        if live.bridge.loop is None:
            if not self._warned:
                self._warned = True
                log.warning("put_inbound() without an event loop: audio is dropped until set_loop() names one")
        elif data is None:
            live.bridge.call_soon(lambda: live.hearing.inbound.push(None))
        else:
            live.bridge.call_soon(lambda: live.hearing.frame(data, live.speaker.now_ms()))

    def put_outbound_sync(self, data: bytes | bytearray | memoryview) -> None:
        """Queue audio for the caller (μ-law 8 kHz, any length). Any thread, does not block.

        Raises:
            PlayoutFullError: ten minutes are queued already.
        """
        self.live.speaker.put(data)

    async def get_outbound(self) -> bytes:
        """The next audio for the caller. For transports of one's own, on the loop's thread."""
        self.live.bridge.attach(asyncio.get_running_loop())
        return await self._pull().audio()

    async def get_pending_mark(self) -> str:
        """The wire name of the next mark, once all audio before it was fetched. For transports of one's own."""
        self.live.bridge.attach(asyncio.get_running_loop())
        return await self._pull().mark()

    def _pull(self) -> OutboundPull:
        if self._outbound_pull is None:
            clears = self._clear_queue
            self._outbound_pull = OutboundPull(self.live.speaker, self.live.bridge, lambda: clears.put_nowait(True))
        return self._outbound_pull

    def clear_inbound(self) -> None:
        """Forget what the caller said, and the keys they pressed, before now. Any thread."""
        self.live.hearing.clear_inbound()
        self.live.keypad.clear()

    # -- the interface of 0.1.0: marks and intents ----------------------------------------------------------------

    def send_mark_and_wait(self, name: str, timeout: float = 10.0) -> Outcome:
        """Put a mark behind everything queued and block until the caller has heard all that.

        Returns:
            ``PLAYED``, ``INTERRUPTED`` or, when the call ended, ``HUNG_UP``.

        Raises:
            TimeoutError: it did not come back within ``timeout`` seconds.
        """
        return self.live.speaker.mark_and_wait(name, timeout)

    def signal_mark_received(self, name: str) -> None:
        """A transport says that the mark with this wire name came back. Any thread."""
        live = self.live
        leg = live.leg
        now_ms = live.speaker.now_ms()
        live.speaker.echoed(name, leg.stream_clock.sent_at(now_ms) if leg is not None else now_ms)

    def request_clear_buffer(self) -> None:
        """Drop everything the caller has not heard yet (barge-in). Any thread, does not block."""
        self._clear()

    def request_disconnect(self) -> None:
        """End the call now. Any thread, does not block. Before the stream is up: as soon as it is."""
        self._end("cut")

    def _end(self, reason: str) -> None:
        self.live.bridge.call_soon(self._disconnect_requested.set)
        self.live.hang_up(reason)

    # -- the interface of 0.1.0: life -----------------------------------------------------------------------------

    def signal_ws_connected(self, stream_sid: str) -> None:
        """A transport says that the stream is up. Any thread."""
        live = self.live
        try:
            live.bridge.attach(asyncio.get_running_loop())
        except RuntimeError:
            pass  # called from another thread: the loop was named by set_loop()
        requested = self._disconnect_requested
        live.begin_leg(
            call_sid=self.call_sid or "",
            stream_sid=stream_sid,
            wake=self._pull().wake,
            hang_up=lambda reason: live.bridge.call_soon(requested.set),
        )

    def wait_for_ws_connect(self, timeout: float = 30.0) -> None:
        """Block until the stream is up.

        Raises:
            CallNotAnsweredError: it did not come within ``timeout`` seconds.
        """
        refuse_on_event_loop("wait_for_ws_connect()")
        live = self.live
        live.bridge.wait_until(lambda: live.started_at is not None or live.ended, timeout)
        if live.started_at is None:
            raise CallNotAnsweredError(timeout)

    def signal_disconnected(self) -> None:
        """A transport says that the call is over. Any thread."""
        self.live.end("caller_hung_up")

    def reset(self) -> None:
        """Make the session ready for another call. Any thread, any time: a call under way is ended first, and neither
        its socket nor its providers can reach the next one. (Call code that goes on using the session does.)"""
        old = self.live
        self._mixer = None  # a recording is of one call
        self._new_call()
        self.call_sid = None
        old.hang_up("reset")
        old.end("reset")

    # -- monitoring -----------------------------------------------------------------------------------------------

    def set_mixer(self, mixer: AudioMixer | None) -> None:
        """Record or monitor this call: the caller as received, the agent as heard.

        A mixer that was not started is started here and shut down with the call; one that was is yours to shut down.

        Raises:
            OSError: its file cannot be made.
        """
        live = self.live
        if mixer is not None and not getattr(mixer, "running", True):
            mixer.start()
            live.on_over.append(lambda: _shut_down(live.clock, mixer))
        self._mixer = mixer
        self._tap(live)

    def tap_caller(self, data: bytes) -> None:
        """Hand a frame of the caller to the mixer."""
        if self._mixer is not None:
            self._mixer.write_caller(data)

    def tap_agent(self, data: bytes) -> None:
        """Hand audio of the agent to the mixer."""
        if self._mixer is not None:
            self._mixer.write_agent(data)

    def _tap(self, live: LiveCall) -> None:
        mixer = self._mixer
        if mixer is None:
            live.hearing.on_frame = live.timeline.on_heard = None
            return
        hearing = live.hearing

        def caller(audio: bytes) -> None:
            mixer.write_caller(audio, at_ms=hearing.audio_ms - len(audio) / BYTES_PER_MS)

        def agent(at_ms: float, audio: bytes) -> None:
            mixer.write_agent(audio, at_ms=hearing.position_of(at_ms))

        def failed() -> None:
            hearing.on_frame = live.timeline.on_heard = None

        hearing.on_frame = _guarded(caller, failed)
        live.timeline.on_heard = _guarded(agent, failed)

    def setting(self, name: str) -> Any:
        """A factory or hook of this session; where none was given, the one its class has."""
        value = getattr(self, name)
        if value is None:
            value = getattr(type(self), name, None)
            if isinstance(value, types.FunctionType):
                value = value.__get__(self)
        return None if isinstance(value, property) else value

    def use_clock(self, clock: Clock) -> None:
        """Before the call: take another clock than the class's."""
        if clock is not self.clock:
            self.clock = clock  # type: ignore[misc]
            self._new_call()

    # -- the inside -----------------------------------------------------------------------------------------------

    def _new_call(self) -> None:
        live = LiveCall(
            self.clock,
            lead_ms=self.lead_ms,
            limits=self.speaker_limits,
            observers=self._observers,
            setting=self.setting,
        )
        self._disconnect_requested = asyncio.Event()
        self._clear_queue = asyncio.Queue()
        self._outbound_pull = None
        self._tap(live)
        self.live = live


def _guarded(tap: Callable[..., None], failed: Callable[[], None]) -> Callable[..., None]:
    """A recorder must not be able to break the call it records."""

    def guarded(*arguments: Any) -> None:
        try:
            tap(*arguments)
        except Exception:
            log.exception("The mixer failed and gets nothing more of this call")
            failed()

    return guarded


def _read_ulaw(path: str) -> bytes:
    from .audio.wav import read_ulaw

    return read_ulaw(path)


def _shut_down(clock: Clock, mixer: AudioMixer) -> None:
    """In a thread, for it completes a file."""
    clock.start_thread(mixer.shutdown, "audio-mixer-shutdown")


def _check_expect(expect: Sequence[str] | None) -> None:
    if expect is not None and (isinstance(expect, str) or not expect):
        raise ValueError(f"expect must be a list of answers, for example ['yes', 'no'], not {expect!r}")


def _late_bound(name: str) -> property:
    """A setting of the recogniser that may be changed on a live call, and survives ``reset()``."""

    def get(self: VoiceSession) -> Any:
        return self._settings.get(name)

    def set_(self: VoiceSession, value: Any) -> None:
        live = self.live
        self._settings[name] = value
        if name == "stt_factory" and value is not None and live.started_at is not None:
            live.bridge.call_soon(live.hearing.start_recognition)

    return property(get, set_)


# After the dataclass was made: the fields keep their defaults, the properties see each change.
for _name in ("stt_factory", "stt_secondary_factory", "on_stt_ready"):
    setattr(VoiceSession, _name, _late_bound(_name))
del _name
