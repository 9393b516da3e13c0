"""Countries and numbers, which Twilio serves at hosts of their own: ``voice.twilio.com`` and ``lookups.twilio.com``.

https://www.twilio.com/docs/voice/api/dialingpermissions-country-resource, https://www.twilio.com/docs/lookup/v2-api.
The country a number is in, and what kind of number it is, come from libphonenumber; continents follow the zones of
E.164, and few countries have a name. High-risk numbers are not modelled: they are never enabled.
"""

from __future__ import annotations

import importlib
from typing import Any

from .fake_twilio_exchange import Exchange
from .fake_twilio_requests import RestAnswer, RestRequest, Route
from .fake_twilio_resources import RestRefusedError

__all__ = ["CountryApi"]

_NAMES = {
    "AU": "Australia",
    "CA": "Canada",
    "DE": "Germany",
    "EE": "Estonia",
    "FI": "Finland",
    "FR": "France",
    "GB": "United Kingdom",
    "IE": "Ireland",
    "NO": "Norway",
    "SE": "Sweden",
    "US": "United States/Canada",
}
_ZONES = ["", "NORTH_AMERICA", "AFRICA", "EUROPE", "EUROPE", "SOUTH_AMERICA", "OCEANIA", "ASIA", "ASIA", "ASIA"]
_PACKAGES = (
    "caller_name",
    "call_forwarding",
    "identity_match",
    "line_status",
    "line_type_intelligence",
    "phone_number_quality_score",
    "pre_fill",
    "reassigned_number",
    "sim_swap",
    "sms_pumping_risk",
)
_LINE_TYPES = {
    "FIXED_LINE": "landline",
    "MOBILE": "mobile",
    "PAGER": "pager",
    "PERSONAL_NUMBER": "personal",
    "PREMIUM_RATE": "premium",
    "SHARED_COST": "sharedCost",
    "TOLL_FREE": "tollFree",
    "UAN": "uan",
    "VOICEMAIL": "voicemail",
    "VOIP": "nonFixedVoip",
}
_VALIDATION_ERRORS = {
    "INVALID_COUNTRY_CODE": "INVALID_COUNTRY_CODE",
    "TOO_SHORT": "TOO_SHORT",
    "IS_POSSIBLE_LOCAL_ONLY": "TOO_SHORT",
    "TOO_LONG": "TOO_LONG",
    "INVALID_LENGTH": "INVALID_LENGTH",
}


class CountryApi:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        part = r"([^/]+?)"
        self.routes: list[Route] = [
            ("GET", rf"/v1/DialingPermissions/Countries/{part}(?:\.json)?", self._fetch_permissions),
            ("GET", rf"/v2/PhoneNumbers/{part}(?:\.json)?", self._look_up),
        ]
        """Their patterns are of whole paths, without the host."""

    def _fetch_permissions(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        iso = parts[0].upper()
        code = _library().country_code_for_region(iso)
        if not code:
            raise RestRefusedError(20404, request.path)
        allowed = self._exchange.allowed_countries
        url = f"https://voice.twilio.com/v1/DialingPermissions/Countries/{iso}"
        return RestAnswer(
            200,
            {
                "iso_code": iso,
                "name": _NAMES.get(iso, iso),
                "continent": _ZONES[int(str(code)[0])],
                "country_codes": [f"+{code}"],
                "low_risk_numbers_enabled": allowed is None or iso in allowed,
                "high_risk_special_numbers_enabled": False,
                "high_risk_tollfraud_numbers_enabled": False,
                "url": url,
                "links": {"highrisk_special_prefixes": f"{url}/HighRiskSpecialPrefixes"},
            },
        )

    def _look_up(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        query, phonenumbers = dict(request.query), _library()
        try:
            number = phonenumbers.parse(parts[0], query.get("CountryCode"))
        except phonenumbers.NumberParseException:
            raise RestRefusedError(20404, request.path) from None
        valid = phonenumbers.is_valid_number(number)
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        kinds = phonenumbers.ValidationResult
        errors = {getattr(kinds, name): word for name, word in _VALIDATION_ERRORS.items()}
        error = errors.get(phonenumbers.is_possible_number_with_reason(number), "INVALID_BUT_POSSIBLE")
        body: dict[str, Any] = {
            "calling_country_code": str(number.country_code),
            "country_code": phonenumbers.region_code_for_number(number),
            "national_format": phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL),
            "phone_number": e164,
            "url": f"https://lookups.twilio.com/v2/PhoneNumbers/{e164}",
            "valid": valid,
            "validation_errors": [] if valid else [error],
            **dict.fromkeys(_PACKAGES),
        }
        if "line_type_intelligence" in query.get("Fields", "").split(","):
            kind = phonenumbers.PhoneNumberType.to_string(phonenumbers.number_type(number))
            body["line_type_intelligence"] = {
                "carrier_name": None,
                "error_code": None,
                "mobile_country_code": None,
                "mobile_network_code": None,
                "type": _LINE_TYPES.get(kind, "unknown"),
            }
        return RestAnswer(200, body)


def _library() -> Any:
    return importlib.import_module("phonenumbers")
