"""The graph as a whole: a change of it shows in review, and every table has what its page needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.definitions import build_defs, defs
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table

SNAPSHOT = Path(__file__).with_name("definitions.json")


def described(definitions: dg.Definitions) -> dict:
    """Everything that the definitions hold, in words that can be compared."""
    graph = definitions.resolve_asset_graph()
    repository = definitions.get_repository_def()
    return {
        "assets": {
            key.to_user_string(): {
                "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
                "group": graph.get(key).group_name,
                "owners": sorted(graph.get(key).owners),
                "kinds": sorted(graph.get(key).kinds),
                "materializable": graph.get(key).is_materializable,
                "partitions": str(graph.get(key).partitions_def),
            }
            for key in sorted(graph.get_all_asset_keys())
        },
        "checks": sorted(str(key) for key in graph.asset_check_keys),
        "jobs": {
            job.name: sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": sorted(s.name for s in repository.schedule_defs),
        "sensors": sorted(s.name for s in repository.sensor_defs),
        "resources": sorted(repository.get_top_level_resources()),
    }


def test_the_definitions_are_those_of_the_snapshot() -> None:
    found = described(defs)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(SNAPSHOT.read_text()), "changed on purpose? UPDATE_SNAPSHOTS=1 pytest writes it anew"


def test_definitions_can_be_built_with_resources_of_ones_own() -> None:
    mine = build_defs({"store": "mine"})
    assert mine.resources == {"store": "mine"}
    dg.Definitions.validate_loadable(mine)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_tables_asset_shows_its_contract(table: Table) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(table.name))
    schema = node.metadata["dagster/column_schema"]
    assert [(c.name, c.type, c.description) for c in schema.columns] == [
        (c.name, c.type, c.description) for c in table.columns
    ]
    assert {c.name for c in schema.columns if "key" in c.constraints.other} == set(table.keys)
    assert node.description


@pytest.mark.parametrize("table", MARKET_TABLES, ids=lambda t: t.name)
def test_every_table_comes_from_a_file_or_report(table: Table) -> None:
    graph = defs.resolve_asset_graph()
    parents = graph.get(dg.AssetKey(table.name)).parent_keys
    assert parents
    assert all(not graph.get(parent).is_materializable for parent in parents)


def test_loading_the_definitions_opens_no_connection_and_needs_no_home(tmp_path: Path) -> None:
    program = "import socket; socket.socket.connect = None; import b3_pipeline.definitions, sys; print('questdb' in sys.modules)"
    environment = {**os.environ, "B3_HOME": str(tmp_path / "nowhere")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"  # its import alone would take a second
    assert not (tmp_path / "nowhere").exists()
