"""One stream of audio, two recognisers: the primary drives the call, the secondary is compared.

::

    tee = SttTee(primary=create_stt("elevenlabs"), secondary=create_stt("azure"))
    tee.on_committed = handle           # the primary's transcripts only
    await tee.start(session.inbound)

Whatever the secondary does, slow, failing, raising, the primary does not notice.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .events import RecognitionEvent
from .stt import CLOSE_TIMEOUT_S, ListeningSession, RecognizerCapabilities, SttProvider

__all__ = ["SttTee"]

logger = logging.getLogger(__name__)

QUEUE_FRAMES = 1500
"""Frames a branch may lie behind: 30 s of 20 ms. Then its oldest are dropped and counted."""

TRANSCRIPTS_KEPT = 1000
"""The newest so many transcripts of the secondary are kept."""


class SttTee:
    """An :class:`~voice_runtime.stt.SttProvider` made of two.

    Callbacks, ``capabilities``, ``on_event``, ``dispatch`` and ``recognizer`` are the primary's. ``start``, ``stop``,
    ``expect`` and ``finalize`` belong to the event loop's thread, ``set_speaking`` to any.

    Attributes:
        secondary_transcripts: what the secondary understood, newest last (at most 1000).
        secondary_errors: how often it failed.
        dropped_frames: frames the secondary lost because it fell 30 s behind.
    """

    def __init__(self, primary: SttProvider, secondary: SttProvider) -> None:
        self.primary: Any = primary
        self.secondary: Any = secondary
        self.secondary_transcripts: collections.deque[str] = collections.deque(maxlen=TRANSCRIPTS_KEPT)
        self.secondary_errors = 0
        self.dropped_frames = 0
        self._branches: list[asyncio.Queue[bytes | None]] = []
        self._splitting: asyncio.Task[None] | None = None
        self._secondary_starting: asyncio.Task[None] | None = None
        secondary.on_committed = self._note_transcript
        secondary.on_error = self._note_error

    def __repr__(self) -> str:
        return f"<SttTee primary={self.primary!r} secondary={self.secondary!r}>"

    # -- the primary's face -------------------------------------------------------------------------------------

    @property
    def on_committed(self) -> Callable[[str], None] | None:
        found: Callable[[str], None] | None = self.primary.on_committed
        return found

    @on_committed.setter
    def on_committed(self, callback: Callable[[str], None] | None) -> None:
        self.primary.on_committed = callback

    @property
    def on_recognizing(self) -> Callable[[str], None] | None:
        found: Callable[[str], None] | None = self.primary.on_recognizing
        return found

    @on_recognizing.setter
    def on_recognizing(self, callback: Callable[[str], None] | None) -> None:
        self.primary.on_recognizing = callback

    @property
    def on_error(self) -> Callable[[str], None] | None:
        found: Callable[[str], None] | None = self.primary.on_error
        return found

    @on_error.setter
    def on_error(self, callback: Callable[[str], None] | None) -> None:
        self.primary.on_error = callback

    # What only some providers have is missing here where it is missing there, so that hasattr() tells the truth.

    @property
    def on_event(self) -> Callable[[RecognitionEvent], None] | None:
        """The primary's; AttributeError where it has no events to give."""
        found: Callable[[RecognitionEvent], None] | None = self.primary.on_event
        return found

    @on_event.setter
    def on_event(self, callback: Callable[[RecognitionEvent], None] | None) -> None:
        self.primary.on_event = callback

    @property
    def dispatch(self) -> Callable[[Callable[[], None]], None]:
        """The primary's; AttributeError where it calls back as it likes."""
        found: Callable[[Callable[[], None]], None] = self.primary.dispatch
        return found

    @dispatch.setter
    def dispatch(self, dispatch: Callable[[Callable[[], None]], None]) -> None:
        self.primary.dispatch = dispatch

    @property
    def expect(self) -> Callable[..., Awaitable[None]]:
        """``await tee.expect(phrases, digits=None)`` tells both what the next utterances may be; AttributeError where
        the primary cannot be told. Raises what the primary raises, nothing of the secondary's."""
        return functools.partial(self._tell_both, self.primary.expect, "expect")

    @property
    def finalize(self) -> Callable[[], Awaitable[None]]:
        """``await tee.finalize()`` has both commit the words so far; AttributeError where the primary cannot."""
        return functools.partial(self._tell_both, self.primary.finalize, "finalize")

    @property
    def capabilities(self) -> RecognizerCapabilities:
        """The primary's; one that does not say is taken to write down anything."""
        found = getattr(self.primary, "capabilities", None)
        return found if isinstance(found, RecognizerCapabilities) else RecognizerCapabilities(dictation=True)

    @property
    def recognizer(self) -> Any:
        """The primary's recogniser, or None."""
        return getattr(self.primary, "recognizer", None)

    def is_echo(self, event: RecognitionEvent) -> bool:
        """As the primary judges it; False where it cannot."""
        judge = getattr(self.primary, "is_echo", None)
        return bool(judge(event)) if judge is not None else False

    def listen(self, session: ListeningSession, timeout: float = 30.0) -> str:
        """What the caller says next, as the primary hears it; see :meth:`RecognizerStt.listen`."""
        return str(session.listen(timeout=timeout))

    # -- both ---------------------------------------------------------------------------------------------------

    def set_speaking(self, speaking: bool) -> None:
        """Tell both that the agent's voice begins or ended."""
        self.primary.set_speaking(speaking)
        with self._apart():
            self.secondary.set_speaking(speaking)

    async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
        """Start both and return when the primary runs. What is in the queue already is dropped.

        Raises:
            What the primary's ``start`` raises; the secondary is stopped again then.
        """
        await self.stop()
        while not inbound_queue.empty():
            inbound_queue.get_nowait()
        loop = asyncio.get_running_loop()
        self._branches = [asyncio.Queue(), asyncio.Queue()]
        self._secondary_starting = loop.create_task(self._start_secondary(self._branches[1]))
        # Before the primary: start() of a provider of one's own may run for the whole call.
        self._splitting = loop.create_task(self._split(inbound_queue))
        try:
            await self.primary.start(self._branches[0])
        except BaseException:
            await self._stop_splitting()
            await self._stop_secondary()
            raise

    async def _start_secondary(self, branch: asyncio.Queue[bytes | None]) -> None:
        with self._apart():
            await self.secondary.start(branch)

    async def _split(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
        first, second = self._branches
        while True:
            frame = await inbound_queue.get()
            self._put(first, frame)
            self.dropped_frames += self._put(second, frame)
            if frame is None:
                return

    @staticmethod
    def _put(branch: asyncio.Queue[bytes | None], frame: bytes | None) -> int:
        dropped = 0
        while branch.qsize() >= QUEUE_FRAMES:
            branch.get_nowait()
            dropped += 1
        branch.put_nowait(frame)
        return dropped

    async def stop(self) -> None:
        """Stop both. Idempotent. The secondary's failures are counted, the primary's are raised."""
        await self._stop_splitting()
        try:
            await self.primary.stop()
        finally:
            await self._stop_secondary()

    async def _stop_splitting(self) -> None:
        splitting, self._splitting = self._splitting, None
        if splitting is not None and not splitting.done():
            splitting.cancel()
            await asyncio.wait([splitting])

    async def _stop_secondary(self) -> None:
        starting, self._secondary_starting = self._secondary_starting, None
        with self._apart():
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if starting is not None and not starting.done():
                    starting.cancel()
                    await asyncio.wait([starting])
                await self.secondary.stop()

    async def _tell_both(
        self, primary: Callable[..., Awaitable[None]], verb: str, *arguments: Any, **named: Any
    ) -> None:
        await primary(*arguments, **named)
        secondary = getattr(self.secondary, verb, None)
        if secondary is not None:
            with self._apart():
                await secondary(*arguments, **named)

    # -- the secondary's results --------------------------------------------------------------------------------

    def _note_transcript(self, text: str) -> None:
        self.secondary_transcripts.append(text)
        logger.debug("The secondary recogniser understood: %s", text)

    def _note_error(self, reason: str) -> None:
        self.secondary_errors += 1
        logger.warning("The secondary recogniser failed, the call goes on without it: %s", reason)

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """What the secondary raises in here ends here."""
        try:
            yield
        except Exception:
            self.secondary_errors += 1
            logger.exception("The secondary recogniser failed, the call goes on without it")
