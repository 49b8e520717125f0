"""Turns of sensors, counted: how many, how long, and what came of them."""

import time
from collections.abc import Callable
from functools import wraps

import dagster as dg

from b3_pipeline.defs.resources import Store
from b3_pipeline.metrics import instruments

Turn = Callable[[dg.SensorEvaluationContext, Store], dg.SensorResult | dg.SkipReason]


def counted(turn: Turn) -> Turn:
    """A sensor's function whose turns Prometheus is told of: loaded, nothing (it skips) or failed."""

    @wraps(turn)
    def count(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult | dg.SkipReason:
        instruments.ready(store.settings)
        started, outcome = time.monotonic(), "failed"
        try:
            result = turn(context, store)
            outcome = "loaded" if isinstance(result, dg.SensorResult) else "nothing"
        finally:
            instruments.ticked(context.sensor_name, outcome, time.monotonic() - started)
        return result

    return count
