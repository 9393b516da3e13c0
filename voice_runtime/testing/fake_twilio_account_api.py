"""The verified caller ids of the account.

https://www.twilio.com/docs/voice/api/outgoing-caller-ids. They can only be read: here nobody is called to verify one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from .fake_twilio_exchange import API_VERSION, Exchange
from .fake_twilio_requests import RestAnswer, RestRequest, Route
from .fake_twilio_resources import page_json

__all__ = ["AccountApi"]


class AccountApi:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.routes: list[Route] = [("GET", r"/OutgoingCallerIds\.json", self._list_caller_ids)]

    def _list_caller_ids(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        wanted = dict(request.query).get("PhoneNumber")
        items = [
            self._caller_id_json(number)
            for number in sorted(self._exchange.caller_ids)
            if wanted is None or wanted == number
        ]
        return RestAnswer(200, page_json("outgoing_caller_ids", items, request.path, request.query))

    def _caller_id_json(self, number: str) -> dict[str, Any]:
        account = self._exchange.account_sid
        # The same number has the same SID, whenever it is asked for.
        sid = "PN" + hashlib.sha256(number.encode()).hexdigest()[:32]
        return {
            "sid": sid,
            "account_sid": account,
            "friendly_name": number,
            "phone_number": number,
            "date_created": None,
            "date_updated": None,
            "uri": f"/{API_VERSION}/Accounts/{account}/OutgoingCallerIds/{sid}.json",
        }
