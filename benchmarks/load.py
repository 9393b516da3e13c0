"""The load generator, a process of its own: ``python -m benchmarks.load echo|listen|sequential``.

Prints one line of JSON. Three kinds of callers:

* *echo*: many calls at once, each sends a numbered frame every 20 ms and checks what comes back;
* *listen*: one call that only listens, and keeps the books of the far end's buffer;
* *sequential*: short calls, each begun when the one before has gone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import itertools
import json
import struct
import time
import urllib.request
from array import array
from binascii import a2b_base64, b2a_base64
from collections import deque
from typing import Any

import uvloop

from .processes import cpu_seconds, resident_kib, waited_seconds
from .wire import CONNECTED, FRAME_BYTES, TextClient, connect, mark_text, start_text, stop_text

__all__ = ["EchoCaller", "FarEnd", "Metronome", "main"]

_FRAME_US = 20_000
_HEADER = struct.Struct(
    ">III"
)  # call, number of the frame, when it was sent (µs, modulo 2^32); 12 bytes: 16 in base64
_TAIL = bytes(range(0x40, 0x40 + FRAME_BYTES - _HEADER.size))
_TAIL_BASE64 = base64.b64encode(_TAIL)
_MASK32 = 0xFFFF_FFFF
_FILL_US = 500_000


def _now_us() -> int:
    return time.perf_counter_ns() // 1000


def _payload(message: bytes) -> bytes | None:
    """The audio of a media message, whatever spaces its JSON has; None for any other message."""
    key = message.find(b'"payload"')
    if key < 0:
        return None
    start = message.index(b'"', message.index(b":", key + 9)) + 1
    return a2b_base64(message[start : message.index(b'"', start)])


def _mark_name(message: bytes) -> str | None:
    parsed = json.loads(message)
    return str(parsed["mark"]["name"]) if parsed["event"] == "mark" else None


class FarEnd:
    """The buffer at the far end: it plays what came in order, 8 bytes per ms, from the moment it came."""

    __slots__ = ("play_end_us",)

    def __init__(self) -> None:
        self.play_end_us = 0

    def audio(self, size: int, now_us: int) -> None:
        self.play_end_us = max(self.play_end_us, now_us) + size * 125


class EchoCaller(TextClient):
    """One call of the echo load.

    Attributes:
        sent, received: frames.
        missing: numbers that were skipped. reordered: numbers that came after a higher one, or twice.
        damaged: frames with other bytes than were sent.
        latencies_us: of the frames that came back while ``measuring``.
    """

    measuring = False

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.call_sid = f"CA{index:032x}"
        self.stream_sid = f"MZ{index:032x}"
        self.sent = self.received = self.missing = self.reordered = self.damaged = self.marks_echoed = 0
        self.first: int | None = None
        self.latencies_us = array("L")
        self._expected = 0
        self._sequence = 1
        self._far_end = FarEnd()
        self._marks: deque[tuple[int, str]] = deque()  # when each has been played
        self._template = (
            b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d",'
            b'"payload":"%b' + _TAIL_BASE64 + b'"},"streamSid":"' + self.stream_sid.encode() + b'"}'
        )

    def begin(self) -> None:
        self.send_text(CONNECTED)
        self.send_text(start_text(self.call_sid, self.stream_sid))

    def beat(self) -> None:
        """20 ms have passed: echo the marks whose audio has been played, and send a frame."""
        now_us = _now_us()
        marks = self._marks
        while marks and marks[0][0] <= now_us:
            self._sequence += 1
            self.marks_echoed += 1
            self.send_text(mark_text(self._sequence, self.stream_sid, marks.popleft()[1]))
        self._sequence += 1
        number = self.sent = self.sent + 1
        header = b2a_base64(_HEADER.pack(self.index, number, now_us & _MASK32), newline=False)
        self.send_text(self._template % (self._sequence, number, number * 20, header))

    def end(self) -> None:
        self.send_text(stop_text(self._sequence + 1, self.call_sid, self.stream_sid))
        self.send_close()

    def text(self, payload: bytes) -> None:
        now_us = _now_us()
        audio = _payload(payload)
        if audio is None:
            name = _mark_name(payload)
            if name is not None:
                self._marks.append((self._far_end.play_end_us, name))
            return
        size = len(audio)
        self._far_end.audio(size, now_us)
        if size % FRAME_BYTES:
            self.damaged += 1
            return
        for start in range(0, size, FRAME_BYTES):
            index, number, sent_us = _HEADER.unpack_from(audio, start)
            if index != self.index or audio[start + _HEADER.size : start + FRAME_BYTES] != _TAIL:
                self.damaged += 1
                continue
            self.received += 1
            if number != self._expected:
                self._other_than_expected(number)
            self._expected = number + 1
            if self.measuring:
                self.latencies_us.append((now_us - sent_us) & _MASK32)

    def _other_than_expected(self, number: int) -> None:
        if self.first is None:
            self.first = number  # what came before the call's thread began to read is nobody's
        elif number > self._expected:
            self.missing += number - self._expected
        else:
            self.reordered += 1

    @property
    def lost(self) -> int:
        """Frames that never came back, from the first that did."""
        if self.first is None:
            return self.sent
        return self.sent - (self.first - 1) - self.received


class Metronome:
    """Every caller's beat each 20 ms, the callers spread evenly over them, on a schedule that does not drift."""

    def __init__(self, callers: list[EchoCaller]) -> None:
        self.late_us = array("L")
        self.measuring = False
        self._callers = callers
        self._loop = asyncio.get_running_loop()
        self._start_us = _now_us()
        self._next = 0
        self._timer = self._loop.call_later(0.001, self._tick)

    def _tick(self) -> None:
        callers = self._callers
        count = len(callers)
        now_us = _now_us()
        due = (now_us - self._start_us) * count // _FRAME_US + 1
        if self.measuring and due > self._next:
            self.late_us.append(now_us - self._start_us - self._next * _FRAME_US // count)
        for beat in range(self._next, due):
            callers[beat % count].beat()
        self._next = due
        wait_us = self._start_us + due * _FRAME_US // count - _now_us()
        self._timer = self._loop.call_later(max(0.001, wait_us / 1e6), self._tick)  # timers of uvloop count in ms

    def stop(self) -> None:
        self._timer.cancel()


def _percentile(values: array[int], share: float) -> float:
    """Of µs, in ms."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000 if ordered else float("nan")


async def echo(port: int, server: int, count: int, warm_s: float, seconds: float) -> dict[str, Any]:
    """``count`` calls for ``seconds`` after ``warm_s``; ``server`` is the process whose CPU is read."""
    before_kib = resident_kib(server)
    callers = [EchoCaller(index) for index in range(count)]
    for caller in callers:
        await connect(port, caller)
        caller.begin()
    metronome = Metronome(callers)
    gc.collect()
    gc.freeze()
    await asyncio.sleep(warm_s)

    metronome.measuring = EchoCaller.measuring = True
    began, server_began, own_began = time.perf_counter(), cpu_seconds(server), time.process_time()
    waited = waited_seconds(server)
    frames = -sum(caller.received for caller in callers)
    await asyncio.sleep(seconds)
    wall = time.perf_counter() - began
    server_cpu, own_cpu = cpu_seconds(server) - server_began, time.process_time() - own_began
    waited = waited_seconds(server) - waited
    frames += sum(caller.received for caller in callers)
    metronome.measuring = EchoCaller.measuring = False
    after_kib = resident_kib(server)

    metronome.stop()
    for _ in range(40):  # 2 s for what is still under way
        if not any(caller.lost for caller in callers):
            break
        await asyncio.sleep(0.05)
    lost = sum(caller.lost for caller in callers)
    for caller in callers:
        caller.end()
    await asyncio.wait_for(asyncio.gather(*(caller.closed for caller in callers)), 10)
    latencies = array("L", itertools.chain.from_iterable(caller.latencies_us for caller in callers))
    return {
        "calls": count,
        "seconds": wall,
        # By the frames that came back, not by the time: a server that falls behind shall not look cheap.
        "cpu_ms_per_call_second": server_cpu * 1000 / (frames / 50) if frames else float("nan"),
        "server_busy": server_cpu / wall,
        "server_waited": waited / wall,
        "generator_busy": own_cpu / wall,
        "schedule_late_p99_ms": _percentile(metronome.late_us, 0.99),
        "frames": frames,
        "frames_expected": wall * count * 50,
        "echo_p50_ms": _percentile(latencies, 0.5),
        "echo_p99_ms": _percentile(latencies, 0.99),
        "echo_max_ms": max(latencies, default=0) / 1000,
        "lost": lost,
        "reordered": sum(caller.reordered for caller in callers),
        "damaged": sum(caller.damaged for caller in callers),
        "before_listening": sum((caller.first or 1) - 1 for caller in callers),
        "marks_echoed": sum(caller.marks_echoed for caller in callers),
        "kib_per_call": (after_kib - before_kib) / count,
    }


class Listener(TextClient):
    """One call that hears a recording.

    Attributes:
        gaps, gap_us: how often, and how long in all, the far end's buffer was empty before the end.
        least_us: the least that was left in it when more came, once there was time to fill it (negative: how long
            the longest gap was).
    """

    def __init__(self, expected_bytes: int) -> None:
        super().__init__()
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0
        self.messages = 0
        self.gaps = 0
        self.gap_us = 0
        self.least_us: int | None = None
        self._expected = expected_bytes
        self._began_us = 0
        self._far_end = FarEnd()
        self._sequence = 1
        self._stream_sid = "MZ" + "1" * 32

    def begin(self) -> None:
        self.send_text(CONNECTED)
        self.send_text(start_text("CA" + "1" * 32, self._stream_sid))

    def text(self, payload: bytes) -> None:
        now_us = _now_us()
        audio = _payload(payload)
        if audio is None:
            name = _mark_name(payload)
            if name is not None:
                delay_us = max(0, self._far_end.play_end_us - now_us)
                asyncio.get_running_loop().call_later(delay_us / 1e6, self._echo, name)
            return
        if self.received:
            left_us = self._far_end.play_end_us - now_us
            if left_us < 0:
                self.gaps += 1
                self.gap_us -= left_us
            if now_us - self._began_us > _FILL_US:
                self.least_us = left_us if self.least_us is None else min(self.least_us, left_us)
        else:
            self._began_us = now_us
        self._far_end.audio(len(audio), now_us)
        self.received += len(audio)
        self.messages += 1
        if self.received >= self._expected and not self.heard.done():
            self.heard.set_result(None)

    def _echo(self, name: str) -> None:
        self._sequence += 1
        self.send_text(mark_text(self._sequence, self._stream_sid, name))

    def end(self) -> None:
        self.send_text(stop_text(self._sequence + 1, "CA" + "1" * 32, self._stream_sid))
        self.send_close()


async def listen(port: int, expected_bytes: int) -> dict[str, Any]:
    """One call until ``expected_bytes`` have come."""
    listener = Listener(expected_bytes)
    await connect(port, listener)
    listener.begin()
    await asyncio.wait_for(listener.heard, expected_bytes / 8000 * 3 + 10)
    result = {
        "bytes": listener.received,
        "messages": listener.messages,
        "gaps": listener.gaps,
        "silence_ms": listener.gap_us / 1000,
        "least_buffered_ms": (listener.least_us or 0) / 1000,
    }
    listener.end()
    await asyncio.wait_for(listener.closed, 10)
    return result


class ShortCaller(TextClient):
    """One call of the sequential load: five frames, then it hangs up as soon as it was told something. Marks come
    back at once: whose audio was played when is not the question here."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.heard = 0
        self._call_sid = f"CA{number:032x}"
        self._stream_sid = f"MZ{number:032x}"
        self._sequence = 1
        self._ended = False

    def begin(self) -> None:
        self.send_text(CONNECTED)
        self.send_text(start_text(self._call_sid, self._stream_sid))
        stream = self._stream_sid.encode()
        silence = base64.b64encode(b"\xff" * FRAME_BYTES)
        for number in range(1, 6):
            self._sequence += 1
            self.send_text(
                b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d",'
                b'"payload":"%b"},"streamSid":"%b"}' % (self._sequence, number, number * 20, silence, stream)
            )

    def text(self, payload: bytes) -> None:
        audio = _payload(payload)
        if audio is not None:
            self.heard += len(audio)
            return
        name = _mark_name(payload)
        if name is not None and not self._ended:
            self._sequence += 1
            self.send_text(mark_text(self._sequence, self._stream_sid, name))
            self._ended = True
            self.send_text(stop_text(self._sequence + 1, self._call_sid, self._stream_sid))
            self.send_close()


def _held(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/held", timeout=10) as answer:
        return dict(json.load(answer))


async def _held_at_rest(port: int, start: dict[str, int]) -> dict[str, int]:
    """What the server holds when the last call has wound up, which may take it a moment."""
    deadline = time.monotonic() + 10
    while True:
        held = _held(port)
        if all(held[name] == start[name] for name in ("threads", "tasks", "fds")) or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.1)


async def sequential(port: int, calls: int) -> dict[str, Any]:
    """``calls`` short calls, one after the other; the server's memory is read after a tenth of them and at the
    end."""
    start = _held(port)
    warm_after = max(1, min(1000, calls // 10))
    silent = 0
    began = time.perf_counter()
    warm = start
    for number in range(calls):
        caller = ShortCaller(number)
        await connect(port, caller)
        caller.begin()
        await asyncio.wait_for(caller.closed, 30)
        if caller.heard != FRAME_BYTES:
            silent += 1
        if number + 1 == warm_after:
            warm = await _held_at_rest(port, start)
    seconds = time.perf_counter() - began
    return {
        "calls": calls,
        "seconds": seconds,
        "calls_not_heard": silent,
        "warm_after": warm_after,
        "start": start,
        "warm": warm,
        "end": await _held_at_rest(port, start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("echo", "listen", "sequential"):
        kinds.add_parser(kind).add_argument("--port", type=int, required=True)
    of = kinds.choices
    of["echo"].add_argument("--server", type=int, required=True, help="process id")
    of["echo"].add_argument("--calls", type=int, default=100)
    of["echo"].add_argument("--warm", type=float, default=1.0, help="seconds before measuring")
    of["echo"].add_argument("--seconds", type=float, default=3.0)
    of["listen"].add_argument("--bytes", type=int, required=True)
    of["sequential"].add_argument("--calls", type=int, default=10_000)
    arguments = parser.parse_args()
    match arguments.kind:
        case "echo":
            work = echo(arguments.port, arguments.server, arguments.calls, arguments.warm, arguments.seconds)
        case "listen":
            work = listen(arguments.port, arguments.bytes)
        case _:
            work = sequential(arguments.port, arguments.calls)
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
