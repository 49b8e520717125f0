"""JSON as records are sent and as LowDB's files have it: strict, so that every reader after us reads the same."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NotJson(ValueError):
    """The bytes are no JSON document that has one meaning; the message says why."""


def parsed(data: bytes) -> Any:
    """The document in UTF-8 (with or without a byte order mark).

    Raises NotJson, also for a key that stands twice in an object, NaN and infinities, and what nests too deep to be read.
    """
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON, or cut off: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise NotJson("nested too deep") from None
    except NotJson:
        raise
    except ValueError:
        raise NotJson("a number has too many digits") from None


def written(document: Any) -> bytes:
    """The document as LowDB's applications write it; in ASCII where it has half a character, which stays as it came."""
    try:
        return json.dumps(document, ensure_ascii=False, indent=2).encode()
    except UnicodeEncodeError:
        return json.dumps(document, indent=2).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("a key stands twice in one object: which one counts is not said")
    return found


def _constant(literal: str) -> NoReturn:
    raise NotJson(f"{literal} is no number of JSON")


def _float(literal: str) -> float:
    if math.isinf(number := float(literal)):
        raise NotJson("a number is too large")
    return number
