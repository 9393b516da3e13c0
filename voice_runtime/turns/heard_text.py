"""How much of a text was heard when its audio was cut."""

from __future__ import annotations

from collections.abc import Sequence

from ..events import Word

__all__ = ["heard_text"]


def heard_text(
    text: str, heard_ms: float, duration_ms: float, words: Sequence[Word] = (), *, whole: bool = True
) -> str:
    """The beginning of ``text`` that ``heard_ms`` of its audio covers.

    With word times a word counts when its middle was heard. Without them the text is taken to be spoken evenly over
    ``duration_ms`` and is cut at the last word boundary before the proportional place. ``whole`` says that audio was
    made of all of the text; when it was not and there are no word times, nothing can be said: empty.
    """
    if heard_ms <= 0 or not text:
        return ""
    if words:
        end = 0
        for word in words:
            if (word.start_ms + word.end_ms) / 2 > heard_ms:
                return text[:end].rstrip()
            at = text.find(word.text, end)
            if at >= 0:
                end = at + len(word.text)
        return text if whole and heard_ms >= duration_ms else text[:end].rstrip()
    if not whole:
        return ""
    if heard_ms >= duration_ms:
        return text
    place = int(len(text) * heard_ms / duration_ms)
    if text[place : place + 1].isspace():
        return text[:place].rstrip()
    return text[:place].rpartition(" ")[0].rstrip()
