"""The ideas' routes under a steady load: 100 000 ideas, reads and writes mixed, each sent at its time whatever came before."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import numpy as np
import psycopg
from psycopg import sql

from b3_pipeline.lowdb import rules, schema
from b3_pipeline.lowdb.model import CATEGORIES, IDEAS, PRIORITIES, STATUSES, Record
from b3_pipeline.ports import HOST
from bench.registry import Figures, Options, benchmark
from bench.up import up

STORED, RATE, SECONDS, WARM_S = 100_000, 200, 30, 15
#: Of a hundred requests so many of each kind: 80 read, 20 write.
MIX = {"read one": 45, "list": 15, "filter by tag": 10, "search": 10, "change": 12, "add": 5, "remove": 3}
_WORDS = [
    "coleta",
    "painel",
    "índice",
    "gamma",
    "latência",
    "superfície",
    "risco",
    "posição",
    "delta",
    "sinal",
    "opções",
    "backup",
    "dólar",
    "alerta",
    "partição",
    "volatilidade",
    "replay",
    "migração",
    "tendência",
    "exportação",
    "histórico",
    "ajuste",
    "curva",
    "snapshot",
    "dashboard",
]
_LONGEST_S = 10.0
NO_ANSWER = 0


@benchmark("lowdb_api")
def lowdb_api(options: Options) -> list[Figures]:
    """Latency of CRUD on the ideas at a steady rate, from the moment at which a request was due."""
    options.say("lowdb_api: starting `b3 up`")
    with up(options.folder / "home", B3_API_RATE="100000") as services:
        options.say(f"lowdb_api: storing {STORED:,} ideas")
        _store(services.engines.postgres_dsn)
        key = (services.settings.home / "secrets" / "api_key").read_text().strip()
        load = Load(f"http://{HOST}:{services.settings.ports.page}/api/v1", key)
        options.say(f"lowdb_api: {RATE} requests/s for {SECONDS} s")
        asyncio.run(load.run())
        return [load.figures()]


def _store(dsn: str) -> None:
    schema.upgrade(dsn)
    chance = random.Random(1)
    columns = IDEAS.columns
    copy = sql.SQL("copy ideas.ideas ({}) from stdin").format(schema.identifiers(columns))
    with psycopg.connect(dsn, autocommit=True) as db:
        with db.transaction(), db.cursor().copy(copy) as rows:
            for number in range(1, STORED + 1):
                row = schema.bound(IDEAS, _stored(chance, number))
                rows.write_row([row[name] for name in columns])
        db.execute("select setval(pg_get_serial_sequence('ideas.ideas', 'id'), %s)", (STORED,))
        db.execute("vacuum analyze ideas.ideas, ideas.idea_tags")


def _idea(chance: random.Random) -> Record:
    return {
        "title": " ".join(chance.choices(_WORDS, k=3)).capitalize(),
        "description": " ".join(chance.choices(_WORDS, k=25)),
        "category": chance.choice(CATEGORIES),
        "priority": chance.choice(PRIORITIES),
        "status": chance.choice(STATUSES),
        "tags": chance.sample(_WORDS, chance.randrange(4)),
    }


def _stored(chance: random.Random, number: int) -> Record:
    made = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    given = {"id": str(number), **_idea(chance), "createdAt": rules.moment_text(made), "updatedAt": None}
    return rules.checked(IDEAS, given)


@dataclass
class Load:
    """The requests of one run, and how long each took (s), by kind."""

    base: str
    key: str = field(repr=False)
    chance: random.Random = field(default_factory=lambda: random.Random(2))
    added: list[str] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in MIX})
    answers: Counter[int] = field(default_factory=Counter)

    async def run(self) -> None:
        """Sends each request when it is due; those of the first seconds do not count."""
        wait, connections = aiohttp.ClientTimeout(_LONGEST_S), aiohttp.TCPConnector(limit=64)
        async with (
            aiohttp.ClientSession(headers={"X-API-Key": self.key}, timeout=wait, connector=connections) as client,
            asyncio.TaskGroup() as group,
        ):
            began = time.perf_counter()
            for number in range(RATE * (WARM_S + SECONDS)):
                due = began + number / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._one(client, due, counts=number >= RATE * WARM_S))

    async def _one(self, client: aiohttp.ClientSession, due: float, *, counts: bool) -> None:
        [kind] = self.chance.choices(list(MIX), weights=list(MIX.values()))
        method, path, sent = self._question(kind)
        try:
            async with client.request(method, f"{self.base}/ideas{path}", **sent) as answer:
                body, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError):
            self.answers[NO_ANSWER] += 1
            return
        if counts:
            self.took[kind].append(time.perf_counter() - due)
            self.answers[status] += 1
        if status == 201:
            self.added.append(json.loads(body)["data"]["id"])

    def _question(self, kind: str) -> tuple[str, str, dict[str, Any]]:
        """Method, the end of the address, and what is sent."""
        choice, some = self.chance.choice, f"/{self.chance.randint(1, STORED)}"
        match kind:
            case "list":
                offset = self.chance.randrange(200)
                return (
                    "GET",
                    "",
                    {"params": {"status": choice(STATUSES), "category": choice(CATEGORIES), "offset": offset}},
                )
            case "filter by tag":
                return "GET", "", {"params": {"tag": choice(_WORDS)}}
            case "search":
                return "GET", "", {"params": {"search": f"{choice(_WORDS)[:5]} {choice(_WORDS)}"}}
            case "change":
                return "PUT", some, {"json": self._change()}
            case "add":
                return "POST", "", {"json": _idea(self.chance)}
            case "remove" if self.added:
                return "DELETE", f"/{self.added.pop(0)}", {}
            case _:
                return "GET", some, {}

    def _change(self) -> dict[str, Any]:
        return {"status": self.chance.choice(STATUSES), "title": _idea(self.chance)["title"]}

    def figures(self) -> Figures:
        """Latency by kind, and of all."""
        wrong = {status: times for status, times in self.answers.items() if status >= 500 or status == NO_ANSWER}
        if wrong:
            raise SystemExit(f"Not all was answered well: {wrong}")
        every = [took for taken in self.took.values() for took in taken]
        rows = [_row(kind, taken) for kind, taken in {**self.took, "all": every}.items()]
        header = ("what", "requests/s", "p50, ms", "p99, ms", "longest, ms")
        note = f"{STORED:,} ideas, {SECONDS} s. From the moment at which a request was due to its last byte, in Python."
        return Figures("CRUD on the ideas at a steady rate", header, rows, note)


def _row(kind: str, taken: list[float]) -> tuple[str, ...]:
    times = np.array(taken) * 1e3
    parts = np.percentile(times, (50, 99))
    return kind, f"{len(taken) / SECONDS:.0f}", *(f"{part:.1f}" for part in parts), f"{times.max():.1f}"
