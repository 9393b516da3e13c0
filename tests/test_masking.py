"""Numbers in logs and messages."""

from __future__ import annotations

import pytest

from voice_runtime.masking import mask_number, mask_numbers


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+358401234567", "+358…67"),
        ("+1 (500) 555-0006", "+150…06"),
        ("040 123 4567", "040…67"),
        ("112", "112"),
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


def test_numbers_as_people_write_them_are_masked() -> None:
    assert mask_numbers("call +358 40 123 4567 or sip:bob@example.com.") == "call +358…67 or sip:…@example.com."
