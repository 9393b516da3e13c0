"""What Twilio's requests about a call say, whatever is missing, odd, late or told twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.facts import CallFacts, CallOutcome, DialOutcome, Failure
from voice_runtime.results import TransferResult
from voice_runtime.transports.twilio_webhooks import (
    ENDED,
    CallProgress,
    MachineVerdict,
    StatusReport,
    StreamReport,
    call_facts,
    dial_result,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
CALL = "CA" + "0" * 31 + "1"
WAY = ["queued", "initiated", "ringing", "in-progress"]

names = st.sampled_from(["CallSid", "From", "StirVerstat", "CallStatus", "SequenceNumber", "SipResponseCode"]) | (
    st.sampled_from(["ErrorCode", "AnsweredBy", "CallDuration", "MachineDetectionDuration", "DialCallStatus"])
    | st.sampled_from(["DialCallDuration", "StreamEvent", "StreamError"])
)
forms = st.dictionaries(names | st.text(), st.text() | st.integers().map(str))


def fields(body: str) -> dict[str, str]:
    return dict(parse_qsl(body, keep_blank_values=True))


def reports(name: str) -> list[StatusReport]:
    vector = next(vector for vector in VECTORS["call_status_callbacks"] if vector["name"] == name)
    return [StatusReport.from_form(fields(body)) for body in vector["bodies"]]


def told(progress: CallProgress, order: list[StatusReport]) -> list[str]:
    """The statuses that were news."""
    return [report.status for report in order if progress.report(report)]


# -- who calls whom ---------------------------------------------------------------------------------------------


def test_the_published_voice_webhooks() -> None:
    """Inbound with a verdict about the number, outbound, withheld."""
    inbound = call_facts(fields(VECTORS["voice_webhooks"]["inbound_request"]))
    assert (inbound.call_sid, inbound.caller, inbound.called) == (CALL, "+4930123456", "+15005550006")
    assert (inbound.direction, inbound.verstat, inbound.attestation) == ("inbound", "TN-Validation-Passed-A", "A")
    assert inbound.fields["CallToken"] == "opaque"
    outbound = call_facts(fields(VECTORS["voice_webhooks"]["outbound_url_request"]))
    assert (outbound.direction, outbound.caller) == ("outbound-api", "+15005550006")
    withheld = call_facts(fields(VECTORS["voice_webhooks"]["withheld_number"]))
    assert (withheld.caller, withheld.attestation) == ("anonymous", "")


def test_who_forwarded_and_what_a_sip_caller_sent() -> None:
    """Beside the numbers, everything under Twilio's names."""
    facts = call_facts({"ForwardedFrom": "+358401111111", "CallerName": "ADA", "SipHeader_X-Order": "17"})
    assert (facts.forwarded_from, facts.caller_name) == ("+358401111111", "ADA")
    assert facts.fields["SipHeader_X-Order"] == "17"


def test_an_empty_webhook_is_an_inbound_call_of_nobody() -> None:
    """What is missing is empty."""
    assert call_facts({}) == CallFacts(direction="inbound")


@given(forms)
def test_any_form_can_be_read(form: dict[str, str]) -> None:
    """As every kind of request; numbers that are none are None, and never negative."""
    assert call_facts(form).fields == form
    report = StatusReport.from_form(form)
    numbers = [report.sequence, report.sip_code, report.error_code, report.duration_s]
    numbers += [MachineVerdict.from_form(form).detection_ms, dial_result(form).duration_s]
    assert all(number is None or number >= 0 for number in numbers)
    assert StreamReport.from_form(form).event == form.get("StreamEvent", "")
    CallProgress().report(report)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("49", 49),
        (" 7 ", 7),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
        ("²", None),
        ("٤", None),
        ("9" * 11, 99_999_999_999),
        ("9" * 60_000, None),
        ("\x00", None),
        ("None", None),
    ],
)
def test_numbers(text: str, number: int | None) -> None:
    """Plain digits, and few enough to be one."""
    assert StatusReport.from_form({"CallDuration": text}).duration_s == number


# -- how a dialled call gets on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["call_status_callbacks"], ids=lambda vector: vector["name"])
def test_the_published_sequences_end_as_they_say(vector: dict[str, Any]) -> None:
    """Status, duration in seconds, SIP code and who answered."""
    final = vector["final"]
    order = [StatusReport.from_form(fields(body)) for body in vector["bodies"]]
    progress = CallProgress()
    news = told(progress, order)
    assert (progress.status, progress.over) == (final["status"], True)
    assert order[-1].duration_s == final["duration_s"]
    if "sip" in final:
        assert progress.sip_code == final["sip"]
    if "answered_by" in final:
        assert progress.answered_by == final["answered_by"]
    if "events_applied" in final:
        assert news == final["events_applied"]


@given(st.data(), st.sampled_from([vector["name"] for vector in VECTORS["call_status_callbacks"]]))
def test_any_order_and_repetition_comes_to_the_same(data: st.DataObject, name: str) -> None:
    """However the network shuffles and doubles them: same end, each status told once, and in its order."""
    sequence = reports(name)
    straight = CallProgress()
    told(straight, sequence)
    progress = CallProgress()
    again = data.draw(st.lists(st.sampled_from(sequence), max_size=4))
    news = told(progress, data.draw(st.permutations([*sequence, *again])))
    assert (progress.status, progress.outcome, progress.sip_code, progress.answered_by) == (
        straight.status,
        straight.outcome,
        straight.sip_code,
        straight.answered_by,
    )
    assert news[-1] == straight.status
    assert news == [status for status in [*WAY, straight.status] if status in news]


@pytest.mark.parametrize("final", sorted(ENDED))
def test_what_is_over_stays_over(final: str) -> None:
    """Whatever comes afterwards, with whatever number."""
    progress = CallProgress()
    assert progress.report(StatusReport(status=final, sequence=1))
    late = [StatusReport(status=status, sequence=99) for status in [*WAY, *ENDED]]
    assert told(progress, late) == []
    assert progress.status == final


def test_the_last_word_counts_whatever_its_number_says() -> None:
    """Missing, too low, or nonsense: a call that has ended has ended."""
    for sequence in (None, 0, 99):
        progress = CallProgress()
        progress.report(StatusReport(status="in-progress", sequence=2))
        assert progress.report(StatusReport(status="completed", sequence=sequence))
        assert progress.over


@pytest.mark.parametrize("status", ["", "Completed", "COMPLETED", "answered", "\x00", "busy ", "unknown"])
def test_statuses_nobody_knows_change_nothing(status: str) -> None:
    """Twilio may invent some."""
    progress = CallProgress()
    progress.report(StatusReport(status="ringing", sequence=1))
    assert not progress.report(StatusReport(status=status, sequence=2))
    assert (progress.status, progress.over, progress.outcome) == ("ringing", False, None)


def test_who_answered_is_known_from_any_callback() -> None:
    """Also from one that is old news otherwise."""
    progress = CallProgress()
    progress.report(StatusReport(status="completed", sequence=3))
    progress.report(StatusReport(status="in-progress", sequence=2, answered_by="fax"))
    assert progress.answered_by == "fax"


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (StatusReport(status="busy", sip_code=486), CallOutcome.BUSY),
        (StatusReport(status="busy", sip_code=603), CallOutcome.REJECTED),
        (StatusReport(status="no-answer", sip_code=607), CallOutcome.REJECTED),
        (StatusReport(status="no-answer", sip_code=608), CallOutcome.REJECTED),
        (StatusReport(status="no-answer", sip_code=487), CallOutcome.NO_ANSWER),
        (StatusReport(status="no-answer"), CallOutcome.NO_ANSWER),
        (StatusReport(status="canceled", sip_code=487), CallOutcome.CANCELED),
        (StatusReport(status="failed", sip_code=603), CallOutcome.FAILED),
        (StatusReport(status="completed", sip_code=200), None),
        (StatusReport(status="in-progress"), None),
    ],
)
def test_why_it_was_not_answered(report: StatusReport, outcome: CallOutcome | None) -> None:
    """A decline is told from a busy line by its SIP code; None where it was answered, or is not over."""
    progress = CallProgress()
    progress.report(report)
    assert progress.outcome is outcome


@pytest.mark.parametrize(
    ("report", "failure"),
    [
        (
            StatusReport(status="failed", error_code=13224, error_message="Invalid number"),
            Failure(code=13224, message="Invalid number"),
        ),
        (
            StatusReport(status="failed", sip_code=404),
            Failure(sip_code=404, message="The call could not be put through: the carrier answered SIP 404."),
        ),
        (
            StatusReport(status="failed", sip_code=503, error_code=32011),
            Failure(
                code=32011,
                sip_code=503,
                message="The call could not be put through: Twilio error 32011, the carrier answered SIP 503.",
            ),
        ),
        (StatusReport(status="failed"), Failure(message="The call could not be put through.")),
        (StatusReport(status="busy", sip_code=486), None),
    ],
)
def test_why_it_failed(report: StatusReport, failure: Failure | None) -> None:
    """Codes, and always one sentence; nothing else is a failure."""
    progress = CallProgress()
    progress.report(report)
    assert progress.failure == failure


# -- machines, other legs, streams --------------------------------------------------------------------------------


def test_the_published_verdict_about_a_machine() -> None:
    """Who, and after how long."""
    verdict = MachineVerdict.from_form(fields(VECTORS["async_amd_callback"]["body"]))
    assert verdict == MachineVerdict(call_sid=CALL, answered_by="machine_end_beep", detection_ms=4500)


def test_the_published_action_of_dial() -> None:
    """Completed is answered."""
    result = dial_result(fields(VECTORS["voice_webhooks"]["dial_action"]))
    assert result == TransferResult(outcome=DialOutcome.ANSWERED, call_sid="CA" + "0" * 31 + "2", duration_s=31)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("completed", "answered"),
        ("answered", "answered"),
        ("busy", "busy"),
        ("no-answer", "no-answer"),
        ("failed", "failed"),
        ("canceled", "canceled"),
        ("", "failed"),
        ("in-progress", "failed"),
        ("\x00", "failed"),
    ],
)
def test_what_became_of_a_dialled_leg(status: str, outcome: str) -> None:
    """What nobody knows has not been answered."""
    result = dial_result({"DialCallStatus": status})
    assert result.outcome == outcome
    assert bool(result) is (outcome == "answered")


@pytest.mark.parametrize("vector", VECTORS["stream_status_callbacks"], ids=lambda vector: vector["body"][150:200])
def test_the_published_stream_callbacks(vector: dict[str, Any]) -> None:
    """Which stream, and what is the matter."""
    form = fields(vector["body"])
    report = StreamReport.from_form(form)
    assert (report.call_sid, report.stream_sid) == (CALL, "MZ" + "0" * 31 + "1")
    assert report.event == form["StreamEvent"]
    assert report.error == form.get("StreamError", "")
