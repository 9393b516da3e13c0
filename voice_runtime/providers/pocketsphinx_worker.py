"""PocketSphinx in a process of its own: the decoder holds the interpreter's lock while it works, which in the
server's process would stop every call's audio.

Both ends are here. The far end is this module run as a program: requests on standard input, replies on standard
output, each a MessagePack record after four bytes of length (little endian). The near end is :class:`WorkerPool`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

import msgspec

from ..exceptions import ProviderError

if TYPE_CHECKING:
    import pocketsphinx

__all__ = ["Decode", "FindMissing", "WorkerPool", "main", "pool"]

# -- what goes over the pipes -----------------------------------------------------------------------------------


class FindMissing(msgspec.Struct, tag="find_missing", frozen=True):
    """Which of these words are not in the dictionary? Answered by :class:`Missing`."""

    words: tuple[str, ...]


class Decode(msgspec.Struct, tag="decode", frozen=True):
    """What of this JSGF grammar does this audio (μ-law, 8 kHz) say? Answered by :class:`Heard`."""

    grammar: str
    audio: bytes


class Missing(msgspec.Struct, tag="missing", frozen=True):
    words: tuple[str, ...]


class Heard(msgspec.Struct, tag="heard", frozen=True):
    """The words, or an empty text where the best guess is no whole sentence of the grammar."""

    text: str


class Failed(msgspec.Struct, tag="failed", frozen=True):
    message: str


_Request = FindMissing | Decode
_Reply = Missing | Heard | Failed

_LENGTH = struct.Struct("<I")


def _write(stream: IO[bytes], message: _Request | _Reply) -> None:
    body = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """One record's body, or None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


# -- the far end ------------------------------------------------------------------------------------------------

_GRAMMARS_KEPT = 32
_NOISE_AMPLITUDE = 40.0
"""Standard deviation of the noise added to the 16-bit samples. The acoustic model was trained on 16 kHz recordings of
real rooms: digital silence and the empty band above 4 kHz, which telephone audio leaves, throw its normalisation off
and most utterances would not be recognised at all."""


class _Decoder:
    """One PocketSphinx decoder (0.2 s to load, 96 MB), grammars only.

    Every utterance is normalised by itself (``cmn="batch"``), so nothing of one call colours the next.
    """

    def __init__(self) -> None:
        import numpy as np
        import pocketsphinx

        self._decoder: pocketsphinx.Decoder = pocketsphinx.Decoder(
            lm=None,
            samprate=16000,
            cmn="batch",
            # Inside a grammar a word needs no penalty against the silence around it, and silence is common.
            wip=1.0,
            silprob=0.5,
            loglevel="FATAL",
        )
        self._noise = np.random.default_rng(1).normal(0.0, _NOISE_AMPLITUDE, 16000)  # one second, always the same
        self._grammars: dict[str, str] = {}
        self._made = 0

    def answer(self, request: _Request) -> _Reply:
        if isinstance(request, FindMissing):
            return Missing(tuple(word for word in request.words if self._decoder.lookup_word(word) is None))
        if not request.audio:
            return Heard("")  # process_raw() of nothing raises IndexError
        self._activate(request.grammar)
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(self._prepare(request.audio), full_utt=True)
        finally:
            self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return Heard(hypothesis.hypstr if hypothesis is not None else "")

    def _activate(self, grammar: str) -> None:
        name = self._grammars.pop(grammar, None)
        if name is None:
            self._made += 1
            name = f"grammar{self._made}"
            self._decoder.add_jsgf_string(name, grammar)
        self._grammars[grammar] = name  # newest last
        self._decoder.activate_search(name)
        while len(self._grammars) > _GRAMMARS_KEPT:
            self._decoder.remove_search(self._grammars.pop(next(iter(self._grammars))))

    def _prepare(self, audio: bytes) -> bytes:
        import numpy as np

        from ..audio.g711 import ulaw_to_pcm16
        from ..audio.resample import Resampler

        resampler = Resampler(8000, 16000)
        wide = np.frombuffer(resampler.process(ulaw_to_pcm16(audio)) + resampler.flush(), dtype="<i2")
        noisy = wide + np.resize(self._noise, len(wide))
        clipped: bytes = np.clip(noisy, -32768, 32767).astype("<i2").tobytes()
        return clipped


def main() -> None:
    """Answer requests until standard input ends."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not look like a reply
    decoder = _Decoder()
    requests_decoder = msgspec.msgpack.Decoder(_Request)
    while (body := _read(requests)) is not None:
        try:
            reply = decoder.answer(requests_decoder.decode(body))
        except Exception as error:  # noqa: BLE001 - the near end raises it
            reply = Failed(f"{type(error).__name__}: {error}")
        _write(replies, reply)


# -- the near end -----------------------------------------------------------------------------------------------

_REQUEST_TIMEOUT_S = 15.0
"""Start-up takes half a second, an utterance of 15 s half a second more; the rest is for a busy machine."""
_REPLIES = msgspec.msgpack.Decoder(_Reply)


class _Worker:
    """One process. Used by one thread at a time; ``kill`` from any."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in a terminal is for the server alone
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: _Request) -> _Reply:
        """Raises EOFError or OSError when the process has died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        _write(stdin, request)
        body = _read(stdout)
        if body is None:
            raise EOFError(f"the recogniser's process {self.pid} has ended")
        reply: _Reply = _REPLIES.decode(body)
        return reply

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it: at its leisure for two seconds, then at once."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # a dead process took what was buffered with it
                    stream.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Ticket:
    """Which worker has a request, so that a deadline can end it."""

    worker: _Worker | None = None


class WorkerPool:
    """At most ``size`` workers, shared by all calls, started when needed and kept for the next utterance.

    A worker is busy for a fortieth of an utterance's length, so a few serve many calls; what finds none free waits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    @property
    def idle_pids(self) -> list[int]:
        """The processes that wait for work."""
        with self._lock:
            return [worker.pid for worker in self._idle]

    async def find_missing(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Which of the words the dictionary does not have; with none it only makes sure that a worker runs."""
        reply = await self._ask(FindMissing(words))
        assert isinstance(reply, Missing)
        return reply.words

    async def decode(self, grammar: str, audio: bytes) -> str:
        """The words heard, perhaps none. Raises ProviderError."""
        reply = await self._ask(Decode(grammar, audio))
        assert isinstance(reply, Heard)
        return reply.text

    async def _ask(self, request: _Request) -> _Reply:
        with self._lock:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(self.size, "pocketsphinx")
            threads = self._threads
        ticket = _Ticket()
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                reply = await asyncio.get_running_loop().run_in_executor(threads, self._serve, request, ticket)
        except TimeoutError as error:
            if ticket.worker is not None:
                ticket.worker.kill()
            raise _failed("timeout", f"no answer within {_REQUEST_TIMEOUT_S:g} s") from error
        except (EOFError, OSError) as error:
            raise _failed("unavailable", str(error)) from error
        if isinstance(reply, Failed):
            raise _failed("protocol", reply.message)
        return reply

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return _Worker()
            if worker.alive:
                return worker
            worker.close()

    def _serve(self, request: _Request, ticket: _Ticket) -> _Reply:
        ticket.worker = worker = self._take()
        try:
            reply = worker.ask(request)
        except BaseException:
            worker.kill()
            worker.close()
            raise
        finally:
            ticket.worker = None
        if isinstance(reply, Failed):
            worker.close()  # its decoder may be in any state
        else:
            with self._lock:
                self._idle.append(worker)
        return reply

    def close(self) -> None:
        """End all workers; blocks until they have ended. The next request starts new ones."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()


def _failed(kind: str, message: str) -> ProviderError:
    return ProviderError(kind, message, provider="pocketsphinx", retryable=True)


pool = WorkerPool(max(1, min(4, os.cpu_count() or 1)))
"""The workers of this process; more than four would cost half a gigabyte."""
atexit.register(pool.close)

if __name__ == "__main__":
    main()
