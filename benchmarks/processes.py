"""The processes of a benchmark: which core each runs on, what the kernel says they used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = [
    "ROOT",
    "Cores",
    "ServerProcess",
    "child_environment",
    "cpu_seconds",
    "pick_cores",
    "pin",
    "resident_kib",
    "run_python",
    "waited_seconds",
]

ROOT = Path(__file__).absolute().parents[1]

_STOP_S = 15.0


@dataclass(frozen=True)
class Cores:
    """The core of the server and that of the load generator; the same one where there is only one."""

    server: int
    load: int

    @property
    def shared(self) -> bool:
        return self.server == self.load


def pick_cores() -> Cores:
    cores = sorted(os.sched_getaffinity(0))
    return Cores(server=cores[0], load=cores[-1])


def pin(core: int) -> None:
    """Run this process on one core only."""
    os.sched_setaffinity(0, {core})


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, those that have ended included.

    The same figure as utime + stime in /proc/<pid>/stat, which is rounded to 10 ms: too coarse for ten calls. The id
    of another process's CPU clock is that of clock_getcpuclockid(3) on Linux.
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def waited_seconds(pid: int) -> float:
    """How long a process's main thread was ready to run and its core was taken (/proc/<pid>/schedstat, field 2)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def resident_kib(pid: int) -> int:
    """Resident memory (KiB), from /proc/<pid>/statm."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def child_environment() -> dict[str, str]:
    """The environment without this machine's accounts and settings: no benchmark may dial, or depend on them."""
    prefixes = ("TWILIO_", "VOICE_", "STT_", "TTS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def run_python(arguments: list[str], *, core: int, timeout: float, environment: dict[str, str] | None = None) -> Any:
    """Run a Python of ours on one core; returns the JSON of the last line it printed.

    Raises:
        RuntimeError: it failed; the message is the end of what it wrote to stderr.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment or child_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=lambda: pin(core),  # no threads here yet
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    if done.stderr:
        sys.stderr.write(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class ServerProcess:
    """``with ServerProcess("loop", core=0) as server``: a server of :mod:`benchmarks.servers`, ready to be called."""

    def __init__(self, kind: str, *, core: int, profile: str | None = None) -> None:
        self.kind = kind
        self.port = 0
        self._core = core
        self._profile = profile
        self._process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> ServerProcess:
        arguments = [sys.executable, "-m", "benchmarks.servers", self.kind]
        if self._profile:
            arguments += ["--profile", self._profile]
        self._process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=child_environment(),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: pin(self._core),
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # empty when it died; its own stderr says why
        if not line:
            raise RuntimeError(f"the {self.kind!r} server did not start (exit code {self._process.wait(_STOP_S)})")
        self.port = int(line)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"the {self.kind!r} server did not stop within {_STOP_S:g} s and was killed\n")
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
