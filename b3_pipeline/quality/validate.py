"""`b3 validate`: all checks of all tables, and the one document that says what came of them (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from b3_pipeline.quality.checks import Check, checks_of, parity_check, twice
from b3_pipeline.quality.documents import CAPTURES
from b3_pipeline.quality.finding import Context, Finding
from b3_pipeline.quality.sources import feeds_of, kinds_of
from b3_pipeline.quality.stored import feeds_stored
from b3_pipeline.questdb import schema
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table

_PARITY = "parity_"
#: The numbers of a table and feed, in this order.
NUMBERS = ("source_keys", "table_keys", "missing", "extra", "different", "rejected", "expired")


@dataclass
class Report:
    """All findings, in the order of the tables; `repaired` says what a repair did before they were made."""

    findings: list[tuple[Check, Finding]] = field(default_factory=list)
    repaired: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check of severity ERROR passed."""
        return not any(check.severity == "ERROR" and not finding.passed for check, finding in self.findings)

    @property
    def tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Table → feed → numbers, for every feed with a source or rows."""
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        for check, finding in self.findings:
            if check.name.startswith(_PARITY) and any(finding.numbers.get(n) for n in (*NUMBERS, "sources")):
                feed = check.name.removeprefix(_PARITY)
                numbers = {name: finding.numbers[name] for name in NUMBERS}
                tables.setdefault(check.table.name, {})[feed] = numbers
        return tables

    @property
    def payloads(self) -> dict[str, Any]:
        """How many kept documents were rebuilt from the tables and compared, and how many differ."""
        rebuilt = next((f.numbers for c, f in self.findings if (c.name, c.table) == ("rebuild", CAPTURES)), {})
        return {name: rebuilt.get(name, 0) for name in ("compared", "different")}

    def failed(self, severity: str) -> list[tuple[Check, Finding]]:
        """The checks of a severity that did not pass."""
        return [(c, f) for c, f in self.findings if c.severity == severity and not f.passed]

    def document(self) -> dict[str, Any]:
        """The JSON of `b3 validate`."""
        return {
            "ok": self.ok,
            "tables": self.tables,
            "payloads": self.payloads,
            "checks": [_checked(check, finding) for check, finding in self.findings],
            "repaired": self.repaired,
            "errors": [f"{c.table.name}, {c.name}: {f.advice}" for c, f in self.failed("ERROR")],
        }


def _checked(check: Check, finding: Finding) -> dict[str, Any]:
    return {
        "table": check.table.name,
        "check": check.name,
        "severity": check.severity,
        "blocking": check.blocking,
        "passed": finding.passed,
        "numbers": finding.numbers,
        "offending": finding.offending,
        "partitions": finding.partitions,
        "advice": finding.advice,
    }


def validate(
    context: Context,
    announce: Callable[[Check], None] = lambda _check: None,
    again: Callable[[], Context] | None = None,
) -> Report:
    """Runs every check; `announce` is told each before it runs.

    A check that could not be made (a table that hides rows, a file that changed meanwhile) has not passed. Where loads
    may go on meanwhile, `again` makes the context anew for a second look at what parity finds wrong (see `twice`).
    """
    report = Report()
    for table in TABLES.values():
        for check in (*checks_of(table), *_of_strangers(context, table)):
            announce(check)
            found = check.finding(context, ALWAYS) if again is None else twice(check, context, again, ALWAYS)
            report.findings.append((check, found))
    return report


def _of_strangers(context: Context, table: Table) -> Iterator[Check]:
    """Parity for feeds that no parser brings into the table: their rows have no source, and that is said."""
    if table.has_feed and not schema.differences(
        schema.contract_shape(table), schema.server_shape(context.db, table.name)
    ):
        known = feeds_of(table)
        yield from (parity_check(table, f) for f in feeds_stored(context.db, table, ALWAYS) if f not in known)


def work(context: Context) -> int:
    """How many bytes of payload `validate` reads."""
    return sum(
        payload.size
        for table in MARKET_TABLES
        for feed in feeds_of(table)
        for file in context.files
        if file.kind in kinds_of(table, feed) and (payload := file.loadable)
    )
