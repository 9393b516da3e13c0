"""Recognition that hears what a test injects."""

from __future__ import annotations

import asyncio
import threading

from voice_runtime.mock.stt import MockStt
from voice_runtime.stt import SttProvider, create_stt


async def test_it_takes_the_audio_of_a_stream() -> None:
    """Frames of an earlier stream are dropped, new ones are taken until the end."""
    stt = create_stt("mock", language_code="fi")
    assert isinstance(stt, MockStt)
    assert isinstance(stt, SttProvider)
    assert stt.options == {"language_code": "fi"}
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    queue.put_nowait(None)
    await stt.start(queue)
    assert stt.started
    for frame in (b"\xff" * 160, b"\xff" * 160, None, b"\xff" * 160):
        queue.put_nowait(frame)
    for _ in range(5):
        await asyncio.sleep(0)
    assert queue.qsize() == 1
    assert stt.fed_bytes == 320
    await stt.stop()
    await stt.stop()
    assert not stt.started


async def test_stop_leaves_no_task() -> None:
    """Stopped in the middle of a stream, nothing of it runs on."""
    stt = MockStt()
    before = asyncio.all_tasks()
    await stt.start(asyncio.Queue())
    await stt.start(asyncio.Queue())
    await stt.stop()
    assert asyncio.all_tasks() == before


def test_transcripts_are_injected_from_any_thread() -> None:
    """inject calls on_committed before it returns, with or without anybody listening."""
    stt = MockStt()
    stt.inject("nobody listens")
    stt.inject_interim("nobody listens")
    stt.fail("nobody listens")
    heard: list[tuple[str, str]] = []
    stt.on_committed = lambda text: heard.append(("committed", text))
    stt.on_recognizing = lambda text: heard.append(("recognizing", text))
    stt.on_error = lambda text: heard.append(("error", text))
    thread = threading.Thread(target=stt.inject, args=("yes",))
    thread.start()
    thread.join()
    stt.inject_interim("ye")
    stt.fail("line cut")
    assert heard == [("committed", "yes"), ("recognizing", "ye"), ("error", "line cut")]


def test_it_knows_whether_the_agent_speaks() -> None:
    """set_speaking is kept for the test to look at."""
    stt = MockStt()
    stt.set_speaking(True)
    assert stt.speaking
    stt.set_speaking(False)
    assert not stt.speaking
