"""What one call costs: three echo servers, in turn, in one run.

The two cores of a shared machine are never the same for long, so the rounds of the servers are interleaved and what
is judged is the ratio within a round, not milliseconds.
"""

from __future__ import annotations

import contextlib
import statistics
from typing import Any

from rich.table import Table

from .processes import Cores, ServerProcess, run_python
from .report import Result, Target, spread

__all__ = ["run"]

_LABELS = {
    "loop": "ours, echo on the event loop",
    "thread": "ours, a thread per call",
    "fastapi": "FastAPI + json by hand",
}
_RATIO_LIMITS = {"loop": 0.9, "thread": 1.35}
_RISE_LIMIT = 1.05
"""Of the cost per call, from the fewest to the most calls: level, and what the measurement itself scatters."""
_GENERATOR_LIMIT = 0.8
_WARM_S = 1.0

Round = dict[str, Any]


def run(
    cores: Cores,
    *,
    calls: int,
    rounds: int,
    seconds: float,
    scaling: list[int],
    scaling_rounds: int,
    profile: str | None,
) -> Result:
    """``rounds`` of each server at ``calls`` calls, ``scaling_rounds`` at each number of ``scaling``."""
    plan = [(calls, rounds), *((count, scaling_rounds) for count in scaling if count != calls)]
    measured: dict[int, dict[str, list[Round]]] = {count: {kind: [] for kind in _LABELS} for count, _ in plan}
    with contextlib.ExitStack() as stack:
        servers = {
            kind: stack.enter_context(
                ServerProcess(kind, core=cores.server, profile=profile and f"{profile}/{kind}.prof")
            )
            for kind in _LABELS
        }
        for server in servers.values():
            _round(cores, server, 2, 0.2)  # what is imported and made once is not a call's cost
        for turn in range(max(rounds, scaling_rounds)):
            for count, wanted in plan:
                if turn >= wanted:
                    continue
                # Each server comes first, second and last equally often: what ran before leaves its mark on a core.
                first = turn % len(servers)
                order = [*servers.items()][first:] + [*servers.items()][:first]
                for kind, server in order:
                    measured[count][kind].append(_round(cores, server, count, seconds))
    return _result(calls, measured)


def _round(cores: Cores, server: ServerProcess, calls: int, seconds: float) -> Round:
    arguments = ["-m", "benchmarks.load", "echo", "--port", str(server.port), "--server", str(server.pid)]
    arguments += ["--calls", str(calls), "--warm", str(min(_WARM_S, seconds)), "--seconds", str(seconds)]
    return dict(run_python(arguments, core=cores.load, timeout=seconds + 60))


def _result(calls: int, measured: dict[int, dict[str, list[Round]]]) -> Result:
    table = Table(title="Echo: each caller's 20 ms frame comes back as one message")
    table.add_column("calls", justify="right")
    table.add_column("server")
    columns = (
        "CPU ms / call-s",
        "of FastAPI's",
        "p50 ms",
        "p99 ms",
        "worst ms",
        "lost",
        "reordered",
        "KiB/call",
        "server busy",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for count in sorted(measured):
        for kind, label in _LABELS.items():
            all_rounds = measured[count][kind]
            table.add_row(
                str(count),
                label,
                spread(_each(all_rounds, "cpu_ms_per_call_second")),
                spread(_ratios(measured[count], kind)) if kind != "fastapi" else "",
                f"{_median(all_rounds, 'echo_p50_ms'):.2f}",
                f"{_median(all_rounds, 'echo_p99_ms'):.2f}",
                f"{max(_each(all_rounds, 'echo_max_ms')):.1f}",
                f"{sum(_each(all_rounds, 'lost')):.0f}",
                f"{sum(_each(all_rounds, 'reordered')):.0f}",
                # Of the first round: later ones reuse what the earlier have left.
                f"{all_rounds[0]['kib_per_call']:.0f}" if all_rounds[0]["kib_per_call"] > 0 else "",
                f"{_median(all_rounds, 'server_busy'):.0%}",
            )
        table.add_section()
    every = [one for kinds in measured.values() for some in kinds.values() for one in some]
    busiest = max(_each(every, "generator_busy"))
    late = _each(every, "schedule_late_p99_ms")
    waited = _each(every, "server_waited")
    return Result(
        name="echo",
        table=table,
        facts={str(count): kinds for count, kinds in measured.items()},
        targets=_targets(calls, measured, busiest),
        notes=[
            f"The load generator used at most {busiest:.0%} of its core.",
            (
                f"99 % of its frames left within {min(late):.1f} ms of their time in the best round, within "
                f"{max(late):.1f} ms in the worst; the servers waited for their core {min(waited):.0%} to "
                f"{max(waited):.0%} of the time. More than 2 ms and 2 % is other work here, and in the latencies too."
            ),
            "Medians of the rounds (least-most in brackets); ratios are taken within a round.",
        ],
    )


def _targets(calls: int, measured: dict[int, dict[str, list[Round]]], busiest: float) -> list[Target]:
    at_calls = measured[calls]
    targets = [
        Target(
            f"CPU of {_LABELS[kind]}, over FastAPI's, at {calls} calls",
            statistics.median(_ratios(at_calls, kind)),
            limit,
        )
        for kind, limit in _RATIO_LIMITS.items()
    ]
    fewest, most = min(measured), max(measured)
    for kind in _RATIO_LIMITS:
        label = _LABELS[kind]
        ours = [one for kinds in measured.values() for one in kinds[kind]]
        targets.append(Target(f"p99 of {label}, at {calls} calls", _median(at_calls[kind], "echo_p99_ms"), 5.0, "ms"))
        broken = sum(sum(_each(ours, name)) for name in ("lost", "reordered", "damaged"))
        targets.append(Target(f"frames lost, reordered or damaged by {label}", broken, 0))
        if fewest != most:
            rise = _median(measured[most][kind], "cpu_ms_per_call_second") / _median(
                measured[fewest][kind], "cpu_ms_per_call_second"
            )
            targets.append(Target(f"CPU per call of {label}, {most} calls over {fewest}", rise, _RISE_LIMIT))
    targets.append(Target("share of its core the load generator used", busiest, _GENERATOR_LIMIT))
    return targets


def _each(rounds: list[Round], name: str) -> list[float]:
    return [float(one[name]) for one in rounds]


def _median(rounds: list[Round], name: str) -> float:
    return statistics.median(_each(rounds, name))


def _ratios(kinds: dict[str, list[Round]], kind: str) -> list[float]:
    name = "cpu_ms_per_call_second"
    return [
        ours / theirs for ours, theirs in zip(_each(kinds[kind], name), _each(kinds["fastapi"], name), strict=True)
    ]
