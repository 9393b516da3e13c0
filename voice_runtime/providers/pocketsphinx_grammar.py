"""What a caller may answer, as a JSGF grammar, and back from the words heard to the answer meant. Pure.

JSGF: JSpeech Grammar Format, W3C Note of 5 June 2000.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..exceptions import ConfigurationError

__all__ = ["Expectation", "expectation_of", "spoken_words"]

_DIGITS = {
    "zero": "0",
    "oh": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_TEENS = {
    10: "ten",
    11: "eleven",
    12: "twelve",
    13: "thirteen",
    14: "fourteen",
    15: "fifteen",
    16: "sixteen",
    17: "seventeen",
    18: "eighteen",
    19: "nineteen",
}
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_BEFORE = ("uh", "um", "well", "okay")
_AFTER = ("please", "thanks", "thank you")
"""What people put around an answer. The grammar takes one before and one after it and the answer is given without."""

_TAILS = (*(tuple(tail.split()) for tail in _AFTER), ("thank",))
"""As they are heard: the decoder may stop in the middle of the last one."""

_MOST_DIGITS = 32


def _number(figures: str) -> list[str]:
    value = int(figures)
    if value >= 100:
        raise ConfigurationError(
            f"An expected answer holds the number {figures}. Write numbers from 100 up in the words people say, "
            f"or ask for digits instead, for example expect(None, digits={len(figures)})."
        )
    if value < 10:
        return [_ONES[value]]
    if value < 20:
        return [_TEENS[value]]
    tens, ones = divmod(value, 10)
    return [_TENS[tens - 2], *([_ONES[ones]] if ones else [])]


def spoken_words(phrase: str) -> tuple[str, ...]:
    """The phrase as the dictionary spells it: small letters, no accents, no punctuation but the apostrophe, numbers
    below 100 in words.

    Raises:
        ConfigurationError: it holds a larger number.
    """
    plain = unicodedata.normalize("NFKD", phrase.casefold()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words: list[str] = []
    for token in re.findall(r"\d+|[^\W\d_]+(?:'[^\W\d_]+)*", plain):
        words.extend(_number(token) if token.isdecimal() else [token])
    return tuple(words)


@dataclass(frozen=True, slots=True)
class Expectation:
    """The answers expected: any of ``phrases``, or exactly ``digits`` spoken digits, or either.

    Raises:
        ConfigurationError: nothing is expected, a phrase has no words, or the number of digits is not 1 to 32.
    """

    phrases: tuple[str, ...] = ()
    digits: int | None = None
    fillers: bool = True
    _by_words: dict[tuple[str, ...], str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phrases and self.digits is None:
            raise ConfigurationError("expect needs at least one phrase, or a number of digits.")
        if self.digits is not None and not 1 <= self.digits <= _MOST_DIGITS:
            raise ConfigurationError(f"digits must be 1 to {_MOST_DIGITS}, not {self.digits!r}.")
        for phrase in self.phrases:
            words = spoken_words(phrase)
            if not words:
                raise ConfigurationError(f"The expected answer {phrase!r} has no words that could be said.")
            self._by_words.setdefault(words, phrase)

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of the phrases, each once, in order; those of digits and fillers are always known."""
        return tuple(dict.fromkeys(word for words in self._by_words for word in words))

    def phrase_with(self, word: str) -> str:
        """The first phrase that holds ``word``."""
        return next(phrase for words, phrase in self._by_words.items() if word in words)

    def jsgf(self) -> str:
        """The grammar; equal expectations have equal grammars."""
        answers = [" ".join(words) for words in self._by_words]
        rules = []
        if self.digits is not None:
            rules.append(f"<digit> = {' | '.join(_DIGITS)};")
            answers.append(" ".join(["<digit>"] * self.digits))
        answer = f"( {' | '.join(answers)} )"
        if self.fillers:
            answer = f"[ {' | '.join(_BEFORE)} ] {answer} [ {' | '.join(_AFTER)} ]"
        return "\n".join(["#JSGF V1.0;", "grammar expected;", *rules, f"public <answer> = {answer};", ""])

    def match(self, heard: str) -> str | None:
        """The answer meant by the words heard: the phrase as it was given, or the digits as figures; None when it is
        none of them."""
        words = tuple(heard.split())
        candidates = [words]
        if self.fillers:
            tails = [words[: -len(tail)] for tail in _TAILS if words[-len(tail) :] == tail]
            candidates += tails
            candidates += [rest[1:] for rest in [words, *tails] if rest[:1] and rest[0] in _BEFORE]
        for candidate in candidates:
            found = self._by_words.get(candidate)
            if found is not None:
                return found
            if len(candidate) == self.digits and all(word in _DIGITS for word in candidate):
                return "".join(_DIGITS[word] for word in candidate)
        return None


def expectation_of(phrases: Sequence[str] | None, digits: int | None, fillers: bool) -> Expectation:
    """From the arguments of ``expect``; a single string is not taken for a list of letters."""
    if isinstance(phrases, str):
        raise ConfigurationError(f"expect takes a list of answers: [{phrases!r}], not {phrases!r}.")
    return Expectation(tuple(phrases or ()), digits, fillers)
