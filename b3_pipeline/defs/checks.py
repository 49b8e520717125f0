"""The asset checks, made from the registry of `quality.checks`: what ran, what it counted, which rows, what to do."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from b3_pipeline.defs.partitions import keys_of, window_of
from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.metrics import instruments
from b3_pipeline.quality.checks import Check, Finding, checks_of, twice
from b3_pipeline.tables import TABLES, Table

#: The metadata that says which part of a table a check has looked at.
LOOKED_AT, EVERYTHING = "looked_at", "everything"


def table_checks(table: Table) -> dg.AssetChecksDefinition:
    """Every check of one table, evaluated by one step. A run over some sessions looks at those sessions."""
    checks = {check.name: check for check in checks_of(table)}

    @dg.multi_asset_check(
        name=f"check_{table.name}",
        specs=[
            dg.AssetCheckSpec(c.name, asset=table.name, description=c.description, blocking=c.blocking)
            for c in checks.values()
        ],
        can_subset=True,
    )
    def check_table(
        context: dg.AssetCheckExecutionContext, config: Inputs, store: dg.ResourceParam[Store]
    ) -> Iterator[dg.AssetCheckResult]:
        instruments.ready(store.settings)
        keys = keys_of(context)
        wanted = {key.name for key in context.selected_asset_check_keys}
        with store.quality(config, context.run.run_id) as looked_at:
            for check in (c for c in checks.values() if c.name in wanted):
                found = twice(check, looked_at, lambda: store.looked_at_anew(config, looked_at.db), window_of(keys))
                yield _result(check, found, keys)

    return check_table


def _result(check: Check, finding: Finding, keys: Sequence[str]) -> dg.AssetCheckResult:
    looked_at = f"sessions {keys[0]} to {keys[-1]}" if keys else EVERYTHING
    return dg.AssetCheckResult(**told(check, finding, looked_at))


def told(check: Check, finding: Finding, looked_at: str) -> dict[str, Any]:
    """What Dagster is told of a finding, in the words that results of runs and of ticks have in common."""
    severity = "WARN" if finding.undecided else check.severity
    instruments.checked(check.table.name, check.name, severity, finding.passed)
    return {
        "passed": finding.passed,
        "asset_key": dg.AssetKey(check.table.name),
        "check_name": check.name,
        "severity": dg.AssetCheckSeverity(severity),
        "description": finding.advice or None,
        "metadata": {LOOKED_AT: looked_at, **finding.numbers, **_rows(finding.offending), **_advice(finding)},
    }


def _advice(finding: Finding) -> dict[str, Any]:
    return {"what_to_do": dg.MetadataValue.text(finding.advice)} if finding.advice else {}


def _rows(offending: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first offending rows as a table; a value that Dagster's tables cannot hold is shown as text."""
    if not offending:
        return {}
    names = list(dict.fromkeys(name for row in offending for name in row))
    records = [dg.TableRecord({name: _shown(row.get(name)) for name in names}) for row in offending]
    return {"first_offending": dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(n) for n in names]))}


def _shown(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def all_checks() -> list[dg.AssetChecksDefinition]:
    """The checks of every table."""
    return [table_checks(table) for table in TABLES.values()]
