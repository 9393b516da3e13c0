"""Twilio's own SDK, guarded: it never waits for ever, never repeats a request whose outcome is unknown, and fails
with one kind of error.

``twilio.rest.Client`` as it comes waits without limit, takes its region from the environment, and reports failures
with its own exceptions or with those of ``requests``. Here:

* every request has a timeout;
* 429 is repeated, because Twilio did not process it (https://www.twilio.com/docs/api/errors/20429); after a 5xx or a
  broken connection only GET is, because nothing happens twice;
* region and edge are given both or neither: a region alone reaches the wrong one;
* :func:`translated` turns whatever goes wrong into :class:`~voice_runtime.exceptions.RestError`;
* :func:`complete_list` has every record of a list or fails;
* :func:`first_region_that_knows` finds the region that a call lives in.

All functions block; call them from any thread but an event loop's.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import functools
import importlib
import itertools
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..clock import Clock, SystemClock
from ..exceptions import ConfigurationError, RestError
from ..masking import mask_numbers, without_numbers

if TYPE_CHECKING:
    from ..config import Settings

__all__ = [
    "PAGE_SIZE",
    "REQUEST_TIMEOUT_SECONDS",
    "check_sid",
    "client",
    "close_clients",
    "complete_list",
    "download",
    "first_region_that_knows",
    "is_unknown",
    "read_price",
    "read_whole",
    "translated",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 10.0
"""For connecting, and for every pause in the answer."""

PAGE_SIZE = 1000
"""Records asked for at once: the most Twilio gives."""

MAX_ATTEMPTS = 4
MAX_GET_ATTEMPTS = 3
"""Of a GET that meets a 5xx or no answer: at most three times :data:`REQUEST_TIMEOUT_SECONDS`."""
MAX_RETRY_AFTER_SECONDS = 5.0
_BACKOFF_SECONDS = 0.5
_MAX_STALE_PAGES = 3  # with nothing new on them: more than calls that begin in the meantime can shift

_HOST = re.compile(r"^https://[a-z0-9.-]+\.twilio\.com(?=[/?]|$)")  # api, voice, lookups ..., of any region
_API = "https://api.twilio.com"
_CHUNK_BYTES = 65_536

# What the code alone does not tell a newcomer.
_HINTS = {
    20003: "Check TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SECRET) and the region; "
    "for another region, its entry in TWILIO_REGIONS.",
    20009: "Only what is completed can be deleted.",
    20404: "Credentials of another account or region also end here.",
    20429: "Too many requests at the same time; this one was not processed.",
    21210: "TWILIO_PHONE_NUMBER must be a number of this account, or a verified caller id.",
    21215: "Allow the country in the console under Voice geographic permissions.",
    21220: "The call has not been answered yet, or it is over.",
    21219: "A trial account can only call verified numbers.",
    21408: "Allow the country in the console under Messaging geographic permissions.",
    21608: "A trial account can only write to verified numbers.",
    21610: "The recipient has answered STOP.",
}


def client(settings: Settings, *, clock: Clock | None = None) -> Any:
    """A ``twilio.rest.Client`` for the account in ``settings``. Threads may share it.

    Equal settings get the same one, with the connections it keeps open; :func:`close_clients` closes them.

    Credentials are ``TWILIO_API_KEY`` and ``TWILIO_API_SECRET`` where set, else the first of ``TWILIO_AUTH_TOKEN``.
    ``TWILIO_API_BASE_URL`` takes the place of ``https://api.twilio.com`` and of Twilio's other hosts. For another
    region give ``settings.for_region(...)``. Use it inside :func:`translated`.

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
        if settings.rest_token is None:
            raise ConfigurationError("TWILIO_AUTH_TOKEN holds only commas; expected one token or several.")
        username, password = account, settings.rest_token
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
    # At INFO the SDK writes every request, and with it the numbers a list is filtered by.
    silent = logging.getLogger(f"{__name__}.sdk")
    silent.setLevel(logging.WARNING)
    http = importlib.import_module("twilio.http.http_client").TwilioHttpClient(
        timeout=REQUEST_TIMEOUT_SECONDS, logger=silent
    )
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


class _Answer(Protocol):
    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Any: ...


_A = TypeVar("_A", bound=_Answer)


class _Download(NamedTuple):
    """As the SDK's Response, but with bytes."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


class _GuardedHttpClient:
    """What the SDK's Client needs of an HTTP client, around the SDK's own."""

    is_async = False

    def __init__(self, http: Any, base: str | None, clock: Clock) -> None:
        self._http = http
        self._base = base
        self._clock = clock

    def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        url = self._address(url)
        return self._repeated(method, lambda: self._http.request(method, url, *args, **options))

    def download(self, url: str, *, auth: Any, params: Mapping[str, str], max_bytes: int) -> _Download:
        """GET what is not text. Where Twilio redirects to a storage elsewhere, that does not see the credentials."""
        url = self._address(url)

        def once() -> _Download:
            with self._http.session.get(
                url, auth=auth, params=params, stream=True, timeout=self._http.timeout
            ) as answer:
                content = bytearray()
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > max_bytes:
                        break
                return _Download(answer.status_code, answer.headers, bytes(content))

        return self._repeated("GET", once)

    def _address(self, url: str) -> str:
        base = self._base
        return url if base is None else _HOST.sub(lambda _: base, url)

    def _repeated(self, method: str, send: Callable[[], _A]) -> _A:
        """Send, again where that can do no harm, until there is a final answer."""
        from requests.exceptions import RequestException

        for attempt in itertools.count(1):
            final = method != "GET" or attempt >= MAX_GET_ATTEMPTS
            headers: Mapping[str, str] = {}
            try:
                answer = send()
            except RequestException as error:
                if final or not _may_pass(error):
                    raise
                what = _kind(error)
            else:
                status = answer.status_code
                if status == 429:
                    final = attempt >= MAX_ATTEMPTS
                if final or (status < 500 and status != 429):
                    return answer
                headers, what = answer.headers or {}, str(status)
                if self._pause(headers, attempt) > MAX_RETRY_AFTER_SECONDS:
                    return answer
            seconds = self._pause(headers, attempt)
            logger.info("Twilio's answer to attempt %d was %s; the next follows in %.1f s", attempt, what, seconds)
            self._clock.sleep(seconds)
        raise AssertionError("counting does not end")

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
        raise _from_sdk(purpose, _with_answer(error), changes) from without_numbers(error)
    except (RequestException, HTTPError) as error:
        maybe_done = changes and not _was_never_sent(error)
        message = f"{purpose} failed: no answer from Twilio ({_kind(error)})."
        if maybe_done:
            message += " Twilio may have carried it out all the same: do not repeat it blindly."
        raise RestError(message, maybe_done=maybe_done) from without_numbers(error)
    except (ValueError, TypeError, AttributeError, KeyError, InvalidOperation) as error:
        # An answer of 2xx that is not the JSON it should be: a proxy's page, most likely.
        message = f"{purpose} failed: the answer is not what Twilio sends ({type(error).__name__})."
        raise RestError(message, maybe_done=changes) from error


def complete_list(purpose: str, first_page: Callable[[], Any], read: Callable[[Any], T]) -> list[T]:
    """Every record of a list, in Twilio's order and each once; or an error, never a part of them.

    ::

        complete_list("Listing the calls", lambda: rest.calls.page(page_size=PAGE_SIZE), read=lambda call: call.sid)

    Args:
        purpose: begins the message of an error.
        first_page: one of the SDK's ``page`` methods. The others follow from the page before.
        read: makes a value of one of the SDK's records.

    Raises:
        RestError: a page could not be had although it was asked for repeatedly, or the pages never end.
    """
    found: dict[str, T] = {}
    followed: set[str] = set()
    stale_pages = 0
    with translated(purpose, method="GET"):
        page = first_page()
        while True:
            known = len(found)
            for record in page:
                if not record.sid:
                    raise ValueError("a record without SID")
                # Whatever is new in the list shifts the rest: a record may come again, by now with later facts.
                found[record.sid] = read(record)
            address = page.next_page_url
            if address is None:
                return list(found.values())
            stale_pages = 0 if len(found) > known else stale_pages + 1
            if address in followed or stale_pages > _MAX_STALE_PAGES:
                raise RestError(f"{purpose} failed: Twilio's pages repeat after {len(found)} records.")
            followed.add(address)
            page = page.next_page()


def download(rest: Any, purpose: str, path: str, *, max_bytes: int, params: Mapping[str, str] | None = None) -> bytes:
    """The bytes at a path of ``https://api.twilio.com``, for example the audio of a recording.

    Args:
        rest: of :func:`client`.
        purpose: begins the message of an error.
        path: from ``/2010-04-01`` on.
        max_bytes: more than that is an error.

    Raises:
        RestError: Twilio refused or did not answer, or there is more than ``max_bytes``.
    """
    with translated(purpose, method="GET"):
        answer = rest.http_client.download(
            rest.get_hostname(_API + path), auth=rest.auth, params=params or {}, max_bytes=max_bytes
        )
        if answer.status_code != 200:
            raise rest.api.v2010.exception("GET", path, answer, "Unable to download")
    if len(answer.content) > max_bytes:
        raise RestError(f"{purpose} failed: expected {max_bytes} bytes at most; there are more.")
    content: bytes = answer.content
    return content


def first_region_that_knows(
    settings: Settings, operation: Callable[[Settings], T], *, region: str | None = None
) -> T:
    """Do something to what has a SID, in the region where it is: ``region`` first, then the others configured.

    A region passes it on by answering that it knows nothing of that SID (404, Twilio error 20404). Any other failure
    ends the search: whether the SID belongs there is then unknown.

    Args:
        operation: gets the settings of one region; made for :func:`client`.
        region: where it probably is; None is the region of ``TWILIO_REGION``.

    Raises:
        ConfigurationError: ``region`` is not configured.
        RestError: no region knows it (the first one's answer), or one failed in another way.
    """
    settings = settings.for_region(region)
    unknown: RestError | None = None
    for name in settings.regions:
        try:
            return operation(settings.for_region(name))
        except RestError as error:
            if not is_unknown(error):
                if len(settings.regions) > 1:
                    error.add_note(f"This was in region {name}.")
                raise
            unknown = unknown or error
    assert unknown is not None, "there is always one region"
    raise unknown


def is_unknown(error: RestError) -> bool:
    """Whether Twilio says that what was asked for does not exist, there and for these credentials."""
    return (error.status, error.code) == (404, 20404)


def check_sid(sid: str, noun: str = "call", prefix: str = "CA") -> str:
    """``sid``, fit to be a part of a path.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(rf"(?:{prefix})[A-Za-z0-9]+", sid):
        came = mask_numbers(sid[:40])
        raise ValueError(f"expected a {noun} SID, {prefix!r} and 32 hexadecimal digits; {came!r} came")
    return sid


def read_whole(text: Any) -> int | None:
    """A number that the SDK leaves as text. ValueError when it is none."""
    return None if text in (None, "") else int(text)


def read_price(text: Any) -> Decimal | None:
    """A price that the SDK may leave as text. InvalidOperation when it is none."""
    return None if text in (None, "") else Decimal(str(text))


def _with_answer(error: Any) -> Any:
    """A page that cannot be fetched is reported without its facts, but with the answer, which holds them."""
    answer = error.args[1] if len(error.args) > 1 else None
    if not hasattr(answer, "status_code"):
        return error
    return importlib.import_module("twilio.base.version").Version.exception("GET", "", answer, str(error.args[0]))


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
    text = mask_numbers(text)
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


def _may_pass(error: BaseException) -> bool:
    """Whether a failure of the network may be over the next time."""
    from requests import exceptions as http

    transient = http.ConnectionError | http.Timeout | http.ChunkedEncodingError
    return isinstance(error, transient) and not isinstance(error, http.SSLError | http.ProxyError)


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
