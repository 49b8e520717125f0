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
import json
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.fernet import Fernet

from b3_pipeline.credentials import password, write_private
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import Sealed
from b3_pipeline.parsing.json_text import Array, Json, Number, Object, decode
from b3_pipeline.parsing.numbers import is_absent
from b3_pipeline.parsing.records import FileRejected, has_controls
from b3_pipeline.postgres.vault import Vault, open_vault, padded
from b3_pipeline.settings import Settings

KEY_VARIABLE = "B3_TOKEN_KEY"
KEY_FILE = "token_key"
HIDDEN = "[hidden]"
# Both lie in the vault, so that what was made with them outlives a new encryption key.
_FINGERPRINT_KEY = "telegram-fingerprint"
_COPIES_KEY = "copies-of-files"
#: Telegram's own form of a token, wherever it stands; other tokens this long are looked for as they are.
_TOKEN = re.compile(r"(?<![0-9])[0-9]{6,}:[A-Za-z0-9_-]{30,}")
_LONG_ENOUGH = 12
_LONGEST_NAME = 100  # of a bot's id in a reference; PostgreSQL indexes no text of any length
_TELLING = re.compile(r"token|secret|password|senha", re.IGNORECASE)
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)

Name = Callable[[str, str], str]
Hide = Callable[[str], str]


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
        return Sealed(data if clear == root else _dump(clear).encode())

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


def sealed(records: Array, member: str, name: Name) -> Array:
    """The records with a reference for each text in `member`; whatever else may be a token is `HIDDEN`.

    A token that stands in `member` of one record is hidden in all. Without a member (an empty one) no record has a token
    of its own, and only what has Telegram's form is one.
    """
    if not member:
        return Array(_hidden("", record, _hiding(())) for record in records)
    tokens = {token for r in records if isinstance(r, Object) and (token := _text(r.get(member)))}
    hide = _hiding(tokens)
    return Array(
        _record(r, member, name, hide) if isinstance(r, Object) else None if r is None else HIDDEN for r in records
    )


def _record(record: Object, member: str, name: Name, hide: Hide) -> Object:
    token = _text(record.get(member))
    clear = Object((hide(key), value if key == member else _hidden(key, value, hide)) for key, value in record.items())
    if token is not None:
        bot = _text(clear.get("id")) or ""
        clear[member] = name("" if has_controls(bot) else bot, token)
    elif not _missing(clear.get(member)):
        clear[member] = Array([HIDDEN])  # of another type, so that it is rejected as it would have been
    return clear


def _missing(value: Json) -> bool:
    return value is None or (isinstance(value, str) and is_absent(value))


def _text(value: Json) -> str | None:
    """A trimmed text; None for what is missing or of another type."""
    return value.strip() if isinstance(value, str) and not isinstance(value, Number) and not _missing(value) else None


def _hiding(tokens: Iterable[str]) -> Hide:
    """Takes tokens out of a text: these, the longer ones first, and all that look like one."""
    known = sorted((token for token in tokens if len(token) >= _LONG_ENOUGH), key=len, reverse=True)
    if not known:
        return lambda text: _TOKEN.sub(HIDDEN, text)
    pattern = re.compile("|".join(map(re.escape, known)))
    return lambda text: _TOKEN.sub(HIDDEN, pattern.sub(HIDDEN, text))


def _hidden(key: str, value: Json, hide: Hide) -> Json:
    """A value that is no token by its name, without those that it has in it."""
    if value is None or isinstance(value, bool):
        return value
    if _TELLING.search(key):
        return HIDDEN
    if isinstance(value, Object):
        return Object((hide(k), _hidden(k, v, hide)) for k, v in value.items())
    if isinstance(value, Array):
        return Array(_hidden("", v, hide) for v in value)
    return value if isinstance(value, Number) else hide(value)


def _dump(value: Json) -> str:
    """The value as a JSON document; numbers as they were written."""
    if isinstance(value, Object):
        return f"{{{', '.join(f'{json.dumps(k, ensure_ascii=False)}: {_dump(v)}' for k, v in value.items())}}}"
    if isinstance(value, Array):
        return f"[{', '.join(map(_dump, value))}]"
    return str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
