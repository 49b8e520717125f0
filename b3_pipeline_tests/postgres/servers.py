"""A PostgreSQL as a desk has one: Debian's, on TCP with TLS only, its certificate signed by an authority of the test's."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGINT
from urllib.parse import quote

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from b3_pipeline import processes
from b3_pipeline.postgres.roles import ROLES, Role, dsn_of, setup
from b3_pipeline.processes import Child, Program, User
from b3_pipeline_tests.conftest import REPO, free_port_base, temporary_home

ADMIN = "postgres"
#: Of each role; some characters must be escaped in a DSN.
PASSWORDS = {role.name: f"{role.name}'s p@ss/word %41" for role in ROLES}
_ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
#: The lines of docs/postgres.md, and some for databases of the tests and for localhost in its newer form.
_HBA = """{documented}
hostssl all all 127.0.0.1/32 scram-sha-256
hostssl all all ::1/128 scram-sha-256
"""


@dataclass(frozen=True)
class OwnServer:
    """Where it is, who may ask it, and what it has written in its log: every statement."""

    port: int
    authority: Path
    password: str
    log: Path

    def place(self, database: str) -> str:
        """The DSN of a database, without a user."""
        return f"postgresql://localhost:{self.port}/{database}?sslmode=verify-full&sslrootcert={quote(str(self.authority))}"

    @property
    def admin(self) -> str:
        """The administrator's DSN."""
        return self.place(ADMIN).replace("//", f"//{ADMIN}:{self.password}@", 1)

    def dsn(self, role: Role, database: str) -> str:
        """The DSN of a role."""
        return dsn_of(role, PASSWORDS[role.name], self.place(database))

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A database that is set up, for the length of the block; its name."""
        setup(self.admin, name, PASSWORDS)
        try:
            yield name
        finally:
            with psycopg.connect(self.admin, autocommit=True) as db:
                db.execute(f'drop database "{name}" with (force)'.encode())


def binaries() -> Path:
    """The programs of Debian's newest PostgreSQL; skips without, and fails where CI runs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        told = "Debian's package postgresql is missing"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    return found[-1].parent


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Runs one for the length of the block."""
    programs = binaries()
    with temporary_home() as home:
        data, user = _folder(home), _user()
        password = home / "password"
        password.write_text("admin")
        authority = sign(home, data)
        for path in (data, password, data / "server.key", data / "server.crt"):
            shutil.chown(path, *user) if user else None
        initdb = ["--no-sync", "--no-locale", "--encoding=SQL_ASCII", "--auth=scram-sha-256", f"--username={ADMIN}"]
        as_user = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
        command = [str(programs / "initdb"), "-D", str(data / "cluster"), *initdb, f"--pwfile={password}"]
        subprocess.run(command, check=True, capture_output=True, cwd=data, env=_ENV, **as_user)
        (data / "cluster" / "pg_hba.conf").write_text(_HBA.format(documented=_documented()))
        server = OwnServer(free_port_base(), authority, "admin", home / "logs" / "own.log")
        child = Child(
            Program("own", _argv(programs, data, server.port), data, _ENV, SIGINT, user and User(*user)), home
        )
        try:
            child.wait_until(lambda: _answers(server), 60)
            yield server
        finally:
            processes.stop([child])


def _documented() -> str:
    """The lines for pg_hba.conf that docs/postgres.md shows."""
    document = (REPO / "docs" / "postgres.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^hostssl .*$", document, re.MULTILINE))


def _folder(home: Path) -> Path:
    data = home / "data"
    data.mkdir(parents=True)
    for folder in (home.parent, home):
        folder.chmod(0o711)  # the server may be another user
    data.chmod(0o700)
    return data


def _user() -> tuple[int, int] | None:
    """The server refuses to run as root: then as Debian's user for it."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("postgres")
    return entry.pw_uid, entry.pw_gid


def _argv(programs: Path, data: Path, port: int) -> list[str]:
    options = {
        "listen_addresses": "localhost",
        "port": port,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": data / "server.crt",
        "ssl_key_file": data / "server.key",
        "log_statement": "all",
        "fsync": "off",
    }
    argv = [str(programs / "postgres"), "-D", str(data / "cluster")]
    return argv + [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def _answers(server: OwnServer) -> bool:
    try:
        psycopg.connect(server.admin, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def sign(public: Path, private: Path | None = None) -> Path:
    """An authority's certificate in a folder; and in the other one what it signs for a server named localhost."""
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("An authority of the tests")
    authority = _certificate(name, name, key, key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    file = public / "authority.crt"
    file.write_bytes(authority.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    if private:
        own = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(_name("localhost"), name, own, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        (private / "server.crt").write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (private / "server.key").touch(0o600)
        (private / "server.key").write_bytes(pem)
    return file


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
