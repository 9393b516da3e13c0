"""``python -m benchmarks [echo|stall|import|sequential|all] ...``

Measures what a call costs beside a hand-written FastAPI server, what the caller hears while the event loop stands
still, what the import costs, and what calls leave behind. Prints tables and, for each target, PASS or FAIL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from . import echo, imports, sequential, stall
from .processes import Cores, pick_cores, pin
from .report import Result, exit_code, print_targets

__all__ = ["main"]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", default="all", choices=[*_BENCHMARKS, "all"], metavar="BENCHMARK")
    parser.add_argument("--calls", type=int, default=100, help="echo: calls at once (100)")
    parser.add_argument("--rounds", type=int, default=6, help="echo: rounds of each server (6)")
    parser.add_argument("--seconds", type=float, default=3.0, help="echo: measured seconds of a round (3)")
    parser.add_argument(
        "--scaling", type=_numbers, default=[10, 50, 200], help="echo: other numbers of calls (10,50,200)"
    )
    parser.add_argument("--scaling-rounds", type=int, default=2, help="echo: rounds of those (2)")
    parser.add_argument("--profile", metavar="DIR", help="echo: cProfile of each server's event loop, for pstats")
    parser.add_argument("--sequential-calls", type=int, default=10_000, help="sequential: how many (10000)")
    parser.add_argument("--import-times", type=int, default=10, help="import: interpreters for each statement (10)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything that was measured there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target was missed")
    return parser


def _echo(cores: Cores, arguments: argparse.Namespace) -> Result:
    if arguments.profile:
        Path(arguments.profile).mkdir(parents=True, exist_ok=True)
    return echo.run(
        cores,
        calls=arguments.calls,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        scaling=arguments.scaling,
        scaling_rounds=arguments.scaling_rounds,
        profile=arguments.profile and os.path.abspath(arguments.profile),
    )


_BENCHMARKS: dict[str, Callable[[Cores, argparse.Namespace], Result]] = {
    "echo": _echo,
    "stall": lambda cores, _: stall.run(cores),
    "import": lambda cores, arguments: imports.run(cores, times=arguments.import_times),
    "sequential": lambda cores, arguments: sequential.run(cores, calls=arguments.sequential_calls),
}


def main() -> int:
    arguments = _parser().parse_args()
    names = list(_BENCHMARKS) if "all" in arguments.what else arguments.what
    console = Console(width=None if sys.stdout.isatty() else 150)
    cores = pick_cores()
    pin(cores.load)
    place = (
        "server and load generator share the only core: the figures are worth little"
        if cores.shared
        else f"server on core {cores.server}, load generator on core {cores.load}"
    )
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {place}.")
    results = []
    for name in names:
        result = _BENCHMARKS[name](cores, arguments)
        results.append(result)
        console.print()
        console.print(result.table)
        for note in result.notes:
            console.print(note)
    targets = [target for result in results for target in result.targets]
    print_targets(console, targets)
    if arguments.json is not None:
        facts = {
            "python": platform.python_version(),
            "results": {result.name: result.facts for result in results},
            "targets": [
                {"name": one.name, "value": one.value, "limit": one.limit, "unit": one.unit, "met": one.met}
                for one in targets
            ],
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return exit_code(targets, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
