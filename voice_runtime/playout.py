"""What is said to the caller, on one timeline: audio, marks and clears in one order, and how much of it was heard.

Pure: no threads, no loop, no clock. Time comes in as ``now_ms``, positions are bytes of 8 kHz μ-law (8 per
ms). The owner serialises the calls (:mod:`voice_runtime.bridge` holds the lock).

How Twilio plays, and what follows (https://www.twilio.com/docs/voice/media-streams/websocket-messages):

* It buffers what we send and plays it in order at 8 bytes per ms; when the buffer runs dry it is silent. So we send
  ahead of real time by ``lead_ms`` and no stall of ours shorter than that is ever audible.
* A mark comes back when everything before it was played, and also when a clear flushes it. So marks are the only
  proof of hearing, and those that come back after a clear prove nothing by themselves.
* A clear is not acknowledged. So a *fence* mark follows it: when the fence comes back, the clear has been carried
  out. What the caller had heard by then is what our reckoning says for that very moment, because it is kept as the
  echoes show it: later than the ear by the same way through the network that the fence has taken.

A *generation* is what lies between two clears. Each has its own positions; a cut generation stays known until its
fence comes back.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator

from .audio.frames import BYTES_PER_MS
from .audio.g711 import ULAW_SILENCE
from .events import Outcome, Word
from .exceptions import PlayoutFullError

__all__ = ["CLEAR", "Clear", "Mark", "Timeline", "Utterance"]

_MESSAGE_BYTES = 800
"""100 ms: as cheap per byte as it gets, while a clear still finds little on its way."""
_TOLERANCE_BYTES = 160
"""One frame: how exact the reckoning of the play position is between two marks."""
_PROGRESS = "at"
_RAW_MARKS = 4
"""Audio that belongs to no utterance gets progress marks that many times as far apart: nobody waits for them."""
_ASSUME_HEARD_AFTER_MS = 30_000
"""A peer that never echoes marks must not make us keep its audio for ever."""
_ROUNDING_MS = 0.01
_LONG_AGO = -1e12
_LONGEST_ROUND_TRIP_MS = 2000.0


class Clear:
    """The order to drop everything that was sent and not yet played."""


CLEAR = Clear()


class Mark:
    """A place on the timeline. ``name`` is what stands on the wire, ``label`` what the user called it.

    ``outcome`` is None until the mark is settled; ``position`` counts bytes within its generation.
    """

    __slots__ = ("due_ms", "generation", "label", "name", "outcome", "position", "progress", "sent_ms", "utterance")

    def __init__(self, label: str, name: str, generation: _Generation, utterance: Utterance | None) -> None:
        self.label = label
        self.progress = False
        """Our own, put between audio: nobody waits for it."""
        self.name = name
        self.generation = generation
        self.utterance = utterance
        self.position = 0
        self.sent_ms = 0.0
        self.due_ms = 0.0  # when it would come back through a network that takes no time
        self.outcome: Outcome | None = None


class Utterance:
    """Something said as a whole: a span of audio with an end mark.

    ``outcome`` is None while it is on its way; afterwards ``heard_bytes`` is final.
    """

    __slots__ = ("_generation", "ended", "heard_bytes", "outcome", "queued_bytes", "start", "words")

    def __init__(self, generation: _Generation) -> None:
        self._generation = generation
        self.start = generation.appended
        self.queued_bytes = 0
        self.heard_bytes = 0
        self.outcome: Outcome | None = None
        self.ended = False
        """Whether its end mark is queued."""
        self.words: list[Word] = []

    @property
    def heard_ms(self) -> float:
        return self.heard_bytes / BYTES_PER_MS

    @property
    def duration_ms(self) -> float:
        """How much audio of it was queued so far."""
        return self.queued_bytes / BYTES_PER_MS


class _Generation:
    """What lies between two clears."""

    __slots__ = (
        "appended",
        "buffer_end_ms",
        "chunks",
        "confirmed",
        "cut_at_ms",
        "dropped",
        "marks",
        "play_end_ms",
        "run_start",
        "sent",
        "utterances",
    )

    def __init__(self) -> None:
        self.appended = 0
        self.sent = 0
        self.confirmed = 0
        self.buffer_end_ms = _LONG_AGO  # when Twilio runs dry, if what we send is there at once: paces the sending
        self.play_end_ms = _LONG_AGO  # when the echo of everything sent would be here: reckons the hearing
        self.run_start = 0  # where the audio began that was sent since Twilio last ran dry
        self.marks: deque[Mark] = deque()  # sent and not yet come back
        self.chunks: deque[tuple[int, float, bytes]] = deque()  # sent, not yet heard: position, when it plays, audio
        self.utterances: deque[Utterance] = deque()  # not yet settled
        self.dropped: list[bytes] = []  # never sent, because of a clear
        self.cut_at_ms: float | None = None

    def reckoned(self, now_ms: float) -> int:
        """Where playback stands by dead reckoning from the last echo."""
        ahead = int((self.play_end_ms - now_ms) * BYTES_PER_MS)
        return max(self.confirmed, min(self.sent, self.sent - ahead)) if self.sent else 0

    def played(self, now_ms: float) -> int:
        """The same, but never past a mark that has not come back."""
        position = self.reckoned(now_ms)
        return min(position, self.marks[0].position) if self.marks else position


class Timeline:
    """The ordered queue of a call. It outlives a lost leg (:meth:`suspend`) and ends with :meth:`close`.

    Args:
        lead_ms: how far ahead of the caller's ear audio is handed to the wire. At least the longest stall of the
            event loop that must stay inaudible; more makes a clear later by nothing, only its message smaller.
        mark_every_ms: distance of the progress marks within audio.
        limit_ms: most audio that may wait to be sent; beyond it :class:`PlayoutFullError`.
        on_settled: called with each mark when its outcome is known.
        on_heard: called with (``at_ms``, audio) for every stretch of audio when it is known to have been heard;
            ``at_ms`` is when it began to play, on the caller's ``now_ms`` scale.
    """

    __slots__ = (
        "_by_name",
        "_cut",
        "_fences",
        "_heard_before",
        "_limit_bytes",
        "_mark_every",
        "_names",
        "_now",
        "_queued_bytes",
        "_round_trip_known",
        "_round_trip_ms",
        "_since_mark",
        "_unheard",
        "closed",
        "lead_ms",
        "on_heard",
        "on_settled",
        "outgoing",
        "stale_echoes",
    )

    def __init__(
        self,
        *,
        lead_ms: float = 1000,
        mark_every_ms: float = 500,
        limit_ms: float = 600_000,
        on_settled: Callable[[Mark], None] | None = None,
        on_heard: Callable[[float, bytes], None] | None = None,
    ) -> None:
        self.lead_ms = lead_ms
        self._limit_bytes = limit_ms * BYTES_PER_MS
        self.on_settled = on_settled
        self.on_heard = on_heard
        self.closed = False
        self.stale_echoes = 0
        """Marks that came back and were unknown, or settled before: flushed ones after a clear are normal."""
        self._unheard: list[bytes] = []
        self._mark_every = int(mark_every_ms * BYTES_PER_MS)
        self._since_mark = 0
        self.outgoing: deque[bytes | Mark | Clear] = deque()
        """What waits to be sent. Others may look whether there is anything, and no more."""
        self._queued_bytes = 0
        self._now = _Generation()
        self._cut: deque[_Generation] = deque()
        self._names = itertools.count(1)
        self._by_name: dict[str, Mark] = {}
        self._fences: dict[Mark, _Generation] = {}
        self._round_trip_ms = 0.0  # of a message and its echo
        self._round_trip_known = False
        self._heard_before = 0  # bytes heard in generations that are done with

    # -- what the call code puts on it ----------------------------------------------------------------------------

    @property
    def queued_ms(self) -> float:
        """Audio that waits to be sent."""
        return self._queued_bytes / BYTES_PER_MS

    def append(self, audio: bytes | bytearray | memoryview, utterance: Utterance | None = None) -> bool:
        """Queue μ-law audio of any length. False, and nothing queued, when the utterance is already settled
        (a clear came in between: its producer shall stop) or the leg is over.

        Raises:
            PlayoutFullError: the queue would exceed ``limit_ms``.
            TypeError: not bytes.
        """
        if self.closed or (utterance is not None and utterance._generation is not self._now):
            return False
        if type(audio) is not bytes:
            if not isinstance(audio, (bytes, bytearray, memoryview)):
                raise TypeError(f"audio must be μ-law bytes, not {type(audio).__name__!r}")
            audio = bytes(audio)
        size = len(audio)
        if self._queued_bytes + size > self._limit_bytes:
            raise PlayoutFullError(self.queued_ms, self._limit_bytes / BYTES_PER_MS)
        if size <= _MESSAGE_BYTES:
            if size:
                self.outgoing.append(audio)
        else:
            self.outgoing.extend(audio[i : i + _MESSAGE_BYTES] for i in range(0, size, _MESSAGE_BYTES))
        self._queued_bytes += size
        if utterance is not None:
            if not utterance.queued_bytes:
                utterance.start = self._now.appended  # others may have queued audio since it was begun
            utterance.queued_bytes += size
        self._now.appended += size
        return True

    def begin(self) -> Utterance:
        """Start an utterance at the end of the queue."""
        utterance = Utterance(self._now)
        if self.closed:
            utterance.outcome = Outcome.HUNG_UP
        else:
            self._now.utterances.append(utterance)
        return utterance

    def end(self, utterance: Utterance, label: str = "end") -> Mark | None:
        """No more audio of it will come: its end mark goes behind. None when it has one, or is already settled."""
        if utterance.ended or utterance.outcome is not None or utterance._generation is not self._now:
            return None
        utterance.ended = True
        return self._queue_mark(Mark(label, self._name(label), self._now, utterance))

    def mark(self, label: str) -> Mark:
        """Queue a mark. On a leg that is over it is settled at once."""
        return self._queue_mark(Mark(label, self._name(label), self._now, None))

    def _queue_mark(self, mark: Mark) -> Mark:
        if self.closed:
            self._settle(mark, Outcome.HUNG_UP)
        else:
            self.outgoing.append(mark)
        return mark

    def _name(self, label: str) -> str:
        return f"{label}__{next(self._names):08x}"

    def clear(self, now_ms: float) -> float:
        """Drop everything not yet heard; the clear goes to the head. Returns the unheard audio (ms) it drops.

        What was queued but not sent is settled at once as interrupted; what was sent is settled when the fence
        comes back (or by :meth:`give_up_on_fences`).
        """
        if self.closed:
            return 0.0
        old = self._now
        unheard = old.appended - old.played(now_ms)
        control: list[bytes | Mark | Clear] = []
        unsent: list[Mark] = []
        for item in self.outgoing:
            if isinstance(item, bytes):
                old.dropped.append(item)
            elif isinstance(item, Clear) or item in self._fences:
                control.append(item)  # of an earlier clear, not sent yet: its turn comes all the same
            else:
                unsent.append(item)
        self.outgoing.clear()
        self._queued_bytes = 0
        self._since_mark = 0
        self.outgoing.extend(control)
        self.outgoing.append(CLEAR)
        self._now = _Generation()
        old.cut_at_ms = now_ms
        if old.sent > old.confirmed or old.marks:
            fence = Mark("clear", self._name("clear"), old, None)
            self._fences[fence] = old
            self.outgoing.append(fence)
            self._cut.append(old)
            for utterance in old.utterances:
                if utterance.start >= old.sent:
                    utterance.outcome = Outcome.INTERRUPTED
        else:
            self._finish(old, old.sent, Outcome.INTERRUPTED, proven=True)
        for mark in unsent:
            self._settle(mark, Outcome.INTERRUPTED)
        return unheard / BYTES_PER_MS

    # -- what the wire takes from it ------------------------------------------------------------------------------

    def take(self, now_ms: float) -> list[bytes | Mark | Clear]:
        """Everything that is due to be sent now, in order. Counts as sent from here on."""
        out: list[bytes | Mark | Clear] = []
        queue = self.outgoing
        generation = self._now
        while queue:
            item = queue[0]
            if not isinstance(item, bytes):
                out.append(self._take_control(now_ms))
                continue
            if generation.buffer_end_ms > now_ms and self._room_in_ms(len(item), now_ms):
                break
            queue.popleft()
            if queue and isinstance(queue[0], bytes):
                item = self._merged(item)
            out.append(item)
            if self._sent(item, now_ms) >= self._mark_every:
                self._add_progress_mark(out, now_ms)
        return out

    def _assume_heard(self, generation: _Generation, now_ms: float) -> None:
        """The peer echoes no marks: let go of what must have been played long ago, but of no mark waited for."""
        self._hear(generation, generation.reckoned(now_ms - _ASSUME_HEARD_AFTER_MS))
        while generation.marks and generation.marks[0].position <= generation.confirmed:
            mark = generation.marks[0]
            if not mark.progress:
                break
            self._by_name.pop(mark.name, None)
            generation.marks.popleft()

    def _add_progress_mark(self, out: list[bytes | Mark | Clear], now_ms: float) -> None:
        if self.outgoing and isinstance(self.outgoing[0], Mark):
            return  # one comes anyway
        if not self._now.utterances and self._since_mark < _RAW_MARKS * self._mark_every:
            return
        self._since_mark = 0
        marks = self._now.marks
        if marks and marks[0].due_ms < now_ms - _ASSUME_HEARD_AFTER_MS:
            self._assume_heard(self._now, now_ms)
        progress = Mark(_PROGRESS, self._name(_PROGRESS), self._now, None)
        progress.progress = True
        self._send_mark(progress, now_ms)
        out.append(progress)

    def pull(self, now_ms: float, *, audio: bool) -> bytes | Mark | Clear | None:
        """The next item alone, whatever the lead; None when there is none, or when it is audio and ``audio`` is
        False. For transports that fetch audio and marks separately."""
        if not self.outgoing:
            return None
        item = self.outgoing[0]
        if not isinstance(item, bytes):
            return self._take_control(now_ms)
        if not audio:
            return None
        self.outgoing.popleft()
        self._sent(item, now_ms)
        return item

    def _sent(self, audio: bytes, now_ms: float) -> int:
        """Account for audio that leaves now; returns how much has left since the last mark (bytes)."""
        generation = self._now
        size = len(audio)
        length_ms = size / BYTES_PER_MS
        sent = generation.sent
        generation.sent = sent + size
        starts = now_ms + self._round_trip_ms
        if generation.play_end_ms > starts:
            starts = generation.play_end_ms
        generation.play_end_ms = starts + length_ms
        if generation.buffer_end_ms <= now_ms:
            generation.buffer_end_ms = now_ms + length_ms
            generation.run_start = sent
        else:
            generation.buffer_end_ms += length_ms
        if generation.utterances or self.on_heard is not None:
            generation.chunks.append((sent, starts, audio))
        self._queued_bytes -= size
        self._since_mark = since_mark = self._since_mark + size
        return since_mark

    def _take_control(self, now_ms: float) -> Mark | Clear:
        item = self.outgoing.popleft()
        assert not isinstance(item, bytes)
        if isinstance(item, Mark):
            self._since_mark = 0
            self._send_mark(item, now_ms)
        return item

    def _merged(self, first: bytes) -> bytes:
        parts = [first]
        size = len(first)
        queue = self.outgoing
        while queue:
            following = queue[0]
            if not isinstance(following, bytes) or size + len(following) > _MESSAGE_BYTES:
                break
            parts.append(following)
            size += len(following)
            queue.popleft()
        return b"".join(parts)

    def _send_mark(self, mark: Mark, now_ms: float) -> None:
        self._by_name[mark.name] = mark
        mark.sent_ms = mark.due_ms = now_ms
        if mark not in self._fences:
            generation = mark.generation
            mark.position = generation.sent
            mark.due_ms = max(generation.buffer_end_ms, now_ms)
            generation.marks.append(mark)

    def due_in_ms(self, now_ms: float) -> float | None:
        """How long until :meth:`take` has more to give; None while the queue is empty."""
        if not self.outgoing:
            return None
        item = self.outgoing[0]
        return self._room_in_ms(len(item), now_ms) if isinstance(item, bytes) else 0.0

    def _room_in_ms(self, size: int, now_ms: float) -> float:
        """How long until so much more audio fits into the lead (more than the lead fits when nothing else waits)."""
        buffered_ms = self._now.buffer_end_ms - now_ms
        if buffered_ms <= 0:
            return 0.0
        wait_ms = min(buffered_ms, buffered_ms + size / BYTES_PER_MS - self.lead_ms)
        return wait_ms if wait_ms > _ROUNDING_MS else 0.0

    # -- what comes back ------------------------------------------------------------------------------------------

    def echo(self, name: str, now_ms: float) -> Mark | None:
        """A mark came back; ``now_ms`` is when it left Twilio, as well as that is known. None when it means nothing
        (never sent, or settled already)."""
        mark = self._by_name.pop(name, None)
        if mark is None:
            self.stale_echoes += 1
            return None
        generation = mark.generation
        if mark in self._fences:
            del self._fences[mark]
            self._note_round_trip(mark, now_ms)
            self._finish_cut(generation, generation.reckoned(now_ms), proven=True)
            return mark
        if mark.outcome is not None:
            return None
        if generation.cut_at_ms is not None:
            at_ms = now_ms if self._round_trip_known else generation.cut_at_ms
            if mark.position > generation.reckoned(at_ms) + _TOLERANCE_BYTES:
                return None  # flushed by the clear: the fence will settle it
        else:
            self._note_round_trip(mark, now_ms)
        while generation.marks:
            earlier = generation.marks.popleft()
            generation.confirmed = earlier.position
            self._by_name.pop(earlier.name, None)
            self._hear(generation, earlier.position)
            self._settle(earlier, Outcome.PLAYED)
            if earlier is mark:
                break
        if generation.cut_at_ms is None:
            end_ms = now_ms + (generation.sent - mark.position) / BYTES_PER_MS
            if mark.position <= generation.run_start:  # silence lies between: the rest plays when it gets there
                end_ms = max(end_ms, generation.buffer_end_ms + self._round_trip_ms)
            generation.play_end_ms = end_ms
        return mark

    def _note_round_trip(self, mark: Mark, now_ms: float) -> None:
        """The shortest one counts; it may grow by a millisecond a mark, should the network become slower."""
        sample = max(0.0, min(now_ms - mark.due_ms, _LONGEST_ROUND_TRIP_MS))
        if self._round_trip_known:
            self._round_trip_ms = min(sample, self._round_trip_ms + 1.0)
            return
        self._round_trip_ms = sample
        self._round_trip_known = True
        for generation in (self._now, *self._cut):  # without an echo so far these were reckoned from the sending
            generation.play_end_ms += sample

    def give_up_on_fences(self, now_ms: float, older_than_ms: float = 1000) -> None:
        """Settle what was cut longer ago than this: the fence did not come back (a peer that echoes no marks)."""
        for fence, generation in list(self._fences.items()):
            cut_at_ms = generation.cut_at_ms
            if cut_at_ms is not None and now_ms - cut_at_ms >= older_than_ms:
                del self._fences[fence]
                self._by_name.pop(fence.name, None)
                self._finish_cut(generation, generation.played(cut_at_ms), proven=False)

    @property
    def fences_pending(self) -> bool:
        """Whether a clear waits for its fence."""
        return bool(self._fences)

    def suspend(self, now_ms: float) -> None:
        """The leg is gone and another will come: what the caller has not heard, by our reckoning, goes back to the
        head of the queue, with its marks. Twilio drops what it had buffered.

        Audio that belongs to no utterance was not kept: silence takes its place where something follows it.
        """
        if self.closed:
            return
        waiting = [item for item in self.outgoing if not isinstance(item, Clear) and item not in self._fences]
        for fence in self._fences:
            self._by_name.pop(fence.name, None)
        self._fences.clear()
        for cut in list(self._cut):
            self._finish_cut(cut, cut.played(now_ms), proven=False)
        generation = self._now
        position = generation.played(now_ms)
        if not generation.chunks and all(mark.progress for mark in generation.marks):
            position = generation.sent
        self._hear(generation, position)
        again: list[bytes | Mark] = []
        chunks, marks = generation.chunks, generation.marks
        at = position
        while at < generation.sent or marks:
            if marks and marks[0].position <= at:
                mark = marks.popleft()
                self._by_name.pop(mark.name, None)
                if not mark.progress:
                    again.append(mark)
                continue
            if chunks and chunks[0][0] <= at:
                _, _, audio = chunks.popleft()
            else:
                bound = min([generation.sent, *(start for start, _, _ in list(chunks)[:1])])
                audio = bytes([ULAW_SILENCE]) * (bound - at)
            if marks and marks[0].position < at + len(audio):
                keep = marks[0].position - at
                chunks.appendleft((at + keep, _LONG_AGO, audio[keep:]))
                audio = audio[:keep]
            again.append(audio)
            at += len(audio)
        self.outgoing.clear()
        self.outgoing.extend(again)
        self.outgoing.extend(waiting)
        self._queued_bytes += generation.sent - position
        generation.sent = generation.run_start = position
        generation.confirmed = max(generation.confirmed, position)
        generation.buffer_end_ms = generation.play_end_ms = _LONG_AGO
        self._since_mark = 0

    def close(self, now_ms: float) -> None:
        """The leg is over: everything pending is settled as hung up, at the position reached by now."""
        if self.closed:
            return
        self.closed = True
        self._fences.clear()
        for generation in list(self._cut):
            self._finish_cut(generation, generation.played(now_ms), proven=False)
        unsent = [item for item in self.outgoing if isinstance(item, Mark)]
        self.outgoing.clear()
        self._queued_bytes = 0
        self._finish(self._now, self._now.played(now_ms), Outcome.HUNG_UP, proven=False)
        for mark in unsent:
            self._settle(mark, Outcome.HUNG_UP)
        self._by_name.clear()

    # -- what was heard -------------------------------------------------------------------------------------------

    def heard_ms(self, now_ms: float) -> float:
        """How much audio the caller has heard on this timeline."""
        cut = sum(generation.played(now_ms) for generation in self._cut)
        current = 0 if self.closed else self._now.played(now_ms)
        return (self._heard_before + cut + current) / BYTES_PER_MS

    def heard_of(self, utterance: Utterance, now_ms: float) -> float:
        """How much (ms) of an utterance has been heard by now."""
        if utterance.outcome is not None:
            return utterance.heard_ms
        position = utterance._generation.played(now_ms)
        return max(0, min(position - utterance.start, utterance.queued_bytes)) / BYTES_PER_MS

    def pending_ms(self, now_ms: float) -> float:
        """Audio the caller has still to hear: queued, or sent and not yet played."""
        return (self._now.appended - self._now.played(now_ms)) / BYTES_PER_MS

    @property
    def unheard(self) -> bytes:
        """What the last clear took from the caller's ear: to be said again, should the interruption turn out to be
        none. Audio that belongs to no utterance is not kept once it was sent."""
        return b"".join(self._unheard)

    @property
    def pending_marks(self) -> Iterator[Mark]:
        """Marks on the wire that have not come back, oldest first (for a status page, or a test)."""
        return iter([mark for mark in self._by_name.values() if mark.outcome is None])

    def _hear(self, generation: _Generation, position: int) -> None:
        generation.confirmed = max(generation.confirmed, position)
        chunks = generation.chunks
        on_heard = self.on_heard
        while chunks and chunks[0][0] < position:
            start, at_ms, audio = chunks.popleft()
            if start + len(audio) > position:
                keep = position - start
                chunks.appendleft((position, at_ms + keep / BYTES_PER_MS, audio[keep:]))
                audio = audio[:keep]
            if on_heard is not None:
                on_heard(at_ms, audio)

    def _finish_cut(self, generation: _Generation, position: int, *, proven: bool) -> None:
        self._cut.remove(generation)
        self._finish(generation, position, Outcome.INTERRUPTED, proven=proven)

    def _finish(self, generation: _Generation, position: int, outcome: Outcome, *, proven: bool) -> None:
        """Nothing more of this generation will be heard than up to ``position``. Only where that was proven by the
        wire do marks before it count as played."""
        position = max(position, generation.confirmed)
        self._hear(generation, position)
        self._heard_before += position
        marks = list(generation.marks)
        generation.marks.clear()
        if outcome is Outcome.INTERRUPTED:
            self._unheard = [*(audio for _, _, audio in generation.chunks), *generation.dropped]
        generation.chunks.clear()
        generation.dropped.clear()
        for mark in marks:
            self._by_name.pop(mark.name, None)
            self._settle(mark, Outcome.PLAYED if proven and mark.position <= position else outcome)
        while generation.utterances:
            utterance = generation.utterances.popleft()
            utterance.heard_bytes = max(0, min(position - utterance.start, utterance.queued_bytes))
            utterance.outcome = outcome

    def _settle(self, mark: Mark, outcome: Outcome) -> None:
        mark.outcome = outcome
        utterance = mark.utterance
        if utterance is not None and utterance.outcome is None and outcome is Outcome.PLAYED:
            utterance.outcome = outcome
            utterance.heard_bytes = utterance.queued_bytes
            try:
                utterance._generation.utterances.remove(utterance)
            except ValueError:
                pass
        if self.on_settled is not None:
            self.on_settled(mark)
