"""What is known of a call: who vouches for the number, how it was answered, why not."""

from __future__ import annotations

import pytest

from voice_runtime.exceptions import CallNotAnsweredError
from voice_runtime.facts import CallFacts, CallOutcome, DialOutcome, Failure


@pytest.mark.parametrize(
    ("verstat", "attestation"),
    [
        ("TN-Validation-Passed-A", "A"),
        ("TN-Validation-Passed-B", "B"),
        ("TN-Validation-Passed-C", "C"),
        ("TN-Validation-Failed-A", ""),
        ("TN-Validation-Failed", ""),
        ("TN-Validation-Passed", ""),
        ("TN-Validation-Passed-", ""),
        ("TN-Validation-Passed-D", ""),
        ("TN-Validation-Passed-AB", ""),
        ("TN-Validation-Passed-A-Diverted", ""),
        ("No-TN-Validation", ""),
        ("tn-validation-passed-a", ""),
        ("A", ""),
        ("", ""),
    ],
)
def test_only_a_passed_validation_attests(verstat: str, attestation: str) -> None:
    """Everything else, what is missing and what nobody knows included, vouches for nothing."""
    assert CallFacts(verstat=verstat).attestation == attestation


def test_facts_do_not_change() -> None:
    """A flow may hand them on."""
    with pytest.raises(AttributeError):
        CallFacts().caller = "+358401234567"  # type: ignore[misc]


def test_what_counts_as_answered() -> None:
    """Whoever or whatever picked up; nothing else."""
    assert {outcome for outcome in CallOutcome if outcome.answered} == {"answered", "machine", "fax"}


def test_outcomes_are_the_words_of_twilio() -> None:
    """So that they compare with what stands in its log."""
    assert {"busy", "no-answer", "failed", "canceled"} <= set(CallOutcome) & set(DialOutcome)


def test_a_failure_is_its_sentence() -> None:
    """In the exception, too."""
    failure = Failure(code=32011, sip_code=503, message="The carrier has no line.")
    assert str(failure) == "The carrier has no line."
    error = CallNotAnsweredError(90, outcome=CallOutcome.FAILED, failure=failure)
    assert (error.outcome, error.failure, error.timeout) == ("failed", failure, 90)
    assert str(error) == "The call was not answered: failed. The carrier has no line."
