"""Verified caller ids as the real ``twilio`` package sees them."""

from __future__ import annotations

from voice_runtime.config import load
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.transports.twilio_rest import client


def test_verified_caller_ids_are_listed(fake: FakeTwilio) -> None:
    """All of them, or the one that is asked for; each keeps its SID."""
    settings = load(
        twilio_account_sid=fake.account_sid,
        twilio_auth_token=fake.auth_token,
        twilio_api_base_url=fake.api_base_url,
    )
    caller_ids = client(settings).outgoing_caller_ids
    assert caller_ids.list() == []
    fake.caller_ids.update({"+358401234567", "+4930123456"})
    assert sorted(one.phone_number for one in caller_ids.list(page_size=1)) == ["+358401234567", "+4930123456"]
    (found,) = caller_ids.list(phone_number="+4930123456")
    assert (found.phone_number, found.account_sid) == ("+4930123456", fake.account_sid)
    assert found.sid in {one.sid for one in caller_ids.list()}
    assert caller_ids.list(phone_number="+49301234567") == []
