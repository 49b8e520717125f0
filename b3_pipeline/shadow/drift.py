"""How far the shadow files are from the tables: both read by our own parsers, and compared record by record."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from b3_pipeline.choosing import COMPOSED, by_precedence
from b3_pipeline.loading.compare import firsts, key_ids, pick, unify
from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.parsing.kinds import Kind
from b3_pipeline.parsing.records import FileRejected, empty_records
from b3_pipeline.quality.documents import Document, parsed
from b3_pipeline.quality.finding import SHOWN, located
from b3_pipeline.quality.parity import compare
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.shadow import forms, rows
from b3_pipeline.shadow.forms import FORMS, Form
from b3_pipeline.shadow.writing import DOCUMENT_KINDS
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table


@dataclass
class Drift:
    """A shadow file against a table: keys that only one of them has, and keys whose values differ.

    `beyond` counts the table's rows that the legacy form cannot hold: they are in no other number. `problems` says which
    files could not be read. `offending` are the first rows of each kind.
    """

    file: str
    table: str
    file_keys: int = 0
    table_keys: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    beyond: int = 0
    problems: list[str] = field(default_factory=list)
    offending: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.extra or self.different or self.problems)


def drift(db: QuestDB, folder: Path, window: Window = ALWAYS, tables: Collection[Table] = MARKET_TABLES) -> list[Drift]:
    """Compares the files of a shadow folder with some tables, in a window (UTC) of whole sessions.

    Of several feeds' rows with one key the one that takes precedence is meant. Raises QuestDBError when the server is
    away.
    """
    wide = [_wide(db, folder, form, window) for form in FORMS.values() if form.table in tables]
    held = [
        _documents(db, folder, endpoint, TABLES[table], window)
        for endpoint, kind in DOCUMENT_KINDS.items()
        for table in kind.tables
        if TABLES[table] in tables
    ]
    return [*wide, *held]


def _wide(db: QuestDB, folder: Path, form: Form, window: Window) -> Drift:
    found = Drift(form.file, form.table.name)
    records = empty_records(form.table)
    path = folder / form.file
    try:
        records = forms.parsed(form, path.read_bytes()) if path.exists() else records
    except (FileRejected, OSError) as error:
        found.problems.append(f"{form.file}: {error}")
    gathered = rows.gather(db, form, window)
    found.beyond = gathered.beyond
    return _compared(found, form.held_table, records, gathered.held_rows(), window)


def _documents(db: QuestDB, folder: Path, endpoint: str, table: Table, window: Window) -> Drift:
    kind = DOCUMENT_KINDS[endpoint]
    found = Drift(kind.file, table.name)
    newest = rows.newest_document(db, endpoint)
    composed = newest if newest and newest.feed == COMPOSED else None
    records = [empty_records(table), *_read(folder, kind, table, found, composed)]
    stored = by_precedence(table, rows.rows_of_documents(db, table, endpoint, window))
    if kind.history is None:  # the newest document is all that the file ever holds
        current = np.array([newest is not None and ts == newest.ts for ts in stored.column("ts").to_pylist()], bool)
        found.beyond = int((~current).sum())
        stored = pick(stored, current)
    return _compared(found, table, pa.concat_tables(records), stored, window)


def _read(folder: Path, kind: Kind, table: Table, found: Drift, composed: Document | None) -> Iterator[pa.Table]:
    """What the current file and the older ones hold for a table, the current one first.

    Where that is a composed one, it must be just that, and its rows are in no comparison.
    """
    past = sorted(folder.glob(f"{HISTORY_FOLDER}/{kind.history}")) if kind.history else []
    for path in (folder / kind.file, *past):
        try:
            if composed is not None and path == folder / kind.file:
                if path.read_bytes() != composed.data():
                    found.problems.append(f"{kind.file}: it is not the composed capture that readers are given")
            elif path.exists():
                yield from (chunk.records for chunk in parsed(kind, path.read_bytes(), table))
        except (FileRejected, OSError) as error:
            found.problems.append(f"{path.relative_to(folder)}: {error}")


def _compared(found: Drift, table: Table, records: pa.Table, stored: pa.Table, window: Window) -> Drift:
    records = _distinct(table, pick(records, window.mask(records.column(table.timestamp).to_numpy())))
    result = compare(table, records, stored)
    found.file_keys, found.table_keys = records.num_rows, result.row_keys
    # in the words of the files: what a table has and its file lacks is missing
    found.missing, found.extra, found.different = len(result.extra), len(result.missing), len(result.different)
    for problem, side, places in (
        ("missing", stored, result.extra),
        ("extra", records, result.missing),
        ("different", records, result.different),
    ):
        keys = [key for key in table.keys if key != "feed"]
        shown = side.select(keys).take(pa.array(places[:SHOWN])).to_pylist()
        found.offending += [{"problem": problem, **located(table, row)} for row in shown]
    return found


def _distinct(table: Table, records: pa.Table) -> pa.Table:
    """The first record of each key: the newest capture also stands among the older ones."""
    keys = [key for key in table.keys if key != "feed"]
    return records.take(pa.array(firsts(key_ids(unify([records]), keys))))
