from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from b3_pipeline.api.page.charts import Chart, ThemeName, charts_of, stretches, ticks, value_range
from b3_pipeline.api.v1.models import Dxy, Overview
from b3_pipeline_tests.api.page import made


def named(overview: Overview, name: str, tenor: str | None = None) -> Chart:
    return next(chart for chart in charts_of(overview, tenor) if chart.name == name)


def sent(chart: Chart, theme: ThemeName = "light") -> Any:
    """The document as a browser gets it."""
    return json.loads(orjson.dumps(chart.item(theme)))


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document that has a type."""
    if isinstance(node, dict):
        if "type" in node:
            yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


def columns(document: Any) -> list[dict[str, Any]]:
    """The data of each source, arrays decoded."""
    found = []
    for node in objects(document):
        if node.get("name") == "ColumnDataSource":
            entries = dict(node["attributes"]["data"]["entries"])
            found.append({name: decoded(value) for name, value in entries.items()})
    return found


def decoded(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "ndarray":
        raw = value["array"]
        if isinstance(raw, dict):
            data = base64.b64decode(raw["data"])
            data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
            return np.frombuffer(data, dtype=value["dtype"])
        return np.array(raw)
    return value


def ranges(document: Any) -> list[dict[str, Any]]:
    return [node.get("attributes", {}) for node in objects(document) if node.get("name") == "Range1d"]


def test_a_gap_of_the_dollar_index_reaches_the_browser_as_nan_and_never_as_null_or_zero(shared: Path) -> None:
    overview = made.full(shared)
    [line] = [data for data in columns(sent(named(overview, "dxy"))) if "clock" in data]
    given = [point.value for point in overview.dxy.points]
    assert len(line["y"]) == len(given) == 117
    assert np.isnan(line["y"]).sum() == sum(value is None for value in given) == 9
    known = ~np.isnan(line["y"])
    assert line["y"][known].tolist() == [value for value in given if value is not None]
    assert [line["clock"][i] for i in np.flatnonzero(~known)][0::8] == ["11:00", "11:40"]


def test_a_gap_is_shaded_from_the_reading_before_it_to_the_one_after_it(shared: Path) -> None:
    dxy = made.full(shared).dxy
    [(start, end)] = stretches(dxy)
    assert (start.hour, start.minute, end.hour, end.minute) == (13, 55, 14, 45)
    ours = [point.model_copy(update={"value": None}) if i in (0, 116) else point for i, point in enumerate(dxy.points)]
    edges = stretches(Dxy(session=dxy.session, points=ours))
    assert edges[0] == (dxy.points[0].at, dxy.points[1].at)
    assert edges[-1] == (dxy.points[115].at, dxy.points[116].at)


def test_the_curve_has_every_rate_of_both_sessions(shared: Path) -> None:
    overview = made.full(shared)
    data = columns(sent(named(overview, "curve")))
    assert overview.di_curve is not None
    assert overview.di_curve_before is not None
    assert [d["y"].tolist() for d in data] == [
        [p.rate for p in overview.di_curve_before.points],
        [p.rate for p in overview.di_curve.points],
    ]
    assert data[1]["text"][0] == f"{overview.di_curve.points[0].rate:.3f} % a.a.".replace(".", ",", 1)


def test_the_heatmap_has_a_cell_for_each_tenor_and_delta_and_an_empty_one_where_nothing_is(shared: Path) -> None:
    overview = made.full(shared)
    [cells] = columns(sent(named(overview, "heatmap")))
    assert overview.surface is not None
    given = [value for row in overview.surface.values for value in row]
    assert len(cells["value"]) == len(made.TENORS) * len(made.DELTAS) == len(given)
    assert np.array_equal(cells["value"], np.array(given, float), equal_nan=True)
    assert np.isnan(cells["value"]).sum() == 1
    assert cells["short"].count("") == 1


def test_the_smile_is_that_of_the_tenor_asked_for_and_else_the_first(shared: Path) -> None:
    overview = made.full(shared)
    assert overview.surface is not None
    for asked, row in (("dez-25", 1), (None, 0), ("dez-99", 0)):
        [smile] = [data for data in columns(sent(named(overview, "smile", asked))) if "text" in data]
        assert smile["y"].tolist() == overview.surface.values[row]


def test_gamma_levels_lie_inside_the_axis_and_equal_ones_share_a_label(shared: Path) -> None:
    overview = made.full(shared)
    document = sent(named(overview, "gamma-ES_SP500"))
    spans = [node["attributes"]["location"] for node in objects(document) if node.get("name") == "Span"]
    assert spans == [6500.0, 6628.5, 6700.0]
    [heights] = [r for r in ranges(document) if r.get("start", 0) > 1]
    assert heights["start"] < 6500 < 6700 < heights["end"]
    same = overview.gamma[0].model_copy(update={"gamma_flip": 6700.0})
    document = sent(charts_of(made.empty(gamma=[same]))[0])
    labels = [node["attributes"]["text"] for node in objects(document) if node.get("name") == "Label"]
    assert labels == ["Put wall  6.500,00", "Call wall = Gamma flip  6.700,00"]


def test_one_level_alone_has_an_axis_with_a_height(shared: Path) -> None:
    level = made.full(shared).gamma[1]
    assert (level.call_wall, level.put_wall, level.gamma_flip) == (25.0, None, None)
    [heights] = [r for r in ranges(sent(charts_of(made.empty(gamma=[level]))[0])) if r.get("start", 0) > 1]
    assert heights["start"] < 25 < heights["end"]


@pytest.mark.parametrize("values", [[0.0], [1.5, 1.5], [-0.3, 0.2]])
def test_an_axis_is_never_of_no_height(values: list[float]) -> None:
    low, high = value_range(values)
    assert low < min(values) <= max(values) < high


def test_where_there_is_nothing_there_is_no_chart() -> None:
    unread = Dxy(session=made.SESSION, points=[made.dxy_point(made.FIRST_READING + timedelta(minutes=5), None)])
    assert charts_of(made.empty()) == charts_of(made.empty(dxy=unread)) == []


def test_a_charts_version_changes_with_its_data_its_tenor_and_its_theme_alone(shared: Path) -> None:
    overview = made.full(shared)
    later = overview.model_copy(update={"at": made.NOW + timedelta(minutes=1), "kpis": []})
    versions = [chart.version("light") for chart in charts_of(overview)]
    assert [chart.version("light") for chart in charts_of(later)] == versions
    assert not set(versions) & {chart.version("dark") for chart in charts_of(overview)}
    assert named(overview, "smile", "dez-25").version("light") not in versions
    assert named(overview, "heatmap", "dez-25").version("light") in versions


def test_no_document_holds_code(shared: Path) -> None:
    names = {node.get("name", "") for chart in charts_of(made.full(shared)) for node in objects(sent(chart))}
    assert "Figure" in names
    assert not [name for name in names if name.startswith("CustomJS")]


@pytest.mark.parametrize(
    ("ends", "decimals", "wanted"),
    [
        ((12.9, 15.1), 2, [13.0, 13.5, 14.0, 14.5, 15.0]),
        ((6_430.0, 6_770.0), 0, [6_450.0, 6_500.0, 6_550.0, 6_600.0, 6_650.0, 6_700.0, 6_750.0]),
        ((-0.31, 0.42), 2, [-0.2, 0.0, 0.2, 0.4]),
        ((12.0, 12.02), 1, [12.0]),
    ],
)
def test_the_numbers_at_an_axis_are_round_and_no_finer_than_shown(
    ends: tuple[float, float], decimals: int, wanted: list[float]
) -> None:
    assert ticks(*ends, decimals) == wanted


def test_the_numbers_at_an_axis_are_brazilian(shared: Path) -> None:
    for name, label in (("curve", "13,50"), ("smile", "14,0"), ("gamma-ES_SP500", "6.600"), ("dxy", "+0,20")):
        document = sent(named(made.full(shared), name))
        labels = [
            text
            for node in objects(document)
            if "Axis" in node.get("name", "")
            for _mark, text in node["attributes"].get("major_label_overrides", {}).get("entries", [])
        ]
        assert label in labels, (name, labels)
