"""Who may be called and texted, and how much: the rules every call and message passes before it costs anything.

::

    guard = Guard(CallPolicy.from_settings(settings), clock=clock, caller_id=settings.twilio_phone_number)
    admission = guard.admit_call("+358 40 123 4567")       # or a PolicyError that names the rule
    try:
        ...                                                 # place the call to admission.number
    except BaseException:
        admission.refuse()                                  # it was never placed: nothing has been used up
        raise
    ...
    admission.release()                                     # it is over

The rules, in the order in which they are asked; a rule is named after its field of :class:`CallPolicy`:

======================  =======================================================================  ================
``valid_number``        raises :class:`~voice_runtime.exceptions.InvalidNumberError`             calls, messages
``allowed_countries``   the country of the number                                                calls, messages
``premium``             premium-rate, shared-cost and satellite numbers, international networks  calls, messages
``do_not_call``         the numbers that are never called                                        calls, messages
``calls_per_second``    calls placed                                                             calls
``concurrent_calls``    calls placed and not over                                                calls
``calls_per_day``       calls placed since midnight UTC                                          calls
``messages_per_day``    messages sent since midnight UTC                                         messages
======================  =======================================================================  ================

``sip:`` and ``client:`` addresses pass the caps only: whom a SIP host calls on is that host's business.

The caps are counted in memory, by each process for itself, and from zero when it starts.
"""

from __future__ import annotations

import collections
import math
import os
import threading
import urllib.parse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .clock import Clock, SystemClock
from .exceptions import ConfigurationError, InvalidNumberError, PolicyError
from .masking import mask_number, mask_numbers, without_numbers
from .phone_numbers import (
    EVERY_COUNTRY,
    NO_COUNTRY,
    UNKNOWN_COUNTRY,
    callable_address,
    check_country,
    country_codes,
    country_of,
    is_number,
    normalize_number,
    number_kind,
)

if TYPE_CHECKING:
    from .config import Settings

__all__ = ["Admission", "CallPolicy", "DoNotCallFile", "Guard", "explicit_guard"]

_DAY_S = 86_400


class CallPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a :class:`Guard` lets out. None is no cap.

    Attributes:
        allowed_countries: ISO 3166 codes (``{"FI", "SE"}``), or ``{"*"}`` for every country. ``001`` stands for
            numbers of no country, ``ZZ`` for those whose country cannot be told. None: the caller id's own country.
        premium: let premium-rate, shared-cost and satellite numbers and international networks through.
        do_not_call: numbers, which are copied when the guard is made; or a callable that is asked about each number,
            in E.164, on the thread that wants to call and perhaps on several at a time. When it raises, nobody is
            called. :class:`DoNotCallFile` is one.
        calls_per_second: 2 is two calls within any second, 0.5 is one within any two seconds. Twilio itself places
            one a second unless the account has more, and queues the others.
        concurrent_calls: how many may be ringing or up at a time.
        calls_per_day: days are those of UTC.
        messages_per_day: likewise. A message counts from its admission on, whatever becomes of it.

    Raises:
        ConfigurationError: a value cannot be used.
    """

    allowed_countries: Collection[str] | None = None
    premium: bool = False
    do_not_call: Collection[str] | Callable[[str], bool] = ()
    calls_per_second: float | None = None
    concurrent_calls: int | None = None
    calls_per_day: int | None = None
    messages_per_day: int | None = None

    def __post_init__(self) -> None:
        if self.allowed_countries is not None:
            try:
                codes = country_codes(self.allowed_countries)
            except ValueError as error:
                raise ConfigurationError(f"allowed_countries cannot be used: {error}.") from None
            msgspec.structs.force_setattr(self, "allowed_countries", codes)
        if isinstance(self.do_not_call, str):
            raise ConfigurationError(
                "do_not_call is one text; expected a collection of numbers, a callable, or DoNotCallFile(path)."
            )
        rate = self.calls_per_second
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigurationError(f"calls_per_second is {rate}; expected more than 0, or None for no cap.")
        for name in ("concurrent_calls", "calls_per_day", "messages_per_day"):
            cap = getattr(self, name)
            if cap is not None and cap < 0:
                raise ConfigurationError(f"{name} is {cap}; expected 0 or more, or None for no cap.")

    @classmethod
    def from_settings(cls, settings: Settings) -> CallPolicy:
        """The policy that the ``VOICE_...`` settings describe: without any of them, ordinary numbers in the caller
        id's own country.

        Raises:
            ConfigurationError: ``VOICE_DO_NOT_CALL`` cannot be read.
        """
        path = settings.voice_do_not_call
        return cls(
            allowed_countries=settings.voice_allowed_countries,
            premium=settings.voice_premium_numbers is True,
            do_not_call=() if path is None else DoNotCallFile(path, settings.voice_default_country),
            calls_per_second=settings.voice_calls_per_second,
            concurrent_calls=settings.voice_concurrent_calls,
            calls_per_day=settings.voice_calls_per_day,
            messages_per_day=settings.voice_messages_per_day,
        )

    @classmethod
    def explicit(cls, settings: Settings) -> CallPolicy:
        """Only what the settings say themselves: without any of them, every valid number.

        Raises:
            ConfigurationError: ``VOICE_DO_NOT_CALL`` cannot be read.
        """
        policy = cls.from_settings(settings)
        return msgspec.structs.replace(
            policy,
            allowed_countries=(EVERY_COUNTRY,) if policy.allowed_countries is None else policy.allowed_countries,
            premium=settings.voice_premium_numbers is not False,
        )


class Guard:
    """Asks the rules of one policy, and counts. Every method may be called from any thread but an event loop's: a
    do-not-call list may be read from a disk or asked over a network.

    Args:
        policy: see :class:`CallPolicy`.
        clock: its ``monotonic()`` measures seconds, its ``time()`` tells the day (UTC).
        caller_id: our number, whose country is the one allowed where the policy names none.
        region: ISO 3166 code of the country whose national numbers (``040 123 4567``) are read. It also stands in for
            a caller id that is of no country, as the name of a sender.

    Raises:
        ConfigurationError: something in the policy's ``do_not_call`` is no number.
        ValueError: ``region`` is no country.
    """

    def __init__(
        self, policy: CallPolicy, *, clock: Clock, caller_id: str | None = None, region: str | None = None
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._caller_id = caller_id
        self._region = None if region is None else check_country(region)
        self._on_list = _do_not_call_check(policy.do_not_call, region)
        self._lock = threading.Lock()
        self._live: set[Admission] = set()
        self._calls_today = _DayCount()
        self._messages_today = _DayCount()
        rate = policy.calls_per_second
        # A cap of 2.5 a second is two calls within any 0.8 s.
        self._burst = 0 if rate is None else max(1, math.floor(rate))
        self._window_s = 0.0 if rate is None else self._burst / rate
        self._recent: collections.deque[float] = collections.deque()

    def admit_call(self, to: str, *, caller_id: str | None = None) -> Admission:
        """Let a call out: every rule agrees, and its place under the caps is taken.

        Args:
            to: a number, ``sip:user@host`` or ``client:name``.
            caller_id: of this call, where it is not the guard's.

        Raises:
            InvalidNumberError: ``to`` is nothing that can be called.
            PolicyError: a rule refuses; nothing has been counted.
        """
        number = callable_address(to, self._region)
        if is_number(number):
            self._ask_about_number(number, caller_id)
        with self._lock:
            now, day = self._clock.monotonic(), self._day()
            self._check_calls_per_second(number, now)
            self._check_concurrent_calls(number)
            self._check_calls_per_day(number, day)
            # Nothing is taken before all agree, or a refusal by one cap would use up another.
            if self._burst:
                self._recent.append(now)
            self._calls_today.add(day, 1)
            admission = Admission(number, self, now, day)
            self._live.add(admission)
        return admission

    def admit_message(self, to: str, *, caller_id: str | None = None) -> str:
        """Let a text message out, and count it. Returns the number in E.164.

        Args:
            to: a number.
            caller_id: the sender of this message, where it is not the guard's caller id.

        Raises:
            InvalidNumberError: ``to`` is no number.
            PolicyError: a rule refuses; nothing has been counted.
        """
        number = normalize_number(to, self._region)
        self._ask_about_number(number, caller_id)
        with self._lock:
            day = self._day()
            self._check_messages_per_day(number, day)
            self._messages_today.add(day, 1)
        return number

    # -- the rules, in their order --------------------------------------------------------------------------------

    def _ask_about_number(self, number: str, caller_id: str | None) -> None:
        self._check_allowed_countries(number, caller_id)
        self._check_premium(number)
        self._check_do_not_call(number)

    def _check_allowed_countries(self, number: str, caller_id: str | None) -> None:
        allowed = self.policy.allowed_countries
        if allowed is not None and EVERY_COUNTRY in allowed:
            return
        country = country_of(number)
        home = self._home(caller_id) if allowed is None else None
        if country == home or (allowed is not None and country in allowed):
            return
        if allowed is None:
            basis = f"the caller id is in {home}" if home else "no country is set, and the caller id tells none"
        else:
            basis = f"allowed are {', '.join(sorted(allowed)) or 'none'}"
        where = {
            NO_COUNTRY: "it belongs to no country, as those of satellites and international services (001)",
            UNKNOWN_COUNTRY: "several countries share its code, and none is known to have such a number (ZZ)",
        }.get(country, f"it is in {country}")
        if allowed is None and not (caller_id or self._caller_id):
            basis = "TWILIO_PHONE_NUMBER, whose country is the one allowed, is not set"
        wider = ",".join(sorted({country, *(allowed or ()), *([home] if home else ())}))
        raise PolicyError(
            "allowed_countries",
            number,
            f"{where}; {basis}. VOICE_ALLOWED_COUNTRIES={wider} or CallPolicy(allowed_countries=...) would allow it.",
        )

    def _check_premium(self, number: str) -> None:
        if self.policy.premium:
            return
        kind = number_kind(number)
        if kind == "ordinary":
            return
        what = {
            "premium_rate": "it is a premium-rate number",
            "shared_cost": "it is a shared-cost number",
            "satellite": "it is a satellite telephone",
            "international_network": "it belongs to an international network with rates of its own",
        }[kind]
        raise PolicyError(
            "premium", number, f"{what}. VOICE_PREMIUM_NUMBERS=true or CallPolicy(premium=True) would allow it."
        )

    def _check_do_not_call(self, number: str) -> None:
        try:
            listed = self._on_list(number)
        except Exception as error:  # noqa: BLE001 - its text may show the number: it is a cause only when it does not
            raise PolicyError(
                "do_not_call",
                number,
                "the do-not-call list could not be asked, and without it nobody is called: "
                f"{type(error).__name__}: {mask_numbers(urllib.parse.unquote(str(error)))}",
            ) from (error if isinstance(error, ConfigurationError) else without_numbers(error))
        if listed:
            raise PolicyError(
                "do_not_call",
                number,
                "it is on the do-not-call list. Take it off there (VOICE_DO_NOT_CALL or CallPolicy.do_not_call) "
                "if it may be called after all.",
            )

    def _check_calls_per_second(self, number: str, now: float) -> None:
        if not self._burst:
            return
        recent = self._recent
        while recent and now - recent[0] >= self._window_s:
            recent.popleft()
        if len(recent) >= self._burst:
            wait = math.ceil((recent[0] + self._window_s - now) * 100) / 100
            raise PolicyError(
                "calls_per_second",
                number,
                f"calls are placed faster than {self.policy.calls_per_second:g} a second. Try again in {wait:g} s, "
                "or raise VOICE_CALLS_PER_SECOND (CallPolicy.calls_per_second).",
            )

    def _check_concurrent_calls(self, number: str) -> None:
        cap = self.policy.concurrent_calls
        if cap is not None and len(self._live) >= cap:
            raise PolicyError(
                "concurrent_calls",
                number,
                f"{len(self._live)} of {cap} calls are ringing or up. Try again when one is over, or "
                "raise VOICE_CONCURRENT_CALLS (CallPolicy.concurrent_calls).",
            )

    def _check_calls_per_day(self, number: str, day: int) -> None:
        cap = self.policy.calls_per_day
        if cap is not None and self._calls_today.of(day) >= cap:
            raise PolicyError(
                "calls_per_day",
                number,
                f"{self._calls_today.of(day)} of {cap} calls were placed since midnight UTC. Try again tomorrow, or "
                "raise VOICE_CALLS_PER_DAY (CallPolicy.calls_per_day).",
            )

    def _check_messages_per_day(self, number: str, day: int) -> None:
        cap = self.policy.messages_per_day
        if cap is not None and self._messages_today.of(day) >= cap:
            raise PolicyError(
                "messages_per_day",
                number,
                f"{self._messages_today.of(day)} of {cap} messages were sent since midnight UTC. Try again tomorrow, "
                "or raise VOICE_MESSAGES_PER_DAY (CallPolicy.messages_per_day).",
            )

    # -- what they go by ------------------------------------------------------------------------------------------

    def _home(self, caller_id: str | None) -> str | None:
        """The country of whoever calls; None when it cannot be told."""
        try:
            country = country_of(normalize_number(caller_id or self._caller_id or "", self._region))
        except InvalidNumberError:  # a short code, the name of a sender, a SIP address
            country = UNKNOWN_COUNTRY
        return self._region if country in (NO_COUNTRY, UNKNOWN_COUNTRY) else country

    def _day(self) -> int:
        return math.floor(self._clock.time() / _DAY_S)

    def _give_back(self, admission: Admission, *, placed: bool) -> None:
        with self._lock:
            if admission not in self._live:
                return
            self._live.remove(admission)
            if placed:
                return
            if admission.day == self._calls_today.day:
                self._calls_today.add(admission.day, -1)
            if admission.at in self._recent:
                self._recent.remove(admission.at)


_EXPLICIT = (
    "voice_allowed_countries",
    "voice_premium_numbers",
    "voice_do_not_call",
    "voice_calls_per_second",
    "voice_concurrent_calls",
    "voice_calls_per_day",
    "voice_messages_per_day",
    "voice_default_country",
    "twilio_phone_number",
)
_explicit_guards: dict[tuple[object, ...], Guard] = {}
_explicit_lock = threading.Lock()


def explicit_guard(settings: Settings) -> Guard:
    """The process's guard over what is placed and sent without a server: it holds to the rules that these settings
    name, and to no other. Equal settings share one, and so its counters. Any thread but an event loop's.

    Raises:
        ConfigurationError: ``VOICE_DO_NOT_CALL`` cannot be read.
    """
    key = tuple(getattr(settings, name) for name in _EXPLICIT)
    with _explicit_lock:
        guard = _explicit_guards.get(key)
        if guard is None:
            guard = _explicit_guards[key] = Guard(
                CallPolicy.explicit(settings),
                clock=SystemClock(),
                caller_id=settings.twilio_phone_number,
                region=settings.voice_default_country,
            )
        return guard


class Admission:
    """A call's place under the caps, as :meth:`Guard.admit_call` gave it. Give it back with the one or the other
    method: only the first counts, and any thread may call it.

    Attributes:
        number: whom to call: in E.164, or the ``sip:`` or ``client:`` address.
    """

    __slots__ = ("_guard", "at", "day", "number")

    def __init__(self, number: str, guard: Guard, at: float, day: int) -> None:
        self.number = number
        self.at = at
        self.day = day
        self._guard = guard

    def release(self) -> None:
        """The call is over, or nobody knows whether it was placed: it was one of its second and of its day."""
        self._guard._give_back(self, placed=True)

    def refuse(self) -> None:
        """The call was certainly not placed: it was none."""
        self._guard._give_back(self, placed=False)

    def __repr__(self) -> str:
        return f"<Admission of {mask_number(self.number)}>"


class DoNotCallFile:
    """A text file of numbers as a policy's ``do_not_call``: one a line, ``#`` begins a comment. May be used from any
    thread; the file is read again when it has changed.

    Args:
        path: the file, in UTF-8. Put a new one in its place by renaming, lest half of it is read.
        region: the country whose national numbers are read.

    Raises:
        ConfigurationError: it cannot be read, or a line is no number. Later, when the file has become so, asking it
            raises the same, and nobody is called until it is repaired.
    """

    def __init__(self, path: str | Path, region: str | None = None) -> None:
        self._path = Path(path)
        self._region = region
        self._lock = threading.Lock()
        self._version: tuple[int, ...] = ()
        self._numbers: frozenset[str] = frozenset()
        self._refresh()

    def __call__(self, number: str) -> bool:
        return number in self._refresh()

    def _refresh(self) -> frozenset[str]:
        with self._lock:
            try:
                found = os.stat(self._path)
                version = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
                if version != self._version:
                    self._numbers = self._read()
                    self._version = version
            except (OSError, UnicodeError) as error:
                raise ConfigurationError(
                    f"The do-not-call list {self._path} cannot be read: {error}. "
                    "Expected a text file in UTF-8 with one number a line."
                ) from None
            return self._numbers

    def _read(self) -> frozenset[str]:
        numbers = set()
        for position, line in enumerate(self._path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                numbers.add(normalize_number(text, self._region))
            except InvalidNumberError as error:
                raise ConfigurationError(
                    f"The do-not-call list {self._path} holds something else in line {position}: {error}."
                ) from None
        return frozenset(numbers)


class _DayCount:
    """How often something has happened on the latest day it did. Not thread-safe."""

    def __init__(self) -> None:
        self.day = 0
        self._count = 0

    def of(self, day: int) -> int:
        return self._count if day == self.day else 0

    def add(self, day: int, amount: int) -> None:
        self._count = self.of(day) + amount
        self.day = day


def _do_not_call_check(
    do_not_call: Collection[str] | Callable[[str], bool], region: str | None
) -> Callable[[str], bool]:
    if callable(do_not_call):
        return do_not_call
    numbers = set()
    for entry in do_not_call:
        try:
            numbers.add(normalize_number(entry, region))
        except InvalidNumberError as error:
            raise ConfigurationError(f"do_not_call holds something that is no number: {error}.") from None
    return numbers.__contains__
