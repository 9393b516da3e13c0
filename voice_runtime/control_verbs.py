"""The verbs of a call that need the carrier's hand: keys to the far end, transfers, conferences, recordings.

They work on calls of a :class:`~voice_runtime.server.VoiceServer`. Those that take the call away from its stream
block until it is back on a new one: same session, same recogniser, same history, and ``run()`` goes on at its next
line. What the caller says in between (0.6 to 0.9 s around the keys, all of a transfer) is not heard by us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .bridge import refuse_on_event_loop
from .control import CallControl, ConferenceOrder, ConferenceState, Recording, TransferOrder
from .exceptions import AudioFormatError, CallHangupError, ConfigurationError
from .facts import DialOutcome
from .hold import Hold, waiting_tone
from .results import ConferenceResult, TransferResult
from .turns.key_entry import check_keys_to_send

if TYPE_CHECKING:
    from .live_call import LiveCall

__all__ = ["ControlVerbs"]

_SEAM_S = 30.0  # for a new stream to come when nothing else is waited for
_LONGEST_CALL_S = 86_400.0
_DIGIT_S = 1.0  # W


class ControlVerbs:
    """The part of :class:`~voice_runtime.session.VoiceSession` that orders something from the carrier."""

    if TYPE_CHECKING:
        live: LiveCall

        def _say(self, text: str) -> Any: ...
        def _off_loop(self, work: Callable[[], Any]) -> Any: ...
        def _ulaw_of(self, audio: bytes | str | os.PathLike[str]) -> tuple[bytes, str]: ...

    def send_digits(self, digits: str) -> None:
        """Send keys to the far end, for example through a menu: ``send_digits("1w2#")``.

        Args:
            digits: of ``0-9 * # A-D``; ``w`` waits half a second, ``W`` a whole one.

        Raises:
            ValueError: anything else.
            ConfigurationError: the call is not one of a VoiceServer.
            CallHangupError: the call ended.
            RestError: Twilio refused.
        """
        refuse_on_event_loop("send_digits()")
        check_keys_to_send(digits)
        control = self._control("send_digits()")
        self._leave(lambda: control.send_digits(digits), patience=_SEAM_S + len(digits) * _DIGIT_S)

    def transfer(
        self,
        to: str | Sequence[str],
        *,
        announce: str | None = None,
        on_no_answer: str | Callable[[TransferResult], object] | None = None,
        caller_id: str | None = None,
        timeout: int = 30,
    ) -> TransferResult:
        """Put the call through, and block until the two have finished. The caller hears everything said before, then
        the ringing. When the other end hangs up, or never answers, the call is back here.

        Args:
            to: a number in international form, ``sip:`` or ``client:``; of several the first to answer.
            announce: said, by Twilio's voice, to who answers, before the two are joined.
            on_no_answer: a sentence for the caller, or a function called with the result, when nobody answered.
            caller_id: the number shown; default: Twilio's, that of the caller.
            timeout: seconds of ringing.

        Raises:
            CallHangupError: the call ended, perhaps while the two were talking.
            InvalidNumberError, PolicyError: it must not be called; no request was made.
            ValueError: none, or more than ten numbers.
            ConfigurationError: the call is not one of a VoiceServer.
            RestError: Twilio refused; the call is still here.
        """
        refuse_on_event_loop("transfer()")
        control = self._control("transfer()")
        numbers = (to,) if isinstance(to, str) else tuple(to)
        if not 1 <= len(numbers) <= 10:  # https://www.twilio.com/docs/voice/twiml/dial
            raise ValueError(f"transfer() takes one to ten numbers, not {len(numbers)}")
        order = TransferOrder(to=numbers, announce=announce, caller_id=caller_id, timeout=timeout)
        report = self._leave(lambda: control.transfer(order), patience=_LONGEST_CALL_S)
        result = report if report is not None else TransferResult(outcome=DialOutcome.FAILED)
        if not result and on_no_answer is not None:
            if isinstance(on_no_answer, str):
                self._say(on_no_answer)
            else:
                on_no_answer(result)
        return result

    def conference(
        self,
        room: str | None = None,
        *,
        invite: str | Sequence[str] = (),
        announce: str | None = None,
        start_on_enter: bool = True,
        end_on_exit: bool | None = None,
        muted: bool = False,
        beep: bool = False,
        wait_url: str | None = None,
        timeout: int = 30,
    ) -> ConferenceResult:
        """Put the call into a conference, and block until it is back: when the conference is over, when everybody who
        was invited has left it or did not come, or at once when the others throw it out.

        Args:
            room: its name within the account; default: one of this call's own.
            invite: who is called into it: numbers in international form, ``sip:`` or ``client:``.
            announce: said, by Twilio's voice, to each of them before they enter.
            start_on_enter: whether the conference begins with this call; else it waits for somebody who begins it.
            end_on_exit: whether everybody is out when this call leaves; default: when it has invited them.
            beep: whether entering and leaving is heard.
            wait_url: TwiML or music until it begins; default Twilio's music, empty: silence.
            timeout: seconds the invited are rung.

        Raises:
            CallHangupError: the call ended, perhaps in the conference.
            InvalidNumberError, PolicyError: somebody who must not be called; no request was made.
            RestError: Twilio refused.
        """
        refuse_on_event_loop("conference()")
        control = self._control("conference()")
        order = ConferenceOrder(
            room=room or f"call-{self.live.call_sid}",
            invite=(invite,) if isinstance(invite, str) else tuple(invite),
            announce=announce,
            timeout=timeout,
            start_on_enter=start_on_enter,
            end_on_exit=bool(invite) if end_on_exit is None else end_on_exit,
            muted=muted,
            beep=beep,
            wait_url=wait_url,
        )
        states: list[ConferenceState] = []
        begun = self.live.clock.monotonic()
        self._leave(lambda: states.append(control.conference(order)), patience=_LONGEST_CALL_S)
        return ConferenceResult(
            room=order.room,
            outcome=states[0].outcome if states else DialOutcome.FAILED,
            duration_s=round(self.live.clock.monotonic() - begun),
            invited=states[0].call_sids if states else (),
        )

    def hold(self, music: bytes | str | os.PathLike[str] | None = None) -> Hold:
        """Music for the caller until the ``with`` block ends, while the flow does something else::

            with self.hold("music.wav"):
                answer = look_it_up()

        The call stays on its stream. A sentence said meanwhile comes between two rounds of the music; what the caller
        says or presses is forgotten.

        Args:
            music: as for :meth:`VoiceSession.play`; default: a soft beep now and then.

        Raises:
            CallHangupError: the call has ended.
            AudioFormatError, OSError: the music cannot be read.
        """
        refuse_on_event_loop("hold()")
        if self.live.ended:
            raise CallHangupError(reason=self.live.ended)
        audio, name = (waiting_tone(), "hold") if music is None else self._ulaw_of(music)
        if not audio:
            raise AudioFormatError("the music is empty: there is nothing to play")
        return Hold(self.live, audio, name)

    def start_recording(
        self, *, channels: Literal["mono", "dual"] = "dual", track: Literal["inbound", "outbound", "both"] = "both"
    ) -> Recording:
        """Have Twilio record the call from now on, until it ends or ``stop()`` of what is returned; ``pause()`` and
        ``resume()`` leave out what must not be kept, a card number for one.

        Raises:
            RestError: Twilio refused.
        """
        refuse_on_event_loop("start_recording()")
        control = self._control("start_recording()")
        recording: Recording = self._off_loop(lambda: control.start_recording(channels=channels, track=track))
        return recording

    def _control(self, verb: str) -> CallControl:
        live = self.live
        if live.ended:
            raise CallHangupError(reason=live.ended)
        if live.control is None:
            raise ConfigurationError(
                f"{verb} needs a call of a VoiceServer: a session registered by itself has nobody to ask the carrier."
            )
        return live.control

    def _leave(self, act: Callable[[], object], *, patience: float) -> TransferResult | None:
        """Let everything said be heard, then be taken away from the stream, and wait until back."""
        live = self.live
        live.speaker.drain("before-leaving")
        if live.ended:
            raise CallHangupError(reason=live.ended)
        return live.leave(lambda: self._off_loop(act), patience=patience)
