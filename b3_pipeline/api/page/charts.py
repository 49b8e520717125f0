"""The page's charts as Bokeh documents: pure functions from a part of the overview to a JSON item.

No widget, no toolbar, no code in a document: they work under `script-src 'self'`. Texts that a reader sees are written
here, in Portuguese, for Bokeh knows no Brazilian numbers in a tooltip. A gap is NaN in a binary array; a JSON null would
be drawn as zero.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import orjson
from bokeh.core.properties import field
from bokeh.core.properties import value as fixed
from bokeh.embed import json_item
from bokeh.models import (
    Axis,
    ColorBar,
    ColumnDataSource,
    DatetimeTicker,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    Label,
    LinearColorMapper,
    Range1d,
    Span,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from bokeh.themes import Theme

from b3_pipeline.api.page.formats import contract_name, day, number
from b3_pipeline.api.v1.models import Curve, Dxy, GammaLevel, Overview, Surface
from b3_pipeline.sessions import to_local

Item = Mapping[str, Any]
ThemeName = Literal["light", "dark"]
#: With more tenors than this the heatmap's cells are too low for their numbers.
_NUMBERED_TENORS = 16
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Colours:
    """What a theme of the page draws with; the same as in page.css."""

    text: str
    muted: str
    grid: str
    panel: str
    line: str
    up: str
    down: str
    flip: str


COLOURS: Mapping[ThemeName, Colours] = {
    "light": Colours("#16202b", "#566270", "#e2e7ed", "#ffffff", "#0a63c2", "#0a7a4c", "#be2436", "#9a5b00"),
    "dark": Colours("#e6edf5", "#97a6b6", "#223040", "#121a24", "#4fc3ff", "#3ad29f", "#ff7d89", "#f6bd4b"),
}


@dataclass(frozen=True)
class Chart:
    """One chart that a page may ask for: its name, what it is made of (also its version), and how it is made."""

    name: str
    made_of: Any
    draw: Callable[[Colours], figure]

    def version(self, theme: ThemeName) -> str:
        """The same for the same picture."""
        raw = orjson.dumps([theme, self.made_of])
        return hashlib.sha256(raw).hexdigest()[:16]

    def item(self, theme: ThemeName) -> Item:
        """The document for `Bokeh.embed.embed_item`."""
        return json_item(self.draw(COLOURS[theme]), theme=_theme(COLOURS[theme]))


def charts_of(overview: Overview, tenor: str | None = None) -> list[Chart]:
    """The charts of an overview, those left out for which there is no data; `tenor` is the smile's."""
    charts: list[Chart] = []
    today, before, surface, dxy = overview.di_curve, overview.di_curve_before, overview.surface, overview.dxy
    if (today and today.points) or (before and before.points):
        charts.append(Chart("curve", [_plain(today), _plain(before)], lambda c: draw_curve(today, before, c)))
    if surface and surface.tenors:
        chosen = chosen_tenor(surface, tenor)
        charts.append(Chart("smile", [_plain(surface), chosen], lambda c: draw_smile(surface, chosen, c)))
        charts.append(Chart("heatmap", _plain(surface), lambda c: draw_heatmap(surface, c)))
    charts += [_gamma(level) for level in overview.gamma if levels_of(level)]
    if any(point.value is not None for point in dxy.points):
        charts.append(Chart("dxy", _plain(dxy), lambda c: draw_dxy(dxy, c)))
    return charts


def chosen_tenor(surface: Surface, tenor: str | None) -> str:
    """The tenor that is asked for, or the first when there is no such."""
    return tenor if tenor in surface.tenors else surface.tenors[0]


def _gamma(level: GammaLevel) -> Chart:
    made_of = [level.instrument, level.call_wall, level.put_wall, level.gamma_flip]
    return Chart(f"gamma-{level.instrument}", made_of, lambda c: draw_gamma(level, c))


def _plain(document: Curve | Surface | Dxy | None) -> Any:
    return document.model_dump(mode="json") if document else None


# Drawing


def draw_curve(today: Curve | None, before: Curve | None, colours: Colours) -> figure:
    """The DI curve of a session over that of the session before: % a year by expiry."""
    plot = _figure(x_axis_type="datetime")
    _heights(plot, value_range([p.rate for curve in (today, before) if curve for p in curve.points]), 2)
    plot.xaxis.formatter = DatetimeTickFormatter(months="%m/%y", years="%Y")
    plot.xaxis.ticker = DatetimeTicker(desired_num_ticks=5)
    for curve, colour, dash, width in ((before, colours.muted, [5, 4], 1.5), (today, colours.line, [], 2.5)):
        if not curve or not curve.points:
            continue
        source = ColumnDataSource(
            {
                "x": _days(p.expiry for p in curve.points),
                "y": gaps(p.rate for p in curve.points),
                "contract": [f"DI1 {p.contract_month} · {day(p.expiry)}" for p in curve.points],
                "text": [f"{number(p.rate, 3)} % a.a." for p in curve.points],
            }
        )
        label = f"{'Sessão' if curve is today else 'Anterior'} {day(curve.session)}"
        plot.line("x", "y", source=source, color=colour, line_width=width, line_dash=dash, legend_label=label)
        marks = plot.scatter("x", "y", source=source, color=colour, size=5 if curve is today else 3)
        _hover(plot, [marks], [("contrato", "@contract"), (label, "@text")])
    plot.legend.location = "top_right"
    return plot


def draw_smile(surface: Surface, tenor: str, colours: Colours) -> figure:
    """The smile of one tenor, the others faint behind it: % a year by call delta."""
    plot = _figure()
    plot.xaxis.ticker = FixedTicker(ticks=_thinned(surface.deltas))
    plot.xaxis.axis_label = "delta da call"
    known = [value for values in surface.values for value in values if value is not None]
    _heights(plot, value_range(known or [0.0]), 1)
    for name, values in zip(surface.tenors, surface.values, strict=True):
        if name != tenor:
            plot.line(surface.deltas, gaps(values), color=colours.muted, line_width=1, line_alpha=0.35)
    chosen = surface.values[surface.tenors.index(tenor)]
    source = ColumnDataSource(
        {
            "x": surface.deltas,
            "y": gaps(chosen),
            "text": [f"{number(v, 2)} % a.a." for v in chosen],
        }
    )
    label = contract_name(tenor)
    plot.line("x", "y", source=source, color=colours.line, line_width=2.5, legend_label=label)
    marks = plot.scatter("x", "y", source=source, color=colours.line, size=7, legend_label=label)
    _hover(plot, [marks], [("vencimento", label), ("delta", "@x"), ("volatilidade", "@text")])
    return plot


def draw_heatmap(surface: Surface, colours: Colours) -> figure:
    """Volatility by tenor (first on top) and call delta; a cell without a value stays empty."""
    deltas, tenors = [str(d) for d in surface.deltas], [contract_name(t) for t in surface.tenors]
    cells = [
        (delta, tenor, value)
        for tenor, row in zip(tenors, surface.values, strict=True)
        for delta, value in zip(deltas, row, strict=True)
    ]
    known = [value for _delta, _tenor, value in cells if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    top = high if high > low else low + 1
    mapper = LinearColorMapper(palette=Viridis256, low=low, high=top, nan_color="rgba(0,0,0,0)")
    plot = _figure(x_range=deltas, y_range=list(dict.fromkeys(reversed(tenors))))
    source = ColumnDataSource(
        {
            "delta": [delta for delta, _tenor, _value in cells],
            "tenor": [tenor for _delta, tenor, _value in cells],
            "value": gaps(value for _delta, _tenor, value in cells),
            "text": [f"{number(value, 2)} % a.a." for _delta, _tenor, value in cells],
            "short": ["" if value is None else number(value, 1) for _delta, _tenor, value in cells],
            "ink": [_ink(value, low, high) for _delta, _tenor, value in cells],
        }
    )
    fill = field("value", mapper)
    rects = plot.rect(
        "delta", "tenor", 1, 1, source=source, fill_color=fill, line_color=colours.panel, line_width=1
    )  # fmt: skip
    if len(tenors) <= _NUMBERED_TENORS:
        plot.text(
            "delta", "tenor", "short", source=source, text_color="ink", text_align="center", text_baseline="middle",
            text_font_size="0.68rem", text_font=fixed(_FONT),
        )  # fmt: skip
    plot.xaxis.axis_label = "delta da call"
    plot.grid.visible = False
    marks = ticks(low, top)
    bar = ColorBar(
        color_mapper=mapper,
        width=8,
        padding=4,
        ticker=FixedTicker(ticks=marks),
        major_label_overrides={mark: number(mark, 0) for mark in marks},
        background_fill_color=None,
        major_label_text_color=colours.muted,
    )
    plot.add_layout(bar, "right")
    _hover(plot, [rects], [("vencimento", "@tenor"), ("delta", "@delta"), ("volatilidade", "@text")])
    return plot


def draw_gamma(level: GammaLevel, colours: Colours) -> figure:
    """The levels of one instrument as labelled lines across the panel, at their height."""
    levels = levels_of(level)
    values = [value for _name, value in levels]
    room = (max(values) - min(values)) * 0.35 or max(values) * 0.02
    plot = _figure(x_range=Range1d(start=0, end=1))
    _heights(plot, (min(values) - room, max(values) + room), 0 if min(values) > 1_000 else 1)
    plot.xaxis.visible = False
    plot.xgrid.visible = False
    colour_of = {"Call wall": colours.up, "Gamma flip": colours.flip, "Put wall": colours.down}
    for value in sorted(set(values)):
        names = [name for name, at in levels if at == value]
        colour = colour_of[names[0]]
        dash = "dashed" if names == ["Gamma flip"] else "solid"
        plot.add_layout(
            Span(location=value, dimension="width", line_color=colour, line_width=2, line_dash=dash)
        )  # fmt: skip
        plot.add_layout(
            Label(
                x=0.015,
                y=value,
                y_offset=2,
                text=f"{' = '.join(names)}  {number(value, 2)}",
                text_color=colour,
                text_font=_FONT,
                text_font_size="0.8rem",
                text_font_style="bold",
            )
        )
    plot.scatter([0.5] * len(values), values, size=0)  # a figure without a glyph warns
    return plot


def draw_dxy(dxy: Dxy, colours: Colours) -> figure:
    """The dollar index' change against the previous close, %, by Brasília time; what was not read is a gap, and shaded."""
    plot = _figure(x_axis_type="datetime")
    plot.xaxis.formatter = DatetimeTickFormatter(hours="%H:%M", hourmin="%H:%M", minutes="%H:%M")
    values = gaps(p.value for p in dxy.points)
    low, high = value_range([0.0, *(p.value for p in dxy.points if p.value is not None)])
    _heights(plot, (low, high), 2, signed=True)
    plot.xaxis.ticker = DatetimeTicker(desired_num_ticks=5)
    missing = stretches(dxy)
    if missing:
        edges = [edge for stretch in missing for edge in stretch]
        times = _times(edges)
        plot.quad(
            left=times[0::2], right=times[1::2], bottom=low, top=high, fill_color=colours.muted, fill_alpha=0.10,
            line_color=None, hatch_pattern="right_diagonal_line", hatch_color=colours.muted, hatch_alpha=0.35,
            hatch_weight=0.5, legend_label="sem leitura",
        )  # fmt: skip
    plot.add_layout(Span(location=0, dimension="width", line_color=colours.muted, line_width=1))
    source = ColumnDataSource(
        {
            "x": _times(p.at for p in dxy.points),
            "y": values,
            "clock": [f"{to_local(p.at):%H:%M}" for p in dxy.points],
            "text": [f"{number(p.value, 2, signed=True)} %" for p in dxy.points],
        }
    )
    plot.line("x", "y", source=source, color=colours.line, line_width=2)
    marks = plot.scatter("x", "y", source=source, color=colours.line, size=4)
    _hover(plot, [marks], [("hora", "@clock"), ("DXY", "@text")])
    return plot


# What they are made of


def gaps(values: Iterable[float | None]) -> np.ndarray:
    """Numbers as float64; what is absent is NaN."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def levels_of(level: GammaLevel) -> list[tuple[str, float]]:
    """The levels that an instrument has, from the top as they should lie."""
    named = (("Call wall", level.call_wall), ("Gamma flip", level.gamma_flip), ("Put wall", level.put_wall))
    return [(name, value) for name, value in named if value is not None]


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """An axis' ends for values, with a little air; never of no height."""
    low, high = min(values), max(values)
    air = (high - low) * 0.12 or max(abs(high) * 0.1, 0.05)
    return low - air, high + air


def ticks(low: float, high: float, decimals: int = 0) -> list[float]:
    """Some round numbers from `low` to `high`, no finer than so many decimals."""
    rough = (high - low) / 7
    unit = 10 ** max(math.floor(math.log10(rough)), -decimals)
    step = next((unit * m for m in (1, 2, 5) if unit * m >= rough), unit * 10)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(place * step, 6) for place in range(first, last + 1)]


def stretches(dxy: Dxy) -> list[tuple[datetime, datetime]]:
    """From which to which moment nothing was read: between the readings beside it; before the first, from its own time."""
    found: list[tuple[datetime, datetime]] = []
    points = dxy.points
    start: datetime | None = None
    for place, point in enumerate(points):
        if point.value is None and start is None:
            start = points[place - 1].at if place else point.at
        elif point.value is not None and start is not None:
            found.append((start, point.at))
            start = None
    if start is not None:
        found.append((start, max(points[-1].at, start + timedelta(minutes=1))))
    return found


def _days(days: Iterable[date]) -> np.ndarray:
    return np.array(list(days), "datetime64[ms]")


def _times(moments: Iterable[datetime]) -> np.ndarray:
    """Moments as Brasília's clocks show them: Bokeh's axes know no zones."""
    return np.array([to_local(moment) for moment in moments], "datetime64[ms]")


def _thinned(ticks: Sequence[int]) -> list[int]:
    """Ticks without those that would be written over one another at the ends, where the deltas lie close."""
    return [tick for tick in ticks if 5 < tick < 95 or tick in (ticks[0], ticks[-1])]


def _ink(value: float | None, low: float, high: float) -> str:
    """What can be read upon the cell's colour: Viridis is dark below and bright above."""
    if value is None or high <= low:
        return "#ffffff"
    return "#0b0f14" if (value - low) / (high - low) > 0.55 else "#ffffff"


# What all have in common


def _figure(**options: Any) -> figure:
    plot = figure(sizing_mode="stretch_both", tools="", toolbar_location=None, **options)
    plot.min_border_right = 12
    return plot


def _heights(plot: figure, ends: tuple[float, float], decimals: int, signed: bool = False) -> None:
    """An upright axis from one end to the other, its numbers Brazilian: Bokeh has no language but English."""
    low, high = ends
    marks = ticks(low, high, decimals)
    plot.y_range = Range1d(start=low, end=high)
    [axis] = [one for one in plot.left if isinstance(one, Axis)]
    axis.ticker = FixedTicker(ticks=marks)
    axis.major_label_overrides = {mark: number(mark, decimals, signed) for mark in marks}


def _hover(plot: figure, renderers: Sequence[Any], tooltips: list[tuple[str, str]]) -> None:
    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=tooltips))


def _theme(colours: Colours) -> Theme:
    text = {"text_font": _FONT}
    axis = {
        "axis_line_color": colours.grid,
        "major_tick_line_color": colours.grid,
        "minor_tick_line_color": None,
        "major_label_text_color": colours.muted,
        "major_label_text_font": _FONT,
        "major_label_text_font_size": "0.8rem",
        "axis_label_text_color": colours.muted,
        "axis_label_text_font": _FONT,
        "axis_label_text_font_style": "normal",
        "axis_label_text_font_size": "0.8rem",
    }
    return Theme(
        json={
            "attrs": {
                "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None},
                "Axis": axis,
                "Grid": {"grid_line_color": colours.grid},
                "Legend": {
                    "background_fill_alpha": 0,
                    "border_line_color": None,
                    "label_text_color": colours.text,
                    "label_text_font_size": "0.8rem",
                    "padding": 2,
                    **{f"label_{name}": value for name, value in text.items()},
                },
            }
        }
    )
