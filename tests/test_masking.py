"""Numbers in logs and messages."""

from __future__ import annotations

import pytest

from voice_runtime.masking import mask_number, mask_numbers, without_numbers


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+358401234567", "+358…67"),
        ("+1 (500) 555-0006", "+150…06"),
        ("040 123 4567", "040…67"),
        ("112", "112"),
        ("12345", "…45"),
        ("anonymous", "anonymous"),
        ("sip:alice@example.com", "sip:…@example.com"),
        ("client:alice", "client:…"),
        ("", ""),
    ],
)
def test_a_number_keeps_its_beginning_and_its_end(number: str, shown: str) -> None:
    assert mask_number(number) == shown


def test_numbers_in_a_sentence_are_masked_and_ids_are_not() -> None:
    text = "'To' number +15005550001 is not valid (HTTP 400, error 21211), call CA0123456789abcdef0123456789abcdef."
    assert mask_numbers(text) == text.replace("+15005550001", "+150…01")


@pytest.mark.parametrize(
    "written",
    ["040 123 4567", "(040) 123-4567", "358-40-123-4567", "from_358401234567", "+(358) 40 1234567", "tel 0401234567"],
)
def test_a_number_in_any_groups_is_masked(written: str) -> None:
    assert "123" not in mask_numbers(f"it was {written}, I think")


@pytest.mark.parametrize(
    "text", ["2026-11-20 12:30:45", "HTTP 400, error 21211", "3.14159 of 1024", "CA0123456789abcdef0123456789abcdef"]
)
def test_what_is_no_number_stays(text: str) -> None:
    assert mask_numbers(text) == text


def test_a_cause_that_would_tell_a_number_is_none() -> None:
    assert without_numbers(ValueError("GET /list?n=%2B358401234567 failed")) is None
    error = ValueError("GET /list failed")
    assert without_numbers(error) is error


def test_numbers_as_people_write_them_are_masked() -> None:
    assert mask_numbers("call +358 40 123 4567 or sip:bob@example.com.") == "call +358…67 or sip:…@example.com."
