"""One conference of a call: who was called into it, and what became of them, as their status callbacks tell.

Pure but for its lock; any thread.
"""

from __future__ import annotations

import threading

from ..facts import DialOutcome
from ..policy import Admission
from .twilio_webhooks import CallProgress, StatusReport

__all__ = ["Conference"]


class Conference:
    """It knows its guests by their callbacks, whose URL names this conference and no other.

    Args:
        number: tells it from the others of the same call.
        invited: how many guests there are to be.

    Attributes:
        over: the call has left it.
    """

    def __init__(self, number: int = 0, invited: int = 0) -> None:
        self.number = number
        self.over = False
        self._lock = threading.Lock()
        self._missed = 0
        self._expected = invited
        self._progress: dict[str, CallProgress] = {}
        self._admissions: dict[str, Admission] = {}
        self._came = not self._expected
        self._outcome = DialOutcome.ANSWERED if self._came else DialOutcome.FAILED

    @property
    def outcome(self) -> DialOutcome:
        """``answered`` when anybody came, or nobody was invited; else why the last one did not."""
        with self._lock:
            return self._outcome

    @property
    def call_sids(self) -> tuple[str, ...]:
        """The calls to the guests, as far as Twilio has made them."""
        with self._lock:
            return tuple(self._progress)

    @property
    def gone(self) -> bool:
        """Whether none of the guests is there, or to come; True also when nobody was invited."""
        with self._lock:
            return self._gone()

    def invited(self, call_sid: str, admission: Admission) -> None:
        """Twilio has taken the call to one of them."""
        with self._lock:
            self._progress.setdefault(call_sid, CallProgress())
            self._admissions[call_sid] = admission
            if self.over or self._progress[call_sid].over:
                admission.release()

    def missed(self, admission: Admission, *, maybe_called: bool = False) -> None:
        """One of them could not even be called, as far as anybody knows."""
        admission.release() if maybe_called else admission.refuse()
        with self._lock:
            self._missed += 1

    def not_invited(self, admissions: list[Admission]) -> None:
        """These were not asked any more."""
        for admission in admissions:
            admission.refuse()

    def report(self, report: StatusReport) -> bool:
        """A guest's status callback; True when with it the last of them is gone."""
        with self._lock:
            if not report.call_sid:
                return False
            progress = self._progress.setdefault(report.call_sid, CallProgress())
            if not progress.report(report):
                return False
            if progress.status in ("in-progress", "completed"):
                self._came, self._outcome = True, DialOutcome.ANSWERED
            elif progress.over and not self._came:
                self._outcome = DialOutcome(progress.status)
            if progress.over and (admission := self._admissions.get(report.call_sid)) is not None:
                admission.release()
            return progress.over and self._gone()

    def _gone(self) -> bool:
        over = sum(progress.over for progress in self._progress.values())
        return over + self._missed >= self._expected

    def close(self) -> list[str]:
        """The call has left it: nobody is waited for any longer. Returns the calls of those who have not answered
        yet, to be ended."""
        with self._lock:
            self.over = True
            for admission in self._admissions.values():
                admission.release()
            return [
                sid
                for sid, progress in self._progress.items()
                if not progress.over and progress.status != "in-progress"
            ]
