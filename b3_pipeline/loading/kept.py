"""Payloads whose bytes are kept in the home, for nobody else keeps them: B3 shows a report for some 21 sessions."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from b3_pipeline.loading.payloads import Found, Payload, payload
from b3_pipeline.parsing.kinds import REPORT

_FOLDER = "reports"
_KINDS = (REPORT,)


def keep(given: Payload, home: Path) -> None:
    """Keeps the bytes of a payload that has loaded, under its name; what had that name before gets its hash added.

    What lies in a folder of its own, or in the archive, is not kept. Safe at once, and safe to do twice.
    """
    if given.kind not in _KINDS or given.opened is not None:
        return
    place = home / _FOLDER / Path(given.name).name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        before = payload(place, given.kind)
        if before.sha256 == given.sha256:
            return
        place.replace(place.with_stem(f"{place.stem}-{before.sha256[:16]}"))
    copy(given, place)


def copy(given: Payload, place: Path) -> None:
    """Puts a copy of a payload's bytes in place, whole and safe, whoever else does the same at that moment.

    Raises PayloadChanged when they changed; what is at the place then stays.
    """
    draft = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with given.raw() as source, draft.open("xb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


def kept(home: Path) -> list[Found]:
    """The payloads that are kept in a home, by name."""
    files = [(kind, path) for kind in _KINDS for path in sorted((home / _FOLDER).glob(f"*{Path(kind.file).suffix}"))]
    return [Found(path.name, kind, payload(path, kind)) for kind, path in files]
