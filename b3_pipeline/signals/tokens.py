"""Tokens: sealed before anything else reads a file that may have them, so that nothing after can show one.

A sealed document has a reference in each token's place, `vault:<bot id>:<fingerprint>`. The fingerprint is an HMAC, so
equal tokens of one bot have equal references, and nobody can try tokens against one. Its key lies in the vault: the
references outlive a new encryption key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cryptography.fernet import Fernet

from b3_pipeline.credentials import password, write_private
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import Sealed
from b3_pipeline.parsing.json_text import Array, decode
from b3_pipeline.parsing.records import FileRejected, has_controls
from b3_pipeline.postgres.vault import Vault, open_vault, padded
from b3_pipeline.settings import Settings
from b3_pipeline.signals.hiding import dump, sealed

KEY_VARIABLE = "B3_TOKEN_KEY"
KEY_FILE = "token_key"
# Both lie in the vault, so that what was made with them outlives a new encryption key.
_FINGERPRINT_KEY = "telegram-fingerprint"
_COPIES_KEY = "copies-of-files"
_LONGEST_NAME = 100  # of a bot's id in a reference; PostgreSQL indexes no text of any length
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)


def token_keys(home: Path) -> list[str]:
    """The keys of the vault, the newest first: those of B3_TOKEN_KEY, else the home's own, made when there is none.

    Raises UsageError when one is no key, UnsafeSecret when the home's are open to others.
    """
    given = _of_ones_own(home) or password(home / "secrets", KEY_FILE)
    keys = [key.strip() for key in given.split(",") if key.strip()]
    if not keys or not all(map(_is_key, keys)):
        raise UsageError(
            f"{KEY_VARIABLE} (or {KEY_FILE} in the home's secrets) must be 32 bytes in URL-safe base64; several with commas "
            "between them, the newest first."
        )
    return keys


def _of_ones_own(home: Path) -> str:
    key = Settings(home=home).token_key
    return key.get_secret_value() if key else ""


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(padded(text), altchars=b"-_", validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def rotate_keys(home: Path, postgres_dsn: str) -> int:
    """Encrypts all secrets with a new key, which takes the place of the home's own; returns how many there are.

    With B3_TOKEN_KEY the first key that it names is the new one. Stopped half-way, it has lost nothing: run it again.
    Raises UsageError when B3_TOKEN_KEY names one key only.
    """
    if _of_ones_own(home):
        if len(token_keys(home)) < 2:
            raise UsageError(f"{KEY_VARIABLE} has one key: put the new one before it, with a comma between them.")
        with open_vault(postgres_dsn, lambda: token_keys(home), alone=True) as vault:
            return vault.rotate()
    with open_vault(postgres_dsn, lambda: _with_a_new_key(home), alone=True) as vault:
        count = vault.rotate()
        write_private(home / "secrets" / KEY_FILE, token_keys(home)[0])
    return count


def _with_a_new_key(home: Path) -> list[str]:
    keys = [secrets.token_urlsafe(32), *token_keys(home)]
    write_private(home / "secrets" / KEY_FILE, ",".join(keys))
    return keys


class Sealer:
    """Seals documents: tokens go into the vault, references take their places."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._key = vault.made_once(_FINGERPRINT_KEY).encode()
        self._copies = Fernet(padded(vault.made_once(_COPIES_KEY)))

    def __call__(self, data: bytes, member: str) -> Sealed:
        """A payload without the secrets in `member` of its records, and as it was when there are none.

        It is encrypted whole when it is no list of records.
        """
        try:
            root = decode(data).root
        except FileRejected as error:
            return self._closed(data, _QUOTED.sub("'…'", str(error)))
        if not isinstance(root, Array):
            return self._closed(data, "the document is no JSON list of records")
        clear = sealed(root, member, self.name)
        return Sealed(data if clear == root else dump(clear).encode())

    def name(self, bot: str, token: str) -> str:
        """The reference of a bot's token, which is kept under it. A reference that is known is its own."""
        if token.startswith("vault:") and not has_controls(token) and self._vault.holds(token):
            return token
        fingerprint = hmac.new(self._key, f"{bot}\0{token}".encode(), hashlib.sha256).hexdigest()[:16]
        reference = f"vault:{bot[:_LONGEST_NAME]}:{fingerprint}"
        self._vault.keep(reference, token)
        return reference

    def open(self, data: bytes) -> bytes:
        """The file whose encrypted copy is given. Raises `cryptography.fernet.InvalidToken` for anything else."""
        return self._copies.decrypt(data)

    def _closed(self, data: bytes, why: str) -> Sealed:
        return Sealed(self._copies.encrypt(data), f"{why}. It may hold tokens, so its copy is encrypted")
