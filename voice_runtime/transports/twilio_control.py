"""Twilio's hand on one call: TwiML sent over the REST API, and the webhooks that bring the call back.

Whatever takes a call away from its stream ends with a request to the call's ``next`` webhook, whose answer connects
the next stream: https://www.twilio.com/docs/voice/tutorials/how-to-modify-calls-in-progress.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ..clock import Clock
from ..control import ConferenceOrder, TransferOrder
from ..exceptions import RestError, VoiceRuntimeError
from ..policy import Admission, Guard
from . import twilio_twiml
from .twilio_call import (
    ALREADY_ENDED,
    check_call_options,
    hang_up_call,
    initiate_outbound_call,
    is_call_over,
    redirect_call,
)
from .twilio_conference import Conference
from .twilio_webhooks import StatusReport

if TYPE_CHECKING:
    from ..config import Settings
    from .twilio_recording import RecordingHandle

__all__ = ["CallUrls", "TwilioControl"]

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_CALLBACK_LOOKS, _CALLBACK_LOOK_S = 20, 0.25


class CallUrls:
    """The webhooks of one call, below the public URL.

    Args:
        settings: read at each use.
        key: stands for the call.
    """

    def __init__(self, settings: Callable[[], Settings], key: str) -> None:
        self._settings = settings
        self._key = key

    def _url(self, what: str) -> str:
        return self._settings().public_url(f"/voice/{what}")

    @property
    def status(self) -> str:
        """Told how a dialled call is getting on."""
        return self._url(f"status/{self._key}")

    @property
    def machine(self) -> str:
        """Told what machine detection has found."""
        return self._url(f"machine/{self._key}")

    @property
    def stream_status(self) -> str:
        """Told when a stream of the call starts, stops or fails."""
        return self._url(f"stream/{self._key}")

    def guest(self, conference: int) -> str:
        """Told how the calls to those invited into a conference are getting on."""
        return self._url(f"guest/{self._key}/{conference}")

    @property
    def announce(self) -> str:
        """Says what is said to who is called, before they are joined."""
        return self._url(f"announce/{self._key}")

    def next(self, after: str) -> str:
        """Decides how the call goes on ``after`` its stream, some digits, a dialled leg or a conference."""
        return self._url(f"next/{self._key}/{after}")


class TwilioControl:
    """See :class:`~voice_runtime.control.CallControl`. One order at a time.

    Args:
        call_sid: of the call; asked for at each use, since a dialled call has none at first.
        settings: of the region the call is in.
        guard: whom the call may be put through to.
        clock: what the pauses between attempts are taken from.
    """

    def __init__(
        self,
        urls: CallUrls,
        *,
        call_sid: Callable[[], str],
        settings: Callable[[], Settings],
        guard: Callable[[], Guard],
        clock: Clock,
    ) -> None:
        self._urls = urls
        self._call_sid = call_sid
        self._settings = settings
        self._guard = guard
        self._clock = clock
        self._admissions: list[Admission] = []
        self.conference_now = Conference()
        """The call's newest conference."""
        self.announcement = ""
        """What is said to who is called next, before they are joined."""

    def _redirect(self, twiml: str) -> None:
        redirect_call(self._call_sid(), twiml, settings=self._settings())

    def send_digits(self, digits: str) -> None:
        self._redirect(twilio_twiml.play_digits(digits, self._urls.next("digits")))

    def transfer(self, order: TransferOrder) -> None:
        self.back()
        try:
            for address in order.to:
                self._admissions.append(self._guard().admit_call(address, caller_id=order.caller_id))
            self.announcement = order.announce or ""
            self._redirect(
                twilio_twiml.dial(
                    [admission.number for admission in self._admissions],
                    action=self._urls.next("dial"),
                    caller_id=order.caller_id,
                    timeout=order.timeout,
                    time_limit=self._longest,
                    whisper_url=self._urls.announce if order.announce else None,
                )
            )
        except BaseException as error:
            if not _maybe_done(error):  # else it rings, perhaps, and back() comes
                for admission in self._admissions:
                    admission.refuse()
                self._admissions.clear()
            raise

    def conference(self, order: ConferenceOrder) -> Conference:
        self.back()
        invitation = twilio_twiml.check_inline(
            twilio_twiml.conference(order.room, announce=order.announce, time_limit=self._longest)
        )
        if order.invite:
            check_call_options(self._settings(), timeout=order.timeout)
        admissions: list[Admission] = []
        try:
            for guest in order.invite:  # not a comprehension: those before one that is refused are given back
                admissions += [self._guard().admit_call(guest)]
            conference = Conference(self.conference_now.number + 1, len(admissions))
            self.conference_now = conference
            # First the caller, so that nobody who comes is alone, and whoever fails to come finds them there.
            self._redirect(
                twilio_twiml.conference(
                    order.room,
                    action=self._urls.next("conference"),
                    start_on_enter=order.start_on_enter,
                    end_on_exit=order.end_on_exit,
                    muted=order.muted,
                    beep=order.beep,
                    wait_url=order.wait_url,
                    time_limit=self._longest,
                )
            )
        except BaseException as error:
            for admission in admissions:
                admission.refuse()
            if _maybe_done(error):  # nobody will come, and the caller may be in there
                self.bring_back()
            raise
        for position, admission in enumerate(admissions):
            if conference.over:
                conference.not_invited(admissions[position:])
                break
            self._invite(conference, admission, order, invitation)
        if admissions and conference.gone and not conference.over:
            self.bring_back()
        return conference

    def _invite(self, conference: Conference, admission: Admission, order: ConferenceOrder, invitation: str) -> None:
        known = conference.call_sids
        try:
            call_sid = initiate_outbound_call(
                admission,
                twiml=invitation,
                status_callback=self._urls.guest(conference.number),
                timeout=order.timeout,
                settings=self._settings(),
            )
        except RestError as error:
            log.warning("A guest of call %s could not be called: %s", self._call_sid(), error)
            # One whose request got no good answer is told of by its callbacks, should it exist.
            appeared = self._new_guest(conference, known) if error.maybe_done else None
            if appeared is None:
                conference.missed(admission, maybe_called=error.maybe_done)
                return
            call_sid = appeared
        conference.invited(call_sid, admission)
        if conference.over:  # meanwhile
            self._hang_up([call_sid])

    def _new_guest(self, conference: Conference, known: tuple[str, ...]) -> str | None:
        for _ in range(_CALLBACK_LOOKS):
            if new := [sid for sid in conference.call_sids if sid not in known]:
                return new[0]
            self._clock.sleep(_CALLBACK_LOOK_S)
        return None

    def guest_reported(self, number: int, report: StatusReport) -> bool:
        """A guest's status callback; True when the call is to be brought back, for nobody is there any more."""
        conference = self.conference_now
        return conference.number == number and conference.report(report) and not conference.over

    def bring_back(self) -> None:
        """Take the call out of its conference; where that cannot be had, end it, rather than leave it alone there."""
        conference = self.conference_now
        self._bring_back("conference", lambda: conference.over)

    def come_back(self) -> None:
        """Take the call back from wherever it is, or end it."""
        self._bring_back("dial", lambda: False)

    def _bring_back(self, after: str, is_back: Callable[[], bool]) -> None:
        document = twilio_twiml.redirect(self._urls.next(after))
        for attempt in range(1, _ATTEMPTS + 1):
            if is_back():
                return
            try:
                self._redirect(document)
                return
            except RestError as error:
                if (error.status, error.code) in ALREADY_ENDED:
                    return
                log.warning("Call %s is not back (attempt %d): %s", self._call_sid(), attempt, error)
            self._clock.sleep(attempt)
        try:
            self.end_call()
        except VoiceRuntimeError as error:
            log.error("Call %s could neither be brought back nor ended: %s", self._call_sid(), error)

    @property
    def _longest(self) -> int:
        return math.ceil(self._settings().voice_max_call_seconds)

    def back(self) -> None:
        """The call is back, or over: who it was put through to is no longer called. Does not wait."""
        while self._admissions:
            self._admissions.pop().release()
        if not self.conference_now.over:
            ringing = self.conference_now.close()
            if ringing:
                self._clock.start_thread(lambda: self._hang_up(ringing), f"guests of {self._call_sid()}")

    def _hang_up(self, call_sids: list[str]) -> None:
        for call_sid in call_sids:
            try:
                hang_up_call(call_sid, settings=self._settings())
            except VoiceRuntimeError as error:
                log.error("Call %s, an invitation, could not be ended: %s", call_sid, error)

    def is_over(self) -> bool:
        return is_call_over(self._call_sid(), settings=self._settings())

    def end_call(self) -> bool:
        return hang_up_call(self._call_sid(), settings=self._settings())

    def start_recording(
        self, *, channels: Literal["mono", "dual"] = "dual", track: Literal["inbound", "outbound", "both"] = "both"
    ) -> RecordingHandle:
        from .twilio_recording import start_recording

        return start_recording(self._call_sid(), settings=self._settings(), channels=channels, track=track)


def _maybe_done(error: BaseException) -> bool:
    return isinstance(error, RestError) and error.maybe_done
