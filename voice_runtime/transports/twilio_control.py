"""Twilio's hand on one call: TwiML sent over the REST API, and the webhooks that bring the call back.

Whatever takes a call away from its stream ends with a request to the call's ``next`` webhook, whose answer connects
the next stream: https://www.twilio.com/docs/voice/tutorials/how-to-modify-calls-in-progress.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ..control import ConferenceOrder, TransferOrder
from ..exceptions import VoiceRuntimeError
from ..facts import DialOutcome
from ..policy import Admission, Guard
from . import twilio_twiml
from .twilio_call import hang_up_call, initiate_outbound_call, is_call_over, redirect_call
from .twilio_webhooks import CallProgress, StatusReport

if TYPE_CHECKING:
    from ..config import Settings
    from .twilio_recording import RecordingHandle

__all__ = ["CallUrls", "Guests", "TwilioControl"]

log = logging.getLogger(__name__)


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

    @property
    def guest(self) -> str:
        """Told how the calls to those invited into a conference are getting on."""
        return self._url(f"guest/{self._key}")

    @property
    def announce(self) -> str:
        """Says what is said to who is called, before they are joined."""
        return self._url(f"announce/{self._key}")

    def next(self, after: str) -> str:
        """Decides how the call goes on ``after`` its stream, some digits, a dialled leg or a conference."""
        return self._url(f"next/{self._key}/{after}")


class Guests:
    """Those who were called into a conference, as their status callbacks tell. Any thread.

    Args:
        expected: how many there will be.
    """

    def __init__(self, expected: int) -> None:
        self._lock = threading.Lock()
        self._expected = expected
        self._progress: dict[str, CallProgress] = {}
        self._sids: list[str] = []
        self.came = False
        """Whether anybody has answered."""
        self.outcome = DialOutcome.ANSWERED if not expected else DialOutcome.FAILED

    def called(self, call_sid: str) -> None:
        """Twilio has taken the call to one of them."""
        with self._lock:
            self._sids.append(call_sid)
            self._progress.setdefault(call_sid, CallProgress())

    def missed(self) -> None:
        """One of them could not even be called."""
        with self._lock:
            self._expected -= 1

    def report(self, report: StatusReport) -> bool:
        """A status callback; True when with it the last of them is gone."""
        with self._lock:
            progress = self._progress.setdefault(report.call_sid, CallProgress())
            if not progress.report(report):
                return False
            if progress.status in ("in-progress", "completed"):
                self.came, self.outcome = True, DialOutcome.ANSWERED
            elif progress.over and not self.came:
                self.outcome = DialOutcome(progress.status)
            return progress.over and self._gone()

    def _gone(self) -> bool:
        over = [progress for progress in self._progress.values() if progress.over]
        return len(over) >= self._expected

    @property
    def gone(self) -> bool:
        """Whether nobody of them is there, or to come."""
        with self._lock:
            return self._gone()

    @property
    def call_sids(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._sids)


class TwilioControl:
    """See :class:`~voice_runtime.control.CallControl`.

    Args:
        call_sid: of the call; asked for at each use, since a dialled call has none at first.
        settings: of the region the call is in.
        guard: whom the call may be put through to.
    """

    def __init__(
        self,
        urls: CallUrls,
        *,
        call_sid: Callable[[], str],
        settings: Callable[[], Settings],
        guard: Callable[[], Guard],
    ) -> None:
        self._urls = urls
        self._call_sid = call_sid
        self.settings = settings
        self._guard = guard
        self._admissions: list[Admission] = []
        self.guests = Guests(0)
        """Who was called into this call's conference."""
        self.announcement = ""
        """What is said to who is called next, before they are joined."""

    def _redirect(self, twiml: str) -> None:
        redirect_call(self._call_sid(), twiml, settings=self.settings())

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
                    time_limit=self._longest(order.time_limit),
                    whisper_url=self._urls.announce if order.announce else None,
                )
            )
        except BaseException:
            for admission in self._admissions:
                admission.refuse()
            self._admissions.clear()
            raise

    def conference(self, order: ConferenceOrder) -> tuple[str, ...]:
        admissions: list[Admission] = []
        try:
            for guest in order.invite:  # not a comprehension: those before one that is refused are given back
                admissions += [self._guard().admit_call(guest)]
            self.guests = guests = Guests(len(admissions))
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
                    time_limit=self._longest(order.time_limit),
                )
            )
        except BaseException:
            for admission in admissions:
                admission.refuse()
            raise
        self._admissions += admissions
        for admission in admissions:
            try:
                guests.called(self._invite(admission, order))
            except VoiceRuntimeError as error:
                log.warning("A guest of call %s could not be called: %s", self._call_sid(), error)
                guests.missed()
        if guests.gone and admissions:
            self.bring_back()
        return guests.call_sids

    def _invite(self, admission: Admission, order: ConferenceOrder) -> str:
        return initiate_outbound_call(
            admission,
            twiml=twilio_twiml.conference(order.room, announce=order.announce, time_limit=self._longest(None)),
            status_callback=self._urls.guest,
            timeout=order.timeout,
            settings=self.settings(),
        )

    def bring_back(self) -> None:
        """Take the call out of its conference."""
        self._redirect(twilio_twiml.redirect(self._urls.next("conference")))

    def _longest(self, seconds: int | None) -> int:
        return math.ceil(self.settings().voice_max_call_seconds) if seconds is None else seconds

    def back(self) -> None:
        """The call is back, or over: who it was put through to is no longer called."""
        while self._admissions:
            self._admissions.pop().release()

    def is_over(self) -> bool:
        return is_call_over(self._call_sid(), settings=self.settings())

    def end_call(self) -> bool:
        return hang_up_call(self._call_sid(), settings=self.settings())

    def start_recording(
        self, *, channels: Literal["mono", "dual"] = "dual", track: Literal["inbound", "outbound", "both"] = "both"
    ) -> RecordingHandle:
        from .twilio_recording import start_recording

        return start_recording(self._call_sid(), settings=self.settings(), channels=channels, track=track)
