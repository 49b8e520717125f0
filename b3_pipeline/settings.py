"""Every setting of the project, from B3_* variables and `settings.toml` in the home; also the one clock."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from b3_pipeline.clock import HomeClock

PROJECT = Path(__file__).resolve().parent.parent
LOCAL_ZONE = "America/Sao_Paulo"
#: In a home that replays, what every process of it must know of that; the weakest of all sources of settings.
REPLAYING = "replaying.toml"
_B3, _B3_DERIVATIVES = "https://www.b3.com.br", "https://sistemaswebb3-derivativos.b3.com.br"
_SECRET = re.compile(r"token|key|secret|senha|pass|auth", re.IGNORECASE)


Severity = Literal["WARN", "ERROR"]


class Ports:
    """Where everything listens: one base places all ports, so that two homes run side by side."""

    def __init__(self, base: int) -> None:
        self.page = base
        self.dagster = base + 1
        self.questdb_http = base + 2
        self.questdb_pg = base + 3
        self.questdb_health = base + 4
        self.metrics = base + 5


class KnownGap(BaseModel, extra="forbid"):
    """Sessions of which a feed has nothing, and why: from `first` to `last`, both included."""

    feed: str
    first: date
    last: date
    why: str

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError("last lies before first")
        return self


class Settings(BaseSettings):
    """All settings. Variables win over the file `B3_HOME/settings.toml`, the file over the defaults."""

    model_config = SettingsConfigDict(hide_input_in_errors=True, env_prefix="B3_", extra="forbid")
    _clock: HomeClock = PrivateAttr()

    home: Path = Field(default=PROJECT / ".b3", description="Where all state lives")
    port_base: int = Field(default=8800, ge=1024, le=65_000, description="First of the ports")
    legacy_dir: Path | None = Field(default=None, description="Folder in which the legacy collectors write")
    shadow_dir: Path | None = Field(default=None, description="Folder of our shadow files; none: shadow in the home")
    lowdb_dir: Path | None = Field(default=None, description="Folder of the LowDB files, ideas.json and db.json")
    signals_inbox: Path | None = Field(
        default=None, description="Folder into which TP-Capital's bots put files of JSON lines"
    )
    questdb_url: SecretStr | None = Field(
        default=None, description="A QuestDB of one's own: http://user:password@host:9000?pg_port=8812"
    )
    postgres_dsn: SecretStr | None = Field(default=None, description="A PostgreSQL of one's own: postgresql://…")
    postgres_app_dsn: SecretStr | None = Field(
        default=None, description="The same server as b3_app, for the API; none: as B3_POSTGRES_DSN"
    )
    postgres_reader_dsn: SecretStr | None = Field(
        default=None, description="The same server as b3_reader, for what only reads; none: as the API"
    )
    postgres_admin_dsn: SecretStr | None = Field(
        default=None, description="The same server as its administrator, for `b3 postgres setup` alone"
    )
    token_key: SecretStr | None = Field(
        default=None, description="Encrypts the bots' tokens: 32 bytes in URL-safe base64; several, the newest first"
    )
    questdb_memory: str = Field(default="2g", pattern=r"^\d+[mg]$", description="Java heap of the embedded QuestDB")
    first_session: date = Field(default=date(2018, 1, 2), description="The first partition; older records have none")
    known_gaps: list[KnownGap] = Field(default=[], description="Sessions that a feed never had; no check misses them")
    min_free_disk_mb: int = Field(default=1_000, ge=0, description="Below this, nothing is started or loaded")
    alert_webhook_url: SecretStr | None = Field(default=None, description="Alerts are posted here as JSON")
    alert_webhook_min_severity: Severity = Field(default="WARN", description="The webhook gets nothing below this")
    alert_slack_url: SecretStr | None = Field(default=None, description="Slack's incoming webhook for alerts")
    alert_slack_min_severity: Severity = Field(default="WARN", description="Slack gets nothing below this")
    alert_smtp_url: SecretStr | None = Field(
        default=None, description="Alerts by e-mail: smtp://user:password@host:587, smtps://… for TLS from the start"
    )
    alert_email_to: Annotated[list[str], NoDecode] = Field(default=[], description="Who gets them, with commas between")
    alert_email_from: str = Field(default="b3-pipeline@localhost", description="Who they are from")
    alert_email_min_severity: Severity = Field(default="WARN", description="E-mail brings nothing below this")
    alert_alertmanager_url: SecretStr | None = Field(default=None, description="Prometheus' Alertmanager: its address")
    alert_alertmanager_min_severity: Severity = Field(
        default="WARN", description="Alertmanager gets nothing below this"
    )
    alert_group_s: float = Field(default=5, ge=0, le=600, description="Alerts of so many seconds go as one message")
    alert_hold_s: float = Field(
        default=30, ge=0, le=3_600, description="An alert is over when nothing was wrong for so many seconds"
    )
    alert_remind_hours: float = Field(default=4, gt=0, description="How often an ERROR that stays open is told again")
    alert_service_down_s: float = Field(default=60, ge=0, description="A service down for less is no alert")
    alert_source_failures: int = Field(default=5, ge=1, description="Fewer failed fetches in a row are no alert")
    public_url: str | None = Field(default=None, description="Where people open Dagster, for links in alerts")
    sources_off: Annotated[list[str], NoDecode] = Field(
        default=[], description="Sources that are not collected, with commas between"
    )
    replay_dir: Path | None = Field(
        default=None,
        description="A recording (a folder in the archive's form) that is collected instead of the sources",
    )
    replay_speed: float = Field(default=1, gt=0, le=100_000, description="How many times as fast as it was recorded")
    settlements_url: str = Field(
        default=f"{_B3}/pesquisapregao/download?filelist=SPRD{{yymmdd}}.zip",
        description="B3's price report of derivatives; {yymmdd} is the session",
    )
    indicators_url: str = Field(
        default=f"{_B3_DERIVATIVES}/financialIndicatorsProxy/FinancialIndicators/GetFinancialIndicators/"
        "eyJsYW5ndWFnZSI6InB0LWJyIn0=",
        description="B3's financial indicators",
    )
    vol_surface_url: str = Field(
        default=f"{_B3}/data/files/16/35/6A/F9/623589100A29E189AC094EA8/Superficie-de-volatilidade-de-dolar.zip",
        description="B3's volatility surface of dollar options, the newest",
    )
    dxy_url: str = Field(
        default="https://query1.finance.yahoo.com/v8/finance/chart/DX-Y.NYB?interval=5m&range=1d",
        description="Yahoo's chart of the dollar index, the day so far",
    )
    dxy_until: time = Field(default=time(18, 30), description="The dollar index is read until this local time")
    gamma_url: str | None = Field(default=None, description="The provider of gamma levels; no secret belongs into it")
    gamma_user: str | None = Field(default=None, description="Who asks for gamma levels; without: a bearer token")
    gamma_secret: SecretStr | None = Field(default=None, description="Password or bearer token for gamma levels")
    legacy_url: str | None = Field(default=None, description="The legacy server, where there is one: http://host:8082")
    legacy_port: int | None = Field(
        default=None, ge=1024, le=65_535, description="The legacy routes answer here, too (8082 by habit); none: off"
    )
    api_key: SecretStr | None = Field(
        default=None, min_length=16, description="Whoever changes something shows it; none: secrets/api_key in the home"
    )
    api_read_key: SecretStr | None = Field(
        default=None, min_length=16, description="When set, whoever reads /api/v1 shows it, or the other one"
    )
    api_rate: int = Field(
        default=100, ge=1, le=100_000, description="Questions a second that one address may put to the database"
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Names of this machine under which the page and the API may be asked for, with commas between; "
        "127.0.0.1, localhost and the host of public_url always are",
    )
    payload_ignore: Annotated[list[str], NoDecode] = Field(
        default=[], description="Named rules for differences of payloads that do not count, with commas between"
    )
    http_user_agent: str = Field(
        default="Mozilla/5.0 (compatible; b3-pipeline)", description="What the sources are told that asks them"
    )
    http_timeout_s: float = Field(default=10, gt=0, le=120, description="For connecting, and for each wait for bytes")
    http_deadline_s: float = Field(
        default=60, gt=0, le=600, description="For one question to a source, further attempts and waits included"
    )
    http_attempts: int = Field(default=4, ge=1, le=20, description="How often a question is put in all")
    http_max_wait_s: float = Field(
        default=30, ge=0, le=600, description="A source that asks for a longer wait (Retry-After) is left until later"
    )
    http_max_mb: int = Field(default=8, ge=1, le=8, description="A larger answer is refused; a parser takes no more")
    exports_url: str | None = Field(
        default=None, description="Where exports go: a folder, or s3://bucket/prefix; none: exports in the home"
    )
    backups_url: str | None = Field(
        default=None, description="Where backups go: a folder, or s3://bucket/prefix; none: backups in the home"
    )
    backups_daily: int = Field(default=7, ge=1, le=366, description="Backups that are kept: of so many last days")
    backups_weekly: int = Field(default=5, ge=0, le=520, description="… the last one of each of so many weeks")
    backups_monthly: int = Field(default=12, ge=0, le=600, description="… the last one of each of so many months")
    now: AwareDatetime | None = Field(default=None, description="Pretend that it is this moment (ISO 8601, with zone)")

    @field_validator("alert_email_to", "sources_off", "allowed_hosts", "payload_ignore", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        return [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given

    @field_validator("postgres_app_dsn", "postgres_reader_dsn")
    @classmethod
    def _beside(cls, given: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """They are for the server of B3_POSTGRES_DSN, which comes before them."""
        if given is not None and info.data.get("postgres_dsn") is None:
            raise ValueError("it is nothing without B3_POSTGRES_DSN")
        return given

    @field_validator("settlements_url", "indicators_url", "vol_surface_url", "dxy_url", "gamma_url", "legacy_url")
    @classmethod
    def _address(cls, given: str | None) -> str | None:
        """The URL is shown, logged and archived: who asks, and with what secret, has settings of its own."""
        if given is None:
            return None
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # may raise, too
            raise ValueError("no address: it begins with https:// or http://")
        if "@" in parts.netloc or parts.fragment:
            raise ValueError("neither a user, a password nor a #fragment belongs into it")
        if secret := next((name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)), None):
            raise ValueError(f"no secret belongs into it, and {secret!r} looks like one")
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = Path(init_settings().get("home") or env_settings().get("home") or PROJECT / ".b3")
        files = (TomlConfigSettingsSource(settings_cls, home / name) for name in ("settings.toml", REPLAYING))
        return init_settings, env_settings, *files

    def model_post_init(self, _context: object) -> None:
        self.home = self.home.expanduser().absolute()
        self._clock = HomeClock(self.home)

    @cached_property
    def ports(self) -> Ports:
        return Ports(self.port_base)

    def clock(self) -> datetime:
        """The present, UTC: the one place where the project asks for the time. `B3_NOW` wins over the home's clock file.

        Raises ClockDamaged.
        """
        return self.now.astimezone(UTC) if self.now else self._clock()

    def environment(self) -> dict[str, str]:
        """The variables that give a child process what a command line may have set here; nothing secret."""
        given = ("home", "port_base", "legacy_dir", "replay_dir", "replay_speed")
        return {f"B3_{name.upper()}": str(value) for name in given if (value := getattr(self, name)) is not None}

    def folder(self, *parts: str) -> Path:
        """A folder under the home, made if it is not there; the home itself is nobody else's to look into."""
        if not self.home.exists():
            self.home.mkdir(mode=0o700, parents=True)
        path = self.home.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path
