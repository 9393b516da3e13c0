"""Keys one after the other, until the entry is complete."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.turns.key_entry import KEYS, KeyEntry, figures

keys = st.text(alphabet=KEYS, max_size=12)


def typed(entry: KeyEntry, text: str) -> int:
    """Press key after key until the entry is complete; how many were taken."""
    for count, key in enumerate(text, start=1):
        if entry.press(key):
            return count
    return len(text)


@pytest.mark.parametrize(
    ("digits", "terminator", "text", "taken", "entered", "terminated", "valid"),
    [
        (4, "#", "47119", 4, "4711", False, True),
        (4, "#", "47#", 3, "47", True, False),
        (4, "#", "#", 1, "", True, False),
        (4, "", "4#*1", 4, "4#*1", False, True),
        (None, "#", "12345#6", 6, "12345", True, True),
        (None, "*", "12#*", 4, "12#", True, True),
        (None, "#", "#", 1, "", True, False),
        (None, "", "12#", 3, "12#", False, True),
        (1, "1", "1", 1, "", True, False),
        (2, "#", "", 0, "", False, False),
    ],
)
def test_when_an_entry_is_complete(
    digits: int | None, terminator: str, text: str, taken: int, entered: str, terminated: bool, valid: bool
) -> None:
    """With the last key wanted, or the terminator, which is no part of it; valid is what was asked for."""
    entry = KeyEntry(digits, terminator)
    assert typed(entry, text) == taken
    assert (entry.keys, entry.terminated, entry.valid) == (entered, terminated, valid)


@given(st.none() | st.integers(1, 8), st.sampled_from(["", *KEYS]), keys)
def test_what_is_entered_is_what_was_pressed(digits: int | None, terminator: str, text: str) -> None:
    """A beginning of it without the terminator, never longer than wanted, and nothing is taken after the end."""
    entry = KeyEntry(digits, terminator)
    taken = typed(entry, text)
    assert entry.keys == text[:taken].removesuffix(terminator if entry.terminated else "")
    assert terminator == "" or terminator not in entry.keys
    assert digits is None or len(entry.keys) <= digits
    assert entry.complete or taken == len(text)
    assert entry.complete == (entry.terminated or len(entry.keys) == digits)


@pytest.mark.parametrize("digits", [0, -1])
def test_so_many_digits_there_are_not(digits: int) -> None:
    """The error says what would be right."""
    with pytest.raises(ValueError, match=f"1 or more, not {digits}"):
        KeyEntry(digits)


@pytest.mark.parametrize("terminator", ["##", "x", "01", "a", "１", " "])
def test_a_terminator_is_one_key_or_none(terminator: str) -> None:
    """What no telephone has could never end an entry."""
    with pytest.raises(ValueError, match="one key of"):
        KeyEntry(None, terminator)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("4711", "4711"),
        ("4 7 1 1", "4711"),
        ("4-7, 1. 1", "4711"),
        ("", ""),
        (" - ", ""),
        ("four", ""),
        ("4711 please", ""),
        ("+358", ""),
        ("½", ""),
        ("²", ""),
        ("４７１１", "4711"),
        ("٤٧", "47"),
    ],
)
def test_the_digits_of_a_transcript(text: str, digits: str) -> None:
    """Of one that holds nothing else; digits of other scripts are those of a telephone's keys."""
    assert figures(text) == digits


@given(st.text(max_size=20))
def test_digits_are_always_those_of_a_telephone(text: str) -> None:
    """Whatever was recognised: ASCII digits, or none."""
    assert all(character in "0123456789" for character in figures(text))
