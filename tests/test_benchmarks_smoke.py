"""The benchmark program, run small: it measures, counts and judges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop", reason="the benchmarks run on uvloop, which Windows has not")
if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read Linux's accounting of processes", allow_module_level=True)

from benchmarks.report import Target, exit_code

_ROOT = Path(__file__).parents[1]


def _run(tmp_path: Path, *arguments: str) -> tuple[Any, str, int]:
    path = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--json", str(path)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert path.exists(), done.stderr
    return json.loads(path.read_text()), done.stdout, done.returncode


def test_echo_measures_three_servers_in_one_run(tmp_path: Path) -> None:
    """Each server's frames come back whole and in order, and the CPU of each is known."""
    results, printed, code = _run(
        tmp_path, "echo", "--calls", "4", "--rounds", "1", "--seconds", "0.8", "--scaling", ""
    )
    at_four = results["results"]["echo"]["4"]
    assert set(at_four) == {"loop", "thread", "fastapi"}
    for kind, (only,) in at_four.items():
        assert only["lost"] == only["reordered"] == only["damaged"] == 0, kind
        assert only["frames"] > 0.5 * only["frames_expected"], kind
        assert only["cpu_ms_per_call_second"] > 0, kind
    assert "PASS" in printed
    assert code == 0


def test_sequential_counts_what_calls_leave_behind(tmp_path: Path) -> None:
    """After the last call the server holds the threads, tasks and descriptors it held before the first."""
    results, _, _ = _run(tmp_path, "sequential", "--sequential-calls", "30")
    facts = results["results"]["sequential"]
    assert facts["calls_not_heard"] == 0
    assert {name: facts["end"][name] for name in ("threads", "tasks", "fds")} == {
        name: facts["start"][name] for name in ("threads", "tasks", "fds")
    }


@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_a_missed_target_counts_only_when_asked_to(value: float) -> None:
    """Beyond its limit, or not measured: the exit code is 1 with --check and 0 without."""
    targets = [Target("met", 1.0, 1.0), Target("missed", value, 1.0)]
    assert [target.met for target in targets] == [True, False]
    assert exit_code(targets, check=True) == 1
    assert exit_code(targets, check=False) == 0
    assert exit_code(targets[:1], check=True) == 0


def test_import_is_measured_in_interpreters_of_their_own(tmp_path: Path) -> None:
    """Each statement is run as often as asked, not counting the run that compiles."""
    results, _, _ = _run(tmp_path, "import", "--import-times", "2")
    assert len(results["results"]["import"]["import voice_runtime"]) == 2
