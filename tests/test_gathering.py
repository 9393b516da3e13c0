"""Keys or speech, whichever comes first, as a caller at a telephone gives them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.town import VOICE, town
from voice_runtime.exceptions import CallHangupError
from voice_runtime.results import GatherResult
from voice_runtime.session import VoiceSession
from voice_runtime.testing.phone import FakeCall

PROMPT = "please enter your four digit code now"  # seven words of 300 ms


def gathered(script: Any, then: Any = None, **options: Any) -> tuple[GatherResult, FakeCall, float]:
    """What gather() returned, the call, and how long it took (s)."""
    results: list[Any] = []

    class Flow(VoiceSession):
        def run(self) -> None:
            at = self.clock.monotonic()
            results.append(self.gather(PROMPT, **options))
            results.append(self.clock.monotonic() - at)

    with town() as t:
        server = t.serve(Flow)
        call = t.call(script=script)
        call.wait_streaming()
        if then is not None:
            then(t, server)
        call.wait_ended(120)
        flow = server.finished[-1]
        flow.wait(10)
        if flow.error is not None:
            raise flow.error
        return results[0], call, results[1]


def test_so_many_keys_are_an_entry() -> None:
    """Complete with the last of them: no terminator, no pause."""
    result, _, seconds = gathered(lambda call: (call.sleep(3), call.press("4711")), digits=4)
    assert (result.digits, result.reason, result.terminated) == ("4711", "keys", False)
    assert result
    assert seconds < 4.3


def test_the_terminator_ends_an_entry_and_is_no_part_of_it() -> None:
    """Of any length."""
    result, _, _ = gathered(lambda call: (call.sleep(3), call.press("12345#")))
    assert (result.digits, result.terminated) == ("12345", True)


def test_a_pause_ends_an_entry_of_any_length() -> None:
    """Four seconds, unless told otherwise."""
    result, _, seconds = gathered(lambda call: (call.sleep(3), call.press("12"), call.sleep(60)), pause=2.0)
    assert (result.digits, result.terminated) == ("12", False)
    assert 5.0 < seconds < 5.7


def test_a_key_silences_the_prompt() -> None:
    """Within a frame or two, and it counts."""
    result, call, _ = gathered(lambda call: (call.sleep(1), call.press("1")), digits=1)
    assert result.digits == "1"
    assert call.heard.heard_ms() == pytest.approx(1000, abs=160)
    assert call.heard.heard_ms() < len(VOICE.audio(PROMPT)) / 8


def test_a_wrong_entry_is_asked_for_again() -> None:
    """With the words for that; what was pressed of the wrong one is forgotten."""
    result, call, _ = gathered(
        lambda call: (call.sleep(3), call.press("47#"), call.sleep(2), call.press("1"), call.press("234")),
        digits=4,
        retry_prompt="once more please",
    )
    assert result.digits == "1234"
    heard = call.heard.heard_ulaw()
    assert heard.startswith(VOICE.audio(PROMPT))
    assert VOICE.audio("once more please")[:8000] in heard


def test_nothing_is_an_answer_that_is_false() -> None:
    """After every attempt."""
    result, call, seconds = gathered(lambda call: call.sleep(60), timeout=2, attempts=3, digits=1)
    assert not result
    assert result.reason == "silence"
    assert call.heard.heard_ulaw() == VOICE.audio(PROMPT) * 3
    assert seconds == pytest.approx(3 * (2.1 + 2.0), abs=0.6)


def test_callers_type_ahead() -> None:
    """Keys pressed while something else was said count, and the prompt is spared."""
    results: list[GatherResult] = []

    class Flow(VoiceSession):
        def run(self) -> None:
            self.say("welcome to the bank of nowhere")
            results.append(self.gather(PROMPT, digits=2))
            results.append(self.gather("and again", digits=1, timeout=1, attempts=1))

    with town() as t:
        t.serve(Flow)
        call = t.call(script=lambda call: (call.sleep(0.5), call.press("425"), call.sleep(30)))
        call.wait_ended(60)
        assert [r.digits for r in results] == ["42", "5"]
        assert call.heard.heard_ulaw() == VOICE.audio("welcome to the bank of nowhere")


def test_clear_inbound_forgets_keys() -> None:
    """What was pressed before does not answer a question that had not been asked."""
    results: list[GatherResult] = []

    class Flow(VoiceSession):
        def run(self) -> None:
            self.say("welcome to the bank of nowhere")
            self.clear_inbound()
            results.append(self.gather(PROMPT, digits=2, timeout=1, attempts=1))

    with town() as t:
        t.serve(Flow)
        t.call(script=lambda call: (call.sleep(0.5), call.press("42"), call.sleep(30))).wait_ended(60)
        assert results == [GatherResult()]


def test_speech_counts_where_it_is_allowed() -> None:
    """The first to come is the answer."""
    result, _, _ = gathered(
        lambda call: call.sleep(60),
        lambda t, server: (t.clock.sleep(3), server.calls[0].session.stt.inject("I want sales please")),
        speech=["sales", "support"],
        digits=1,
    )
    assert (result.reason, result.choice, result.text) == ("speech", "sales", "I want sales please")


def test_spoken_digits_are_digits() -> None:
    """As many as were asked for."""
    result, _, _ = gathered(
        lambda call: call.sleep(60),
        lambda t, server: (t.clock.sleep(3), server.calls[0].session.stt.inject("4 7 1 1")),
        speech=True,
        digits=4,
    )
    assert (result.reason, result.digits) == ("speech", "4711")


def test_keys_win_over_speech_once_the_first_is_pressed() -> None:
    """Somebody who murmurs while typing has not said something else."""

    def murmur(t: Any, server: Any) -> None:
        t.clock.sleep(3.4)
        server.calls[0].session.stt.inject("hmm")

    result, _, _ = gathered(
        lambda call: (call.sleep(3), call.press("4"), call.sleep(1), call.press("711")), murmur, speech=True, digits=4
    )
    assert (result.reason, result.digits) == ("keys", "4711")


def test_the_end_of_the_call_brings_the_keys_so_far() -> None:
    """As CallHangupError's partial, at once."""
    caught: list[Any] = []

    class Flow(VoiceSession):
        def run(self) -> None:
            try:
                self.gather(PROMPT, digits=4)
            except CallHangupError as error:
                caught.append((error.partial, self.clock.monotonic()))
                raise

    with town() as t:
        t.serve(Flow)
        call = t.call(script=lambda call: (call.sleep(3), call.press("47"), call.hang_up()))
        call.wait_ended()
        t.clock.sleep(0.2)
        partial, at = caught[0]
        assert (partial.digits, partial.reason) == ("47", "hung_up")
        assert at == pytest.approx(call.events[-1].at_s, abs=1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"digits": 0}, "digits must be 1 or more"),
        ({"terminator": "##"}, "terminator must be one key"),
        ({"terminator": "x"}, "terminator must be one key"),
        ({"speech": []}, "expect must be a list"),
    ],
)
def test_an_entry_that_could_never_be_complete_is_an_error(options: dict[str, Any], says: str) -> None:
    """Told at once, with what would be right."""
    with pytest.raises(ValueError, match=says):
        gathered(lambda call: call.sleep(60), **options)
