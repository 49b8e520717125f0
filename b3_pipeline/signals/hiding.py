"""What may be a token is taken out of records: pure, so that whoever collects can do it before anything is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from b3_pipeline.parsing.json_text import Array, Json, Number, Object, decode
from b3_pipeline.parsing.numbers import is_absent
from b3_pipeline.parsing.records import FileRejected, has_controls

HIDDEN = "[hidden]"
#: Telegram's own form of a token, wherever it stands, also within an address; other tokens this long are looked for as
#: they are.
_TOKEN = re.compile(r"(?<![0-9])[0-9]{6,}(?::|%(?:25)*3[Aa])[A-Za-z0-9_-]{30,}")
_LONG_ENOUGH = 12
_TELLING = re.compile(r"token|secret|password|senha", re.IGNORECASE)
#: Where a text that is no JSON may have a token that nobody can tell from the rest: after such a word, or escaped.
_DOUBTFUL = re.compile(rf"{_TELLING.pattern}|\\u", re.IGNORECASE)

#: Gives a bot's token a name, under which it is kept: the bot's id, the token.
Name = Callable[[str, str], str]
Hide = Callable[[str], str]


def without_tokens(text: str) -> str:
    """A text with `HIDDEN` in the place of each token in Telegram's form."""
    return _TOKEN.sub(HIDDEN, text)


def without_secrets(line: bytes) -> bytes:
    """A record as one line of JSON, `HIDDEN` in the place of whatever may be a token; as it was when nothing may be.

    Of a line that is no JSON everything is hidden from the first sign of a secret on.
    """
    try:
        root = decode(line).root
    except FileRejected:
        text = line.decode("utf-8", "replace")
        clear = without_tokens(text)  # first, for a token may have such a word in it
        if found := _DOUBTFUL.search(clear):
            clear = clear[: found.start()] + HIDDEN
        return line if clear == text else clear.encode()
    [clear_root] = sealed(Array([root]), "", lambda _bot, _token: HIDDEN)
    return line if clear_root == root else dump(clear_root).encode()


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
        return without_tokens
    pattern = re.compile("|".join(map(re.escape, known)))
    return lambda text: without_tokens(pattern.sub(HIDDEN, text))


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


def dump(value: Json) -> str:
    """The value as a JSON document; numbers as they were written."""
    if isinstance(value, Object):
        return f"{{{', '.join(f'{json.dumps(k, ensure_ascii=False)}: {dump(v)}' for k, v in value.items())}}}"
    if isinstance(value, Array):
        return f"[{', '.join(map(dump, value))}]"
    return str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
