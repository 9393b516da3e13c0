"""The interface for transports of one's own: audio, marks and clears fetched in tasks of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from voice_runtime.events import Outcome
from voice_runtime.session import VoiceSession


async def test_a_mark_waits_for_its_audio() -> None:
    """It is not there before the last frame ahead of it was fetched."""
    session = VoiceSession()
    session.signal_ws_connected("MZ1")
    assert session.stream_sid == "MZ1"
    frames = [bytes([n % 256]) * 160 for n in range(500)]
    waiting = asyncio.create_task(asyncio.to_thread(_put_and_wait, session, frames))
    mark = asyncio.create_task(session.get_pending_mark())
    fetched = [await asyncio.wait_for(session.get_outbound(), 5) for _ in frames[:-1]]
    assert not mark.done()
    fetched.append(await session.get_outbound())
    name = await asyncio.wait_for(mark, 5)
    assert fetched == frames
    assert name.startswith("after__")
    session.signal_mark_received(name)
    assert await asyncio.wait_for(waiting, 5) is Outcome.PLAYED
    session.signal_disconnected()


def _put_and_wait(session: VoiceSession, frames: list[bytes]) -> Outcome:
    for frame in frames:
        session.put_outbound_sync(frame)
    return session.send_mark_and_wait("after", timeout=10)


async def test_a_clear_is_told_and_drops_what_waits() -> None:
    """_clear_queue is the transport's cue, whoever asked for silence."""
    session = VoiceSession()
    session.signal_ws_connected("MZ1")
    session.put_outbound_sync(b"\x01" * 160)
    session.request_clear_buffer()
    session.put_outbound_sync(b"\x02" * 160)
    assert await asyncio.wait_for(session.get_outbound(), 5) == b"\x02" * 160
    assert await asyncio.wait_for(session._clear_queue.get(), 5) is True
    session.signal_disconnected()


async def test_a_disconnect_is_asked_for_not_done() -> None:
    """The transport watches the event and ends the call in its own way."""
    session = VoiceSession()
    session.signal_ws_connected("MZ1")
    await asyncio.to_thread(session.request_disconnect)
    await asyncio.wait_for(session._disconnect_requested.wait(), 5)
    assert not session.is_disconnected
    session.signal_disconnected()
    assert session.is_disconnected
    assert await asyncio.to_thread(session.send_mark_and_wait, "late", 5) is Outcome.HUNG_UP


def test_from_a_thread_without_a_loop() -> None:
    """signal_ws_connected() takes effect at once; inbound audio without a loop is dropped with one warning."""
    session = VoiceSession()
    session.signal_ws_connected("MZ1")
    session.wait_for_ws_connect(timeout=1)
    for _ in range(10_000):
        session.put_inbound(b"\x01" * 160)
    assert len(session.live.bridge._jobs) <= 3
    session.signal_disconnected()


async def test_two_tasks_drain_one_timeline() -> None:
    """Many threads put audio and marks; nothing is lost, nothing overtakes."""
    session = VoiceSession()
    session.signal_ws_connected("MZ1")
    audio: list[bytes] = []
    marks: list[tuple[str, int]] = []

    async def fetch_audio() -> None:
        while True:
            audio.append(await session.get_outbound())

    async def fetch_marks() -> None:
        while True:
            name = await session.get_pending_mark()
            marks.append((name, len(audio)))
            session.signal_mark_received(name)

    tasks = [asyncio.create_task(fetch_audio()), asyncio.create_task(fetch_marks())]

    def caller(who: int) -> None:
        for n in range(20):
            session.put_outbound_sync(bytes([who, n]) * 80)
            assert session.send_mark_and_wait(f"{who}", timeout=10) is Outcome.PLAYED

    threads = [threading.Thread(target=caller, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(audio) == len(marks) == 80
    assert all(
        [frame for frame in audio if frame[0] == who] == [bytes([who, n]) * 80 for n in range(20)] for who in range(4)
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    session.signal_disconnected()


@pytest.mark.parametrize("method", ["tap_caller", "tap_agent"])
def test_taps_without_a_mixer_do_nothing(method: str) -> None:
    """They are called for every frame."""
    getattr(VoiceSession(), method)(b"\x01" * 160)
