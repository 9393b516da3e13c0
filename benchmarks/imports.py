"""What importing the package costs: CPU of a fresh interpreter, without the interpreter's own start."""

from __future__ import annotations

import statistics
import tempfile

from rich.table import Table

from .processes import Cores, child_environment, run_python
from .report import Result, Target

__all__ = ["run"]

_STATEMENTS = ("import voice_runtime", "from voice_runtime import VoiceSession, VoiceServer")
_BUDGET_MS = 50.0

_PROGRAM = "import time; began = time.process_time(); {statement}; print((time.process_time() - began) * 1000)"


def run(cores: Cores, *, times: int) -> Result:
    """Each statement in ``times`` interpreters."""
    table = Table(title=f"Import: CPU ms in {times} fresh interpreters")
    table.add_column("statement")
    table.add_column("least", justify="right")
    table.add_column("median", justify="right")
    facts: dict[str, list[float]] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as bytecode:
        # Bytecode of its own, so that it is always there, and never of a run with other settings.
        environment = child_environment() | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for statement in _STATEMENTS:
            arguments = ["-c", _PROGRAM.format(statement=statement)]
            try:
                for _ in range(1 + times):  # the first one compiles
                    milliseconds = run_python(arguments, core=cores.load, timeout=120, environment=environment)
                    facts.setdefault(statement, []).append(float(milliseconds))
            except RuntimeError as error:
                facts[statement] = []
                notes.append(str(error).strip())
                table.add_row(statement, "failed", "failed")
                continue
            del facts[statement][0]
            table.add_row(statement, f"{min(facts[statement]):.1f}", f"{statistics.median(facts[statement]):.1f}")
    first = facts[_STATEMENTS[0]]
    cost = statistics.median(first) if first else float("nan")
    target = Target(f"CPU of {_STATEMENTS[0]!r}", cost, _BUDGET_MS, "ms")
    return Result(name="import", table=table, facts=facts, targets=[target], notes=notes)
