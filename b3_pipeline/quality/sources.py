"""What stored rows are judged against: the legacy folder, the reports that were kept, the documents in `b3_captures`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from b3_pipeline.loading import archived, kept
from b3_pipeline.loading.compare import any_of
from b3_pipeline.loading.payloads import Found, Payload, survey
from b3_pipeline.loading.replay import with_corrections
from b3_pipeline.parsing.kinds import MARKET_KINDS, Kind
from b3_pipeline.quality.documents import CAPTURES, DOCUMENT_KINDS, Document, documents_of, keys
from b3_pipeline.quality.finding import Context
from b3_pipeline.tables import Table


def at_hand(folder: Path | None, home: Path) -> list[Found]:
    """What the home keeps and a legacy folder has (None: no folder): the raw archive, its files, reports, corrections.

    In the order in which a new database is to take them: what was collected before what the folder says now, a corrected
    reject after the file that it is of, but before all files when that one has changed since (`with_corrections`).
    Raises UsageError when the folder is none.
    """
    files = [*(survey(folder) if folder else []), *kept.kept(home)]
    there = {(file.kind, file.payload.sha256) for file in files if file.payload}
    collected = archived.found(archived.archive_of(home))
    new = [file for file in collected if file.payload and (file.kind, file.payload.sha256) not in there]
    return with_corrections([*new, *files], home)


def kinds_of(table: Table, feed: str) -> list[Kind]:
    """The kinds of payload that bring rows of this feed into the table."""
    return [kind for kind in MARKET_KINDS if kind.feed == feed and table.name in kind.tables]


def feeds_of(table: Table) -> tuple[str, ...]:
    """The feeds that can fill the table, by the kinds of payload that there are."""
    return tuple(dict.fromkeys(kind.feed for kind in MARKET_KINDS if table.name in kind.tables))


class Sources:
    """The payloads of a feed for a table, in the order in which they count: of two with one key, the later stands.

    That is the loads' own order (FORMATS §3: the newer load's value stands); what was never loaded comes last. Kept
    documents whose file is gone have their loads' place. `unproven` are the moments of documents that the ledger knows
    and that are no longer what they were: nothing can be said about rows of theirs, also not by an older file.
    """

    def __init__(self, context: Context, table: Table, feed: str) -> None:
        self.context, self.table, self.feed = context, table, feed
        self.kinds = kinds_of(table, feed)
        self.unproven: set[datetime] = set()

    def __iter__(self) -> Iterator[Payload]:
        ranks = self._ranks()
        given = [p for f in self.context.files if f.kind in self.kinds and (p := f.loadable)]
        # what has just come in, and nobody has loaded, is no source of anything stored
        files = [p for p in given if not p.pending or p.sha256 in ranks.loads]
        if any(kind in DOCUMENT_KINDS for kind in self.kinds):
            files = self._with_documents(files)
        yield from sorted(files, key=ranks.of)

    def rejected_by_load(self, payload: Payload) -> bool:
        """Whether a load has said that nothing can be read in a payload, and has put it into quarantine."""
        query = (
            "select count() from b3_loads where sha256 = %s and table_name = %s and feed = %s and outcome = 'rejected'"
        )
        return bool(self.context.db.scalar(query, payload.sha256, self.table.name, self.feed))

    def unopened(self) -> list[str]:
        """Files at hand that should have been a source and could not even be opened: name and reason."""
        files = [f for f in self.context.files if f.kind in self.kinds and f.outcome == "rejected"]
        return [f"{file.name}: {file.reason}" for file in files]

    def undocumented(self, moments: np.ndarray) -> np.ndarray:
        """Of which moments a retention has taken the kept documents away: nothing can be said about rows that they gave."""
        of_documents = any(kind in DOCUMENT_KINDS for kind in self.kinds)
        windows = self.context.expired.get(CAPTURES.name, ()) if of_documents else ()
        return any_of((window.mask(moments) for window in windows), len(moments))

    def _with_documents(self, files: list[Payload]) -> list[Payload]:
        """The files, and the kept documents that none of them gives as it is or as a later load made it.

        A file whose document was put aside by a newer one, which can no longer be read, says nothing about the rows.
        """
        ranks = self._ranks()
        given: dict[tuple[str, datetime], list[Payload]] = {}
        for file in files:
            for key in keys(file) if file.kind in DOCUMENT_KINDS else ():
                given.setdefault(key, []).append(file)
        kept, outdated = [], set[Path]()
        for document in documents_of(self.context, self.feed):
            mine = given.get(document.key, [])
            rank = ranks.of_document(document)
            if any(file.sha256 == document.sha256 or ranks.of(file) > rank for file in mine):
                continue
            proven = document.payload()
            if proven is not None and proven.kind in self.kinds:
                kept.append(proven)
            elif proven is None and document.file is not None:
                self.unproven.add(document.ts)
                outdated |= {file.path for file in mine}
        return [*kept, *(file for file in files if file.path not in outdated)]

    def _ranks(self) -> _Ranks:
        return _Ranks(*(self._newest_loads(name) for name in (self.table.name, CAPTURES.name)))

    def _newest_loads(self, table: str) -> dict[str, int]:
        """By SHA-256, the newest load that brought a payload into a table, or is at it."""
        query = (
            "select sha256, max(load_id) from b3_loads where table_name = %s and feed = %s and outcome != 'rejected' "
            "group by sha256"
        )
        return dict(self.context.db.query(query, table, self.feed))


Rank = tuple[float, float]


@dataclass(frozen=True)
class _Ranks:
    """The place of payloads among each other: by their load into the table, else by that of their document."""

    loads: Mapping[str, int]
    documents: Mapping[str, int]

    def of(self, payload: Payload) -> Rank:
        return self._of(payload.sha256, math.inf)

    def of_document(self, document: Document) -> Rank:
        """As its payload, which the row itself says to be loaded."""
        return self._of(document.sha256 or "", document.load_id or 0)

    def _of(self, sha256: str, otherwise: float) -> Rank:
        return self.loads.get(sha256, math.inf), self.documents.get(sha256, otherwise)
