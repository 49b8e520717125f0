"""The legacy contract out of the tables: `/ultimo-dado`, `/gamma`, `/status`, as the server before answered them.

A plain ASGI application, for many ask for two documents that change once a morning: what is known is sent from prepared
bytes, and nothing of a framework lies between. Errors are `{"erro": …}` in Portuguese, as before.

Past captures, which the server before did not have: `?data=YYYY-MM-DD` is the last capture of a local day,
`?em=<timestamp>` the one of that very moment, not the last one before it: nothing is carried forward. A moment (local
without a zone) is as wide as it is written: with minutes only it is that minute, without a fraction that second.

Of several feeds' documents of one session (or of the day or moment asked for) those of the feed that takes precedence
count, and of these the newest; without a question for a day or moment, none that is dated ahead of now. So a composed
capture answers only in a session of which the legacy collector, while it still runs, has brought nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol
from urllib.parse import unquote

from b3_pipeline.api.service import Service
from b3_pipeline.api.sharing import Answer, Shared
from b3_pipeline.api.store import StoreAway
from b3_pipeline.choosing import LEGACY_FEEDS, rank
from b3_pipeline.errors import B3Error
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA
from b3_pipeline.parsing.times import FIRST_YEAR, LAST_YEAR
from b3_pipeline.quality.documents import CAPTURES, Document
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.services import known_engines
from b3_pipeline.sessions import NonexistentTime, Window, session_of, to_local, to_utc
from b3_pipeline.shadow import rows as wide
from b3_pipeline.shadow.forms import FORMS, Form, file_of, text_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Row = Mapping[str, Any]
Headers = tuple[tuple[bytes, bytes], ...]

STATUS = "/status"
#: The routes that answer with a document, and the file that the server before gave there.
DOCUMENTS = {"/ultimo-dado": CAPTURE.file, "/gamma": GAMMA.file}
ROUTES = (*DOCUMENTS, STATUS)
#: What `/status` lists, in its order.
FILES = (*DOCUMENTS.values(), *(form.file for form in FORMS.values()))
#: The sizes of CSV text are as of so many seconds ago at most: a table is read for them, if only where it has changed.
STATUS_S = 5.0
#: `/status` waits no longer for a first measuring of large tables; it lists the files whose size is known by then.
MEASURING_S = 5.0

_ALWAYS: Headers = (
    (b"content-type", b"application/json; charset=utf-8"),
    (b"access-control-allow-origin", b"*"),
)
_METHODS = ("GET", "HEAD")
#: Under what the newest answers are shared with all who ask.
_QUESTIONS = {path: ("legacy", path) for path in ROUTES}
_MICROSECOND = timedelta(microseconds=1)
#: A collector's clock may be ahead by so much. What is dated later is a mistake, and would be the newest until then.
_AHEAD = timedelta(minutes=5)
_NEWEST = "select ts, payload, sha256, feed from {c} where endpoint = %s and ts <= %s latest on ts partition by feed"
_WITHIN = (
    "select ts, payload, sha256, feed from {c} where endpoint = %s and ts >= %s and ts < %s "
    "latest on ts partition by feed"
)
_WRITTEN = "select endpoint, max(ingested_at) newest from {c}"
_MOMENT = re.compile(
    r"(?P<minute>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2})"
    r"(?P<second>:[0-9]{2}(?:\.(?P<fraction>[0-9]{1,9}))?)?(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """An answer of the legacy contract, ready to be sent: `headers` are all but those of its age."""

    status: int
    headers: Headers
    body: bytes

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Sends it as an ASGI server wants it; to a HEAD without its body."""
        # a list of its own: who lies between here and the server may add to it
        await send({"type": "http.response.start", "status": self.status, "headers": [*self.headers]})
        await send({"type": "http.response.body", "body": b"" if head else self.body})

    def more(self, **headers: str) -> Reply:
        """The same with further headers, each named with `_` for `-`."""
        added = ((name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items())
        return replace(self, headers=(*self.headers, *added))


def reply(status: int, body: bytes) -> Reply:
    """An answer with the headers that every one of the legacy contract has."""
    return Reply(status, (*_ALWAYS, (b"content-length", str(len(body)).encode())), body)


def mistake(status: int, text: str) -> Reply:
    """An answer that says in Portuguese what is wrong, in the form of the server before."""
    return reply(status, json.dumps({"erro": text}, ensure_ascii=False).encode())


def status_document(files: Mapping[str, tuple[int, datetime]]) -> bytes:
    """The body of `/status`: by name each file's size in bytes and when it was written (naive local time)."""
    seen = {name: files[name] for name in FILES if name in files}
    when = {name: at.isoformat(timespec="seconds") for name, (_size, at) in seen.items()}
    document = {
        "status": "ok" if len(seen) == len(FILES) else "degradado",
        "ultima_atualizacao": max(when.values(), default=None),
        "arquivos": {n: {"tamanho": size, "modificado_em": when[n]} for n, (size, _at) in seen.items()},
    }
    return json.dumps(document, ensure_ascii=False).encode()


UNKNOWN_ROUTE = mistake(404, "rota desconhecida")
_NOT_ALLOWED = mistake(405, "método não permitido: use GET ou HEAD").more(Allow="GET, HEAD")
_AWAY = mistake(503, "dados indisponíveis no momento: tente de novo em instantes").more(Retry_After="1")
_DEFECT = mistake(500, "erro interno")
_WITHOUT = {path: mistake(404, f"{file} indisponível") for path, file in DOCUMENTS.items()}
_NOTHING_THEN = mistake(404, "não há captura desse dia ou momento")


class Refused(Exception):
    """A question that cannot be answered; what is sent instead."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(answer.status)
        self.answer = answer


def asked_window(query: bytes) -> Window | None:
    """Of when the capture is that a query string asks for (UTC); None: the newest. Raises Refused."""
    given = [(unquote(name), text) for name, _, text in (p.partition("=") for p in query.decode("latin-1").split("&"))]
    asked = [(name, unquote(text)) for name, text in given if name in ("data", "em")]
    if not asked:
        return None
    if len(asked) > 1:
        raise Refused(mistake(400, "informe data ou em, uma única vez"))
    [(name, text)] = asked
    return _window_of_day(text) if name == "data" else _window_of_moment(text)


def _window_of_day(text: str) -> Window:
    try:
        if not _DAY.fullmatch(text):
            raise ValueError
        day = date.fromisoformat(text)
    except ValueError:
        raise Refused(mistake(400, "data deve ser um dia no formato AAAA-MM-DD, como 2025-10-13")) from None
    _require_possible(day.year)
    return Window(_midnight(day), _midnight(day + timedelta(days=1)))


def _midnight(day: date) -> datetime:
    """The first moment of a local day, naive UTC: 01:00 where the clocks were put forward at midnight."""
    try:
        return to_utc(datetime.combine(day, time()))
    except NonexistentTime:
        return to_utc(datetime.combine(day, time(1)))


def _window_of_moment(text: str) -> Window:
    example = "como 2025-10-13T09:00:32 (hora de Brasília) ou 2025-10-13T12:00:32Z"
    if text[10:11] == "+":  # a form writes a blank so
        text = f"{text[:10]} {text[11:]}"
    match = _MOMENT.fullmatch(text)
    try:
        if not match:
            raise ValueError
        fraction = match["fraction"] or ""
        moment = datetime.fromisoformat(match["minute"] + (match["second"] or ":00").partition(".")[0])
        moment = moment.replace(microsecond=int(fraction[:6].ljust(6, "0")))
        zone = datetime.strptime(match["zone"], "%z").tzinfo if match["zone"] else None
    except ValueError:
        raise Refused(mistake(400, f"em deve ser um momento em ISO 8601, {example}")) from None
    _require_possible(moment.year)
    try:
        start = (
            to_utc(moment) if zone is None else (moment - (zone.utcoffset(None) or timedelta())).replace(tzinfo=None)
        )
    except NonexistentTime:
        raise Refused(mistake(400, "em é uma hora que nunca existiu em Brasília: os relógios a pularam")) from None
    return Window(start, start + _width(match["second"], fraction))


def _width(second: str | None, fraction: str) -> timedelta:
    """How long a moment is as it is written."""
    if second is None:
        return timedelta(minutes=1)
    return timedelta(microseconds=10 ** (6 - min(len(fraction), 6)))


def _require_possible(year: int) -> None:
    """Before the tables are asked: no record can be of another year."""
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise Refused(_NOTHING_THEN)


class Ours:
    """The answers out of the tables, for one event loop. What is known is shared as `service.shared` says."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sizes = Sizes(service)
        self._status: Shared[Reply] = Shared(StoreAway, STATUS_S)
        # of its own: however many days are asked for, what others share is not forgotten for them
        self._past: Shared[Reply] = Shared(StoreAway)

    def fresh(self, path: str) -> Reply | None:
        """The answer to a route without parameters, where nobody needs to be asked for it."""
        question = _QUESTIONS.get(path)
        if question is None:
            return None
        known: Reply | None = (self._status if path == STATUS else self._service.shared).fresh(question)
        return known

    async def answer(self, path: str, window: Window | None = None) -> Reply:
        """The answer to one of `ROUTES`: the newest, or the last of a window. Without QuestDB the last known one, or 503."""
        try:
            if path == STATUS:
                return _aged(await self._measured())
            return _aged(await (self._newest(path) if window is None else self._of_window(path, window)))
        except StoreAway:
            return _AWAY

    async def _newest(self, path: str) -> Answer[Reply]:
        return await self._service.shared.get(_QUESTIONS[path], lambda: self._document(path, None))

    async def _of_window(self, path: str, window: Window) -> Answer[Reply]:
        return await self._past.get((path, window), lambda: self._document(path, window))

    async def of_moment(self, path: str, moment: datetime) -> bytes | None:
        """The document of a moment (naive UTC) as it stands right now, None where there is none. Raises StoreAway.

        It is to be compared with the legacy side's, so what came from there counts before another feed's of that moment.
        """
        found = await self._document(path, Window(moment, moment + _MICROSECOND), legacy_first=True)
        return found.body if found.status == 200 else None

    async def measured_status(self) -> bytes:
        """The body of `/status` with all sizes, however long measuring them takes. Raises StoreAway."""
        return (await self._status.get(_QUESTIONS[STATUS], self._ask_status)).value.body

    async def _measured(self) -> Answer[Reply]:
        try:
            async with asyncio.timeout(MEASURING_S):
                return await self._status.get(_QUESTIONS[STATUS], self._ask_status)
        except TimeoutError:  # the measuring goes on
            return Answer(await self._status_of(dict(self._sizes.known)), 0)

    async def _ask_status(self) -> Reply:
        return await self._status_of(await asyncio.to_thread(self._sizes.measure))

    async def _status_of(self, sizes: dict[str, tuple[int, datetime]]) -> Reply:
        written = await self._service.store.rows(named(_WRITTEN, c=CAPTURES.name))
        newest = {f"/{row['endpoint']}": row["newest"] for row in written}
        for path, file in DOCUMENTS.items():
            document = await self._newest(path)
            if document.value.status == 200 and newest.get(path) is not None:
                sizes[file] = len(document.value.body), to_local(newest[path])
        return reply(200, status_document(sizes))

    async def _document(self, path: str, window: Window | None, *, legacy_first: bool = False) -> Reply:
        """The document as received. One that does not prove itself goes out as it is kept, with a warning."""
        endpoint = path.removeprefix("/")
        if window is None:
            until = self._service.now().astimezone(UTC).replace(tzinfo=None) + _AHEAD
            found = await self._service.store.rows(named(_NEWEST, c=CAPTURES.name), endpoint, until)
        else:
            found = await self._service.store.rows(named(_WITHIN, c=CAPTURES.name), endpoint, *window.bounds())
        rows = [row for row in found if row["payload"] is not None]
        if not rows:
            return _WITHOUT[path] if window is None else _NOTHING_THEN
        # the calendar of sessions takes a second to load, once
        row = rows[0] if len(rows) == 1 else await asyncio.to_thread(_chosen, rows, window is None, legacy_first)
        document = Document(row["ts"], endpoint, row["payload"], row["sha256"], row["feed"], None, None)
        data = document.data()
        if data is None:
            return reply(200, row["payload"].encode("utf-8", "replace")).more(Warning='199 - "not as it was received"')
        return reply(200, data)


def _chosen(rows: Iterable[Row], by_session: bool, legacy_first: bool) -> Row:
    """Of each feed's newest document the one that counts: in the newest session that of the foremost feed."""

    def place(row: Row) -> tuple[Any, ...]:
        session = session_of(to_local(row["ts"]).date()) if by_session else None
        return session, legacy_first and row["feed"] in LEGACY_FEEDS, -rank(row["feed"]), row["ts"]

    return max(rows, key=place)


def _aged(answer: Answer[Reply]) -> Reply:
    if not (answer.stale or answer.late):
        return answer.value
    older = answer.value.more(Age=str(int(answer.age_s)))
    return older.more(Warning='110 - "QuestDB does not answer: this is the last known"') if answer.stale else older


@dataclass
class Sizes:
    """How large the CSV files would be that the tables give, in bytes of text, and when their newest row was written.

    Each month's text is made once, and again when its rows have changed. For threads: one measures at a time.
    """

    service: Service
    known: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    _months: dict[tuple[str, datetime], tuple[tuple[Any, ...], int]] = field(default_factory=dict)
    _measuring: threading.Lock = field(default_factory=threading.Lock)

    def measure(self) -> dict[str, tuple[int, datetime]]:
        """By file its size and the time (naive, local), as of now. Raises StoreAway."""
        with self._measuring:
            try:
                address = known_engines(self.service.settings).questdb
                reader = replace(address, user=address.reader, password=address.reader_password)
                with QuestDB(reader) as db:
                    for form in FORMS.values():
                        self._measure(db, form)
            except (B3Error, OSError) as error:
                raise StoreAway("QuestDB does not answer.") from error
            return dict(self.known)

    def _measure(self, db: QuestDB, form: Form) -> None:
        where = wide.wide_rows()
        query = named(
            "select timestamp_floor('M', {ts}) m, count() n, max(ingested_at) a, max(load_id) l from {t} where ",
            ts=form.table.timestamp,
            t=form.table.name,
        )
        months = {month: seen for month, *seen in db.query(query + where.text, *where.values) if month is not None}
        total = 0
        for month, seen in months.items():
            key, before = (form.file, month), self._months.get((form.file, month))
            if before is None or before[0] != tuple(seen):
                before = self._months[key] = tuple(seen), _text_bytes(db, form, month)
            total += before[1]
        for key in [k for k in self._months if k[0] == form.file and k[1] not in months]:
            del self._months[key]
        newest = max((written for _n, written, _l in months.values() if written is not None), default=None)
        if total and newest is not None:
            self.known[form.file] = total + len(text_of(form, [])), to_local(newest)
        else:
            self.known.pop(form.file, None)


def _text_bytes(db: QuestDB, form: Form, month: datetime) -> int:
    """Bytes of the lines of a month (UTC: nothing of a session comes after 21:00 local, so no line is of two months)."""
    following = (month + timedelta(days=32)).replace(day=1)
    lines = wide.gather(db, form, Window(month, following)).lines
    return len(file_of(form, lines)) - len(text_of(form, []))


class Answers(Protocol):
    """Who knows the answers to the legacy routes, be it out of the tables or of whoever answers in their place."""

    def fresh(self, path: str) -> Reply | None:
        """The answer to a route without parameters, where nobody needs to be asked for it."""
        ...

    async def answer(self, path: str, window: Window | None = None) -> Reply:
        """The answer to one of `ROUTES`; never fails."""
        ...


def _nobody(_scope: Scope, _path: str) -> None:
    return


def legacy_app(answers: Answers, called: Callable[[Scope, str], None] = _nobody) -> App:
    """The legacy contract as an ASGI application: HTTP only; other paths are no routes. `called` is told of every call."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if method == "GET" and not scope["query_string"]:
            known = answers.fresh(path)
            if known is not None:
                scope["b3.route"] = path
                called(scope, path)
                await known.send(send)
                return
        if path in ROUTES:
            scope["b3.route"] = path  # for who counts requests: there is no router that would say it
            called(scope, path)
        await (await _answered(answers, path, method, scope["query_string"])).send(send, head=method == "HEAD")

    return app


async def _answered(answers: Answers, path: str, method: str, query: bytes) -> Reply:
    try:
        if path not in ROUTES:
            return UNKNOWN_ROUTE
        if method not in _METHODS:
            return _NOT_ALLOWED
        return await answers.answer(path, asked_window(query) if path in DOCUMENTS else None)
    except Refused as refused:
        return refused.answer
    except Exception:
        _log.exception("A legacy route failed: %s", path)
        return _DEFECT


class LegacyFront:
    """An ASGI application that answers the legacy routes by `app.state.legacy`, and leaves everything else to `app`.

    `alone`: for the legacy port, where there are no other routes; `app` then has its lifespan only.
    """

    def __init__(self, app: Any, *, alone: bool = False) -> None:
        self._app, self._alone = app, alone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's scope, as ASGI has it."""
        if scope["type"] == "http" and (self._alone or scope["path"] in ROUTES):
            await self._app.state.legacy(scope, receive, send)
        else:
            await self._app(scope, receive, send)
