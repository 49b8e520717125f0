"""What says what a backup holds, and which of them count."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from b3_pipeline.backup.backups import (
    MANIFEST,
    VERIFIED,
    BackupDamaged,
    Manifest,
    Stored,
    TableState,
    _digest,
    _rendered,
    backups,
    find,
    newest_verified,
    note_verified,
    own,
)
from b3_pipeline.backup.packing import Content
from b3_pipeline.errors import UsageError
from b3_pipeline.identity import home_id, identified
from b3_pipeline.places import Place, place
from b3_pipeline.settings import Settings

AT = datetime(2026, 1, 12, 23, tzinfo=UTC)
SUMS = {"2026-01": (3, "ab"), "2025-12": (2, "cd")}
ONE = Manifest(
    id="20260112-230000-0001",
    at=AT,
    who="ana",
    release="1",
    questdb="QuestDB 9.3.4",
    postgres="18.4",
    schema=({"version": 1, "name": "tables", "checksum": "00"},),
    tables={"b3_dxy_ticks": TableState.of(SUMS)},
    postgres_tables={"b3.flags": 2},
    files={"postgres.dump": Stored(5, "ef"), "questdb.tar.zst": Stored(7, "01")},
    secrets=("secrets/token_key",),
    home="0a",
    packed={"questdb.tar.zst": Content(3, 70)},
)


@pytest.fixture
def where(tmp_path: Path) -> Place:
    return place(tmp_path)


def put(where: Place, number: int, **more: object) -> Manifest:
    made = replace(ONE, id=f"20260112-230000-000{number}", at=AT + timedelta(hours=number), **more)  # pyright: ignore[reportArgumentType]
    where.write(f"{made.id}/{MANIFEST}", made.data())
    return made


def test_a_manifest_is_read_as_it_was_written_and_no_flipped_byte_of_it_is_overlooked() -> None:
    data = ONE.data()
    assert Manifest.of_data(data) == ONE
    assert (ONE.rows, ONE.bytes, ONE.forms, ONE.parts) == (5, 12, ("snapshot", "parquet"), ("postgres", "questdb"))
    for position in range(len(data)):
        for bit in (0x01, 0x20):
            flipped = data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]
            with pytest.raises(BackupDamaged):
                Manifest.of_data(flipped)


def test_a_tables_checksum_says_which_partition_has_what() -> None:
    assert TableState.of(SUMS) == TableState.of(dict(reversed(SUMS.items())))
    other = {"2026-01": SUMS["2025-12"], "2025-12": SUMS["2026-01"]}
    assert TableState.of(SUMS).checksum != TableState.of(other).checksum


def test_what_has_no_manifest_is_no_backup_and_a_damaged_one_is_named(where: Place) -> None:
    put(where, 2)
    put(where, 1)
    where.write("20260112-230000-0003/postgres.dump", b"half")
    where.write(f"20260112-230000-0004/{MANIFEST}", b"{}")
    there, broken = backups(where)
    assert [b.id[-1] for b in there] == ["1", "2"]
    assert broken == ["20260112-230000-0004"]
    assert find(where, "latest", "0a").id == there[-1].id
    for wrong in ("20260112-230000-0003", "../x", "nothing"):
        with pytest.raises(UsageError):
            find(where, wrong, "0a")


def test_the_newest_proven_one_is_the_newest_whose_note_is_of_this_very_backup(where: Place) -> None:
    for number in (1, 2, 3):
        put(where, number)
    first, second, third = backups(where)[0]
    assert newest_verified(where) is None
    note_verified(where, second, AT, "ana", ONE.forms)
    note_verified(where, first, AT, "ana", ONE.forms)
    found = newest_verified(where)
    assert found is not None
    assert (found.id, found.verified_at) == (second.id, AT)
    note = json.loads(where.read(f"{second.id}/{VERIFIED}"))
    where.write(f"{third.id}/{VERIFIED}", json.dumps(note).encode())  # of another one
    where.write(f"{second.id}/{VERIFIED}", b"{cut")
    found = newest_verified(where)
    assert found is not None
    assert found.id == first.id


def test_one_that_was_proven_from_some_of_its_forms_only_is_not_proven(where: Place) -> None:
    put(where, 1)
    for forms in (("parquet",), ("snapshot",)):
        note_verified(where, backups(where)[0][0], AT, "ana", forms)
        assert newest_verified(where) is None
    note_verified(where, backups(where)[0][0], AT, "ana", ("parquet", "snapshot"))
    assert newest_verified(where) is not None


def test_backups_of_another_home_or_of_none_do_not_count_and_are_found_by_their_id_only(where: Place) -> None:
    for number, home in enumerate(("0a", "0b", "")):
        made = put(where, number, home=home)
        note_verified(where, find(where, made.id, "0a"), AT, "ana", ONE.forms)
    there = backups(where)[0]
    assert [b.manifest.home for b in there] == ["0a", "0b", ""]
    for home, mine in (("0a", there[:1]), ("0b", there[1:2]), ("", []), ("0c", [])):
        assert own(there, home) == mine
        assert newest_verified(where, home) == (mine[0] if mine else None)
        if mine:
            assert find(where, "latest", home) == mine[0]
        else:
            with pytest.raises(UsageError, match="no backup of this home"):
                find(where, "latest", home)


def test_a_home_has_one_id_that_no_other_has(tmp_path: Path) -> None:
    one, other = (Settings(home=tmp_path / name) for name in ("one", "other"))
    assert home_id(one.home) == ""
    assert identified(one.home) == identified(one.home) == home_id(one.home) != identified(other.home)


def test_the_manifest_of_an_older_release_is_read() -> None:
    document = {
        name: value for name, value in json.loads(ONE.data()).items() if name not in ("sha256", "home", "packed")
    }
    data = _rendered({"sha256": _digest(document), **document})
    assert Manifest.of_data(data) == replace(ONE, home="", packed={})
