"""Which expected answer a transcript holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.turns.answers import find_choice, normalise


@pytest.mark.parametrize(
    ("text", "expect", "choice"),
    [
        ("Yes, please.", ["yes", "no"], "yes"),
        ("NO!", ["yes", "no"], "no"),
        ("I know", ["no"], None),
        ("yesterday", ["yes"], None),
        ("", ["yes"], None),
        ("sales department please", ["sales", "sales department"], "sales department"),
        ("no wait yes", ["yes", "no"], "no"),
        ("ei kiitos", ["kyllä", "ei"], "ei"),
        ("KYLLÄ", ["kyllä", "ei"], "kyllä"),
        ("don’t know", ["don't know"], "don't know"),
        ("ＹＥＳ", ["yes"], "yes"),
        ("anything", ["", "  ", "?"], None),
        ("it is 12", ["12"], "12"),
    ],
)
def test_find_choice(text: str, expect: list[str], choice: str | None) -> None:
    """Whole words, whatever their case and punctuation; the longest answer, then the first spoken."""
    assert find_choice(text, expect) == choice


@given(st.text(), st.lists(st.text(), max_size=5))
def test_any_text_is_fine(text: str, expect: list[str]) -> None:
    """Nothing raises, and what is found is one of the expected."""
    assert find_choice(text, expect) in (None, *expect)


@given(st.text(min_size=1))
def test_an_answer_is_found_in_itself(text: str) -> None:
    """Except where it has no word at all."""
    assert find_choice(text, [text]) == (text if normalise(text) else None)
