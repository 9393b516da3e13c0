"""The timeline: order, send-ahead, marks, clears, and what was heard, against a model of Twilio's buffer."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voice_runtime.events import Outcome
from voice_runtime.exceptions import PlayoutFullError
from voice_runtime.playout import Clear, Mark, Timeline
from voice_runtime.transports.twilio_playback import MarkEcho, PlaybackBuffer, Played

SECOND = 8000


class Line:
    """A timeline wired to a model of Twilio's buffer, with a network that takes ``latency_ms`` each way."""

    def __init__(self, *, latency_ms: float = 0.0, lead_ms: float = 1000.0) -> None:
        self.now = 0.0
        self.latency = latency_ms
        self.settled: list[Mark] = []
        self.heard_by_us: list[tuple[float, bytes]] = []
        self.heard_by_caller: list[tuple[float, bytes]] = []
        self.timeline = Timeline(
            lead_ms=lead_ms,
            on_settled=self.settled.append,
            on_heard=lambda at_ms, audio: self.heard_by_us.append((at_ms, audio)),
        )
        self.buffer = PlaybackBuffer()
        self._order = itertools.count()
        self._network: list[tuple[float, int, str, object]] = []

    def _put(self, at_ms: float, kind: str, item: object) -> None:
        heapq.heappush(self._network, (at_ms, next(self._order), kind, item))

    def _send_due(self) -> None:
        for item in self.timeline.take(self.now):
            self._put(self.now + self.latency, "out", item)

    def run(self, ms: float) -> None:
        """Let time pass in steps of one millisecond."""
        end = self.now + ms
        while True:
            self._send_due()
            while self._network and self._network[0][0] <= self.now:
                _, _, kind, item = heapq.heappop(self._network)
                if kind == "in":
                    self.timeline.echo(str(item), self.now)
                elif isinstance(item, bytes):
                    self.buffer.media(item, self.now)
                elif isinstance(item, Clear):
                    self.buffer.clear(self.now)
                else:
                    assert isinstance(item, Mark)
                    self.buffer.mark(item.name, self.now)
            for event in self.buffer.advance(self.now):
                if isinstance(event, Played):
                    self.heard_by_caller.append((event.at_ms, event.data))
                elif isinstance(event, MarkEcho):
                    self._put(self.now + self.latency, "in", event.name)
            if self._network and self._network[0][0] <= self.now:
                continue
            if self.now >= end:
                return
            self.now += 1

    @property
    def ear(self) -> bytes:
        return b"".join(data for _, data in self.heard_by_caller)

    @property
    def reckoned(self) -> bytes:
        return b"".join(data for _, data in self.heard_by_us)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_order_is_kept_between_audio_and_marks() -> None:
    """A mark leaves behind its audio and before the audio that follows it."""
    timeline = Timeline(lead_ms=10_000)
    timeline.append(b"a" * 160)
    mark = timeline.mark("first")
    timeline.append(b"b" * 160)
    assert timeline.take(0) == [b"a" * 160, mark, b"b" * 160]


def test_ten_seconds_are_sent_ahead_by_the_lead_only() -> None:
    """At once leaves the lead, afterwards what playback has made room for; nothing is dropped."""
    timeline = Timeline(lead_ms=1000)
    speech = noise(10 * SECOND)
    timeline.append(speech)
    first = b"".join(item for item in timeline.take(0) if isinstance(item, bytes))
    assert len(first) == SECOND
    assert timeline.due_in_ms(0) == 100  # exactly full: the next message is due when it fits
    assert timeline.take(0) == []
    sent = first
    for now in range(0, 10_000, 100):
        sent += b"".join(item for item in timeline.take(now) if isinstance(item, bytes))
    assert sent == speech


def test_small_frames_are_joined_and_never_reordered() -> None:
    """Frames that wait together leave as messages of at most 100 ms."""
    timeline = Timeline(lead_ms=10_000, mark_every_ms=60_000)
    frames = [bytes([n]) * 160 for n in range(50)]
    for frame in frames:
        timeline.append(frame)
    messages = timeline.take(0)
    assert b"".join(m for m in messages if isinstance(m, bytes)) == b"".join(frames)
    assert {len(m) for m in messages if isinstance(m, bytes)} == {800}


def test_everything_heard_settles_the_utterance_as_played() -> None:
    """The end mark's echo makes the outcome; the heard length is all of it."""
    line = Line(latency_ms=40)
    utterance = line.timeline.begin()
    line.timeline.append(noise(2 * SECOND), utterance)
    line.timeline.end(utterance)
    line.run(2000)
    assert utterance.outcome is None
    line.run(200)
    assert utterance.outcome is Outcome.PLAYED
    assert utterance.heard_ms == 2000
    assert line.reckoned == line.ear == noise(2 * SECOND)


def test_a_mark_flushed_by_a_clear_is_not_heard() -> None:
    """Twilio echoes flushed marks as if played; they count as interrupted."""
    line = Line(latency_ms=30)
    line.timeline.append(noise(2 * SECOND))
    early = line.timeline.mark("early")
    line.timeline.append(noise(2 * SECOND, 2))
    late = line.timeline.mark("late")
    line.run(3000)
    assert early.outcome is Outcome.PLAYED
    line.timeline.clear(line.now)
    line.run(200)
    assert late.outcome is Outcome.INTERRUPTED
    assert {mark.label for mark in line.settled} >= {"early", "late"}


@pytest.mark.parametrize("latency_ms", [0, 5, 60, 250])
@pytest.mark.parametrize("cut_at_ms", [37, 480, 1503, 2999])
def test_cut_position_is_exact_whatever_the_network_takes(latency_ms: float, cut_at_ms: float) -> None:
    """After an interruption the timeline knows what was heard to within 40 ms of the true cut."""
    line = Line(latency_ms=latency_ms)
    utterance = line.timeline.begin()
    line.timeline.append(noise(4 * SECOND), utterance)
    line.timeline.end(utterance)
    line.run(latency_ms + cut_at_ms)
    line.timeline.clear(line.now)
    line.run(4 * latency_ms + 50)
    assert utterance.outcome is Outcome.INTERRUPTED
    assert abs(utterance.heard_bytes - len(line.ear)) <= 40 * 8
    shorter = min(len(line.ear), len(line.reckoned))
    assert line.ear[:shorter] == line.reckoned[:shorter]
    assert len(line.timeline.unheard) + len(line.reckoned) == 4 * SECOND


def test_nothing_queued_before_a_clear_is_sent_after_it() -> None:
    """The clear goes to the head; only what was queued after it follows."""
    timeline = Timeline(lead_ms=500)
    timeline.append(noise(5 * SECOND))
    timeline.take(0)
    timeline.clear(100)
    timeline.append(b"n" * 160)
    items = timeline.take(100)
    assert isinstance(items[0], Clear)
    assert isinstance(items[1], Mark)
    assert items[2:] == [b"n" * 160]


def test_producer_of_a_cut_utterance_is_told() -> None:
    """Audio that comes for it afterwards is refused, so no word of it slips out behind the clear."""
    timeline = Timeline()
    utterance = timeline.begin()
    assert timeline.append(b"x" * 160, utterance)
    timeline.take(0)
    timeline.clear(10)
    assert not timeline.append(b"y" * 160, utterance)
    assert timeline.end(utterance) is None
    assert all(not isinstance(item, bytes) for item in timeline.take(10))


def test_an_utterance_not_sent_at_all_is_interrupted_at_once() -> None:
    """Nothing needs to come back for what never left."""
    timeline = Timeline(lead_ms=100)
    first, second = timeline.begin(), timeline.begin()
    timeline.append(noise(SECOND), first)
    timeline.end(first)
    timeline.append(noise(SECOND), second)
    mark = timeline.end(second)
    timeline.take(0)
    timeline.clear(50)
    assert second.outcome is Outcome.INTERRUPTED
    assert second.heard_bytes == 0
    assert mark is not None
    assert mark.outcome is Outcome.INTERRUPTED


def test_without_a_fence_the_cut_is_settled_by_reckoning() -> None:
    """A peer that echoes nothing holds nobody up."""
    timeline = Timeline()
    utterance = timeline.begin()
    timeline.append(noise(2 * SECOND), utterance)
    timeline.end(utterance)
    timeline.take(0)
    timeline.clear(400)
    timeline.give_up_on_fences(900)
    assert utterance.outcome is None
    timeline.give_up_on_fences(1400)
    assert utterance.outcome is Outcome.INTERRUPTED
    assert utterance.heard_ms == 400


def test_hang_up_settles_everything_as_hung_up() -> None:
    """Sent or not, what has not come back by then never will."""
    line = Line()
    done = line.timeline.mark("done")
    utterance = line.timeline.begin()
    line.timeline.append(noise(3 * SECOND), utterance)
    end = line.timeline.end(utterance)
    line.run(1250)
    line.timeline.close(line.now)
    after = line.timeline.mark("after")
    assert done.outcome is Outcome.PLAYED
    assert end is not None
    assert end.outcome is Outcome.HUNG_UP
    assert after.outcome is Outcome.HUNG_UP
    assert utterance.outcome is Outcome.HUNG_UP
    assert utterance.heard_ms == pytest.approx(1250, abs=20)
    assert not line.timeline.append(b"z" * 160)
    assert line.timeline.take(line.now) == []


def test_reckoning_never_passes_a_mark_that_has_not_come_back() -> None:
    """When playback stalls at the far end, the heard position waits for the proof."""
    timeline = Timeline(mark_every_ms=500)
    timeline.append(noise(2 * SECOND), timeline.begin())
    timeline.take(0)
    assert timeline.heard_ms(400) == 400
    assert timeline.heard_ms(5000) == 500


def test_lost_echoes_are_made_good_by_the_next_one() -> None:
    """Marks come back in order: one that comes proves those before it."""
    timeline = Timeline(lead_ms=10_000)
    marks = []
    for n in range(3):
        timeline.append(noise(SECOND, n))
        marks.append(timeline.mark(str(n)))
    timeline.take(0)
    timeline.echo(marks[2].name, 3000)
    assert [mark.outcome for mark in marks] == [Outcome.PLAYED] * 3


def test_unknown_and_repeated_echoes_change_nothing() -> None:
    """A mark nobody sent, or one that comes twice, is counted as stale."""
    timeline = Timeline()
    mark = timeline.mark("once")
    timeline.take(0)
    assert timeline.echo("nobody__00000001", 0) is None
    assert timeline.echo(mark.name, 0) is mark
    assert timeline.echo(mark.name, 0) is None
    assert timeline.stale_echoes == 2


def test_equal_labels_never_settle_each_other() -> None:
    """The name on the wire is unique even when the user's is not."""
    timeline = Timeline()
    first, second = timeline.mark("goodbye"), timeline.mark("goodbye")
    timeline.take(0)
    timeline.echo(first.name, 0)
    assert first.outcome is Outcome.PLAYED
    assert second.outcome is None


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    """What does not fit raises with both figures; what was queued stays."""
    timeline = Timeline(limit_ms=1000)
    timeline.append(b"a" * SECOND)
    with pytest.raises(PlayoutFullError) as caught:
        timeline.append(b"b")
    assert (caught.value.queued_ms, caught.value.limit_ms) == (1000, 1000)
    assert timeline.queued_ms == 1000


def test_a_silent_peer_does_not_make_us_keep_audio_for_ever() -> None:
    """Without any echo audio older than half a minute is taken for heard and let go."""
    timeline = Timeline(lead_ms=10_000)
    for second in range(120):
        timeline.append(noise(SECOND, second))
        timeline.take(second * 1000)
    assert sum(len(audio) for _, _, audio in timeline._now.chunks) <= 33 * SECOND


def test_a_thousand_clears_leave_no_stale_audio() -> None:
    """Storm of interruptions: the caller hears of each sentence only a beginning, in order."""
    line = Line(latency_ms=20)
    for n in range(300):
        utterance = line.timeline.begin()
        line.timeline.append(noise(SECOND, n), utterance)
        line.timeline.end(utterance)
        line.run(7)
        line.timeline.clear(line.now)
    line.run(500)
    assert not line.timeline.fences_pending
    assert not list(line.timeline.pending_marks)
    assert len(line.ear) <= 300 * 9 * 8
    assert abs(len(line.reckoned) - len(line.ear)) <= 300 * 8 * 2


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 12_000)),
        st.tuples(st.just("raw"), st.integers(1, 2_000)),
        st.tuples(st.just("mark"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 900)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@example([("mark", 0), ("wait", 223), ("say", 457), ("wait", 17), ("clear", 0)], 120, 200)
@example([("mark", 0), ("wait", 1), ("clear", 0), ("say", 649), ("wait", 1), ("clear", 0)], 35, 200)
@given(OPERATIONS, st.sampled_from([0, 1, 35, 120]), st.sampled_from([200, 1000]))
def test_timeline_and_ear_agree(operations: list[tuple[str, int]], latency: int, lead: int) -> None:
    """Whatever is said, marked and cut: every settled mark and every byte counted as heard is true.

    Without a clear our account equals the ear byte for byte; each clear may cost 40 ms of certainty.
    """
    line = Line(latency_ms=latency, lead_ms=lead)
    utterances, marks, clears = [], [], 0
    for number, (operation, size) in enumerate(operations):
        if operation == "say":
            utterance = line.timeline.begin()
            line.timeline.append(noise(size, number), utterance)
            line.timeline.end(utterance)
            utterances.append(utterance)
        elif operation == "raw":
            line.timeline.append(noise(size, number))
        elif operation == "mark":
            marks.append(line.timeline.mark("m"))
        elif operation == "wait":
            line.run(size)
        else:
            line.timeline.clear(line.now)
            clears += 1
    line.timeline.mark("last")  # raw audio behind the last mark is proven by nothing
    line.run(sum(size for kind, size in operations if kind in ("say", "raw")) / 8 + 4 * latency + 1100)
    assert all(utterance.outcome in (Outcome.PLAYED, Outcome.INTERRUPTED) for utterance in utterances)
    assert all(mark.outcome is not None for mark in marks)
    assert not line.timeline.fences_pending
    if not clears:
        assert line.reckoned == line.ear
        assert all(utterance.outcome is Outcome.PLAYED for utterance in utterances)
    else:
        assert abs(len(line.reckoned) - len(line.ear)) <= clears * 40 * 8
    assert line.timeline.heard_ms(line.now) == pytest.approx(len(line.reckoned) / 8, abs=0.2)


# -- the leg is gone and another comes ----------------------------------------------------------------------------


def lose(line: Line, away_ms: float = 0.0) -> None:
    """The stream breaks: what is under way and what Twilio has buffered is gone. The next one comes ``away_ms``
    later."""
    line.run(0)
    line._network.clear()
    line.buffer = PlaybackBuffer()
    line.timeline.suspend(line.now)
    line.now += away_ms


def speech(size: int, seed: int) -> bytes:
    """Noise that is never silence, nor raw audio."""
    return bytes(1 + byte % 100 for byte in noise(size, seed))


def raw(size: int, seed: int) -> bytes:
    """Noise that is never silence, nor speech."""
    return bytes(128 + byte % 100 for byte in noise(size, seed))


def test_an_utterance_goes_on_where_the_ear_was() -> None:
    """Once, whole, and its end mark tells the truth."""
    line = Line()
    utterance = line.timeline.begin()
    line.timeline.append(noise(3 * SECOND), utterance)
    end = line.timeline.end(utterance)
    line.run(1234)
    lose(line, 5000)
    assert utterance.outcome is None
    assert end is not None
    assert end.outcome is None
    assert line.timeline.heard_of(utterance, line.now) == pytest.approx(1234, abs=1)
    assert line.timeline.pending_ms(line.now) == pytest.approx(1766, abs=1)
    line.run(1700)
    assert utterance.outcome is None
    line.run(100)
    assert [settled.outcome for settled in (utterance, end)] == [Outcome.PLAYED, Outcome.PLAYED]
    assert utterance.heard_ms == 3000
    assert line.ear == line.reckoned == noise(3 * SECOND)


def test_nothing_of_a_lost_leg_is_waited_for() -> None:
    """Marks and fences that were on its wire cannot come back; those of the user wait behind what is said again."""
    line = Line()
    line.timeline.append(noise(SECOND))
    line.run(100)
    line.timeline.clear(line.now)
    line.timeline.take(line.now)
    assert line.timeline.fences_pending
    utterance = line.timeline.begin()
    line.timeline.append(speech(SECOND, 1), utterance)
    line.timeline.end(utterance)
    mark = line.timeline.mark("mine")
    line.timeline.take(line.now)
    lose(line)
    assert not line.timeline.fences_pending
    assert list(line.timeline.pending_marks) == []
    assert mark.outcome is None
    line.run(1100)
    assert mark.outcome is Outcome.PLAYED
    assert list(line.timeline.pending_marks) == []
    assert not line.timeline._by_name


def test_raw_audio_becomes_silence_before_what_follows_it() -> None:
    """It was not kept; what is behind it, and a mark within it, come when they would have."""
    line = Line()
    line.timeline.on_heard = None  # nobody records, so that nothing of raw audio is kept
    line.timeline.append(raw(2400, 1))
    mark = line.timeline.mark("within")
    line.timeline.append(raw(1600, 1))
    line.run(0)
    utterance = line.timeline.begin()
    line.timeline.append(speech(2400, 2), utterance)
    line.timeline.end(utterance)
    line.run(100)
    lose(line)
    assert line.timeline.queued_ms == 700
    line.run(199)
    assert mark.outcome is None
    line.run(2)
    assert mark.outcome is Outcome.PLAYED
    line.run(1000)
    assert line.ear == raw(2400, 1)[:800] + b"\xff" * 3200 + speech(2400, 2)
    assert utterance.outcome is Outcome.PLAYED
    assert line.timeline.queued_ms == 0


def test_raw_audio_that_nothing_follows_is_let_go() -> None:
    """Nobody waits for it, and silence says nothing; what was not sent yet is heard."""
    line = Line()
    line.timeline.on_heard = None
    line.timeline.append(raw(2 * SECOND, 1))
    line.run(500)
    lose(line)
    line.run(3000)
    assert line.ear == raw(2 * SECOND, 1)[:4000] + raw(2 * SECOND, 1)[12_000:]
    assert line.timeline.pending_ms(line.now) == 0


def test_a_mark_within_what_was_not_heard_keeps_its_place() -> None:
    """Also inside audio that left as one message."""
    line = Line()
    utterance = line.timeline.begin()
    line.timeline.append(speech(4000, 1), utterance)
    between = line.timeline.mark("between")
    line.timeline.append(speech(4000, 2), utterance)
    line.timeline.end(utterance)
    line.run(200)
    lose(line)
    line.run(299)
    assert between.outcome is None
    line.run(2)
    assert between.outcome is Outcome.PLAYED
    assert len(line.ear) == pytest.approx(4000, abs=16)
    line.run(600)
    assert line.ear == speech(4000, 1) + speech(4000, 2)


def test_a_clear_between_two_legs_drops_what_waits() -> None:
    """The caller hears nothing of it on the next one."""
    line = Line()
    utterance = line.timeline.begin()
    line.timeline.append(speech(2 * SECOND, 1), utterance)
    line.timeline.end(utterance)
    line.run(500)
    lose(line)
    assert line.timeline.clear(line.now) == pytest.approx(1500, abs=1)
    assert utterance.outcome is Outcome.INTERRUPTED
    assert utterance.heard_ms == pytest.approx(500, abs=1)
    line.run(2000)
    assert len(line.ear) == pytest.approx(4000, abs=8)


def test_an_utterance_under_way_grows_on_across_the_seam() -> None:
    """A voice that is still being made when the stream breaks is heard whole."""
    line = Line()
    utterance = line.timeline.begin()
    line.timeline.append(speech(4000, 1), utterance)
    line.run(200)
    lose(line)
    assert line.timeline.append(speech(4000, 2), utterance)
    line.timeline.end(utterance)
    line.run(1000)
    assert line.ear == speech(4000, 1) + speech(4000, 2)
    assert utterance.outcome is Outcome.PLAYED


def test_losing_the_leg_of_a_call_that_is_over_changes_nothing() -> None:
    """Everything is settled already."""
    line = Line()
    line.timeline.append(noise(SECOND))
    line.run(100)
    line.timeline.close(line.now)
    line.timeline.suspend(line.now)
    assert line.timeline.take(line.now) == []


LOSSES = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 700)),
        st.tuples(st.just("raw"), st.integers(1, 300)),
        st.tuples(st.just("mark"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 900)),
        st.tuples(st.just("lose"), st.integers(0, 3_000)),
    ),
    max_size=14,
)
NOT_SPEECH, NOT_RAW = bytes(range(128, 256)), bytes([*range(128), 255])


@settings(max_examples=150, deadline=None)
@given(LOSSES, st.sampled_from([200, 1000]), st.booleans())
def test_nothing_is_heard_twice_and_nothing_unheard_is_lost(
    operations: list[tuple[str, int]], lead: int, recorded: bool
) -> None:
    """However often the stream breaks: every utterance is heard once, in order, to the byte; raw audio is never heard
    twice; marks come back in their order, each once, and not before what stands in front of them was heard."""
    line = Line(lead_ms=lead)
    if not recorded:
        line.timeline.on_heard = None
    said, uttered, utterances = b"", b"", []
    before: dict[str, int] = {}  # label of a mark -> the speech in front of it
    for number, (operation, ms) in enumerate(operations):
        if operation == "say":
            utterance = line.timeline.begin()
            line.timeline.append(speech(ms * 8, number), utterance)
            line.timeline.end(utterance)
            utterances.append(utterance)
            said += speech(ms * 8, number)
        elif operation == "raw":
            line.timeline.append(raw(ms * 8, number))
            uttered += raw(ms * 8, number)
        elif operation == "mark":
            before[line.timeline.mark(f"m{number}").label] = len(said)
        elif operation == "wait":
            line.run(ms)
        else:
            lose(line, ms)
        heard = len(line.ear.translate(None, NOT_SPEECH))
        assert all(heard >= before[mark.label] for mark in line.settled if mark.label in before)
    line.timeline.mark("last")
    line.run((len(said) + len(uttered)) / 8 + 100)
    ear = line.ear
    assert ear.translate(None, NOT_SPEECH) == said
    rest = iter(uttered)
    assert all(byte in rest for byte in ear.translate(None, NOT_RAW))  # a subsequence: nothing twice
    assert {(utterance.outcome, utterance.heard_bytes == utterance.queued_bytes) for utterance in utterances} <= {
        (Outcome.PLAYED, True)
    }
    assert [mark.label for mark in line.settled if mark.label in before] == list(before)
    assert {mark.outcome for mark in line.settled} == {Outcome.PLAYED}
    assert not line.timeline._by_name
    assert line.timeline.pending_ms(line.now) == 0
    if recorded:
        assert line.reckoned == ear
    if not uttered:
        assert ear == said


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8_000), st.integers(1, 900)), min_size=1, max_size=5),
    st.sampled_from([1, 20, 60, 120]),
)
def test_a_slow_network_costs_its_own_delay_at_most(pieces: list[tuple[int, int]], latency: int) -> None:
    """How exactly it is known where the ear was, at each loss: by one way through the network."""
    line = Line(latency_ms=latency)
    resumed_at = heard_before = 0
    for number, (size, wait) in enumerate(pieces):
        utterance = line.timeline.begin()
        line.timeline.append(speech(size, number), utterance)
        line.timeline.end(utterance)
        line.run(wait)
        lose(line)
        ear = resumed_at + len(line.ear) - heard_before
        resumed_at, heard_before = line.timeline._now.sent, len(line.ear)
        assert abs(resumed_at - ear) <= (latency + 1) * 8
