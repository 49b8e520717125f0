"""The documents of TP-Capital's routes: signals handed in and deleted, bots, channels. None of them has a token in it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from b3_pipeline.api.v1.examples import SIGNAL
from b3_pipeline.api.v1.models import Document, Moment, NextCursor, Signal
from b3_pipeline.parsing.records import Reason
from b3_pipeline.signals.intake import LONGEST, MOST

Status = Literal["active", "inactive"]
AnyStatus = Literal["active", "inactive", "deleted"]
BotType = Literal["Forwarder", "Sender"]
ChannelType = Literal["source", "destination"]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$", examples=["bot-1759000000000-188"])]
_Line = Annotated[str, Field(min_length=1, max_length=200)]
_Description = Annotated[str, Field(max_length=10_000)]
_PRINTABLE = "^[!-~]+$"


def _printable(token: SecretStr) -> SecretStr:
    if not re.fullmatch(_PRINTABLE, token.get_secret_value()):
        raise ValueError("has characters that no token has")
    return token


_Price = Annotated[float | None, Field(gt=0, description="BRL")]


class SignalGiven(BaseModel):
    """A signal as TP-Capital's bots write it; members that are not named here are passed over."""

    model_config = ConfigDict(extra="allow")

    timestamp: str = Field(description="UTC, YYYY-MM-DDThh:mm:ssZ", examples=["2025-10-11T12:15:40Z"])
    channel: str = Field(min_length=1, max_length=LONGEST)
    signalType: str = Field(min_length=1, max_length=LONGEST, examples=["Day Trade"])
    asset: str = Field(min_length=1, max_length=LONGEST, examples=["PETRJ370"])
    buyMin: _Price = None
    buyMax: _Price = None
    target1: _Price = None
    target2: _Price = None
    targetFinal: _Price = None
    stop: _Price = None
    rawMessage: str | None = None
    source: str | None = None


def signals_body() -> dict[str, Any]:
    """What OpenAPI says of the body: one signal, or a list of them."""
    one = SignalGiven.model_json_schema()
    schema = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MOST}]}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


class IntakeItem(Document):
    outcome: Literal["accepted", "duplicate", "rejected"] = Field(
        description="accepted: it is safe in the archive. duplicate: it came before, equal. rejected: see `reason`"
    )
    reason: Reason | None = Field(description="Why it is rejected")
    pointer: str | None = Field(description="JSON pointer into the body: what is wrong", examples=["/2/buyMin"])


class Intake(Document):
    """What became of each signal, in the order in which they were given."""

    entry: int | None = Field(
        description="The number of the archive's entry that has the accepted ones; null when there is none of them"
    )
    accepted: int
    duplicate: int
    rejected: int
    items: list[IntakeItem]


class DeletedSignal(Signal):
    """A signal that somebody has deleted, as it was."""

    deleted_at: Moment


class DeletedSignals(Document):
    items: list[DeletedSignal]
    next_cursor: NextCursor


class Deletion(Document):
    deleted: bool = Field(description="Whether it was deleted now; false: it was before, and nothing has changed")
    signal: DeletedSignal


class _BotFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    username: _Line = Field(description="Its name at Telegram", examples=["@Bot"])
    token: Annotated[SecretStr, AfterValidator(_printable)] | None = Field(
        default=None,
        min_length=5,
        max_length=500,
        json_schema_extra={"pattern": _PRINTABLE},
        description="Goes in and never comes out. Left out, the one that is known stays",
    )
    bot_type: BotType
    description: _Description = ""
    status: Status = "active"


class BotGiven(_BotFields):
    """A new bot."""

    id: Id | None = Field(default=None, description="Left out, one is made")


class BotChange(_BotFields):
    """All of a bot as it is to be."""


class Bot(Document):
    """A bot's newest version."""

    id: str = Field(examples=["bot-1759000000000-188"])
    username: str | None = Field(examples=["@Bot"])
    has_token: bool = Field(description="Whether its token is known: it is encrypted, and never shown")
    bot_type: str | None = Field(description="Forwarder or Sender")
    description: str | None
    status: str | None = Field(description="active, inactive or deleted")
    created_at: datetime | None = Field(description="UTC")
    updated_at: Moment


class Bots(Document):
    items: list[Bot]
    count: int = Field(description="How many there are in all that are as asked")


class _ChannelFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: _Line = Field(description="Its name", examples=["Sinais"])
    channel_id: int = Field(gt=-(2**63), lt=2**63, description="Its number at Telegram", examples=[-1001234567000])
    channel_type: ChannelType
    description: _Description = ""
    status: Status = "active"
    signal_count: int | None = Field(default=None, ge=0, lt=2**63, description="Left out, it stays as it is")


class ChannelGiven(_ChannelFields):
    """A new channel."""

    id: Id | None = Field(default=None, description="Left out, one is made")


class ChannelChange(_ChannelFields):
    """All of a channel as it is to be."""


class Channel(Document):
    """A channel's newest version."""

    id: str = Field(examples=["channel-1759000000000-897"])
    label: str | None
    channel_id: int | None = Field(examples=[-1001234567000])
    channel_type: str | None = Field(description="source or destination")
    description: str | None
    status: str | None = Field(description="active, inactive or deleted")
    signal_count: int | None = Field(description="Signals so far, as whoever keeps it says")
    last_signal: datetime | None = Field(description="When the newest signal came, UTC")
    created_at: datetime | None = Field(description="UTC")
    updated_at: Moment


class Channels(Document):
    items: list[Channel]
    count: int = Field(description="How many there are in all that are as asked")


_SIGNAL = {**SIGNAL, "deleted_at": "2025-10-14T15:00:00Z"}
_BOT = {
    "id": "bot-1759000000000-188",
    "username": "@Bot",
    "has_token": True,
    "bot_type": "Sender",
    "description": "",
    "status": "active",
    "created_at": "2025-09-01T12:00:00Z",
    "updated_at": "2025-09-03T12:00:00Z",
}
_CHANNEL = {
    "id": "channel-1759000000000-897",
    "label": "Sinais",
    "channel_id": -1001234567000,
    "channel_type": "source",
    "description": "",
    "status": "active",
    "signal_count": 60,
    "last_signal": "2025-10-13T14:00:00Z",
    "created_at": "2025-09-01T12:00:00Z",
    "updated_at": "2025-09-03T12:00:00Z",
}
EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    Intake: {
        "entry": 17,
        "accepted": 1,
        "duplicate": 0,
        "rejected": 1,
        "items": [
            {"outcome": "accepted", "reason": None, "pointer": None},
            {"outcome": "rejected", "reason": "out_of_bounds", "pointer": "/1/buyMin"},
        ],
    },
    DeletedSignals: {"items": [_SIGNAL], "next_cursor": None},
    Deletion: {"deleted": True, "signal": _SIGNAL},
    Bot: _BOT,
    Bots: {"items": [_BOT], "count": 1},
    Channel: _CHANNEL,
    Channels: {"items": [_CHANNEL], "count": 1},
}
