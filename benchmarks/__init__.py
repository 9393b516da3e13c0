"""What a call costs, and what it does to the process that carries it. Run with ``python -m benchmarks``."""

from __future__ import annotations

__all__: list[str] = []
