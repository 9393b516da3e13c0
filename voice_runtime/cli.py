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


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")] = False,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Start no server for the check where none serves the public URL.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=10, help="Seconds that each step of the network may take.")
    ] = 10,
) -> None:
    """Check settings, credentials, number, public URL and providers before the first call. Changes nothing.

    The exit code is 0 when nothing is wrong (warnings are not), else 1.
    """
    from .doctor import run_doctor

    raise typer.Exit(run_doctor(json=json, serve=not no_serve, timeout=timeout))
