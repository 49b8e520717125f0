"""`/sistemas`: the documented systems with their statistics, and the ideas on the documentation with links and files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from b3_pipeline.api.page.ideas import LAST_PAGE, answer
from b3_pipeline.api.service import Service
from b3_pipeline.lowdb.model import DOCUMENTATION_IDEAS, FILES, LINKS, SYSTEMS, Collection, Record
from b3_pipeline.lowdb.store import Asked, Store, StoreAway

router = APIRouter(include_in_schema=False)

#: Systems, ideas on the documentation, and links or files of one of these, that a page shows.
SYSTEMS_SHOWN, IDEAS_SHOWN, ATTACHED_SHOWN = 100, 10, 100
#: The usual words for how a system stands, as the desk reads them and how their badge looks; any other is shown as it is.
STANDING = {
    "online": ("no ar", "good"),
    "offline": ("fora do ar", "bad"),
    "maintenance": ("em manutenção", ""),
}
_COLOR = re.compile("#[0-9a-fA-F]{3,8}|[a-zA-Z]{1,30}")
_UNITS = ("B", "kB", "MB", "GB", "TB")

PageQuery = Annotated[int, Query(ge=1, le=LAST_PAGE)]


@dataclass(frozen=True)
class Documented:
    """An idea on the documentation with what belongs to it, at most `ATTACHED_SHOWN` of each."""

    idea: Record
    links: Sequence[Record]
    files: Sequence[Record]


async def shown(ideas: Store, systems_page: int, ideas_page: int) -> dict[str, Any]:
    """What the template needs. Raises StoreAway."""
    statistics, idea_statistics = [await ideas.counts(of, "status", Asked()) for of in (SYSTEMS, DOCUMENTATION_IDEAS)]
    documented = await _page(ideas, DOCUMENTATION_IDEAS, ideas_page, IDEAS_SHOWN)
    return {
        "systems": await _page(ideas, SYSTEMS, systems_page, SYSTEMS_SHOWN),
        "systems_total": sum(statistics.values()),
        "statistics": statistics,
        "systems_pages": (systems_page, _pages(statistics, SYSTEMS_SHOWN)),
        "documented": [await _documented(ideas, idea) for idea in documented],
        "ideas_total": sum(idea_statistics.values()),
        "ideas_pages": (ideas_page, _pages(idea_statistics, IDEAS_SHOWN)),
        "idea_statistics": idea_statistics,
    }


def _pages(statistics: Mapping[str, int], each: int) -> int:
    """How many pages can be asked for."""
    return min(-(-sum(statistics.values()) // each), LAST_PAGE)


async def _page(ideas: Store, collection: Collection, page: int, limit: int) -> list[Record]:
    found, _total = await ideas.page(collection, Asked(limit, (page - 1) * limit, count_to=0))
    return [stored.record for stored in found]


async def _documented(ideas: Store, idea: Record) -> Documented:
    asked = Asked(ATTACHED_SHOWN, filters={"idea_id": idea["id"]}, count_to=0)
    links, files = [[stored.record for stored in (await ideas.page(of, asked))[0]] for of in (LINKS, FILES)]
    return Documented(idea, links, files)


def color(text: str) -> str | None:
    """A colour that a picture may be filled with; None for a text that is none."""
    return text if _COLOR.fullmatch(text) else None


def followed(url: str) -> bool:
    """Whether a link may be followed: it leads to a page, and not to a program."""
    try:
        return urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return False


def size(of_bytes: int) -> tuple[float, int, str]:
    """A file's size: a number, its decimals, and the unit, of 1 000 each."""
    value, unit = float(of_bytes), 0
    while value >= 1_000 and unit < len(_UNITS) - 1:
        value, unit = value / 1_000, unit + 1
    return value, 1 if unit else 0, _UNITS[unit]


@router.get("/sistemas")
async def systems_page(
    request: Request,
    systems: Annotated[PageQuery, Query(alias="sistemas")] = 1,
    ideas: Annotated[PageQuery, Query(alias="ideias")] = 1,
) -> Response:
    """The systems and the ideas on the documentation; for reading."""
    service: Service = request.app.state.service
    try:
        values, status = await shown(service.ideas, systems, ideas), 200
    except StoreAway:
        values, status = {"systems": None}, 503
    given = {"standing_of": STANDING, "color": color, "followed": followed, "size": size}
    return await answer(service, "systems.html", status, "/sistemas", **given, **values)
