"""Many payloads into many tables: which load where, and the report that accounts for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from b3_pipeline.loading.kept import keep
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Found, Payload, PayloadChanged
from b3_pipeline.loading.writer import LoadError
from b3_pipeline.questdb import schema
from b3_pipeline.tables import Table


def load_all(loader: Loader, payloads: Iterable[Payload], table: Table, *, proven: bool = False) -> list[LoadReport]:
    """Loads those payloads that feed the table, in the given order. One that fails does not stop the others.

    What follows loads (`Loader.follow`) is told of all of them at the end.

    Raises SchemaError before the first row when the table is not as contracted (`proven`: the caller has asked),
    QuestDBError when the server is away.
    """
    if not proven:
        schema.require(loader.db, table)
    reports: list[LoadReport] = []
    claimed: set[int] = set()
    for payload in payloads:
        if table.name in payload.kind.tables:
            try:
                report = loader.load(payload, table, claimed)
                if report.outcome in ("loaded", "unchanged", "partial"):
                    keep(payload, loader.home)
            except (OSError, PayloadChanged, LoadError) as error:
                report = LoadReport(payload, None, "failed", str(error))
            if report.load is not None:
                claimed.add(report.load.load_id)
            reports.append(report)
    loader.follow(reports)
    return reports


def totals(reports: Sequence[LoadReport]) -> dict[str, int]:
    """The five counts, and the revised ones, summed over loads."""
    return {name: sum(getattr(r.load, name) for r in reports if r.load) for name in (*COUNTS, "revised")}


@dataclass
class Account:
    """What became of every file and every record of one command."""

    files: list[Found] = field(default_factory=list)
    reports: list[LoadReport] = field(default_factory=list)

    def of_table(self, table: str) -> list[LoadReport]:
        return [r for r in self.reports if r.load and r.load.table_name == table]

    def outcomes(self) -> list[dict[str, Any]]:
        """Each file with its name, SHA-256, outcome and reason, as `b3 migrate --json` gives them."""
        return [self._outcome(f) for f in self.files]

    def _outcome(self, file: Found) -> dict[str, Any]:
        mine = [r for r in self.reports if file.payload and _same(r.payload, file.payload)]
        outcome, reason = file.outcome, file.reason
        for unfinished in ("failed", "rejected", "partial"):
            if worst := next((r for r in mine if r.outcome == unfinished), None):
                outcome, reason = unfinished, worst.reason
                break
        else:
            if mine and not totals(mine)["candidates"]:
                outcome, reason = "empty", "no record in it"
            elif mine:
                outcome = "loaded" if any(r.outcome == "loaded" for r in mine) else "unchanged"
                reason = next((r.reason for r in mine if r.reason), None)
        return {
            "name": file.name,
            "sha256": file.payload.sha256 if file.payload else None,
            "outcome": outcome or "failed",
            "reason": reason if outcome else "its tables were not reached",
        }

    def summary(self, tables: Iterable[str], rows_in_table: Callable[[str], int], seconds: float) -> dict[str, Any]:
        """The JSON of `b3 migrate`. `ok` is false when a file was rejected whole or failed."""
        files = self.outcomes()
        candidates = totals(self.reports)["candidates"]
        counted = {t: totals(self.of_table(t)) for t in tables}
        return {
            "ok": not any(f["outcome"] in ("rejected", "failed") for f in files),
            "tables": {t: {**counts, "rows_in_table": rows_in_table(t)} for t, counts in counted.items()},
            "files": files,
            "seconds": round(seconds, 3),
            "rows_per_second": round(candidates / seconds, 1) if seconds else 0.0,
        }


def _same(one: Payload, other: Payload) -> bool:
    """Whether it is the same payload: the archive has many of one name, a folder may have one under two."""
    return (one.name, one.sha256) == (other.name, other.sha256)
