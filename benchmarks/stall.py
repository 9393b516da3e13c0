"""What the caller hears while the event loop stands still: a recording under stalls of 300 ms each second."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import Any

from rich.table import Table

from .processes import Cores, ServerProcess, run_python
from .report import Result, Target
from .speech import SPEECH_S

__all__ = ["run"]

_LABELS = {"stall": "ours, session.play()", "stall-paced": "FastAPI, paced 60 ms ahead"}


def run(cores: Cores) -> Result:
    """Both servers at the same time: each sleeps through its stalls, so they do not disturb each other."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(kind, core=cores.server)) for kind in _LABELS]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(servers)))
        heard = dict(zip(_LABELS, pool.map(lambda server: _listen(cores, server), servers), strict=True))
    table = Table(title=f"Stalls: {SPEECH_S:g} s of audio while the event loop is blocked for 300 ms of each second")
    table.add_column("server")
    for column in ("gaps", "silence heard, ms", "least buffered at the far end, ms", "messages"):
        table.add_column(column, justify="right")
    for kind, facts in heard.items():
        table.add_row(
            _LABELS[kind],
            str(facts["gaps"]),
            f"{facts['silence_ms']:.0f}",
            f"{facts['least_buffered_ms']:.0f}",
            str(facts["messages"]),
        )
    ours = heard["stall"]
    expected = round(SPEECH_S * 8000)
    return Result(
        name="stall",
        table=table,
        facts=heard,
        targets=[
            Target("gaps the listener heard", ours["gaps"], 0),
            Target("bytes of the recording that never came", expected - ours["bytes"], 0),
        ],
    )


def _listen(cores: Cores, server: ServerProcess) -> dict[str, Any]:
    size = round(SPEECH_S * 8000)
    arguments = ["-m", "benchmarks.load", "listen", "--port", str(server.port), "--bytes", str(size)]
    return dict(run_python(arguments, core=cores.load, timeout=SPEECH_S * 4 + 30))
