"""Which side answers the legacy routes, and in shadow the comparison of the two, beside what goes out.

In the phases legacy and shadow the legacy side's answer goes out: out of its folder (`B3_LEGACY_DIR`) as its server would
read it, or from its server (`B3_LEGACY_URL`); ours does when it fails, and in every phase where a home has no such side. A
question for a past capture is always ours: the server before had none. In shadow every answer that was read of the legacy
side is compared with ours of the same capture, in tasks of their own: what goes out neither waits for them nor can fail by
them. What differs is kept (`postgres/mismatches.py`), unless it is explained by a rule that the operator has named.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx2

from b3_pipeline.api.callers import counting
from b3_pipeline.api.legacy import (
    DOCUMENTS,
    FILES,
    ROUTES,
    STATUS,
    App,
    Ours,
    Reply,
    legacy_app,
    mistake,
    reply,
    status_document,
)
from b3_pipeline.api.service import Service
from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import StoreAway
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.parsing.json_text import MAX_BYTES, child
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, Kind
from b3_pipeline.parsing.numbers import BadNumber, parse_number
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.mismatches import Found
from b3_pipeline.quality.documents import CAPTURES, parsed
from b3_pipeline.sessions import Window, session_of, to_local

#: Phases in which the legacy side answers, where there is one.
LEGACY_PHASES = ("legacy", "shadow")
SHADOW = "shadow"
#: For the legacy side's answer to a route; afterwards ours goes out, and it is not asked that again for a while.
LEGACY_TIMEOUT_S, LEGACY_REST_S = 2.0, 1.0
#: Comparisons at once, one for each different answer of the legacy side; of more, each is dropped and counted.
COMPARING = 64
#: How long our side may take to have the capture that the legacy side has: its sensor turns every five seconds.
MISSING_AFTER_S, DIFFERENT_AFTER_S = 30.0, 10.0
ASK_AGAIN_S, KEEP_AGAIN_S = 0.5, 5.0

_KINDS: dict[str, Kind] = {"/ultimo-dado": CAPTURE, "/gamma": GAMMA}
_INSTEAD = "legacy side away: answered from the tables"
_log = logging.getLogger(__name__)


class UnknownRule(UsageError):
    """A rule that is to be applied, and does not exist."""


class LegacyAway(Exception):
    """The legacy side does not answer."""


class LegacySide(Protocol):
    """The side before, as the desk knows it."""

    async def get(self, path: str) -> Reply:
        """Its answer to a route. Raises LegacyAway."""
        ...


class LegacyFolder:
    """The legacy side as its folder: what its server would answer from it.

    It reads in threads of its own: a folder of another machine that hangs must not take those that the service needs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(len(ROUTES), "legacy-folder")

    async def get(self, path: str) -> Reply:
        """What the server would answer. Raises LegacyAway, also when the folder takes too long."""
        try:
            async with asyncio.timeout(LEGACY_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, path)
        except TimeoutError as error:
            raise LegacyAway from error

    def close(self) -> None:
        """Reads nothing any more; a thread that hangs is not waited for here."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, path: str) -> Reply:
        return self._status() if path == STATUS else self._document(path)

    def _document(self, path: str) -> Reply:
        try:
            with (self._folder / DOCUMENTS[path]).open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError:
            return mistake(404, f"{DOCUMENTS[path]} indisponível")
        if len(data) > MAX_BYTES:
            raise LegacyAway("the document is larger than any capture")
        return reply(200, data)

    def _status(self) -> Reply:
        files = {}
        for name in FILES:
            with suppress(OSError):
                seen = (self._folder / name).stat()
                files[name] = seen.st_size, to_local(datetime.fromtimestamp(seen.st_mtime, UTC))
        return reply(200, status_document(files))


class LegacyServer:
    """The legacy side as its server, by its URL."""

    def __init__(self, url: str, client: httpx2.AsyncClient) -> None:
        self._url, self._client = url.rstrip("/"), client

    async def get(self, path: str) -> Reply:
        """What it answers. Raises LegacyAway, also for an answer that takes too long or is too large."""
        try:
            async with asyncio.timeout(LEGACY_TIMEOUT_S), self._client.stream("GET", self._url + path) as answer:
                data = bytearray()
                async for part in answer.aiter_bytes():
                    data += part
                    if len(data) > MAX_BYTES:
                        raise LegacyAway("the document is larger than any capture")
                return reply(answer.status_code, bytes(data))
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            raise LegacyAway from error


class Difference(NamedTuple):
    """Where two documents differ: a JSON pointer, and both values there; `what` says how where the values do not."""

    pointer: str
    legacy: Any
    ours: Any
    what: str = "value"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT: Any = _Absent()


def document_differences(legacy: Any, ours: Any, pointer: str = "") -> Iterator[Difference]:
    """Where two JSON values differ, in the legacy one's order; the order of an object's keys counts."""
    if isinstance(legacy, dict) and isinstance(ours, dict):
        for name in dict.fromkeys([*legacy, *ours]):
            theirs, own = legacy.get(name, _ABSENT), ours.get(name, _ABSENT)
            yield from document_differences(theirs, own, child(pointer, name))
        both = [name for name in legacy if name in ours], [name for name in ours if name in legacy]
        if both[0] != both[1]:
            yield Difference(pointer, both[0], both[1], "order of keys")
    elif isinstance(legacy, list) and isinstance(ours, list):
        for place in range(max(len(legacy), len(ours))):
            theirs, own = (values[place] if place < len(values) else _ABSENT for values in (legacy, ours))
            yield from document_differences(theirs, own, child(pointer, place))
    elif ours is _ABSENT:
        yield Difference(pointer, legacy, None, "missing")
    elif legacy is _ABSENT:
        yield Difference(pointer, None, ours, "extra")
    elif isinstance(legacy, bool) or isinstance(ours, bool):  # in Python true is 1
        if legacy is not ours:
            yield Difference(pointer, legacy, ours)
    elif legacy != ours:
        yield Difference(pointer, legacy, ours)


def shape_differences(legacy: Any, ours: Any) -> Iterator[Difference]:
    """Where two `/status` documents differ in shape: keys, their order, kinds of values. A file may be only in ours."""
    yield from document_differences(_shape(legacy), _shape(ours, like=legacy))


def _shape(document: Any, like: Any = None) -> Any:
    """A document of `/status` with each value replaced by what kind it is; of files only those that `like` has."""
    if not isinstance(document, dict):
        return type(document).__name__
    files, wanted = document.get("arquivos"), like.get("arquivos") if isinstance(like, dict) else None
    shape: dict[str, Any] = {name: _kind(value) for name, value in document.items()}
    if isinstance(files, dict):
        shape["arquivos"] = {
            name: {key: _kind(value) for key, value in facts.items()} if isinstance(facts, dict) else _kind(facts)
            for name, facts in files.items()
            if not isinstance(wanted, dict) or name in wanted
        }
    return shape


def _kind(value: Any) -> str:
    if isinstance(value, str):
        try:
            return "local time" if datetime.fromisoformat(value).tzinfo is None else "time with a zone"
        except ValueError:
            return "text"
    return "number" if isinstance(value, float) else type(value).__name__


class Rule(NamedTuple):
    """A named difference that the operator puts up with: `apply` makes it vanish from both documents."""

    description: str
    apply: Callable[[Any, Any], tuple[Any, Any]]


def _without(*names: str) -> Callable[[Any, Any], tuple[Any, Any]]:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(member) for name, member in value.items() if name not in names}
        return [strip(element) for element in value] if isinstance(value, list) else value

    return lambda legacy, ours: (strip(legacy), strip(ours))


def _each(change: Callable[[Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A rule's function out of one that changes a value whose members are changed already."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return change({name: changed(member) for name, member in value.items()})
        return change([changed(element) for element in value]) if isinstance(value, list) else change(value)

    return lambda legacy, ours: (changed(legacy), changed(ours))


def _sorted(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: member for name, member in value.items() if member is not None and member != ""}
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(BadNumber):
            number = parse_number(value)
            return value if number is None else number
    return value


#: The rules that `B3_PAYLOAD_IGNORE` may name.
RULES: dict[str, Rule] = {
    "key_order": Rule("The order of keys does not count", _each(_sorted)),
    "number_text": Rule('A number as text is the number that it means: "5.528,50" is 5528.5', _each(_number)),
    "absent": Rule("A member that is null or empty is the same as one that is not there", _each(_given)),
    "source": Rule("Who gave a capture (`fonte`) does not count", _without("fonte")),
}


def rules(names: Sequence[str]) -> dict[str, Rule]:
    """The rules of these names. Raises UnknownRule, which says what there is."""
    for name in names:
        if name not in RULES:
            raise UnknownRule(f"There is no rule {name!r} to ignore differences by: {', '.join(RULES)}.")
    return {name: RULES[name] for name in names}


class Unreadable(Exception):
    """A body that is no JSON."""


def read_json(data: bytes) -> Any:
    """The value of a body, whose numbers are float64 (as text what none can hold). Raises Unreadable."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        return json.loads(text, parse_int=_read, parse_float=_read, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Unreadable from error


def _read(literal: str) -> float | str:
    number = float(literal)
    return number if math.isfinite(number) else literal


class Verdict(NamedTuple):
    """What a comparison says: the differences as they are, and the rules that explain all of them."""

    differences: list[Difference]
    ignored_by: tuple[str, ...] = ()


def judge(path: str, legacy: bytes, ours: bytes, chosen: Mapping[str, Rule]) -> Verdict:
    """Compares two bodies of a route: documents as JSON with their keys in order, `/status` by its shape."""
    if legacy == ours:
        return Verdict([])
    unlike = shape_differences if path == STATUS else document_differences
    try:
        documents = read_json(legacy), read_json(ours)
        differences = list(unlike(*documents))
        applied = []
        left = differences
        for name, rule in chosen.items():
            documents = rule.apply(*documents)
            remaining = list(unlike(*documents))
            if len(remaining) < len(left):
                applied.append(name)
            left = remaining
    except (Unreadable, RecursionError):
        return Verdict([Difference("", None, None, "a body is no JSON")])
    return Verdict(differences, tuple(applied) if differences and not left else ())


@lru_cache(maxsize=4)  # the same body is compared again and again
def moment_of(path: str, data: bytes) -> datetime | None:
    """Of when a document is by its own account, naive UTC; None when it does not say, or cannot be read."""
    try:
        chunks = parsed(_KINDS[path], data, CAPTURES)
    except FileRejected:
        return None
    return next((ts for chunk in chunks for ts in chunk.records.column("ts").to_pylist()), None)


@dataclass
class Counts:
    """What came of the comparisons of this process. `superseded`: the legacy side had another answer before it was judged."""

    compared: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    ignored: int = 0
    superseded: int = 0
    dropped: int = 0
    failed: int = 0


class Switch:
    """The answers of the side that the phase names; for one event loop. `close` ends the comparisons.

    `ignore` names rules. Raises UnknownRule. `clock` (seconds) and `sleep` are for the comparisons only.
    """

    def __init__(
        self,
        service: Service,
        ours: Ours,
        legacy: LegacySide | None,
        ignore: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self._service, self._ours, self._side, self._rules = service, ours, legacy, rules(ignore)
        self._clock, self._sleep = clock, sleep
        self._read: Shared[Reply | None] = Shared(())
        self._rests_until: dict[str, float] = {}
        self._comparing: dict[tuple[str, bytes], asyncio.Task[None]] = {}

    @property
    def legacy_answers(self) -> bool:
        """Whether the legacy side's answers go out now."""
        return self._side is not None and self._service.phase in LEGACY_PHASES

    def fresh(self, path: str) -> Reply | None:
        """The answer to a route without parameters, where nobody needs to be asked for it."""
        if not self.legacy_answers:
            return self._ours.fresh(path)
        theirs = self._read.fresh(path)
        return theirs if theirs is not None and theirs.status == 200 else None

    async def answer(self, path: str, window: Window | None = None) -> Reply:
        """The answer to a route: the legacy side's or ours. Never fails."""
        side = self._side
        if window is not None or side is None or not self.legacy_answers:
            return await self._ours.answer(path, window)
        theirs = (await self._read.get(path, lambda: self._ask(side, path))).value
        if theirs is not None and theirs.status == 200:
            return theirs
        ours = await self._ours.answer(path)
        if theirs is not None and ours.status != 200:
            return theirs
        return ours.more(X_B3_Side="tables", Warning=f'199 - "{_INSTEAD}"')

    async def _ask(self, side: LegacySide, path: str) -> Reply | None:
        """The legacy side's answer; None when it has none, or had none a moment ago. In shadow it is compared, too."""
        if time.monotonic() < self._rests_until.get(path, -math.inf):
            return None
        try:
            theirs = await side.get(path)
        except LegacyAway:
            self._rests_until[path] = time.monotonic() + LEGACY_REST_S
            return None
        except Exception:  # a defect of ours here must not fail what our own side can answer
            _log.exception("The legacy side's answer to %s could not be read.", path)
            return None
        if theirs.status == 200 and self._service.phase == SHADOW:
            self.compare(side, path, theirs.body)
        return theirs

    def compare(self, side: LegacySide, path: str, body: bytes) -> None:
        """Compares a body of the legacy side with ours, from now on and without waiting; one that is at it, once."""
        key = path, b"" if path == STATUS else hashlib.sha256(body).digest()
        if key in self._comparing:
            return
        if len(self._comparing) >= COMPARING:
            self.counts.dropped += 1
            return
        task = asyncio.create_task(self._compared(side, path, body))
        self._comparing[key] = task
        task.add_done_callback(lambda _done: self._comparing.pop(key, None))

    async def settled(self) -> None:
        """Returns when no comparison is under way."""
        while self._comparing:
            await asyncio.gather(*self._comparing.values(), return_exceptions=True)

    async def close(self) -> None:
        """Ends the comparisons that are under way."""
        tasks = list(self._comparing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _compared(self, side: LegacySide, path: str, body: bytes) -> None:
        try:
            await self._compare(side, path, body)
        except Exception:
            self.counts.failed += 1
            _log.exception("A comparison of %s failed.", path)

    async def _compare(self, side: LegacySide, path: str, body: bytes) -> None:
        """Compares a body with ours: of a document with that of its moment, which may be on its way to us for some seconds."""
        began = self._clock()
        moment = None if path == STATUS else await asyncio.to_thread(moment_of, path, body)
        while True:
            ours, away = await self._ours_beside(path, moment)
            waited = self._clock() - began
            if ours is not None:
                verdict = await asyncio.to_thread(judge, path, body, ours, self._rules)
                if not verdict.differences or verdict.ignored_by or waited >= DIFFERENT_AFTER_S:
                    break
            elif waited >= MISSING_AFTER_S:
                if away:  # nobody can say what our side has
                    self.counts.failed += 1
                    return
                what = "our side has no such capture" if moment else "the legacy document does not say of when it is"
                verdict = Verdict([Difference("", None, None, what)])
                break
            await self._sleep(ASK_AGAIN_S)
        if verdict.differences and path != STATUS and not await self._still(side, path, body):
            self.counts.superseded += 1
            return
        await self._conclude(path, body, ours, verdict)

    async def _ours_beside(self, path: str, moment: datetime | None) -> tuple[bytes | None, bool]:
        """Our body beside the legacy one, None where we have none; and whether our side is away."""
        try:
            if path == STATUS:
                return await self._ours.measured_status(), False
            return (await self._ours.of_moment(path, moment) if moment else None), False
        except StoreAway:
            return None, True

    async def _still(self, side: LegacySide, path: str, body: bytes) -> bool:
        """Whether the legacy side says the same yet: an answer that was caught while its file was being written is none."""
        try:
            theirs = await side.get(path)
        except LegacyAway:
            return True
        return theirs.status != 200 or theirs.body == body

    async def _conclude(self, path: str, body: bytes, ours: bytes | None, verdict: Verdict) -> None:
        counts = self.counts
        counts.compared += 1
        if not verdict.differences:
            counts.equal += 1
            return
        if verdict.ignored_by:
            counts.ignored += 1
        elif ours is None:
            counts.missing += 1
        else:
            counts.different += 1
        differences = [each._asdict() for each in verdict.differences]
        kind = None
        if path == STATUS:  # its sizes and times are others each time: what differs in shape is what it is known by
            kind = hashlib.sha256(json.dumps(differences, sort_keys=True, default=str).encode()).hexdigest()
        at, endpoint = self._service.now(), path.removeprefix("/")
        await self._keep(Found(at, endpoint, body, ours, differences, verdict.ignored_by, kind))

    async def _keep(self, found: Found) -> None:
        """Keeps a mismatch, as soon as PostgreSQL does; as long as it does not, it is one of those that are at it."""
        while (dsn := self._service.postgres_dsn) is not None:
            try:
                await asyncio.to_thread(mismatches.record, dsn, found)
                return
            except B3Error as error:
                _log.warning("A mismatch is not kept yet: %s", error)
            await self._sleep(KEEP_AGAIN_S)


@asynccontextmanager
async def legacy_side(service: Service) -> AsyncIterator[LegacySide | None]:
    """The home's legacy side: its folder, else its server; None where there is neither."""
    settings = service.settings
    if settings.legacy_dir is not None:
        with closing(LegacyFolder(settings.legacy_dir)) as folder:
            yield folder
    elif settings.legacy_url is not None:
        async with httpx2.AsyncClient(trust_env=False, timeout=LEGACY_TIMEOUT_S) as client:
            yield LegacyServer(settings.legacy_url, client)
    else:
        yield None


@dataclass
class LegacyContract:
    """The legacy routes of one process: the application, and what it counts."""

    app: App
    switch: Switch

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One HTTP request, as ASGI has it."""
        await self.app(scope, receive, send)


@asynccontextmanager
async def legacy_contract(service: Service, ignore: Sequence[str] = ()) -> AsyncIterator[LegacyContract]:
    """The legacy routes of a service for the length of the block: the switch, and the count of callers.

    Raises UnknownRule when `ignore` names a rule that there is not.
    """
    # the calendar takes a second or two to load: now, and not while somebody waits for an answer
    await asyncio.to_thread(session_of, to_local(service.now()).date())
    async with legacy_side(service) as side, counting(service) as callers:
        switch = Switch(service, Ours(service), side, ignore)
        try:
            yield LegacyContract(legacy_app(switch, callers.called), switch)
        finally:
            await switch.close()
