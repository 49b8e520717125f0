"""`/metrics` of the whole service, and what the API itself counts: summed up here, and given to Prometheus each second."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

import httpx2
from fastapi import APIRouter, Request
from starlette.responses import Response

from b3_pipeline.api.switch import Switch
from b3_pipeline.metrics import files, instruments
from b3_pipeline.ports import HOST
from b3_pipeline.settings import Settings

#: A request counts in memory, for files take longer than some answers do; a crash loses the last second's.
EVERY_S = 1.0
_MONITOR_S = 15.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"

#: Whoever makes up a method of his own is counted with all others that do.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

router = APIRouter(include_in_schema=False)
_requests: Counter[tuple[str, str, int]] = Counter()
_seconds: Counter[tuple[str, str]] = Counter()


def counted(route: str, method: str, status: int, seconds: float) -> None:
    """Takes note of a request: by its route's pattern and a known method, never by what was asked."""
    method = method if method in _METHODS else "other"
    _requests[route, method, status] += 1
    _seconds[route, method] += seconds  # pyright: ignore[reportArgumentType] (a counter of seconds)


@asynccontextmanager
async def counting(settings: Settings, switch: Switch) -> AsyncIterator[Callable[[], None]]:
    """Gives Prometheus what was counted, each second for the length of the block and at its end; or when it is called."""
    instruments.ready(settings)
    told = dict.fromkeys(_outcomes(switch), 0)

    def tell() -> None:
        _tell(switch, told)

    async def go_on() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            tell()

    telling = asyncio.create_task(go_on())
    try:
        yield tell
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
        tell()


def _tell(switch: Switch, told: dict[str, int]) -> None:
    for (route, method, status), count in _requests.items():
        instruments.requested(route, method, status, count)
    for (route, method), seconds in _seconds.items():
        instruments.answered(route, method, seconds)
    _requests.clear()
    _seconds.clear()
    now = _outcomes(switch)
    for outcome, count in now.items():
        instruments.payload_compared(outcome, count - told[outcome])
    told |= now


def _outcomes(switch: Switch) -> dict[str, int]:
    return {name: count for name, count in asdict(switch.counts).items() if name != "compared"}  # which is their sum


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Everything that is counted in this home; with what the monitor measures, while it runs."""
    settings: Settings = request.app.state.service.settings
    request.app.state.tell()
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=_MONITOR_S) as client:
            answer = await client.get(f"http://{HOST}:{settings.ports.metrics}/metrics")
            return Response(answer.raise_for_status().content, media_type=TEXT)
    except httpx2.HTTPError:
        return Response(await asyncio.to_thread(_counted_only, settings), media_type=TEXT)


def _counted_only(settings: Settings) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Counted(Collector):
        def collect(self):
            return files.read(settings.home / files.FOLDER)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counted())
    return generate_latest(registry)
