"""The commands on backups: b3 backup create, list, verify, restore."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, age, console, emit, guarded, say, table

if TYPE_CHECKING:
    from b3_pipeline.backup.backups import Backup
    from b3_pipeline.backup.verifying import Verdict
    from b3_pipeline.progress import Report
    from b3_pipeline.settings import Settings

backup_app = typer.Typer(no_args_is_help=True, help="Backups: made, listed, proven by restoring them, and restored.")
Id = Annotated[str, typer.Argument(metavar="ID", help="The backup, as `b3 backup list` shows it, or latest.")]


class Form(StrEnum):
    """In which form QuestDB's tables are restored."""

    SNAPSHOT = "snapshot"
    PARQUET = "parquet"


class Trial(StrEnum):
    """Which forms are tried."""

    SNAPSHOT = "snapshot"
    PARQUET = "parquet"
    BOTH = "both"


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for name, command in {"create": create, "list": list_, "verify": verify, "restore": restore}.items():
        backup_app.command(name)(guarded(command))
    app.add_typer(backup_app, name="backup")


def create(
    proven: Annotated[bool, typer.Option("--verify", help="Verify it at once, as b3 backup verify does.")] = False,
    as_json: Json = False,
) -> None:
    """Back up QuestDB, PostgreSQL, the archive, quarantine, kept reports, migration logs and settings.

    Collecting and reading go on; loads wait for as long as QuestDB's data folder is copied. Afterwards the backups go that
    are not to be kept any longer (B3_BACKUPS_DAILY, …_WEEKLY, …_MONTHLY). Secrets are in no backup: docs/backups.md says
    which files to keep elsewhere.

    Examples:

      b3 backup create

      b3 backup create --verify --json
    """
    from b3_pipeline.backup import creating, verifying
    from b3_pipeline.services import engines

    settings, report = _settings(), _report(as_json)
    with engines(settings, report) as servers:
        made = creating.create(settings, servers, report)
    verdict = verifying.verify(settings, made.id, report=report) if proven else None
    item = _item(settings, made, "created") if verdict is None else _judged(settings, verdict)
    _conclude([item], as_json=as_json, remarks=made.manifest.remarks)


def list_(as_json: Json = False) -> None:
    """Show the backups that there are, which of them were proven, and when.

    Exits with 1 when the manifest of one is damaged.

    Example:

      b3 backup list
    """
    from b3_pipeline.backup.backups import backups
    from b3_pipeline.places import backups_of

    settings = _settings()
    where = backups_of(settings)
    there, broken = backups(where)
    items = [_item(settings, backup, "verified" if backup.verified_at else "not verified") for backup in there]
    nothing = {"rows": None, "bytes": None, "sha256": None}
    items += [{"name": name, **nothing, "path": f"{where}/{name}", "action": "damaged"} for name in broken]
    if not items and not as_json:
        say(f"There is no backup in {escape(str(where))}: [bold]b3 backup create[/] makes one.")
        return
    _conclude(items, as_json=as_json)


def verify(
    backup_id: Id = "latest",
    form: Annotated[Trial, typer.Option("--form", help="From which form QuestDB's tables are restored.")] = Trial.BOTH,
    as_json: Json = False,
) -> None:
    """Prove a backup: read every file, restore it into servers of its own for a moment, and compare.

    Nothing of the home's servers is touched; they need not run. Exits with 1 when anything is wrong.

    Examples:

      b3 backup verify

      b3 backup verify 20260112-233000-1f3a --form parquet
    """
    from b3_pipeline.backup import verifying

    settings = _settings()
    forms = [f.value for f in (Trial.SNAPSHOT, Trial.PARQUET) if form in (f, Trial.BOTH)]
    verdict = verifying.verify(settings, backup_id, forms, _report(as_json))
    _conclude([_judged(settings, verdict)], as_json=as_json)


def restore(
    backup_id: Id,
    form: Annotated[
        Form | None, typer.Option("--form", help="Of QuestDB's tables; default: the snapshot, where there is one.")
    ] = None,
    what: Annotated[
        str, typer.Option("--what", help="Only these parts, with commas between: questdb,postgres,archive,…")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Move what is in the home aside, to replaced/<time>.")] = False,
    as_json: Json = False,
) -> None:
    """Restore a backup into this home, and prove that what came of it is what was backed up.

    `b3 up` must be down. Nothing is ever deleted or written over. Interrupted, it is simply run again. Put the home's
    secrets (secrets/token_key, secrets/api_key) back yourself.

    Examples:

      b3 backup restore latest

      b3 backup restore 20260112-233000-1f3a --form parquet --force

      b3 backup restore latest --what archive,quarantine
    """
    from b3_pipeline.backup.backups import file_of
    from b3_pipeline.backup.restoring import restore as run

    settings = _settings()
    parts = [part.strip() for part in what.split(",") if part.strip()]
    done = run(settings, backup_id, form and form.value, parts, force=force, report=_report(as_json))
    manifest = done.backup.manifest
    items = [
        {
            "name": part,
            "rows": {"questdb": manifest.rows, "postgres": sum(manifest.postgres_tables.values())}.get(part),
            "bytes": stored.bytes if (stored := manifest.files.get(file_of(part))) else None,
            "sha256": stored.sha256 if stored else None,
            "path": str(settings.home / part),
            "action": "restored",
        }
        for part in done.parts
    ]
    _conclude(items, as_json=as_json, backup=done.backup.id, form=done.form, aside=done.aside, log=done.log)


def _settings() -> Settings:
    from b3_pipeline.settings import Settings

    return Settings()


def _report(as_json: bool) -> Report:
    from b3_pipeline.progress import SILENT, ConsoleReport

    return SILENT if as_json else ConsoleReport(console)


def _item(settings: Settings, backup: Backup, action: str) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": backup.id,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "sha256": backup.sha256,
        "path": f"{settings.backups_url or settings.home / 'backups'}/{backup.id}",
        "action": action,
        "at": backup.at,
        "age_s": round((settings.clock() - backup.at).total_seconds(), 1),
        "verified_at": backup.verified_at,
        "home": manifest.home,
        "forms": manifest.forms,
    }


def _judged(settings: Settings, verdict: Verdict) -> dict[str, Any]:
    item = _item(settings, verdict.backup, "verified" if verdict.ok else "damaged")
    return {**item, "verified_at": verdict.at if verdict.ok else None, "problems": verdict.problems}


def _conclude(items: list[dict[str, Any]], *, as_json: bool, **more: Any) -> None:
    """How these commands end: what was done, printed, and the exit code."""
    ok = all(item["action"] != "damaged" for item in items)
    if as_json:
        emit({"ok": ok, "items": items, **more})
    else:
        heads = ["name", "rows", "bytes", "age", "state"]
        rows = ([i["name"], i["rows"], i["bytes"], age(i.get("age_s")), i["action"]] for i in items)
        table("Backups" if "log" not in more else "Restored", heads, rows, ["rows", "bytes"])
        for sentence in [*(p for item in items for p in item.get("problems", ())), *more.get("remarks", ())]:
            say(escape(sentence))
        if more.get("aside"):
            say(f"What was in the home lies in {escape(str(more['aside']))}.")
        if more.get("log"):
            say(f"The log of it: {escape(str(more['log']))}. Now: [bold]b3 up[/], then [bold]b3 validate[/].")
    if not ok:
        raise typer.Exit(1)
