"""The command on a PostgreSQL of one's own: b3 postgres setup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.postgres.roles import Role
    from b3_pipeline.settings import Settings

postgres_app = typer.Typer(no_args_is_help=True, help="A PostgreSQL server of one's own: its roles and rights.")
#: In `secrets/` of the home: the settings with the DSNs of the roles.
DSNS = "postgres.env"


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    postgres_app.callback()(_group)
    postgres_app.command("setup")(guarded(setup))
    app.add_typer(postgres_app, name="postgres")


def _group() -> None:
    pass


def setup(
    admin: Annotated[
        Path | None,
        typer.Option(help="A file that only you can read, with the administrator's DSN; else B3_POSTGRES_ADMIN_DSN."),
    ] = None,
    at: Annotated[
        str, typer.Option(help="Where services find the database, if not where the administrator finds the server.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL, without passwords; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the roles b3_owner, b3_app and b3_reader on a server of one's own, the database, its schemas, and their rights.

    Running it again changes nothing that is as it should be. Passwords are made, unless the roles' DSNs are set and have
    one, and kept in `secrets/` of the home; so are the three settings, in secrets/postgres.env. `b3 doctor` proves them.

    Examples:

      b3 postgres setup --admin admin.dsn --dry-run

      b3 postgres setup --at "postgresql://db.desk:5432/b3?sslmode=verify-full&sslrootcert=/etc/b3/ca.crt"
    """
    from b3_pipeline.postgres import roles
    from b3_pipeline.postgres.dsn import parts_of
    from b3_pipeline.settings import Settings

    settings = Settings()
    administrator = _administrator(settings, admin)
    place = _place(at) if at else roles.place_of(administrator)
    database = parts_of(place)["dbname"]
    passwords = {} if dry_run else {role.name: _password(settings, role) for role in roles.ROLES}
    statements = roles.setup(administrator, database, passwords, only_show=dry_run)
    file = settings.home / "secrets" / DSNS
    if not dry_run:
        _keep(file, {role: roles.dsn_of(role, passwords[role.name], place) for role in roles.ROLES})
    if as_json:
        made = None if dry_run else str(file)
        emit({"ok": True, "dry_run": dry_run, "database": database, "file": made, "statements": statements})
    elif dry_run:
        typer.echo("".join(f"{statement};\n" for statement in statements), nl=False)
    else:
        table(f"Roles of the database {database}", ["role", "for"], ([r.name, r.purpose] for r in roles.ROLES))
        say(f"Their DSNs are in {escape(str(file))}: give them to the services, then [bold]b3 doctor[/] proves them.")


def _administrator(settings: Settings, file: Path | None) -> str:
    """The administrator's DSN. Raises UsageError, UnsafeSecret, BadDsn, OSError."""
    from b3_pipeline.credentials import UnsafeSecret, unsafe
    from b3_pipeline.postgres.dsn import checked
    from b3_pipeline.postgres.roles import ADMIN

    if file is not None:
        if problems := unsafe(file):
            raise UnsafeSecret(problems[0])
        return checked(file.read_text("utf-8").strip(), "The file of --admin")
    if settings.postgres_admin_dsn is None:
        raise UsageError(f"Give the administrator's DSN: in {ADMIN}, or in a file by --admin.")
    return checked(settings.postgres_admin_dsn.get_secret_value(), ADMIN)


def _place(at: str) -> str:
    """A DSN without a user. Raises UsageError and BadDsn."""
    from b3_pipeline.postgres.dsn import checked, parts_of

    parts = parts_of(checked(at, "--at"))
    if parts.get("user") or parts.get("password") or not parts.get("dbname"):
        raise UsageError(
            "--at names server and database, and neither user nor password: postgresql://db.desk:5432/b3?…"
        )
    return at


def _password(settings: Settings, role: Role) -> str:
    """Of the role's DSN, where it is set and has one; else the one that is kept in the home, made when there is none."""
    from b3_pipeline.credentials import password
    from b3_pipeline.postgres.dsn import checked, parts_of

    given = getattr(settings, role.setting)
    parts = parts_of(checked(given.get_secret_value(), role.variable)) if given else {}
    if parts.get("user") == role.name and parts.get("password"):
        return parts["password"]
    return password(settings.folder() / "secrets", role.secret)


def _keep(file: Path, dsns: dict[Role, str]) -> None:
    from shlex import quote

    from b3_pipeline.credentials import write_private

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, "".join(f"{role.variable}={quote(dsn)}\n" for role, dsn in dsns.items()))
