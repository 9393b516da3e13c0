"""Those who were called into a conference, as their status callbacks tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.facts import DialOutcome
from voice_runtime.policy import Admission, CallPolicy, Guard
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.transports.twilio_conference import Conference
from voice_runtime.transports.twilio_webhooks import StatusReport

WAYS = {
    "came": ["initiated", "ringing", "in-progress", "completed"],
    "busy": ["initiated", "ringing", "busy"],
    "no-answer": ["initiated", "ringing", "no-answer"],
    "failed": ["failed"],
    "canceled": ["initiated", "canceled"],
}


def conference(count: int) -> tuple[Conference, Guard, list[Admission]]:
    """One to which so many are to be invited."""
    guard = Guard(CallPolicy(allowed_countries="*"), clock=VirtualClock())
    admissions = [guard.admit_call(f"+3584010000{n:02d}") for n in range(count)]
    return Conference(1, len(admissions)), guard, admissions


def guests(*outcomes: str) -> tuple[Conference, Guard, list[StatusReport]]:
    """So many were called, and all that will be told of them."""
    made, guard, admissions = conference(len(outcomes))
    told = []
    for n, outcome in enumerate(outcomes):
        made.invited(f"CA{n}", admissions[n])
        told += [StatusReport(call_sid=f"CA{n}", status=status, sequence=i) for i, status in enumerate(WAYS[outcome])]
    return made, guard, told


@given(st.lists(st.sampled_from(sorted(WAYS)), min_size=1, max_size=4), st.data())
def test_the_last_to_go_is_told_once(outcomes: list[str], data: st.DataObject) -> None:
    """Whatever becomes of them and however the callbacks come; anybody who came makes it an answer, and every place
    is free again."""
    made, guard, told = guests(*outcomes)
    order = data.draw(st.permutations([*told, *told]))
    assert [made.report(report) for report in order].count(True) == 1
    assert made.gone
    assert (made.outcome is DialOutcome.ANSWERED) is ("came" in outcomes)
    assert not guard._live


@pytest.mark.parametrize("outcome", ["busy", "no-answer", "failed", "canceled"])
def test_why_the_only_guest_did_not_come(outcome: str) -> None:
    """In the word that Twilio has for it."""
    made, _, told = guests(outcome)
    for report in told:
        made.report(report)
    assert made.outcome == outcome


def test_nobody_invited_is_nobody_missing() -> None:
    """The conference is whoever else is there."""
    made, _, _ = conference(0)
    assert made.outcome is DialOutcome.ANSWERED
    assert made.gone


def test_one_who_could_not_be_called_is_not_waited_for() -> None:
    """Nor counted among those who were."""
    made, _, admissions = conference(2)
    made.invited("CA1", admissions[0])
    made.missed(admissions[1])
    assert not made.gone
    assert made.report(StatusReport(call_sid="CA1", status="completed"))
    assert made.call_sids == ("CA1",)


def test_a_callback_may_overtake_the_answer() -> None:
    """Somebody is gone before it is known that they were called: their place is free all the same."""
    made, guard, admissions = conference(1)
    assert made.report(StatusReport(call_sid="CA1", status="busy"))
    made.invited("CA1", admissions[0])
    assert made.gone
    assert made.outcome is DialOutcome.BUSY
    assert not guard._live


def test_callbacks_about_nobody_are_nobodys() -> None:
    """Without an id nobody is known to have gone."""
    made, _, _ = guests("came")
    assert not made.report(StatusReport(status="completed"))
    assert not made.gone


def test_when_the_call_has_left_nobody_is_waited_for() -> None:
    """Those who still ring are to be ended, those who have come stay, and every place is free."""
    made, guard, told = guests("came", "busy", "no-answer")
    for report in told:
        if (report.call_sid, report.status) in (("CA0", "in-progress"), ("CA1", "busy"), ("CA2", "ringing")):
            made.report(report)
    assert made.close() == ["CA2"]
    assert made.over
    assert not guard._live
