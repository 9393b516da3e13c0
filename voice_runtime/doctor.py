"""``voice-runtime doctor``: what stands between these settings and a telephone call, looked at before there is one.

::

    checks = run_checks(load())
    for check in checks:
        print(check.level, check.name, check.found, check.advice)

Nothing is changed anywhere. One check that fails does not stop the others, and no step takes longer than its
deadline. No secret is in what is found, and telephone numbers are masked.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Iterable, Iterator

import msgspec
from pydantic import SecretStr

from .clock import Clock, SystemClock
from .config import Settings, load
from .doctor_account import check_clock, check_countries, check_credentials, check_number, unanswered
from .doctor_public_url import (
    STREAM,
    WEBHOOK,
    RoundTrip,
    judge_stream,
    judge_webhook,
    nobody_serves,
    walk_stream,
    walk_webhook,
)
from .doctor_report import Check, Redactor, error, exit_code, plain, render, skipped, summary, to_json
from .doctor_settings import (
    check_policy,
    check_providers,
    check_public_url,
    check_stream_url,
    check_twilio_settings,
)
from .doctor_steps import Steps
from .exceptions import ConfigurationError, RestError
from .masking import mask_numbers
from .server import VoiceServer
from .switchboard import busy

__all__ = ["STEP_SECONDS", "Check", "run_checks", "run_doctor"]

STEP_SECONDS = 10.0
"""The deadline of one step of the network."""


def run_checks(
    settings: Settings,
    *,
    timeout: float = STEP_SECONDS,
    serve: bool = True,
    clock: Clock | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> list[Check]:
    """Check everything; takes seconds, and blocks.

    Args:
        timeout: for each step of the network (s).
        serve: where nothing serves the public URL yet, and the server's port is free, serve it during the check.
        on_check: is given each finding as soon as it is there.
    """
    return _Doctor(settings, timeout, serve, clock or SystemClock(), on_check).examine()


def run_doctor(*, json: bool = False, serve: bool = True, timeout: float = STEP_SECONDS) -> int:
    """The command: checks the settings of the environment and ``.env``, prints what is found, returns the exit code.

    Args:
        json: print one JSON list and nothing else.
    """
    from rich.console import Console

    console = Console(highlight=False)

    def show(check: Check) -> None:
        if console.is_terminal and not json:
            console.print(render(check))
        elif not json:
            sys.stdout.write(plain(check) + "\n")

    with _quiet_log():
        try:
            settings = load()
        except ConfigurationError as problem:
            checks = [error("settings", str(problem), "Correct it in the environment or in .env.")]
            show(checks[0])
        else:
            checks = run_checks(settings, timeout=timeout, serve=serve, on_check=show)
    sys.stdout.write(f"{to_json(checks)}\n" if json else f"\n{summary(checks)}\n")
    return exit_code(checks)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Nothing of ours on stderr where no logging is set up: requests that must be refused are sent on purpose."""
    handler = logging.NullHandler()
    logger = logging.getLogger("voice_runtime")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Doctor:
    """One examination."""

    def __init__(
        self,
        settings: Settings,
        timeout: float,
        serve: bool,
        clock: Clock,
        on_check: Callable[[Check], None] | None,
    ) -> None:
        self._settings = settings
        self._serve = serve
        self._clock = clock
        self._on_check = on_check
        self._steps = Steps(clock, timeout)
        self._redact = Redactor(_secrets(settings))
        self._checks: list[Check] = []

    def examine(self) -> list[Check]:
        settings, steps = self._settings, self._steps
        self._take("stream URL", lambda: check_stream_url(settings))
        self._take("public URL", lambda: check_public_url(settings))
        self._take("Twilio settings", lambda: check_twilio_settings(settings))
        known = self._take("credentials", lambda: check_credentials(settings, steps))
        self._take("clock", lambda: check_clock(settings, steps, self._clock))
        if known and known[0].level in ("ok", "warning"):
            self._take("number", lambda: check_number(settings, steps))
            self._take("geographic permissions", lambda: check_countries(settings, steps))
        else:
            for name in ("number", "geographic permissions"):
                self._note(skipped(name, "Not asked: it needs credentials that work."))
        self._examine_round_trips()
        self._take("speech", lambda: check_providers(settings))
        self._take("policy", lambda: check_policy(settings))
        return self._checks

    def _take(self, name: str, work: Callable[[], list[Check]]) -> list[Check]:
        """What a check finds; an error of its own is a finding, too."""
        try:
            found = work()
        except RestError as problem:
            found = [unanswered(name, problem)]
        except Exception as problem:  # noqa: BLE001 - the other checks go on
            what = mask_numbers(f"{type(problem).__name__}: {problem}")
            found = [
                error(name, f"Expected an answer to judge; the check itself failed with {what}.", "Report this.")
            ]
        return [self._note(check) for check in found]

    def _note(self, check: Check) -> Check:
        shown = self._redact(check)
        self._checks.append(shown)
        if self._on_check is not None:
            self._on_check(shown)
        return shown

    # -- the public URL -------------------------------------------------------------------------------------------

    def _examine_round_trips(self) -> None:
        settings, steps = self._settings, self._steps
        obstacle = ""
        if not settings.auth_tokens and not settings.shared_keys:
            obstacle = "without TWILIO_AUTH_TOKEN nothing can be signed"
        try:
            same_place = _host(settings.public_url()) == _host(settings.stream_url())
        except ConfigurationError:
            obstacle = "there is no usable URL"
        if obstacle:
            for name in (WEBHOOK, STREAM):
                self._note(skipped(name, f"Not tried: {obstacle}."))
            return
        trips: list[RoundTrip] = []

        def webhook() -> list[Check]:
            trips.append(walk_webhook(settings, steps))
            note = ""
            if self._serve and settings.voice_server_port and nobody_serves(trips[-1]):
                started, note = self._start_server(servers)
                if started:
                    trips.append(walk_webhook(settings, steps))
            check = judge_webhook(trips[-1])
            return [msgspec.structs.replace(check, found=f"{note}{check.found}")]

        def stream() -> list[Check]:
            if same_place and trips and trips[-1].signed.failure is not None:
                return [skipped(STREAM, "Not tried: it is at the same place as the webhook.")]
            return [judge_stream(walk_stream(settings, steps))]

        with contextlib.ExitStack() as servers:
            self._take(WEBHOOK, webhook)
            self._take(STREAM, stream)

    def _start_server(self, servers: contextlib.ExitStack) -> tuple[bool, str]:
        """Serve what nobody else serves. Who calls at this very moment hears the engaged tone."""
        port = self._settings.voice_server_port
        server = VoiceServer(lambda facts: busy(), stt="mock", tts="mock", settings=self._settings, clock=self._clock)
        try:
            servers.enter_context(server.running())
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                return False, f"No server could be started for this check: {problem}. "
            return False, f"Port {port} of this machine is taken, but the public URL does not lead to what has it. "
        return True, f"Nothing served it yet, so a server was started on port {port} for this check. "


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _secrets(settings: Settings) -> Iterator[str]:
    def values(owner: object, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            value = getattr(owner, name)
            if isinstance(value, SecretStr):
                yield value.get_secret_value()

    yield from values(settings, type(settings).model_fields)
    yield from settings.auth_tokens
    yield from settings.shared_keys.values()
    for region in settings.twilio_regions.values():
        yield from values(region, type(region).model_fields)
