"""The rules in front of every call and message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.clock import SystemClock
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, InvalidNumberError, PolicyError, VoiceRuntimeError
from voice_runtime.policy import Admission, CallPolicy, DoNotCallFile, Guard
from voice_runtime.testing.clock import VirtualClock

OURS = "+358401234567"
FINNISH = "+358501112233"
SWEDISH = "+46701234567"
PREMIUM = "+358600123456"
SATELLITE = "+8816123456789"
LONDON, NEW_YORK, TORONTO, MOSCOW = "+442079460958", "+12125550123", "+14165550123", "+74951234567"
DAY_S = 86_400


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Virtual time, of which this thread takes part; it begins in the middle of a day."""
    with VirtualClock() as virtual:
        yield virtual


def guard(clock: VirtualClock, region: str | None = None, caller_id: str | None = OURS, **rules: Any) -> Guard:
    return Guard(CallPolicy(**rules), clock=clock, caller_id=caller_id, region=region)


def refused(admit: Callable[[str], Any], to: str) -> str:
    """The rule that refuses."""
    with pytest.raises(VoiceRuntimeError) as caught:
        admit(to)
    assert isinstance(caught.value, InvalidNumberError | PolicyError)
    return caught.value.rule


def outcome(admit: Callable[[str], Any], to: str) -> str:
    try:
        admit(to)
    except PolicyError as error:
        return error.rule
    return "admitted"


# -- the chain --------------------------------------------------------------------------------------------------


def test_the_order_of_the_rules_for_calls(clock: VirtualClock) -> None:
    """A call that breaks every rule is refused by the first; when that is relaxed by the second, and so on."""
    rules: dict[str, Any] = {
        "do_not_call": [SATELLITE],
        "calls_per_second": 1,
        "concurrent_calls": 1,
        "calls_per_day": 1,
    }
    relaxed: list[dict[str, Any]] = [
        {},
        {"allowed_countries": "*"},
        {"premium": True},
        {"do_not_call": ()},
        {"calls_per_second": None},
        {"concurrent_calls": None},
        {"calls_per_day": None},
    ]
    came = []
    for change in relaxed:
        rules.update(change)
        busy = guard(clock, **rules)
        busy.admit_call(FINNISH)
        came.append(outcome(busy.admit_call, SATELLITE))
        assert refused(busy.admit_call, "0401234567") == "valid_number"
    assert came == [
        "allowed_countries",
        "premium",
        "do_not_call",
        "calls_per_second",
        "concurrent_calls",
        "calls_per_day",
        "admitted",
    ]


def test_the_order_of_the_rules_for_messages(clock: VirtualClock) -> None:
    """Messages pass the same rules about the number and a cap of their own."""
    rules: dict[str, Any] = {"do_not_call": [SATELLITE], "messages_per_day": 1, "concurrent_calls": 0}
    came = []
    for change in (
        {},
        {"allowed_countries": ["*"]},
        {"premium": True},
        {"do_not_call": ()},
        {"messages_per_day": None},
    ):
        rules.update(change)
        busy = guard(clock, **rules)
        busy.admit_message(FINNISH)
        came.append(outcome(busy.admit_message, SATELLITE))
        assert refused(busy.admit_message, "sip:desk@example.com") == "valid_number"
    assert came == ["allowed_countries", "premium", "do_not_call", "messages_per_day", "admitted"]


def test_a_rule_is_named_after_its_field(clock: VirtualClock) -> None:
    """Whoever reads the rule knows what to change."""
    rules = {
        "allowed_countries",
        "premium",
        "do_not_call",
        "calls_per_second",
        "concurrent_calls",
        "calls_per_day",
        "messages_per_day",
    }
    assert {field.name for field in msgspec.structs.fields(CallPolicy)} == rules
    assert {name.removeprefix("_check_") for name in vars(Guard) if name.startswith("_check_")} == rules


def test_the_admitted_number_is_normalised(clock: VirtualClock) -> None:
    """What comes back is E.164, also of a national form where a region is given."""
    plain = guard(clock)
    assert plain.admit_call(" +358 50 111 2233").number == FINNISH
    assert plain.admit_message("+358 50 111 2233") == FINNISH
    assert refused(plain.admit_call, "050 111 2233") == "valid_number"
    finnish = guard(clock, region="fi")
    assert finnish.admit_call("050 111 2233").number == FINNISH
    assert finnish.admit_message("(050) 111-2233") == FINNISH


@pytest.mark.parametrize("address", ["sip:desk@example.com", "client:anna"])
def test_sip_and_client_addresses_pass_the_caps_only(clock: VirtualClock, address: str) -> None:
    """They have no country, no rate and stand on no list; but they are calls."""
    busy = guard(clock, allowed_countries=(), do_not_call=lambda number: True, concurrent_calls=1)
    assert busy.admit_call(address).number == address
    assert refused(busy.admit_call, address) == "concurrent_calls"


REFUSALS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({}, SWEDISH, ["allowed_countries", "it is in SE", "caller id is in FI", "VOICE_ALLOWED_COUNTRIES=FI,SE"]),
    ({"allowed_countries": ["FI", "EE"]}, SWEDISH, ["allowed are EE, FI", "VOICE_ALLOWED_COUNTRIES=EE,FI,SE"]),
    ({"allowed_countries": []}, FINNISH, ["allowed are none", "VOICE_ALLOWED_COUNTRIES=FI "]),
    ({}, SATELLITE, ["allowed_countries", "belongs to no country", "(001)"]),
    ({}, "+447700900123", ["allowed_countries", "several countries share its code", "(ZZ)"]),
    ({}, PREMIUM, ["premium", "premium-rate number", "VOICE_PREMIUM_NUMBERS=true", "CallPolicy(premium=True)"]),
    ({"allowed_countries": "*"}, SATELLITE, ["premium", "satellite telephone"]),
    ({"allowed_countries": "*"}, "+33811123456", ["premium", "shared-cost number"]),
    ({"allowed_countries": "*"}, "+883510012345678", ["premium", "international network"]),
    ({"do_not_call": [FINNISH]}, FINNISH, ["do_not_call", "on the do-not-call list", "VOICE_DO_NOT_CALL"]),
    ({"concurrent_calls": 0}, FINNISH, ["concurrent_calls", "0 of 0 calls", "VOICE_CONCURRENT_CALLS"]),
    ({"calls_per_day": 0}, FINNISH, ["calls_per_day", "midnight UTC", "VOICE_CALLS_PER_DAY"]),
]


@pytest.mark.parametrize(("rules", "number", "parts"), REFUSALS)
def test_a_refusal_says_which_rule_why_and_what_to_do(
    clock: VirtualClock, rules: dict[str, Any], number: str, parts: list[str]
) -> None:
    """The message names the rule, the reason and the setting; the number is an attribute, and masked in the text."""
    with pytest.raises(PolicyError) as caught:
        guard(clock, **rules).admit_call(number)
    error = caught.value
    for part in parts:
        assert part in str(error)
    assert (error.number, error.rule in str(error), error.reason in str(error)) == (number, True, True)
    assert number not in str(error)
    assert "…" in str(error)


def test_refusals_of_rate_and_messages_name_their_settings(clock: VirtualClock) -> None:
    """The rate also tells how long to wait (s)."""
    busy = guard(clock, calls_per_second=0.5, messages_per_day=1)
    busy.admit_call(FINNISH)
    busy.admit_message(FINNISH)
    clock.sleep(0.499)
    with pytest.raises(
        PolicyError, match=r"faster than 0\.5 a second\. Try again in 1\.51 s.*VOICE_CALLS_PER_SECOND"
    ):
        busy.admit_call(FINNISH)
    with pytest.raises(PolicyError, match=r"1 of 1 messages.*VOICE_MESSAGES_PER_DAY"):
        busy.admit_message(FINNISH)


# -- countries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller_id", "to", "admitted"),
    [
        (OURS, "+358181234567", False),  # Åland
        (OURS, FINNISH, True),
        (OURS, SWEDISH, False),
        (LONDON, "+441481256789", False),  # Guernsey
        (LONDON, "+441534456789", False),  # Jersey
        (LONDON, "+447797712345", False),  # Jersey, mobile
        (LONDON, "+447400123456", True),
        (MOSCOW, "+77012345678", False),  # Kazakhstan
        (MOSCOW, "+79161234567", True),
        (NEW_YORK, "+12025550123", True),
        (NEW_YORK, "+18005551234", True),
        (NEW_YORK, "+18762345678", False),  # Jamaica
        (NEW_YORK, TORONTO, False),
        (TORONTO, NEW_YORK, False),
        ("+80012345678", "+80012345679", False),  # no country is not a country
        ("+447700900123", "+447700900124", False),
    ],
)
def test_by_default_the_country_of_the_caller_id_is_allowed(
    clock: VirtualClock, caller_id: str, to: str, admitted: bool
) -> None:
    """And no other, although it may share the country code."""
    expected = "admitted" if admitted else "allowed_countries"
    assert outcome(guard(clock, caller_id=caller_id).admit_call, to) == expected
    assert outcome(guard(clock, caller_id=caller_id).admit_message, to) == expected


def test_the_caller_id_of_one_call(clock: VirtualClock) -> None:
    """A call with a caller id of its own goes by that one's country."""
    ours = guard(clock)
    ours.admit_call(SWEDISH, caller_id="+46 8 123 456 78")
    ours.admit_message(SWEDISH, caller_id="+46 8 123 456 78")
    with pytest.raises(PolicyError, match="caller id is in SE"):
        ours.admit_call(FINNISH, caller_id="+46 8 123 456 78")
    with pytest.raises(PolicyError, match="caller id is in SE"):
        ours.admit_message(FINNISH, caller_id="+46 8 123 456 78")


@pytest.mark.parametrize("caller_id", [None, "", "Bistro", "sip:desk@example.com", "+80012345678"])
def test_a_caller_id_without_a_country(clock: VirtualClock, caller_id: str | None) -> None:
    """The region stands in for it; without one nothing is allowed by default."""
    assert outcome(guard(clock, caller_id=caller_id, region="FI").admit_message, FINNISH) == "admitted"
    assert outcome(guard(clock, caller_id=caller_id, region="SE").admit_message, FINNISH) == "allowed_countries"
    says = "the caller id tells none" if caller_id else "TWILIO_PHONE_NUMBER, whose country .* is not set"
    with pytest.raises(PolicyError, match=says):
        guard(clock, caller_id=caller_id).admit_message(FINNISH)


@pytest.mark.parametrize(
    ("allowed", "to", "admitted"),
    [
        ({"fi", "se"}, SWEDISH, True),
        ({"SE"}, FINNISH, False),  # the caller id's is not added to a list
        ("FI, AX", "+358181234567", True),
        ({"*"}, "+18762345678", True),
        ("*", "+447700900123", True),
        ({"GB"}, "+447700900123", False),
        ({"GB", "ZZ"}, "+447700900123", True),
        ({"001"}, "+80012345678", True),
        ((), FINNISH, False),
    ],
)
def test_a_list_of_countries(clock: VirtualClock, allowed: Any, to: str, admitted: bool) -> None:
    """Just those of the list, or all of them."""
    expected = "admitted" if admitted else "allowed_countries"
    assert outcome(guard(clock, allowed_countries=allowed).admit_call, to) == expected


@pytest.mark.parametrize("number", [PREMIUM, SATELLITE, "+33811123456", "+979123456789", "+3586001234"])
def test_premium_numbers_are_let_through_on_request(clock: VirtualClock, number: str) -> None:
    """In any country, and only then."""
    assert outcome(guard(clock, allowed_countries="*").admit_call, number) == "premium"
    assert outcome(guard(clock, allowed_countries="*", premium=True).admit_call, number) == "admitted"


# -- do-not-call ------------------------------------------------------------------------------------------------


def test_a_list_is_compared_in_normal_form(clock: VirtualClock) -> None:
    """However its entries and the number are written."""
    listed = guard(clock, region="FI", do_not_call=["050 111 2233", "+46 70 123 45 67"], allowed_countries="*")
    for written in (FINNISH, "+358 (0)50 111-2233", "0501112233", "00358501112233", "0046701234567"):
        assert refused(listed.admit_call, written) == "do_not_call"
        assert refused(listed.admit_message, written) == "do_not_call"
    assert outcome(listed.admit_call, "+358501112234") == "admitted"


def test_an_entry_that_is_no_number_is_refused_at_once(clock: VirtualClock) -> None:
    """It could never match, which would be noticed too late; its digits are not shown."""
    for entry in ("050 998 8776", "sip:bob@example.com"):
        with pytest.raises(ConfigurationError, match="do_not_call holds something that is no number") as caught:
            guard(clock, do_not_call=[FINNISH, entry])
        assert not any(part in str(caught.value) for part in ("998", "bob"))


def test_a_callable_is_asked(clock: VirtualClock) -> None:
    """About the number in E.164, for calls and messages."""
    asked: list[str] = []

    def unwilling(number: str) -> bool:
        asked.append(number)
        return number == SWEDISH

    asking = guard(clock, do_not_call=unwilling, allowed_countries="*")
    assert asking.admit_call("+358 50 1112233").number == FINNISH
    assert refused(asking.admit_call, "+46 70 123 45 67") == "do_not_call"
    assert refused(asking.admit_message, SWEDISH) == "do_not_call"
    assert asked == [FINNISH, SWEDISH, SWEDISH]


def test_nobody_is_called_when_the_list_cannot_be_asked(clock: VirtualClock) -> None:
    """The refusal shows no number that stands in the failure, not even by having it as its cause; nothing is
    counted."""

    def broken(number: str) -> bool:
        raise LookupError(f"no database for {number}, GET /list?n=%2B{number[1:]}")

    closed = guard(clock, do_not_call=broken, calls_per_day=1)
    with pytest.raises(
        PolicyError, match=r"nobody is called: LookupError: no database for \+358…33, GET /list.n=\+358…33"
    ) as caught:
        closed.admit_call(FINNISH)
    assert caught.value.rule == "do_not_call"
    assert caught.value.__cause__ is None
    assert outcome(closed.admit_call, "sip:desk@example.com") == "admitted"


def test_the_guard_is_not_held_up_while_a_list_is_asked(clock: VirtualClock) -> None:
    """One slow answer does not keep other threads from giving back or taking places."""
    asked, answer = threading.Event(), threading.Event()

    def slow(number: str) -> bool:
        if number == SWEDISH:
            asked.set()
            assert answer.wait(20)
        return False

    busy = guard(clock, do_not_call=slow, allowed_countries="*")
    waiting = threading.Thread(target=busy.admit_call, args=(SWEDISH,))
    waiting.start()
    assert asked.wait(20)
    busy.admit_call(FINNISH).release()
    assert waiting.is_alive()
    answer.set()
    waiting.join(20)


def write(path: Path, text: str) -> None:
    """As the documentation says: a new file, put in place by renaming."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def test_a_file_is_read_again_when_it_changes(clock: VirtualClock, tmp_path: Path) -> None:
    """Comments, blank lines and a byte order mark may stand; the region reads national numbers."""
    path = tmp_path / "dnc.txt"
    write(path, "\ufeff# +46 70 123 45 67\n\n050 111 2233  # asked us not to\n")
    listed = guard(clock, do_not_call=DoNotCallFile(path, "FI"), allowed_countries="*")
    assert refused(listed.admit_call, FINNISH) == "do_not_call"
    assert outcome(listed.admit_call, SWEDISH) == "admitted"
    write(path, "+46 70 123 45 67\n")
    assert outcome(listed.admit_call, FINNISH) == "admitted"
    assert refused(listed.admit_call, SWEDISH) == "do_not_call"
    with path.open("a", encoding="utf-8") as file:
        file.write(FINNISH)
    assert refused(listed.admit_call, FINNISH) == "do_not_call"


def test_a_file_is_not_read_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at its date is enough for each call."""
    path = tmp_path / "dnc.txt"
    write(path, FINNISH)
    listed = DoNotCallFile(path)
    monkeypatch.setattr(DoNotCallFile, "_read", lambda self: pytest.fail("it was read again"))
    assert listed(FINNISH)
    assert not listed(SWEDISH)


def test_a_file_that_breaks_lets_nobody_through(clock: VirtualClock, tmp_path: Path) -> None:
    """Until it is repaired: what cannot be read could hold the number."""
    path = tmp_path / "dnc.txt"
    write(path, SWEDISH)
    listed = guard(clock, do_not_call=DoNotCallFile(path))
    assert outcome(listed.admit_call, FINNISH) == "admitted"
    for break_it, complaint in (
        (path.unlink, "cannot be read"),
        (lambda: write(path, f"{SWEDISH}\n050 998 8776"), r"something else in line 2: '050…76'"),
        (lambda: path.write_bytes(b"\xff\xfe"), "Expected a text file in UTF-8"),
    ):
        break_it()
        for _ in range(2):
            with pytest.raises(PolicyError, match=complaint) as caught:
                listed.admit_call(FINNISH)
            assert isinstance(caught.value.__cause__, ConfigurationError)
    write(path, SWEDISH)
    assert outcome(listed.admit_call, FINNISH) == "admitted"


def test_a_file_that_is_broken_from_the_start(tmp_path: Path) -> None:
    """Is said when the policy is made, and not with the first call."""
    path = tmp_path / "dnc.txt"
    with pytest.raises(ConfigurationError, match=r"dnc\.txt cannot be read.*one number a line"):
        DoNotCallFile(path)
    write(path, "0501112233")
    with pytest.raises(ConfigurationError, match=r"line 1.*country code"):
        DoNotCallFile(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CallPolicy.from_settings(load(voice_do_not_call=tmp_path))


# -- the caps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "window_s", "burst"), [(1, 1.0, 1), (2, 1.0, 2), (0.5, 2.0, 1), (2.5, 0.8, 2), (10, 1.0, 10)]
)
def test_calls_per_second(clock: VirtualClock, rate: float, window_s: float, burst: int) -> None:
    """Within any window there are as many calls as the rate allows, and one more when the first has left it."""
    busy = guard(clock, calls_per_second=rate)
    step = window_s / 16  # binary fractions add up exactly
    for _ in range(burst):
        busy.admit_call(FINNISH)
        clock.sleep(step / 16)
    assert refused(busy.admit_call, FINNISH) == "calls_per_second"
    clock.sleep(window_s - burst * step / 16 - step / 16)
    assert refused(busy.admit_call, FINNISH) == "calls_per_second"
    clock.sleep(step / 8)
    busy.admit_call(FINNISH)
    if burst == 1:
        assert refused(busy.admit_call, FINNISH) == "calls_per_second"


def test_the_rate_over_a_minute(clock: VirtualClock) -> None:
    """Whoever tries all the time gets the rate and not one call more."""
    busy = guard(clock, calls_per_second=2)
    admitted = []
    for _ in range(60 * 16):
        if outcome(busy.admit_call, FINNISH) == "admitted":
            admitted.append(clock.monotonic())
        clock.sleep(1 / 16)
    assert len(admitted) == 120
    assert all(later - earlier >= 1 for earlier, later in zip(admitted, admitted[2:], strict=False))


def test_concurrent_calls(clock: VirtualClock) -> None:
    """A place is held until the call is over, however long that takes."""
    busy = guard(clock, concurrent_calls=2)
    first, _second = busy.admit_call(FINNISH), busy.admit_call(FINNISH)
    clock.sleep(10 * DAY_S)
    assert refused(busy.admit_call, FINNISH) == "concurrent_calls"
    first.release()
    busy.admit_call(FINNISH)
    assert refused(busy.admit_call, FINNISH) == "concurrent_calls"


@pytest.mark.parametrize("cap", ["calls_per_day", "messages_per_day"])
def test_a_day_is_one_of_utc(clock: VirtualClock, cap: str) -> None:
    """The count begins anew at midnight UTC, not 24 hours after the first."""
    rules: dict[str, Any] = {cap: 3}
    busy = guard(clock, **rules)
    admit: Callable[[str], Any] = busy.admit_call if cap == "calls_per_day" else busy.admit_message
    for _ in range(3):
        admit(FINNISH)
    assert refused(admit, FINNISH) == cap
    to_midnight = DAY_S - clock.time() % DAY_S
    assert 0 < to_midnight < DAY_S
    clock.sleep(to_midnight - 1)
    assert refused(admit, FINNISH) == cap
    clock.sleep(1)
    for _ in range(3):
        admit(FINNISH)
    assert refused(admit, FINNISH) == cap


def test_calls_and_messages_are_counted_apart(clock: VirtualClock) -> None:
    """A message is no call."""
    busy = guard(clock, calls_per_day=1, messages_per_day=1, calls_per_second=1, concurrent_calls=1)
    busy.admit_message(FINNISH)
    busy.admit_call(FINNISH)
    assert refused(busy.admit_message, FINNISH) == "messages_per_day"


def test_a_refusal_uses_nothing_up(clock: VirtualClock) -> None:
    """What one cap refuses counts for no other."""
    busy = guard(clock, concurrent_calls=1, calls_per_day=2, calls_per_second=100)
    first = busy.admit_call(FINNISH)
    for _ in range(500):
        assert refused(busy.admit_call, FINNISH) == "concurrent_calls"
    for _ in range(5):
        assert refused(busy.admit_call, SWEDISH) == "allowed_countries"
        assert refused(busy.admit_call, "nonsense") == "valid_number"
    first.release()
    busy.admit_call(FINNISH).release()
    assert refused(busy.admit_call, FINNISH) == "calls_per_day"


def test_a_call_that_was_not_placed_gives_everything_back(clock: VirtualClock) -> None:
    """Its place in the second, among the live calls, and in the day."""
    busy = guard(clock, concurrent_calls=1, calls_per_day=1, calls_per_second=1)
    for _ in range(20):
        busy.admit_call(FINNISH).refuse()
    busy.admit_call(FINNISH)
    assert outcome(busy.admit_call, FINNISH) != "admitted"


def test_a_call_that_is_over_was_one(clock: VirtualClock) -> None:
    """Its place among the live calls is free, those in its second and its day are not."""
    busy = guard(clock, concurrent_calls=1, calls_per_day=2, calls_per_second=1)
    busy.admit_call(FINNISH).release()
    assert refused(busy.admit_call, FINNISH) == "calls_per_second"
    clock.sleep(1)
    busy.admit_call(FINNISH).release()
    clock.sleep(1)
    assert refused(busy.admit_call, FINNISH) == "calls_per_day"


@pytest.mark.parametrize("first", [Admission.release, Admission.refuse])
@pytest.mark.parametrize("again", [Admission.release, Admission.refuse])
def test_a_place_is_given_back_once(
    clock: VirtualClock, first: Callable[[Admission], None], again: Callable[[Admission], None]
) -> None:
    """The first word counts; saying it again, or the other, frees nobody else's place."""
    busy = guard(clock, concurrent_calls=2, calls_per_day=3)
    kept, given = busy.admit_call(FINNISH), busy.admit_call(FINNISH)
    first(given)
    for _ in range(3):
        again(given)
    busy.admit_call(FINNISH)
    assert refused(busy.admit_call, FINNISH) == "concurrent_calls"
    kept.release()
    expected = "admitted" if first is Admission.refuse else "calls_per_day"
    assert outcome(busy.admit_call, FINNISH) == expected


def test_a_call_of_yesterday_is_given_back_to_yesterday(clock: VirtualClock) -> None:
    """And makes no room in today."""
    busy = guard(clock, calls_per_day=1)
    yesterday = busy.admit_call(FINNISH)
    clock.sleep(DAY_S)
    busy.admit_call(FINNISH)
    yesterday.refuse()
    assert refused(busy.admit_call, FINNISH) == "calls_per_day"


def test_an_admission_shows_no_number(clock: VirtualClock) -> None:
    """Its repr may get into a log."""
    assert repr(guard(clock).admit_call(FINNISH)) == "<Admission of +358…33>"


@given(st.lists(st.sampled_from(["admit", "release", "refuse", "wait", "sleep"]), max_size=60))
def test_the_caps_hold_in_any_order_of_events(events: list[str]) -> None:
    """As a plain model counts it: two calls live, two in a second, five on a day."""
    with VirtualClock() as clock:
        busy = guard(clock, concurrent_calls=2, calls_per_second=2, calls_per_day=5)
        live: list[tuple[Admission, tuple[float, int]]] = []
        placed: list[tuple[float, int]] = []
        for event in events:
            now, day = clock.monotonic(), int(clock.time() // DAY_S)
            if event == "admit":
                in_second = sum(now - at < 1 for at, _ in placed)
                on_day = sum(of == day for _, of in placed)
                expected = (
                    "calls_per_second"
                    if in_second >= 2
                    else "concurrent_calls"
                    if len(live) >= 2
                    else "calls_per_day"
                    if on_day >= 5
                    else "admitted"
                )
                if expected != "admitted":
                    assert refused(busy.admit_call, FINNISH) == expected
                    continue
                live.append((busy.admit_call(FINNISH), (now, day)))
                placed.append((now, day))
            elif event == "release" and live:
                live.pop(0)[0].release()
            elif event == "refuse" and live:
                admission, call = live.pop()
                admission.refuse()
                placed.remove(call)
            elif event == "wait":
                clock.sleep(0.375)
            elif event == "sleep":
                clock.sleep(DAY_S / 2)


# -- threads ----------------------------------------------------------------------------------------------------


class StoppedClock(SystemClock):
    """It is always the same moment."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0


class YieldingCap(int):
    """A cap that lets other threads run after it was compared with a count, and before anything is counted."""

    def __le__(self, other: int) -> bool:  # of `count >= cap` too, for the right operand is the more special one
        reached = int(self) <= other
        time.sleep(1e-5)
        return reached

    def __floor__(self) -> YieldingCap:
        return self


def at_once(work: Callable[[], Any], threads: int = 8) -> list[Any]:
    """What each thread's ``work`` returned; they begin together."""
    barrier = threading.Barrier(threads)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(20)
        results.append(work())

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    assert len(results) == threads
    return results


@pytest.mark.parametrize("cap", ["calls_per_second", "concurrent_calls", "calls_per_day", "messages_per_day"])
def test_two_never_take_the_last_place(cap: str) -> None:
    """However many threads try at once, a cap of 100 is 100."""
    rules: dict[str, Any] = {cap: YieldingCap(100)}
    busy = Guard(CallPolicy(**rules), clock=StoppedClock(), caller_id=OURS)
    admit: Callable[[str], Any] = busy.admit_message if cap == "messages_per_day" else busy.admit_call

    def try_often() -> int:
        return sum(outcome(admit, FINNISH) == "admitted" for _ in range(40))

    assert sum(at_once(try_often)) == 100


def test_places_come_and_go_between_threads() -> None:
    """There are never more live calls than places, each is given back once, and what was not placed is no call."""
    busy = Guard(
        CallPolicy(concurrent_calls=YieldingCap(3), calls_per_day=1_000, calls_per_second=1_000),
        clock=StoppedClock(),
        caller_id=OURS,
    )
    lock = threading.Lock()
    live = most = 0
    rules: set[str] = set()

    def come_and_go() -> int:
        nonlocal live, most
        placed = 0
        for turn in range(60):
            try:
                admission = busy.admit_call(FINNISH)
            except PolicyError as error:
                rules.add(error.rule)
                continue
            with lock:
                live += 1
                most = max(most, live)
            time.sleep(0)
            with lock:
                live -= 1
            if turn % 2:
                admission.release()
                placed += 1
            else:
                admission.refuse()
            admission.refuse()
        return placed

    placed = sum(at_once(come_and_go))
    assert 1 <= most <= 3
    assert rules <= {"concurrent_calls"}
    left = 0
    while outcome(lambda to: busy.admit_call(to).release(), FINNISH) == "admitted":
        left += 1
    assert placed + left == 1_000


def test_one_place_given_back_by_many_threads_is_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads that notice a call's end at once free its place once."""

    def yielding_hash(admission: Admission) -> int:
        time.sleep(1e-5)
        return id(admission)

    monkeypatch.setattr(Admission, "__hash__", yielding_hash)
    busy = Guard(CallPolicy(concurrent_calls=2), clock=StoppedClock(), caller_id=OURS)
    busy.admit_call(FINNISH)
    for _ in range(20):
        admission = busy.admit_call(FINNISH)
        at_once(admission.release, threads=4)
    busy.admit_call(FINNISH)
    assert refused(busy.admit_call, FINNISH) == "concurrent_calls"


# -- making a policy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"allowed_countries": ["Finland"]}, "allowed_countries cannot be used: 'Finland' is no country"),
        ({"allowed_countries": "UK"}, "the United Kingdom is GB"),
        ({"do_not_call": FINNISH}, "do_not_call is one text"),
        ({"calls_per_second": 0}, "calls_per_second is 0; expected more than 0"),
        ({"calls_per_second": float("nan")}, "calls_per_second is nan"),
        ({"calls_per_second": float("inf")}, "calls_per_second is inf"),
        ({"concurrent_calls": -1}, "concurrent_calls is -1; expected 0 or more"),
        ({"calls_per_day": -1}, "calls_per_day is -1"),
        ({"messages_per_day": -1}, "messages_per_day is -1"),
    ],
)
def test_a_policy_that_makes_no_sense(rules: dict[str, Any], complaint: str) -> None:
    """Is refused when it is made, with what was expected."""
    with pytest.raises(ConfigurationError, match=complaint):
        CallPolicy(**rules)


def test_a_region_that_is_none(clock: VirtualClock) -> None:
    """Is refused when the guard is made."""
    with pytest.raises(ValueError, match="no country"):
        guard(clock, region="XX")


def test_a_policy_is_a_value() -> None:
    """It cannot be changed, and two that say the same are equal."""
    policy = CallPolicy(allowed_countries="fi,se")
    assert policy == CallPolicy(allowed_countries=frozenset({"SE", "FI"}))
    with pytest.raises(AttributeError):
        policy.premium = True  # type: ignore[misc]


@pytest.fixture
def _no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_file")
def test_a_policy_from_settings(tmp_path: Path, clock: VirtualClock) -> None:
    """Every setting reaches its rule; without any it is ordinary numbers in the caller id's country, and no cap."""
    assert CallPolicy.from_settings(load()) == CallPolicy()
    path = tmp_path / "dnc.txt"
    write(path, "050 111 2233")
    settings = load(
        voice_default_country="FI",
        voice_allowed_countries="FI,SE",
        voice_premium_numbers=True,
        voice_do_not_call=path,
        voice_calls_per_second=2,
        voice_concurrent_calls=3,
        voice_calls_per_day=4,
        voice_messages_per_day=5,
    )
    policy = CallPolicy.from_settings(settings)
    assert isinstance(policy.do_not_call, DoNotCallFile)
    assert policy.do_not_call(FINNISH)
    assert msgspec.structs.replace(policy, do_not_call=()) == CallPolicy(
        allowed_countries={"FI", "SE"},
        premium=True,
        calls_per_second=2,
        concurrent_calls=3,
        calls_per_day=4,
        messages_per_day=5,
    )


@pytest.mark.usefixtures("_no_file")
@pytest.mark.parametrize(
    ("settings", "refusals"),
    [
        ({}, {}),
        ({"voice_allowed_countries": "FI"}, {SWEDISH: "allowed_countries", SATELLITE: "allowed_countries"}),
        ({"voice_premium_numbers": False}, {PREMIUM: "premium", SATELLITE: "premium"}),
        ({"voice_premium_numbers": True}, {}),
        ({"voice_calls_per_day": 0}, dict.fromkeys((FINNISH, SWEDISH, PREMIUM, SATELLITE), "calls_per_day")),
    ],
)
def test_the_explicit_policy_holds_what_was_set_and_nothing_else(
    clock: VirtualClock, settings: dict[str, Any], refusals: dict[str, str]
) -> None:
    """No country and no rate is refused unless a setting says so."""
    policy = CallPolicy.explicit(load(**settings))
    for number in (FINNISH, SWEDISH, PREMIUM, SATELLITE):
        fresh = Guard(policy, clock=clock, caller_id=OURS)
        assert outcome(fresh.admit_call, number) == refusals.get(number, "admitted")


@pytest.mark.usefixtures("_no_file")
def test_the_settings_name_the_fields() -> None:
    """The setting of a rule is the rule's name with VOICE_ in front; premium alone is longer."""
    for field in msgspec.structs.fields(CallPolicy):
        assert f"voice_{field.name.replace('premium', 'premium_numbers')}" in Settings.model_fields
