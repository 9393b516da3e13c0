"""What a call leaves behind: thousands of short ones after each other, and what the process holds afterwards."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from .processes import Cores, ServerProcess, run_python
from .report import Result, Target

__all__ = ["run"]

_HELD = {"threads": "threads", "tasks": "asyncio tasks", "fds": "file descriptors", "rss_kib": "resident memory, KiB"}
_GROWTH_LIMIT_KIB = 3 * 1024


def run(cores: Cores, *, calls: int) -> Result:
    """``calls`` calls, never two at a time."""
    arguments = ["-m", "benchmarks.load", "sequential", "--calls", str(calls)]
    with ServerProcess("short", core=cores.server) as server:
        facts: dict[str, Any] = run_python(
            [*arguments, "--port", str(server.port)], core=cores.load, timeout=60 + calls * 0.1
        )
    start, warm, end = facts["start"], facts["warm"], facts["end"]
    table = Table(title=f"Sequential: {calls:,} calls in {facts['seconds']:.0f} s, one after the other")
    table.add_column("held by the server")
    for column in ("before the first call", f"after {facts['warm_after']:,} calls", f"after {calls:,} calls"):
        table.add_column(column, justify="right")
    for name, label in _HELD.items():
        table.add_row(label, f"{start[name]:,}", f"{warm[name]:,}", f"{end[name]:,}")
    targets = [Target("calls whose audio did not come", facts["calls_not_heard"], 0)]
    targets += [
        Target(f"{_HELD[name]} left behind", end[name] - start[name], 0) for name in ("threads", "tasks", "fds")
    ]
    growth = end["rss_kib"] - warm["rss_kib"]
    targets.append(
        Target(f"memory growth after the first {facts['warm_after']:,} calls", growth, _GROWTH_LIMIT_KIB, "KiB")
    )
    return Result(name="sequential", table=table, facts=facts, targets=targets)
