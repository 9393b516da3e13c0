"""What Twilio says: whether the credentials hold, what time it is there, whose the number is and where its calls go,
which countries may be called. Asks only; nothing is ever changed."""

from __future__ import annotations

import email.utils
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from pydantic import SecretStr

from .clock import Clock
from .config import Settings
from .doctor_report import Check, error, ok, skipped, warning
from .doctor_settings import own_edge, short_sid
from .doctor_steps import Steps
from .exceptions import ConfigurationError, InvalidNumberError, RestError
from .masking import mask_number
from .phone_numbers import EVERY_COUNTRY, NO_COUNTRY, UNKNOWN_COUNTRY, country_of
from .transports.twilio_rest import client, translated

__all__ = ["check_clock", "check_countries", "check_credentials", "check_number", "unanswered"]

T = TypeVar("T")

_CLOCK_WARNING_S = 5.0
_CLOCK_ERROR_S = 60.0
_MOST_COUNTRIES = 20  # one request each
_TEST_CREDENTIALS = 20008  # https://www.twilio.com/docs/api/errors/20008
_PERMISSIONS = "https://www.twilio.com/console/voice/calls/geo-permissions/low-risk"
_NETWORK = "Check this machine's way to https://api.twilio.com: name resolution, firewall, proxy."


def _ask(steps: Steps, purpose: str, request: Callable[[], T]) -> T:
    """Raises RestError, also when there is no answer in time."""

    def work() -> T:
        with translated(purpose, method="GET"):
            return request()

    try:
        return steps.run(work)
    except TimeoutError as late:
        raise RestError(f"{purpose} failed: {late}.") from None


def unanswered(name: str, problem: RestError) -> Check:
    """The finding where Twilio could not be asked, or does not tell."""
    if problem.status is None:
        return error(name, str(problem), _NETWORK)
    if problem.status in (401, 403):
        found = f"These credentials may not see it (HTTP {problem.status})."
        return warning(name, found, "Allow it to the restricted API key, or use a standard one.")
    return error(name, str(problem), "Try again later; https://status.twilio.com tells of disturbances.")


# -- credentials -------------------------------------------------------------------------------------------------


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """One way to prove who we are."""

    title: str
    settings: Settings
    is_api_key: bool = False
    vital: bool = True


def check_credentials(settings: Settings, steps: Steps) -> list[Check]:
    """A line for every region there are credentials for."""
    checks = []
    for region in settings.regions:
        name, chosen = f"credentials {region}", settings.for_region(region)
        try:
            client(chosen)
        except ConfigurationError:
            checks.append(skipped(name, "Not tried, because the Twilio settings are not right."))
            continue
        entry = "" if region == settings.regions[0] else f" into {region}'s entry of TWILIO_REGIONS"
        checks.append(_check_region(name, region, entry, chosen, steps))
    return checks


def _keys(settings: Settings) -> list[_Key]:
    """The API key, and every auth token: Twilio signs with one of these, also where REST uses a key."""
    keys = []
    if settings.twilio_api_key:
        keys.append(_Key(title="the API key", settings=settings, is_api_key=True))
    tokens = settings.model_copy(update={"twilio_regions": {}}).auth_tokens
    for position, token in enumerate(tokens, start=1):
        only = {"twilio_api_key": None, "twilio_api_secret": None, "twilio_auth_token": SecretStr(token)}
        title = "the auth token" if len(tokens) == 1 else f"auth token {position} of {len(tokens)}"
        keys.append(_Key(title=title, settings=settings.model_copy(update=only), vital=position == 1))
    return keys


def _check_region(name: str, region: str, entry: str, settings: Settings, steps: Steps) -> Check:
    sid, account, accepted = settings.twilio_account_sid or "", None, []
    stale: str | None = None
    for key in _keys(settings):
        try:
            account = _account(key, sid, steps) or account
        except RestError as problem:
            if key.vital or problem.status != 401:
                return _refused(name, region, entry, key, problem)
            stale = key.title
        else:
            accepted.append(key.title)
    facts = f"{' and '.join(accepted)} of {short_sid(sid)} {'is' if len(accepted) == 1 else 'are'} accepted"
    facts = facts[0].upper() + facts[1:]
    if account is None:
        return ok(name, f"{facts}. A standard API key cannot tell the account's state.")
    if account.status != "active":
        return error(
            name,
            f"{facts}, but the account is {account.status}.",
            "Its calls are refused. The Twilio console says why; billing and support can reactivate it.",
        )
    if str(account.type).lower() == "trial":
        return warning(
            name,
            f"{facts}. It is a trial account: it reaches verified numbers only, and whoever answers first hears a "
            "notice and must press a key.",
            "Verify the numbers you test with in the console (Verified Caller IDs), or upgrade the account.",
        )
    if stale is not None:
        return warning(
            name, f"{facts}, but {stale} is refused.", "Take it out of TWILIO_AUTH_TOKEN once the rotation is done."
        )
    return ok(name, f"{facts}; the account is active.")


def _account(key: _Key, sid: str, steps: Steps) -> Any:
    """The account, None when the credentials hold but may not see it."""
    rest = client(key.settings)
    try:
        return _ask(steps, f"Reading the account with {key.title}", rest.api.v2010.accounts(sid).fetch)
    except RestError as problem:
        if not key.is_api_key or problem.status not in (401, 403):
            raise
        # Only a main key may see accounts: https://www.twilio.com/docs/iam/api-keys/keys-in-console
        _ask(steps, "Reading the calls with the API key", lambda: rest.calls.list(limit=1))
        return None


def _refused(name: str, region: str, entry: str, key: _Key, problem: RestError) -> Check:
    if problem.code == _TEST_CREDENTIALS:
        found = "These are test credentials, which place no calls."
        return error(name, found, "Take the live ones from the console.")
    if problem.status not in (401, 403, 404):
        check = unanswered(name, problem)
        usual, edge = own_edge(region), key.settings.twilio_edge
        if edge and usual not in (None, edge):
            return error(name, check.found, f"{check.advice} The edge of {region} is {usual}, not {edge}.")
        return check
    told = f"HTTP {problem.status}" + (f", error {problem.code}" if problem.code is not None else "")
    found = f"Twilio refuses {key.title} ({told})."
    secrets = "API key and secret"
    if not key.is_api_key:
        found += " It also signs the webhooks: with a wrong one every call is refused."
        secrets = "account SID and auth token"
    return error(
        name,
        found,
        f"Copy {secrets} of {region} from the console again{entry}; they hold in one region only.",
    )


# -- the clock ---------------------------------------------------------------------------------------------------


def check_clock(settings: Settings, steps: Steps, clock: Clock) -> list[Check]:
    """This machine's time against the ``Date`` of an answer of Twilio's."""
    name = "clock"
    base = (settings.twilio_api_base_url or "https://api.twilio.com").rstrip("/")

    def ask() -> tuple[float, float, str]:
        before = clock.time()
        answer = httpx.get(f"{base}/2010-04-01", timeout=steps.seconds)
        return before, clock.time(), answer.headers.get("date", "")

    try:
        before, after, date = steps.run(ask)
    except (httpx.HTTPError, TimeoutError, OSError) as problem:
        found = f"Twilio's time could not be asked: no answer from {base} ({type(problem).__name__})."
        return [warning(name, found, _NETWORK)]
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return [skipped(name, "Twilio's answer does not say what time it is.")]
    # The header has whole seconds, cut off, and was written somewhere between the question and the answer.
    ahead = (before + after) / 2 - (theirs + 0.5)
    certain = max(0.0, abs(ahead) - (after - before) / 2 - 0.5)
    if certain <= _CLOCK_WARNING_S:
        return [ok(name, f"Within {_CLOCK_WARNING_S:g} s of Twilio's.")]
    found = f"This machine's clock is {abs(ahead):.0f} s {'fast' if ahead > 0 else 'slow'} by Twilio's."
    advice = (
        "Let NTP set it (timedatectl set-ntp true): scheduled messages, access tokens, daily caps and the times in "
        "logs go by it."
    )
    return [(error if certain > _CLOCK_ERROR_S else warning)(name, found, advice)]


# -- the number --------------------------------------------------------------------------------------------------


def check_number(settings: Settings, steps: Steps) -> list[Check]:
    """``TWILIO_PHONE_NUMBER``: whose it is, what it can, and where its calls and messages go."""
    name, number = "number", settings.twilio_phone_number
    if not number:
        return [
            warning(
                name,
                "TWILIO_PHONE_NUMBER is not set: there is no caller id, and no webhooks were looked at.",
                "Set it to a number of the account, for example '+358401234567', in quotes.",
            )
        ]
    rest, shown = client(settings), mask_number(number)
    found = _ask(
        steps,
        "Looking for the number",
        lambda: rest.incoming_phone_numbers.list(phone_number=number, limit=20),
    )
    owned = next((one for one in found if one.phone_number == number), None)
    if owned is None:
        return [_not_owned(name, number, rest, steps)]
    return [
        _capabilities(name, shown, owned),
        _voice_webhook(shown, owned, settings),
        _sms_webhook(shown, owned, settings),
    ]


def _not_owned(name: str, number: str, rest: Any, steps: Steps) -> Check:
    shown = mask_number(number)
    verified = _ask(
        steps, "Looking for the caller id", lambda: rest.outgoing_caller_ids.list(phone_number=number, limit=20)
    )
    if any(one.phone_number == number for one in verified):
        return warning(
            name,
            f"{shown} is a verified caller id, not a number of the account: calls can show it, but nobody can call "
            "in and no message can be sent from it.",
            "That is enough for placing calls. For more, buy a number and set TWILIO_PHONE_NUMBER to it.",
        )
    others = _ask(steps, "Listing the numbers", lambda: rest.incoming_phone_numbers.list(limit=3))
    has = f"The account has {', '.join(mask_number(one.phone_number) for one in others)}." if others else ""
    return error(
        name,
        f"{shown} is neither a number nor a verified caller id of this account. {has}".strip(),
        "Set TWILIO_PHONE_NUMBER to one that is, or verify it in the console (Verified Caller IDs).",
    )


def _capabilities(name: str, shown: str, owned: Any) -> Check:
    can = {what: bool((owned.capabilities or {}).get(what)) for what in ("voice", "sms")}
    if not can["voice"]:
        return error(name, f"{shown} belongs to the account but cannot take or place calls.", "Buy a voice number.")
    if not can["sms"]:
        found = f"{shown} belongs to the account; it can place calls but not send messages."
        return warning(name, found, "To send messages, buy a number that can, or set TWILIO_MESSAGING_SERVICE_SID.")
    return ok(name, f"{shown} belongs to the account, for calls and messages.")


def _voice_webhook(shown: str, owned: Any, settings: Settings) -> Check:
    name = "voice webhook"
    try:
        wanted = settings.public_url("/voice")
    except ConfigurationError:
        return skipped(name, "What it should be is not known without the public URL.")
    advice = f"In the console, under Phone Numbers, {shown}: “A call comes in”, Webhook, {wanted}, HTTP POST."
    if owned.trunk_sid:
        return error(name, f"Calls to {shown} go to the SIP trunk {short_sid(owned.trunk_sid)}.", advice)
    if owned.voice_application_sid:
        found = f"Calls to {shown} go where the TwiML app {short_sid(owned.voice_application_sid)} says."
        return warning(name, found, f"See that the app's Request URL is {wanted}, or choose the webhook: {advice}")
    if owned.voice_url != wanted:
        return error(name, _elsewhere("calls", shown, owned.voice_url), advice)
    if str(owned.voice_method).upper() != "POST":
        return warning(
            name,
            f"Calls to {shown} come here by HTTP {owned.voice_method}, which writes the caller's number into the "
            "logs of every proxy on the way.",
            advice,
        )
    return ok(name, f"Calls to {shown} come to {wanted}.")


def _sms_webhook(shown: str, owned: Any, settings: Settings) -> Check:
    name = "SMS webhook"
    try:
        wanted = settings.public_url("/sms")
    except ConfigurationError:
        return skipped(name, "What it should be is not known without the public URL.")
    advice = (
        f"If messages shall come in: in the console, under Phone Numbers, {shown}: “A message comes in”, Webhook, "
        f"{wanted}, HTTP POST."
    )
    if owned.sms_application_sid:
        found = f"Messages to {shown} go where the TwiML app {short_sid(owned.sms_application_sid)} says."
        return warning(name, found, advice)
    if owned.sms_url != wanted:
        return warning(name, _elsewhere("messages", shown, owned.sms_url), advice)
    return ok(name, f"Messages to {shown} come to {wanted}.")


def _elsewhere(what: str, number: str, url: str | None) -> str:
    if not url:
        return f"No address is set for {what} to {number}."
    # Somebody else has set it: user name, password and query may be secrets.
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?…" if parts.query else "")
    return f"{what.capitalize()} to {number} go to {shown}, not to this server."


# -- countries ---------------------------------------------------------------------------------------------------


def check_countries(settings: Settings, steps: Steps) -> list[Check]:
    """The account's geographic permissions for the countries that our own policy lets calls into."""
    name = "geographic permissions"
    wanted, note = _wanted_countries(settings)
    if not wanted:
        return [skipped(name, f"No country to ask about{note or ': VOICE_ALLOWED_COUNTRIES names none'}.")]
    asked = wanted[:_MOST_COUNTRIES]
    if len(asked) < len(wanted):
        note = f" ({len(asked)} of {len(wanted)} were looked at)"
    countries = client(settings).voice.v1.dialing_permissions.countries
    allowed: list[str] = []
    closed: list[str] = []
    for iso in asked:
        answer = _ask(steps, f"Asking whether {iso} may be called", countries(iso).fetch)
        (allowed if answer.low_risk_numbers_enabled else closed).append(iso)
    if not closed:
        return [ok(name, f"Calls to {', '.join(allowed)} are allowed{note}.")]
    found = f"The account may not call {', '.join(closed)}{note}: such calls fail with error 21215."
    return [error(name, found, f"Allow {', '.join(closed)} at {_PERMISSIONS}, or narrow VOICE_ALLOWED_COUNTRIES.")]


def _wanted_countries(settings: Settings) -> tuple[list[str], str]:
    """The countries, sorted, and what is to be said about the choice."""
    special = {EVERY_COUNTRY, NO_COUNTRY, UNKNOWN_COUNTRY}
    allowed = settings.voice_allowed_countries
    if allowed is not None and EVERY_COUNTRY not in allowed:
        return sorted(allowed - special), ""
    home: str | None = None
    try:
        home = country_of(settings.twilio_phone_number or "")
    except InvalidNumberError:
        pass
    if home is None or home in special:
        home = settings.voice_default_country
    if allowed is None:
        return ([home] if home else []), ""
    return ([home] if home else []), " (others were not looked at: VOICE_ALLOWED_COUNTRIES is *)"
