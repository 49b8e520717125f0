"""The asset checks, made from the registry of `quality.checks`: what ran, what it counted, which rows, what to do."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES

from b3_pipeline.defs.partitions import keys_of, window_of
from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.metrics import instruments
from b3_pipeline.quality.checks import Check, Finding, checks_of, twice
from b3_pipeline.tables import TABLES, Table

#: The metadata that says which part of a table a check has looked at; of a red one, also what has to be looked at before
#: it is well again, where an earlier look had found it red over more.
LOOKED_AT, RED_OVER = "looked_at", "red_over"
#: The checks of a table as a whole: however little one looks at, they say the same.
WHOLE = {"schema", "wal", "freshness", "composed"}
_EVERYTHING, _NO_END = "everything", "9999-12-31"


@dataclass(frozen=True)
class Span:
    """The sessions (ISO, both included) that a check looks at; everything where none is given."""

    first: str = ""
    last: str = _NO_END

    @classmethod
    def of_keys(cls, keys: Sequence[str]) -> "Span":
        """What a run over these partitions looks at; over none: everything."""
        looked_at = window_of(keys)
        return cls(keys[0] if looked_at.start else "", keys[-1] if looked_at.end else _NO_END)

    @classmethod
    def of_text(cls, text: str) -> "Span":
        """What `str` has made of one; for anything else, everything."""
        found = re.fullmatch(r"sessions (?:since (\S+)|(\S*) to (\S+))", text)
        return cls(found[1] or found[2] or "", found[3] or _NO_END) if found else cls()

    def __str__(self) -> str:
        if self.last != _NO_END:
            return f"sessions {self.first} to {self.last}"
        return f"sessions since {self.first}" if self.first else _EVERYTHING

    def covers(self, other: "Span") -> bool:
        return self.first <= other.first and self.last >= other.last

    def with_that(self, other: "Span") -> "Span":
        """All that lies between the ends of both."""
        return Span(min(self.first, other.first), max(self.last, other.last))


_ALL, _NONE = Span(), dict[str, Span]()


def last_results(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, tuple[dg.EventLogEntry, dg.AssetCheckEvaluation]]:
    """The last result of each check that has one; of a run that only plans a check, or is silent on it, none is taken."""
    storage = instance.event_log_storage
    found = {}
    for key, latest in storage.get_latest_asset_check_execution_by_key(list(keys)).items():
        done = COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        some = [latest] if latest.status in done else storage.get_asset_check_execution_history(key, 1, status=done)
        for record in some:
            if record.event and isinstance(record.evaluation, dg.AssetCheckEvaluation):
                found[key] = record.event, record.evaluation
    return found


def red_over(instance: dg.DagsterInstance, checks: Iterable[Check]) -> dict[str, Span]:
    """Of the checks (of one table) whose last result is red, what has to be looked at before they are well again."""
    keys = [dg.AssetCheckKey(dg.AssetKey(check.table.name), check.name) for check in checks]
    return {
        key.name: _span_of(result) for key, (_, result) in last_results(instance, keys).items() if not result.passed
    }


def _span_of(result: dg.AssetCheckEvaluation) -> Span:
    said = result.metadata.get(RED_OVER) or result.metadata.get(LOOKED_AT)
    return Span.of_text(str(said.value)) if said else Span()


def cannot_clear(check: Check, finding: Finding, looked_at: Span, red: Mapping[str, Span]) -> bool:
    """Whether a check passes over less than it was found red over (`red_over`): then nothing is to be said of it."""
    return finding.passed and not _sees_all(check, looked_at, red)


def _sees_all(check: Check, looked_at: Span, red: Mapping[str, Span]) -> bool:
    return check.name in WHOLE or looked_at.covers(red.get(check.name, looked_at))


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
    ) -> Iterator[dg.AssetCheckResult | dg.Output]:
        instruments.ready(store.settings)
        keys = keys_of(context)
        within, over = window_of(keys), Span.of_keys(keys)
        wanted = {key.name: key for key in context.selected_asset_check_keys}
        asked = [check for check in checks.values() if check.name in wanted]
        red = red_over(context.instance, asked)
        with store.quality(config, context.run.run_id) as looked_at:
            for check in asked:
                found = twice(check, looked_at, lambda: store.looked_at_anew(config, looked_at.db), within)
                if cannot_clear(check, found, over, red):
                    context.log.info(f"{check.name} passes over {over}; it stays red, over {red[check.name]}.")
                    # no result, and yet what waits for this check goes on
                    yield dg.Output(None, context.job_def.asset_layer.get_op_output_name(wanted[check.name]))
                else:
                    yield dg.AssetCheckResult(**told(check, found, over, red))

    return check_table


def told(check: Check, finding: Finding, looked_at: Span = _ALL, red: Mapping[str, Span] = _NONE) -> dict[str, Any]:
    """What Dagster is told of a finding, in the words that results of runs and of ticks have in common.

    A fault that was found over more (`red`: see `red_over`) stays one over all of that.
    """
    wider = {} if _sees_all(check, looked_at, red) else {RED_OVER: str(looked_at.with_that(red[check.name]))}
    severity = "WARN" if finding.undecided else check.severity
    instruments.checked(check.table.name, check.name, severity, finding.passed)
    return {
        "passed": finding.passed,
        "asset_key": dg.AssetKey(check.table.name),
        "check_name": check.name,
        "severity": dg.AssetCheckSeverity(severity),
        "description": finding.advice or None,
        "metadata": {
            LOOKED_AT: str(looked_at),
            **wider,
            **finding.numbers,
            **_rows(finding.offending),
            **_advice(finding),
        },
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
