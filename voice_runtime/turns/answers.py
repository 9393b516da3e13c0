"""Which of the expected answers a transcript holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["find_choice", "normalise"]


def normalise(text: str) -> list[str]:
    """The words of a text without case, punctuation and width: what two transcripts of one sentence share."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if c.isalnum() or c in "'’" else " " for c in folded).replace("’", "'").split()


def find_choice(text: str, expect: Sequence[str]) -> str | None:
    """The entry of ``expect`` that stands in ``text`` as whole words; of several the longest, then the first spoken.

    ``find_choice("Yes, please.", ["yes", "no"])`` is ``"yes"``.
    """
    words = normalise(text)
    found: list[tuple[int, int, str]] = []
    for choice in expect:
        wanted = normalise(choice)
        if not wanted:
            continue
        for at in range(len(words) - len(wanted) + 1):
            if words[at : at + len(wanted)] == wanted:
                found.append((-len(wanted), at, choice))
                break
    return min(found)[2] if found else None
