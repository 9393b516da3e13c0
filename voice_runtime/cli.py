"""The command ``voice-runtime``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .exceptions import VoiceRuntimeError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Telephone calls as plain Python."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the recordings and transcripts.")] = Path("demo-output"),
) -> None:
    """Place two simulated calls on this machine and show them live. Needs no account."""
    from .demo import run_demo

    try:
        good = run_demo(output)
    except VoiceRuntimeError as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None
    if not good:
        typer.secho("The calls did not come out as they should.", err=True, fg=typer.colors.RED)
        raise typer.Exit(1)
