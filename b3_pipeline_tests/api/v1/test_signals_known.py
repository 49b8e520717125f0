"""The signals of the overview come from the warehouse; whatever it does, the rest of the overview is answered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.api.v1 import overview as overview_module
from b3_pipeline.api.v1.figures import known_signal
from b3_pipeline.api.v1.models import Overview
from b3_pipeline.api.v1.overview import Board
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.warehouse.known import NotKnown
from b3_pipeline_tests.api.v1.conftest import Api
from b3_pipeline_tests.warehouse.filled import SIGNALS, empty, exported, load, put, signal

SENT = datetime(2025, 10, 14, 13, 5)


@pytest.fixture(scope="module", autouse=True)
def warehouse(loaded: tuple[Path, Address], postgres: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The warehouse of what is loaded, with two signals."""
    folder = tmp_path_factory.mktemp("warehouse")
    empty(postgres)
    with QuestDB(loaded[1]) as db:
        put(db, SIGNALS, signal(SENT, "WINZ25"), signal(SENT - timedelta(days=1)), signal(SENT + timedelta(hours=9)))
        load(postgres, db, exported(db, folder / "exports"), folder)


def test_they_are_the_newest_up_to_now_with_what_was_known_then(api: Api) -> None:
    found = Overview.model_validate(api.get("overview")).signals
    assert found is not None
    assert [(one.asset, one.at) for one in found] == [
        ("WINZ25", SENT.replace(tzinfo=UTC)),
        ("PETRK340", (SENT - timedelta(days=1)).replace(tzinfo=UTC)),
    ]
    settlements = {f"{one.instrument} {one.contract_month}": one for one in found[0].settlements}
    assert set(settlements) == {"WIN Z25", "DOL X25", "DI1 X25", "DDI X25"}
    assert found[0].settlements[0].instrument == "WIN"
    assert all(one.at <= signal_.at for signal_ in found for one in (*signal_.settlements, *signal_.gamma))
    overview = Overview.model_validate(api.get("overview"))
    dollar = next(one for one in overview.settlements if (one.instrument, one.contract_month) == ("DOL", "X25"))
    assert settlements["DOL X25"].price == dollar.price  # the page's panels agree
    assert found[0].volatility is not None


def test_while_postgresql_is_away_the_last_known_stand_and_nobody_waits(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_module, "SIGNALS_S", 0)
    answers: list[Any] = [NotKnown("away"), [], NotKnown("away")]

    def ask(*_given: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(overview_module, "last_signals", ask)

    async def asked() -> list[Any]:
        board = Board(api.service)
        return [await board._ask_signals() for _ in range(3)]

    assert asyncio.run(asked()) == [None, [], []]


def test_a_contract_that_is_its_own_front_is_named_once() -> None:
    row: dict[str, Any] = dict.fromkeys(("buy_min", "buy_max", "stop", "target_1", "target_2", "target_final"))
    row |= {"ts": SENT.replace(tzinfo=UTC), "channel": "c", "signal_type": "t", "asset": "DOLX25", "kind": "future"}
    row |= {"instrument": "DOL", "contract_month": "X25", "es_known_at": None, "vix_known_at": None}
    row |= {"di1_settlement": None, "di1_contract": None, "ddi_settlement": None, "ddi_contract": None}
    row |= {"vol_at_the_money": None, "dol_contract": "X25"}
    for name in ("settlement", "dol_settlement"):
        row[name] = 5530.0
    for name in ("settlement", "dol"):
        row |= {f"{name}_session": None, f"{name}_known_at": row["ts"], f"{name}_feed": "b3_sprd"}
    found = known_signal(row)
    assert [(one.instrument, one.price) for one in found.settlements] == [("DOL", 5530.0)]
    assert (found.gamma, found.volatility) == ([], None)
