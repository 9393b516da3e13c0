"""From expected answers to a grammar, and from words heard back to the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_runtime.exceptions import ConfigurationError
from voice_runtime.providers.pocketsphinx_grammar import Expectation, expectation_of, spoken_words


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("Yes", "yes"),
        ("  Put me through, please! ", "put me through please"),
        ("don’t know", "don't know"),
        ("Café", "cafe"),
        ("option 2", "option two"),
        ("table 25", "table twenty five"),
        ("20", "twenty"),
        ("11", "eleven"),
        ("state-of-the-art", "state of the art"),
    ],
)
def test_phrases_are_spelt_as_the_dictionary_does(phrase: str, words: str) -> None:
    """Small letters, no accents, no punctuation, numbers below 100 in words."""
    assert spoken_words(phrase) == tuple(words.split())


def test_larger_numbers_are_to_be_written_out() -> None:
    """Nobody knows how a caller says 1984; the error names the number."""
    with pytest.raises(ConfigurationError, match="number 1984"):
        spoken_words("room 1984")


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        ("yes", "Yes!"),
        ("yes please", "Yes!"),
        ("well yes thank you", "Yes!"),
        ("no thanks", "no"),
        ("no thank", "no"),
        ("okay no", "no"),
        ("thank you", "thank you"),
        ("well thank you please", "thank you"),
        ("", None),
        ("uh", None),
        ("please", None),
        ("yes no", None),
    ],
)
def test_the_answer_is_the_phrase_as_it_was_given(heard: str, answer: str | None) -> None:
    """Politeness around it is left out, unless it is the answer; half a sentence is none."""
    assert Expectation(("Yes!", "no", "thank you")).match(heard) == answer


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        ("one two three four", "1234"),
        ("oh zero nine five", "0095"),
        ("one two three four please", "1234"),
        ("one two three", None),
        ("one two three four five", None),
        ("cancel", "cancel"),
    ],
)
def test_digits_are_figures(heard: str, answer: str | None) -> None:
    """Exactly as many as were asked for; phrases may stand beside them."""
    assert Expectation(("cancel",), digits=4).match(heard) == answer


def test_without_fillers_every_word_counts() -> None:
    """fillers=False expects the bare answers."""
    bare = Expectation(("yes", "no"), fillers=False)
    assert bare.match("yes") == "yes"
    assert bare.match("yes please") is None
    assert "please" not in bare.jsgf()


def test_the_grammar_is_jsgf() -> None:
    """Header, digits where asked for, one public rule with each answer once."""
    assert Expectation(("yes", "YES", "oh no"), digits=2, fillers=False).jsgf().splitlines() == [
        "#JSGF V1.0;",
        "grammar expected;",
        "<digit> = zero | oh | one | two | three | four | five | six | seven | eight | nine;",
        "public <answer> = ( yes | oh no | <digit> <digit> );",
    ]


def test_words_can_be_traced_to_their_phrase() -> None:
    """For the message about a word that nobody knows."""
    expectation = Expectation(("call Ninchat", "call me"))
    assert expectation.words == ("call", "ninchat", "me")
    assert expectation.phrase_with("ninchat") == "call Ninchat"


@pytest.mark.parametrize(
    ("phrases", "digits", "message"),
    [
        ([], None, "at least one phrase"),
        (None, None, "at least one phrase"),
        (["yes", "?!"], None, "'\\?!' has no words"),
        (None, 0, "1 to 32, not 0"),
        (None, 33, "1 to 32, not 33"),
        ("yes", None, r"a list of answers: \['yes'\]"),
    ],
)
def test_nonsense_is_refused(phrases: list[str] | str | None, digits: int | None, message: str) -> None:
    """The error says what was wrong with it."""
    with pytest.raises(ConfigurationError, match=message):
        expectation_of(phrases, digits, fillers=True)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.text(max_size=40))
def test_any_text_makes_a_clean_grammar_or_a_clear_error(phrases: list[str], heard: str) -> None:
    """Nothing in a phrase can break out of the grammar, and each phrase is found again by its own words."""
    try:
        expectation = Expectation(tuple(phrases))
    except ConfigurationError:
        return
    rule = expectation.jsgf().splitlines()[2]
    assert rule.count(";") == 1
    assert rule.count("=") == 1
    assert not set('<>{}*+/\\"#') & set(rule.removeprefix("public <answer>"))
    assert expectation.match(heard) in {None, *phrases}
    for phrase in phrases:
        found = expectation.match(" ".join(spoken_words(phrase)))
        assert found is not None
        assert spoken_words(found) == spoken_words(phrase)
