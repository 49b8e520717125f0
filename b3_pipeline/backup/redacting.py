"""The home's settings without their secrets, as a backup has them."""

from __future__ import annotations

import re
import tomllib
from typing import get_args

from pydantic import SecretStr

from b3_pipeline.errors import B3Error
from b3_pipeline.settings import Settings

#: A comment of TOML, or a string, in which `#` begins none.
_COMMENT = re.compile(
    r"""(\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')|[ \t]*\#[^\n]*""", re.DOTALL
)


class SecretsNotFound(B3Error):
    """A secret in `settings.toml` cannot be told from the rest."""


def secret_settings() -> set[str]:
    """The names of the settings that are secrets."""
    return {
        name
        for name, field in Settings.model_fields.items()
        if field.annotation is SecretStr or SecretStr in get_args(field.annotation)
    }


def without_secrets(text: str) -> tuple[str, tuple[str, ...]]:
    """The text of `settings.toml` with a remark in the place of each secret, and what it is without.

    Comments are left out, for nobody can say what they quote. Raises SecretsNotFound when a secret is written in a way (over several lines) that this does not find.
    """
    given, whole = tomllib.loads(text), text
    text = _COMMENT.sub(lambda found: found[1] or "", text)
    left_out = [] if text == whole else ["its comments, which may quote secrets"]
    secret = sorted(secret_settings() & given.keys())
    for name in secret:
        line = re.compile(rf"""^[ \t]*["']?{name}["']?[ \t]*=.*$""", re.MULTILINE)
        text = line.sub(f"# {name}: a secret, and in no backup", text)
    try:
        rest = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        rest = None
    if rest != {name: value for name, value in given.items() if name not in secret}:
        raise SecretsNotFound("Write each secret in settings.toml on a line of its own: a backup must not have it.")
    return text, (*left_out, *(f"{name}, a secret" for name in secret))
