"""Twilio's own SDK, guarded: it never waits for ever, never repeats a request whose outcome is unknown, and fails
with one kind of error.

``twilio.rest.Client`` as it comes waits without limit, takes its region from the environment, and reports failures
with its own exceptions or with those of ``requests``. Here:

* every request has a timeout;
* only 429 is repeated, because Twilio did not process it (https://www.twilio.com/docs/api/errors/20429);
* region and edge are given both or neither: a region alone reaches the wrong one;
* :func:`translated` turns whatever goes wrong into :class:`~voice_runtime.exceptions.RestError`.

All functions block; call them from any thread but an event loop's.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import functools
import importlib
import logging
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..clock import Clock, SystemClock
from ..exceptions import ConfigurationError, RestError

if TYPE_CHECKING:
    from ..config import Settings

__all__ = ["REQUEST_TIMEOUT_SECONDS", "client", "close_clients", "translated"]

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 10.0
"""For connecting, and for every pause in the answer."""

MAX_ATTEMPTS = 4
MAX_RETRY_AFTER_SECONDS = 5.0
_BACKOFF_SECONDS = 0.5

_API = "https://api.twilio.com"

# What the code alone does not tell a newcomer.
_HINTS = {
    20003: "Check TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SECRET) and the region.",
    20404: "Credentials of another account or region also end here.",
    20429: "Too many requests at the same time; this one was not processed.",
    21210: "TWILIO_PHONE_NUMBER must be a number of this account, or a verified caller id.",
    21215: "Allow the country in the console under Voice geographic permissions.",
    21219: "A trial account can only call verified numbers.",
    21408: "Allow the country in the console under Messaging geographic permissions.",
    21608: "A trial account can only write to verified numbers.",
    21610: "The recipient has answered STOP.",
}


def client(settings: Settings, *, clock: Clock | None = None) -> Any:
    """A ``twilio.rest.Client`` for the account in ``settings``. Threads may share it.

    Equal settings get the same one, with the connections it keeps open; :func:`close_clients` closes them.

    Credentials are ``TWILIO_API_KEY`` and ``TWILIO_API_SECRET`` where set, else the first of ``TWILIO_AUTH_TOKEN``.
    ``TWILIO_API_BASE_URL`` takes the place of ``https://api.twilio.com``. Use it inside :func:`translated`.

    Args:
        clock: what the pauses between attempts are taken from.

    Raises:
        ConfigurationError: credentials are missing, or region and edge are not both given.
    """
    purpose = "use Twilio's REST API"
    account = settings.require("twilio_account_sid", purpose)
    secret = settings.twilio_api_secret
    if bool(settings.twilio_api_key) != bool(secret):
        raise ConfigurationError("TWILIO_API_KEY and TWILIO_API_SECRET go together; only one of them is set.")
    if settings.twilio_api_key and secret is not None:
        username, password = settings.twilio_api_key, secret.get_secret_value()
    else:
        settings.require("twilio_auth_token", purpose)
        if not settings.auth_tokens:
            raise ConfigurationError("TWILIO_AUTH_TOKEN holds only commas; expected one token or several.")
        username, password = account, settings.auth_tokens[0]
    region, edge = settings.twilio_region, settings.twilio_edge
    if bool(region) != bool(edge):
        came, missing = ("TWILIO_REGION", "TWILIO_EDGE") if region else ("TWILIO_EDGE", "TWILIO_REGION")
        raise ConfigurationError(
            f"{came} is set and {missing} is not. Give both, for example TWILIO_REGION=ie1 and TWILIO_EDGE=dublin, "
            f"or neither."
        )
    base = settings.twilio_api_base_url
    if base and not base.startswith(("http://", "https://")):
        raise ConfigurationError(f"TWILIO_API_BASE_URL is {base!r}; expected for example http://127.0.0.1:8123.")
    account_facts = (account, username, password, region, edge, base.rstrip("/") if base else None)
    return _shared_client(*account_facts) if clock is None else _make_client(*account_facts, clock=clock)


def close_clients() -> None:
    """Close the connections kept open by :func:`client`. Clients made before must not be used any more."""
    _shared_client.cache_clear()
    while _sessions:
        _sessions.pop().close()


_sessions: list[Any] = []


def _make_client(
    account: str,
    username: str,
    password: str,
    region: str | None,
    edge: str | None,
    base: str | None,
    *,
    clock: Clock | None = None,
) -> Any:
    http = importlib.import_module("twilio.http.http_client").TwilioHttpClient(timeout=REQUEST_TIMEOUT_SECONDS)
    _sessions.append(http.session)
    return importlib.import_module("twilio.rest").Client(
        username,
        password,
        account,
        # The SDK would turn 127.0.0.1 into 127.dublin.ie1.0.1.
        region=None if base else region,
        edge=None if base else edge,
        http_client=_GuardedHttpClient(http, base, clock or SystemClock()),
        # Anything but an empty mapping keeps the SDK from reading the process's environment.
        environment={"_": "_"},
    )


_shared_client = functools.lru_cache(maxsize=32)(_make_client)


class _GuardedHttpClient:
    """What the SDK's Client needs of an HTTP client, around the SDK's own."""

    is_async = False

    def __init__(self, http: Any, base: str | None, clock: Clock) -> None:
        self._http = http
        self._base = base
        self._clock = clock

    def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        if self._base is not None and url.startswith(_API):
            url = self._base + url.removeprefix(_API)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            response = self._http.request(method, url, *args, **options)
            if response.status_code != 429 or attempt == MAX_ATTEMPTS:
                break
            seconds = self._pause(response.headers, attempt)
            if seconds > MAX_RETRY_AFTER_SECONDS:
                break
            logger.info("Twilio answered 429 to attempt %d; the next follows in %.1f s", attempt, seconds)
            self._clock.sleep(seconds)
        return response

    def _pause(self, headers: Mapping[str, str], attempt: int) -> float:
        """Seconds to wait: what Retry-After says (RFC 9110 section 10.2.3), else ever longer, spread by a quarter."""
        told = (headers.get("Retry-After") or "").strip()
        if told.isascii() and told.isdigit():
            return float(told[:9])
        try:
            at = email.utils.parsedate_to_datetime(told)
        except ValueError:
            return _BACKOFF_SECONDS * float(2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
        if at.tzinfo is None:  # "-0000": UTC
            at = at.replace(tzinfo=datetime.UTC)
        return max(0.0, at.timestamp() - self._clock.time())


@contextlib.contextmanager
def translated(purpose: str, *, method: str = "POST") -> Iterator[None]:
    """Around one use of the SDK: whatever it raises leaves as a RestError.

    Args:
        purpose: begins the message, for example ``"Placing the call"``.
        method: ``GET`` for what can be repeated at will; anything else may have been carried out although no good
            answer came, which :attr:`~voice_runtime.exceptions.RestError.maybe_done` tells.

    Raises:
        RestError: the request failed or its answer made no sense.
    """
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    twilio_exception = importlib.import_module("twilio.base.exceptions").TwilioException
    changes = method != "GET"
    try:
        yield
    except twilio_exception as error:
        raise _from_sdk(purpose, error, changes) from error
    except (RequestException, HTTPError) as error:
        maybe_done = changes and not _was_never_sent(error)
        message = f"{purpose} failed: no answer from Twilio ({_kind(error)})."
        if maybe_done:
            message += " Twilio may have carried it out all the same: do not repeat it blindly."
        raise RestError(message, maybe_done=maybe_done) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # An answer of 2xx that is not the JSON it should be: a proxy's page, most likely.
        message = f"{purpose} failed: the answer is not what Twilio sends ({type(error).__name__})."
        raise RestError(message, maybe_done=changes) from error


def _from_sdk(purpose: str, error: Any, changes: bool) -> RestError:
    status = getattr(error, "status", None)
    status = status if isinstance(status, int) else None
    code = getattr(error, "code", None)
    # The SDK puts the HTTP status in the place of a code that did not come.
    code = code if isinstance(code, int) and code != status else None
    # str() of the SDK's exceptions is coloured text of several lines when stderr is a terminal.
    title = getattr(error, "title", None)
    if title is not None:
        text = f"{title}: {error.detail}" if error.detail else str(title)
    else:
        text = str(getattr(error, "msg", None) or (error.args[0] if error.args else type(error).__name__))
    parts = [f"HTTP {status}"] if status is not None else []
    parts += [f"Twilio error {code}"] if code is not None else []
    message = f"{purpose} failed ({', '.join(parts)}): {text}" if parts else f"{purpose} failed: {text}"
    if not message.endswith((".", "!", "?")):
        message += "."
    if code in _HINTS:
        message += f" {_HINTS[code]}"
    if code is not None:
        message += f" See https://www.twilio.com/docs/errors/{code}"
    # Without a status nothing is known; 5xx is Twilio's own failure, before or after the deed.
    maybe_done = changes and (status is None or status >= 500)
    return RestError(message, status=status, code=code, maybe_done=maybe_done)


def _was_never_sent(error: BaseException) -> bool:
    """Whether the request cannot have reached Twilio: the connection never came about, or it was no valid request."""
    from requests import exceptions as http
    from urllib3 import exceptions as pool

    if isinstance(error, http.ConnectTimeout):
        return True
    if isinstance(error, http.RequestException) and isinstance(error, ValueError):
        # A URL or header that cannot be sent; but JSON and content that cannot be read come after the deed.
        return not isinstance(error, http.JSONDecodeError)
    reason: Any = error.args[0] if error.args else None
    reason = getattr(reason, "reason", None) or reason
    return isinstance(reason, pool.NewConnectionError | pool.ConnectTimeoutError)


def _kind(error: BaseException) -> str:
    """The failure without the URL, which ``str()`` of a requests exception holds."""
    reason: Any = error.args[0] if error.args else None
    reason = getattr(reason, "reason", None) or reason
    inner = type(reason).__name__ if isinstance(reason, BaseException) else ""
    return f"{type(error).__name__}: {inner}" if inner else type(error).__name__
