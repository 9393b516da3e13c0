"""The calls of the account as Twilio keeps them: one by its SID, or all that match.

Both functions block for as long as Twilio takes: call them from any thread but an event loop's. Reading can do no
harm, so a request that meets a 5xx or a broken connection is repeated a few times.
https://www.twilio.com/docs/voice/api/call-resource
"""

from __future__ import annotations

import datetime
import importlib
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from . import twilio_rest

if TYPE_CHECKING:
    from ..config import Settings

__all__ = ["STATUSES", "CallSummary", "fetch_call", "list_calls"]

STATUSES = ("queued", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled")
"""What a call can be. ``initiated`` occurs in callbacks only."""

_DAY = datetime.timedelta(days=1)


class CallSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What Twilio knows of a call. ``to`` and ``from_`` are telephone numbers in full: mask them before logging.

    Attributes:
        call_sid: ``CA...``.
        status: one of :data:`STATUSES`.
        direction: ``inbound``, ``outbound-api``, ``outbound-dial`` or ``trunking-...``.
        started_at, ended_at: aware, UTC, to the second; None while it has not been dialled or has not ended.
        duration_s: from the answer to the end; None while it lasts, and of calls nobody answered.
        price: negative, since it is a charge, in ``price_unit`` (ISO 4217); None until some minutes after the end.
        answered_by: what machine detection found; None without it.
        parent_call_sid: of a leg of ``<Dial>``: the call that dialled it.
        queue_ms: how long it waited for its turn at the account's calls per second.
    """

    call_sid: str
    to: str
    from_: str
    status: str
    direction: str
    started_at: datetime.datetime | None
    ended_at: datetime.datetime | None
    duration_s: int | None
    price: Decimal | None
    price_unit: str | None
    answered_by: str | None
    parent_call_sid: str | None
    queue_ms: int | None


def list_calls(
    *,
    settings: Settings | None = None,
    to: str | None = None,
    from_: str | None = None,
    status: str | None = None,
    started_after: datetime.datetime | None = None,
    started_before: datetime.datetime | None = None,
    parent: str | None = None,
    region: str | None = None,
) -> list[CallSummary]:
    """Every call that matches, the newest first: all of them, or an error.

    A call that begins or changes while the pages are read may be in the list or not, and is in it once at most.

    Args:
        settings: instead of the environment's.
        to, from_: a number in international form, or any other address in Twilio's words.
        status: one of :data:`STATUSES`.
        started_after: this moment or later. Calls that have not started yet match neither this nor the next.
        started_before: before this moment.
        parent: the SID of the call whose ``<Dial>`` made them.
        region: list another region's calls; a region knows only its own. ``settings.regions`` names them.

    Raises:
        ValueError: a time without a time zone, or a status or SID that is none.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: a page could not be had; no part of the list is returned.
    """
    after, before = _aware("started_after", started_after), _aware("started_before", started_before)
    if status is not None and status not in STATUSES:
        raise ValueError(f"status is {status!r}; expected one of {', '.join(STATUSES)}")
    filters: dict[str, Any] = {
        "to": to and _address(to),
        "from_": from_ and _address(from_),
        "status": status,
        "parent_call_sid": parent and twilio_rest.check_sid(parent),
        # Twilio's filter is documented for whole days, from midnight to midnight, and what it makes of a time of day
        # is not. So the days around are asked for, and the moments compared here.
        "start_time_after": after and after.date().isoformat(),
        "start_time_before": before and (before + _DAY).date().isoformat(),
    }
    given = {name: value for name, value in filters.items() if value}
    rest = twilio_rest.client(_settings(settings).for_region(region))
    calls = twilio_rest.complete_list(
        "Listing the calls", lambda: rest.calls.page(**given, page_size=twilio_rest.PAGE_SIZE), _summary
    )
    return [call for call in calls if _within(call.started_at, after, before)]


def fetch_call(call_sid: str, *, settings: Settings | None = None, region: str | None = None) -> CallSummary:
    """One call, as it is now.

    Args:
        settings: instead of the environment's.
        region: where it probably is; the others that are configured are asked after it.

    Raises:
        ValueError: ``call_sid`` is none.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: no region knows it, or Twilio did not answer.
    """
    twilio_rest.check_sid(call_sid)

    def fetch(settings: Settings) -> CallSummary:
        rest = twilio_rest.client(settings)
        with twilio_rest.translated("Looking up the call", method="GET"):
            return _summary(rest.calls(call_sid).fetch())

    return twilio_rest.first_region_that_knows(_settings(settings), fetch, region=region)


def _settings(settings: Settings | None) -> Settings:
    if settings is not None:
        return settings
    loaded: Settings = importlib.import_module("voice_runtime.config").load()
    return loaded


def _summary(call: Any) -> CallSummary:
    if not isinstance(call.sid, str):
        raise ValueError("a call without SID")
    return CallSummary(
        call_sid=call.sid,
        to=call.to or "",
        from_=call._from or "",
        status=call.status or "",
        direction=call.direction or "",
        started_at=call.start_time,
        ended_at=call.end_time,
        duration_s=twilio_rest.read_whole(call.duration),
        price=twilio_rest.read_price(call.price),
        price_unit=call.price_unit or None,
        answered_by=call.answered_by or None,
        parent_call_sid=call.parent_call_sid or None,
        queue_ms=twilio_rest.read_whole(call.queue_time),
    )


def _address(text: str) -> str:
    """Numbers are kept, and compared, in E.164."""
    return re.sub(r"[\s().-]", "", text) if text.lstrip().startswith("+") else text


def _aware(name: str, at: datetime.datetime | None) -> datetime.datetime | None:
    if at is None:
        return None
    if at.tzinfo is None or at.utcoffset() is None:
        raise ValueError(
            f"{name} is {at.isoformat()}, which has no time zone; expected for example "
            "datetime(2026, 9, 29, 10, tzinfo=UTC)"
        )
    return at.astimezone(datetime.UTC)


def _within(at: datetime.datetime | None, after: datetime.datetime | None, before: datetime.datetime | None) -> bool:
    if after is None and before is None:
        return True
    return at is not None and (after is None or at >= after) and (before is None or at < before)
