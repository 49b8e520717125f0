"""Every setting of the project, from B3_* variables and `settings.toml` in the home; also the one clock."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

PROJECT = Path(__file__).resolve().parent.parent
LOCAL_ZONE = "America/Sao_Paulo"


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

    model_config = SettingsConfigDict(env_prefix="B3_", extra="forbid")

    home: Path = Field(default=PROJECT / ".b3", description="Where all state lives")
    port_base: int = Field(default=8800, ge=1024, le=65_000, description="First of the ports")
    legacy_dir: Path | None = Field(default=None, description="Folder in which the legacy collectors write")
    questdb_url: SecretStr | None = Field(
        default=None, description="A QuestDB of one's own: http://user:password@host:9000?pg_port=8812"
    )
    postgres_dsn: SecretStr | None = Field(default=None, description="A PostgreSQL of one's own: postgresql://…")
    token_key: SecretStr | None = Field(
        default=None, description="Encrypts the bots' tokens: 32 bytes in URL-safe base64; several, the newest first"
    )
    questdb_memory: str = Field(default="2g", pattern=r"^\d+[mg]$", description="Java heap of the embedded QuestDB")
    first_session: date = Field(default=date(2018, 1, 2), description="The first partition; older records have none")
    known_gaps: list[KnownGap] = Field(default=[], description="Sessions that a feed never had; no check misses them")
    min_free_disk_mb: int = Field(default=1_000, ge=0, description="Below this, nothing is started or loaded")
    now: AwareDatetime | None = Field(default=None, description="Pretend that it is this moment (ISO 8601, with zone)")

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
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home / "settings.toml")

    def model_post_init(self, _context: object) -> None:
        self.home = self.home.expanduser().absolute()

    @cached_property
    def ports(self) -> Ports:
        return Ports(self.port_base)

    def clock(self) -> datetime:
        """The present, UTC: the one place where the project asks for the time."""
        return self.now.astimezone(UTC) if self.now else datetime.now(UTC)

    def folder(self, *parts: str) -> Path:
        """A folder under the home, made if it is not there; the home itself is nobody else's to look into."""
        if not self.home.exists():
            self.home.mkdir(mode=0o700, parents=True)
        path = self.home.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path
