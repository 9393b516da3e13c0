"""Settings, and where they come from: defaults < YAML or a dict < ``.env`` < environment < keywords.

::

    settings = load()                                       # environment and ./.env
    settings = load(voice_server_port=9000)                 # a keyword wins over everything
    settings = Settings.from_yaml("voice.yaml")             # the file gives what the environment does not

A setting has one name: the environment variable is the attribute in capitals (``VOICE_STREAM_URL`` is
``voice_stream_url``). Nothing is read when this module is imported; :func:`load` reads each time it is called, and
what uses a setting calls it when it uses it. An empty variable counts as not set.

Every complaint is a :class:`~voice_runtime.exceptions.ConfigurationError` that names the variable, what came and an
example; secrets are in none of them and in no ``repr``.
"""

from __future__ import annotations

import contextvars
import difflib
import importlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .exceptions import ConfigurationError, MissingStreamUrlError
from .phone_numbers import check_country, country_codes

__all__ = ["Settings", "TwilioRegion", "http_url", "load", "websocket_url"]

_EXAMPLES = {
    "voice_stream_url": "wss://voice.example.com",
    "voice_public_url": "https://voice.example.com",
    "voice_server_host": "0.0.0.0",
    "voice_server_port": "8080",
    "voice_max_call_seconds": "3600",
    "voice_max_calls": "500",
    "voice_monitor": "true",
    "voice_log_transcripts": "false",
    "voice_stt": "elevenlabs",
    "voice_tts": "elevenlabs",
    "voice_default_country": "FI",
    "voice_allowed_countries": "FI,SE,EE or *",
    "voice_premium_numbers": "false",
    "voice_do_not_call": "/etc/voice/do-not-call.txt",
    "voice_calls_per_second": "1",
    "voice_concurrent_calls": "20",
    "voice_calls_per_day": "500",
    "voice_messages_per_day": "500",
    "twilio_account_sid": "AC followed by 32 hexadecimal digits",
    "twilio_auth_token": "the token from the Twilio console, or two separated by a comma while rotating",
    "twilio_api_key": "SK followed by 32 hexadecimal digits",
    "twilio_api_secret": "the secret shown when the API key was created",
    "twilio_shared_keys": "key-id=secret,other-id=other-secret",
    "twilio_phone_number": "'+358401234567', in quotes",
    "twilio_messaging_service_sid": "MG followed by 32 hexadecimal digits",
    "twilio_region": "ie1",
    "twilio_edge": "dublin",
    "twilio_regions": '{"ie1": {"edge": "dublin", "auth_token": "the token of that region"}}',
    "twilio_api_base_url": "http://127.0.0.1:8123",
}

# What from_mapping() puts below the environment while one object is being made.
_lowest: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("lowest_settings")


_DEFAULT_REGION = "us1"  # where https://api.twilio.com is


class TwilioRegion(BaseModel):
    """How one more region of Twilio's is reached. Credentials hold in one region only: each has its own, shown in the
    console under the region's name. https://www.twilio.com/docs/global-infrastructure/manage-regional-api-credentials

    Attributes:
        edge: as ``TWILIO_EDGE``; only ``us1`` can do without.
        account_sid: when it is not that of ``TWILIO_ACCOUNT_SID``.
        auth_token: checks the signatures of this region's webhooks; for REST where there is no API key. Two may be
            given, separated by a comma, as in ``TWILIO_AUTH_TOKEN``.
        api_key, api_secret: for REST.
        api_base_url: as ``TWILIO_API_BASE_URL``, which does not hold here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    edge: str | None = None
    account_sid: str | None = None
    auth_token: SecretStr | None = None
    api_key: str | None = None
    api_secret: SecretStr | None = None
    api_base_url: str | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return (value.strip() or None) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_credentials(self) -> TwilioRegion:
        if bool(self.api_key) != bool(self.api_secret):
            raise ValueError("api_key and api_secret go together, only one of them is given")
        if not _tokens(self.auth_token) and not self.api_key:
            raise ValueError("it has no credentials: give auth_token, or api_key and api_secret")
        return self


class Settings(BaseSettings):
    """Everything that can be configured. Immutable; use :func:`load` or the ``from_`` methods to make one.

    Raises:
        ConfigurationError: a value cannot be used, or a keyword is not the name of a setting.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    voice_stream_url: str | None = None
    """Public WebSocket base that Twilio connects to; paths are added to it. Required for every real call."""
    voice_public_url: str | None = None
    """Public https base of the webhooks. Unset: the host of ``voice_stream_url``."""
    voice_server_host: str = "0.0.0.0"
    """The address the server listens on."""
    voice_server_port: int = Field(default=8080, ge=0, le=65535)
    """0 lets the system choose a free port."""
    voice_stt: str | None = None
    """Registry name of the STT provider a server uses unless it is given another. Unset: one that is installed."""
    voice_tts: str | None = None
    """Registry name of the TTS provider, likewise."""
    voice_max_call_seconds: float = Field(default=3600, gt=0, le=86_400)
    """A call is ended after this many seconds. Twilio's own limit is four hours by default."""
    voice_max_calls: int = Field(default=500, ge=1)
    """Calls that may be up at once; who calls beyond it hears that all lines are busy."""
    voice_monitor: bool = False
    """Play live calls on this machine's loudspeaker."""
    voice_log_transcripts: bool = False
    """Write what was said to the log."""

    voice_default_country: str | None = None
    """ISO 3166 code, for example ``FI``: numbers without a country code (``040 123 4567``) are read as those of this
    country. Unset: they are refused."""
    voice_allowed_countries: Annotated[frozenset[str] | None, NoDecode] = None
    """The countries that may be called and texted, ``FI,SE,EE``; ``*`` is all of them. Unset: that of the caller id,
    except that ``initiate_outbound_call`` and ``send_sms`` then know no bounds."""
    voice_premium_numbers: bool | None = None
    """Whether premium-rate, shared-cost and satellite numbers may be called and texted. Unset: no, with the same
    exception."""
    voice_do_not_call: Path | None = None
    """A text file of numbers that are never called or texted: one a line, ``#`` begins a comment. It is read again
    whenever it changes."""
    voice_calls_per_second: float | None = Field(default=None, gt=0)
    """The cap on calls placed, which each process counts for itself, as with the three below. Unset: none."""
    voice_concurrent_calls: int | None = Field(default=None, ge=0)
    voice_calls_per_day: int | None = Field(default=None, ge=0)
    """Days are those of UTC."""
    voice_messages_per_day: int | None = Field(default=None, ge=0)

    twilio_account_sid: str | None = None
    twilio_auth_token: SecretStr | None = None
    """The account's auth token. While it is rotated, both separated by a comma: the first is used for REST, all of
    them for checking signatures."""
    twilio_api_key: str | None = None
    """``SK...``; together with ``twilio_api_secret`` used for REST instead of the auth token."""
    twilio_api_secret: SecretStr | None = None
    twilio_shared_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(default_factory=dict)
    """Webhook SharedKeys, id to secret. In the environment ``id=secret,id=secret`` or a JSON object."""
    twilio_phone_number: str | None = None
    """Our own number, as caller id and SMS sender."""
    twilio_messaging_service_sid: str | None = None
    """``MG...``: this messaging service sends the SMS, from a number of its pool. Only a service can send later."""
    twilio_region: str | None = None
    """Set together with ``twilio_edge``, or neither."""
    twilio_edge: str | None = None
    twilio_regions: Annotated[dict[str, TwilioRegion], NoDecode] = Field(default_factory=dict)
    """Further regions by name, where calls or numbers live in several; in the environment a JSON object. See
    :class:`TwilioRegion` and :meth:`for_region`."""
    twilio_api_base_url: str | None = None
    """Where the REST API is, instead of ``https://api.twilio.com``."""

    elevenlabs_api_key: SecretStr | None = None
    elevenlabs_voice_id: str = "21m00Tcm4TlvDq8ikWAM"
    """Rachel, with the multilingual model below."""
    elevenlabs_model: str = "eleven_multilingual_v2"
    elevenlabs_base_url: str | None = None
    stt_model_id: str = "scribe_v2_realtime"
    stt_language_code: str | None = None
    """ISO 639 code, for example ``fi``. Unset: the provider detects the language."""
    azure_speech_key: SecretStr | None = None
    azure_speech_region: str = "westeurope"
    azure_speech_host: str | None = None
    azure_tts_voice: str = "en-US-AvaMultilingualNeural"

    def __init__(self, **values: Any) -> None:
        _refuse_unknown(values, "keyword")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_describe(error)) from None
        except (SettingsError, UnicodeError, OSError) as error:
            raise ConfigurationError(f"The settings could not be read: {error}") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of the sources, strongest first."""
        lowest = InitSettingsSource(settings_cls, init_kwargs=dict(_lowest.get({})))
        return init_settings, env_settings, dotenv_settings, lowest

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], **overrides: Any) -> Settings:
        """Settings of which ``values`` gives what neither ``overrides`` nor the environment gives.

        Names may be written in capitals, as in the environment. None counts as not set.

        Raises:
            ConfigurationError: an unknown name, or a value that cannot be used.
        """
        lowest = {str(name).lower(): value for name, value in values.items() if value is not None}
        _refuse_unknown(lowest, "setting")
        token = _lowest.set(lowest)
        try:
            return cls(**overrides)
        finally:
            _lowest.reset(token)

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> Settings:
        """As :meth:`from_mapping`, with the values from a YAML file: one flat mapping of names to values.

        Raises:
            ConfigurationError: PyYAML is not installed; the file cannot be read or is no mapping; a value is wrong.
        """
        try:
            yaml: Any = importlib.import_module("yaml")
        except ImportError:
            raise ConfigurationError(
                f"Reading {path} needs PyYAML, which is not installed: pip install pyyaml"
            ) from None
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"The settings file {path} cannot be read: {error}") from None
        except yaml.YAMLError as error:
            # Only the place: the text around it may hold a secret.
            mark = getattr(error, "problem_mark", None)
            place = f" at line {mark.line + 1}" if mark is not None else ""
            raise ConfigurationError(f"The settings file {path} is not valid YAML{place}.") from None
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"The settings file {path} must hold one mapping, for example 'voice_server_port: 8080'; "
                f"a {type(values).__name__} came."
            )
        return cls.from_mapping(values, **overrides)

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("voice_default_country", mode="before")
    @classmethod
    def _check_country(cls, value: Any) -> Any:
        return value if value is None else check_country(value)

    @field_validator("voice_allowed_countries", mode="before")
    @classmethod
    def _parse_countries(cls, value: Any) -> Any:
        return value if value is None else country_codes(value)

    @field_validator("twilio_shared_keys", mode="before")
    @classmethod
    def _parse_shared_keys(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("it begins like a JSON object but is none") from None
        keys: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in value.split(","))):
            name, separator, secret = item.partition("=")
            if not separator or not name.strip() or not secret.strip():
                raise ValueError("every item must read id=secret")
            keys[name.strip()] = secret.strip()
        return keys

    @field_validator("twilio_regions", mode="before")
    @classmethod
    def _parse_regions(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError("it is not JSON") from None
        if not isinstance(value, Mapping):
            return value
        return {str(name).strip().lower(): region for name, region in value.items()}

    @field_validator("twilio_regions")
    @classmethod
    def _check_regions(cls, value: dict[str, TwilioRegion], info: ValidationInfo) -> dict[str, TwilioRegion]:
        main = info.data.get("twilio_region")
        for name, region in value.items():
            if not re.fullmatch(r"[a-z]+\d+", name):  # it becomes a part of the host's name
                raise ValueError(f"{name[:20]!r} is not the name of a region")
            if name == (main or _DEFAULT_REGION).lower():
                why = "TWILIO_REGION" if main else "the region without TWILIO_REGION"
                raise ValueError(f"{name} is {why}, whose credentials are TWILIO_AUTH_TOKEN and so on")
            if region.edge is None and name != _DEFAULT_REGION:
                raise ValueError(f"{name} needs an edge: a region alone reaches the wrong one")
        return value

    # -- what follows from the settings -----------------------------------------------------------------------

    @property
    def auth_tokens(self) -> tuple[str, ...]:
        """The auth tokens that may have signed a request, of every region; empty when none is set.

        Twilio signs with the token of the region the call is in. For REST see :attr:`rest_token`.
        """
        secrets = [self.twilio_auth_token, *(region.auth_token for region in self.twilio_regions.values())]
        return tuple(dict.fromkeys(token for secret in secrets for token in _tokens(secret)))

    @property
    def rest_token(self) -> str | None:
        """The auth token for REST requests in ``twilio_region``: the first of ``TWILIO_AUTH_TOKEN``."""
        return next(iter(_tokens(self.twilio_auth_token)), None)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions there are credentials for, that of ``TWILIO_REGION`` first."""
        return (self._main_region, *self.twilio_regions)

    @property
    def _main_region(self) -> str:
        return (self.twilio_region or _DEFAULT_REGION).lower()

    def for_region(self, region: str | None) -> Settings:
        """These settings with ``twilio_region``, edge and credentials of another region, for REST requests there.

        Args:
            region: one of :attr:`regions`; None is the main one. In the result it comes first, the others follow.

        Raises:
            ConfigurationError: nothing is known of this region.
        """
        name = self._main_region if region is None else region.strip().lower()
        if name == self._main_region:
            return self
        if name not in self.twilio_regions:
            raise ConfigurationError(
                f"The Twilio region {region!r} is not configured; known are {', '.join(self.regions)}. "
                f"TWILIO_REGIONS adds one, for example {_EXAMPLES['twilio_regions']}."
            )
        # What a region does not say is the main region's, which after this is another.
        others = {
            key: one.model_copy(update={"account_sid": one.account_sid or self.twilio_account_sid})
            for key, one in self.twilio_regions.items()
        }
        chosen = others.pop(name)
        former = TwilioRegion.model_construct(
            edge=self.twilio_edge,
            account_sid=self.twilio_account_sid,
            auth_token=self.twilio_auth_token,
            api_key=self.twilio_api_key,
            api_secret=self.twilio_api_secret,
            api_base_url=self.twilio_api_base_url,
        )
        return self.model_copy(
            update={
                "twilio_region": name if chosen.edge else None,
                "twilio_edge": chosen.edge,
                "twilio_account_sid": chosen.account_sid,
                "twilio_auth_token": chosen.auth_token,
                "twilio_api_key": chosen.api_key,
                "twilio_api_secret": chosen.api_secret,
                "twilio_api_base_url": chosen.api_base_url,
                "twilio_regions": {self._main_region: former, **others},
            }
        )

    @property
    def shared_keys(self) -> dict[str, str]:
        """The webhook SharedKeys with their secrets in clear, for the signature's check."""
        return {name: secret.get_secret_value() for name, secret in self.twilio_shared_keys.items()}

    def stream_url(self, path: str = "/voice") -> str:
        """The wss URL of ``path`` below ``VOICE_STREAM_URL``, as it goes into the TwiML.

        Raises:
            MissingStreamUrlError: ``VOICE_STREAM_URL`` is not set.
            ConfigurationError: it is not a URL Twilio can connect to.
        """
        if not self.voice_stream_url:
            raise MissingStreamUrlError
        return websocket_url(self.voice_stream_url, path)

    def public_url(self, path: str = "") -> str:
        """The https URL of ``path`` below ``VOICE_PUBLIC_URL``, or below ``VOICE_STREAM_URL``'s host when unset.

        Raises:
            MissingStreamUrlError: neither is set.
            ConfigurationError: it is not a usable URL.
        """
        if self.voice_public_url:
            return http_url(self.voice_public_url, path, "VOICE_PUBLIC_URL")
        if not self.voice_stream_url:
            raise MissingStreamUrlError
        return http_url(self.voice_stream_url, path, "VOICE_STREAM_URL")

    @property
    def has_public_url(self) -> bool:
        """Whether Twilio can be told where our webhooks are."""
        return bool(self.voice_public_url or self.voice_stream_url)

    def require(self, name: str, purpose: str) -> str:
        """The value of a setting that ``purpose`` cannot do without.

        Raises:
            ConfigurationError: it is not set; the message names the variable and an example.
        """
        value = getattr(self, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if not value:
            example = f", for example {_EXAMPLES[name]}" if name in _EXAMPLES else ""
            raise ConfigurationError(f"{name.upper()} is not set. It is needed to {purpose}{example}.")
        return str(value)


def load(**overrides: Any) -> Settings:
    """The settings as they are now: defaults < ``./.env`` < environment < ``overrides``.

    May be called from any thread and as often as settings are used: as long as neither the environment nor the file
    has changed, the same object comes back.

    Raises:
        ConfigurationError: a value cannot be used, or a keyword is not the name of a setting.
    """
    global _loaded
    if overrides:
        return Settings(**overrides)
    # Making the object takes milliseconds, which a handshake on the event loop cannot spare.
    now = _sources_now()
    latest = _loaded
    if latest is not None and latest[0] == now:
        return latest[1]
    settings = Settings()
    _loaded = (now, settings)
    return settings


_loaded: tuple[tuple[object, ...], Settings] | None = None


def _sources_now() -> tuple[object, ...]:
    """What :func:`load` depends on; two equal results mean equal settings."""
    known = Settings.model_fields
    environment = tuple((name, value) for name, value in os.environ.items() if name.lower() in known)
    try:
        found = os.stat(".env")
        file = (os.getcwd(), found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError:
        return environment
    return (*environment, file)


def websocket_url(base: str, path: str = "/voice", *, source: str = "VOICE_STREAM_URL") -> str:
    """``base`` with ``path`` added, as a WebSocket URL: https becomes wss, http becomes ws.

    Args:
        base: for example ``wss://voice.example.com``, with or without a slash at its end.
        source: what to call ``base`` in the error.

    Raises:
        ConfigurationError: no host, another scheme, or a query string (Twilio strips it, or answers 31920).
    """
    return _join(
        base, path, source, {"wss": "wss", "https": "wss", "ws": "ws", "http": "ws"}, "wss://voice.example.com"
    )


def http_url(base: str, path: str = "", source: str = "VOICE_PUBLIC_URL") -> str:
    """``base`` with ``path`` added, as an HTTP URL: wss becomes https, ws becomes http.

    Raises:
        ConfigurationError: no host, another scheme, or a query string.
    """
    schemes = {"https": "https", "wss": "https", "http": "http", "ws": "http"}
    return _join(base, path, source, schemes, "https://voice.example.com")


def _join(base: str, path: str, source: str, schemes: dict[str, str], example: str) -> str:
    base = base.strip()
    complaint: str | None = None
    try:
        parts = urlsplit(base)
        parts.port  # noqa: B018 - raises when it is not a port
    except ValueError as error:
        raise ConfigurationError(f"{source} is not a URL ({error}); expected for example {example}.") from None
    scheme = schemes.get(parts.scheme)
    if scheme is None:
        complaint = "it must begin with wss:// or https://"
    elif not parts.hostname:
        complaint = "it names no host"
    elif "?" in base:
        complaint = "it has a query string, which Twilio strips; use the path or <Parameter> elements instead"
    elif "#" in base:
        complaint = "it has a fragment"
    elif any(character.isspace() or not character.isprintable() for character in base):
        complaint = "it has white space or control characters in it"
    if complaint is not None:
        # A user name and password in a URL are secrets, and so may be what stands in a query.
        shown = base.partition("?")[0].rpartition("@")[2] if "@" in base else base.partition("?")[0]
        raise ConfigurationError(f"{source} is {shown!r}, but {complaint}. Expected for example {example}.")
    joined = parts.path.rstrip("/")
    if path:
        joined += "/" + path.lstrip("/")
    return f"{scheme}://{parts.netloc}{joined}"


def _tokens(secret: SecretStr | None) -> tuple[str, ...]:
    """The auth tokens in a setting that may hold several, separated by commas."""
    if secret is None:
        return ()
    return tuple(filter(None, (part.strip() for part in secret.get_secret_value().split(","))))


def _refuse_unknown(values: Mapping[str, Any], noun: str) -> None:
    known = Settings.model_fields
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" The settings are {', '.join(sorted(known))}."
            raise ConfigurationError(f"There is no {noun} called {name!r}.{hint}")


def _describe(error: ValidationError) -> str:
    """Pydantic's findings as sentences. What came is shown, except for secrets."""
    sentences = []
    for finding in error.errors(include_url=False, include_context=False):
        name, *inside = finding["loc"] or ("the settings",)
        name = str(name)
        annotation = str(Settings.model_fields[name].annotation) if name in Settings.model_fields else ""
        secret = "Secret" in annotation or "TwilioRegion" in annotation
        came = "a value that cannot be used came" if secret else f"{finding['input']!r} came"
        if inside:
            came += f" in {'.'.join(str(part)[:30] for part in inside)}"
        message = finding["msg"].removeprefix("Value error, ")
        example = f"; expected for example {_EXAMPLES[name]}" if name in _EXAMPLES else ""
        sentences.append(f"{name.upper()}: {came} ({message}){example}.")
    return " ".join(sentences)
