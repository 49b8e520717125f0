"""The templates, with what all of them may use: formats, addresses of static files, and how things stand."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from b3_pipeline.api.page import assets, formats, panels


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "number": formats.number,
        "count": formats.count,
        "day": formats.day,
        "moment": formats.moment,
        "age": formats.age,
        "unit": formats.unit,
        "month": formats.contract_name,
        "instant": datetime.fromisoformat,
    }
    environment.globals |= {
        "asset": assets.address,
        "change": formats.change,
        "change_of": formats.change_of,
        "price_decimals": panels.price_decimals,
        "since": panels.since,
        "standing": panels.standing,
    }
    return environment


_TEMPLATES = _environment()


def render(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(template).render(values)
