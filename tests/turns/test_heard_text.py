"""How much of a text was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.events import Word
from voice_runtime.turns.heard_text import heard_text

TEXT = "Good morning, this is the bank."
WORDS = [
    Word(text=word, start_ms=at, end_ms=at + 400)
    for word, at in zip(["Good", "morning", "this", "is", "the", "bank"], range(0, 2400, 400), strict=True)
]


@pytest.mark.parametrize(
    ("heard_ms", "expected"),
    [
        (0, ""),
        (150, ""),
        (250, "Good"),
        (399, "Good"),
        (650, "Good morning"),
        (1500, "Good morning, this is"),
        (2399, "Good morning, this is the bank"),
        (2400, TEXT),
        (9999, TEXT),
    ],
)
def test_with_word_times(heard_ms: float, expected: str) -> None:
    """A word counts when its middle was heard; all of the audio is all of the text, its full stop included."""
    assert heard_text(TEXT, heard_ms, 2400, WORDS) == expected


def test_without_word_times_the_place_is_proportional() -> None:
    """Cut at the last whole word."""
    assert heard_text("one two three four", 500, 1000) == "one two"
    assert heard_text("one two three four", 1000, 1000) == "one two three four"
    assert heard_text("oneword", 500, 1000) == ""


def test_when_not_all_was_made() -> None:
    """Words that were made can be told; without times nothing can."""
    assert heard_text(TEXT, 800, 800, WORDS[:2], whole=False) == "Good morning"
    assert heard_text(TEXT, 800, 800, (), whole=False) == ""


def test_words_that_are_not_in_the_text_do_no_harm() -> None:
    """A voice that spells numbers out loses its place for a word, not for the rest."""
    words = [
        Word(text=w, start_ms=n * 100, end_ms=n * 100 + 100) for n, w in enumerate(["call", "forty", "two", "now"])
    ]
    assert heard_text("call 42 now", 340, 400, words) == "call"
    assert heard_text("call 42 now please", 390, 500, words) == "call 42 now"


@given(st.text(max_size=60), st.floats(0, 5000), st.floats(1, 5000))
def test_it_is_always_a_beginning(text: str, heard_ms: float, duration_ms: float) -> None:
    """Whatever the figures, the result is how the text begins."""
    assert text.startswith(heard_text(text, heard_ms, duration_ms))
