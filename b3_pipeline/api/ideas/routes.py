"""The routes of every collection of LowDB: list, board, one record, its history; add, change and remove.

The envelope is the clients' recorded contract (FORMATS §6). A record has a strong ETag, the same in files and tables: a
change with If-Match is made only where nobody has changed the record since.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.ideas import bodies, documents
from b3_pipeline.api.ideas.answering import answered, changed_answer, fresh, problems_told, with_given
from b3_pipeline.api.ideas.described import changing, reading
from b3_pipeline.api.ideas.documents import COUNTED, ID, envelope
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.v1.filters import Filters, Text, read
from b3_pipeline.lowdb.model import COLLECTIONS, IDEAS, SYSTEMS, Collection
from b3_pipeline.lowdb.rules import require_sendable
from b3_pipeline.lowdb.store import Asked, Changed, Store, Stored

router = APIRouter(prefix="/api/v1")
#: A change without If-Match is made on what stands; so often it is tried again when that changes meanwhile.
ATTEMPTS = 50

Id = Annotated[str, Path(pattern=ID, description="The record's id", examples=["7"])]


def _store(request: Request) -> Store:
    service: Service = request.app.state.service
    return service.ideas


class Routes:
    """The routes of one collection."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def add(self, router: APIRouter) -> None:
        """Enters them into a router: those with a name of their own before those with an id."""
        collection, path = self._collection, f"/{self._collection.route}"
        router.get(path, **reading(collection, "list", documents.filters(collection)))(self.get_page)
        if documents.has_board(collection):
            router.get(f"{path}/kanban", **reading(collection, "board", documents.cards(collection)))(self.get_board)
        if collection is SYSTEMS:
            listed = reading(collection, "list", documents.Listed)
            router.get(f"{path}/status/{{status}}", **listed)(self.get_status)
            router.get(f"{path}/search", **reading(collection, "list", documents.Found))(self.get_found)
            router.get(f"{path}/statistics", **reading(collection, "statistics", Filters))(self.get_statistics)
        router.get(f"{path}/{{id}}", **reading(collection, "one", Filters))(self.get_one)
        if collection is IDEAS:
            history = reading(collection, "history", documents.Newest)
            router.get(f"{path}/{{id}}/history", **history)(self.get_history)
        router.post(path, **changing(collection, "POST"))(self.post)
        router.put(f"{path}/{{id}}", **changing(collection, "PUT"))(self.put)
        router.delete(f"{path}/{{id}}", **changing(collection, "DELETE"))(self.delete)

    async def get_page(self, request: Request) -> Response:
        given = read(documents.filters(self._collection), request)
        filters = documents.given_filters(given)
        search = filters.pop("search", None)
        return await self._listed(request, Asked(given.limit, given.offset, filters, search, COUNTED))

    async def get_status(self, request: Request, status: Text) -> Response:
        given = read(documents.Listed, request)
        return await self._listed(request, Asked(given.limit, given.offset, {"status": status}, None, COUNTED))

    async def get_found(self, request: Request) -> Response:
        given = read(documents.Found, request)
        return await self._listed(request, Asked(given.limit, given.offset, {}, given.q, COUNTED))

    async def _listed(self, request: Request, asked: Asked) -> Response:
        store = _store(request)
        with problems_told():
            found, total = await store.page(self._collection, asked)
        filters = {**asked.filters, **({"search": asked.search} if asked.search else {})}
        document = envelope(documents.records(found), count=len(found), filters=filters)
        return await answered(request, store, document, {documents.TOTAL: str(total)} if total <= COUNTED else {})

    async def get_board(self, request: Request) -> Response:
        given = read(documents.cards(self._collection), request)
        store, filters = _store(request), documents.given_filters(given)
        asked = {name: value for name, value in filters.items() if name != "search"}
        search, columns = filters.get("search"), {}
        with problems_told():
            counts = await store.counts(self._collection, "status", Asked(filters=asked, search=search))
            for status in counts:
                question = Asked(given.limit, 0, {**asked, "status": status}, search, given.limit)
                found, _ = await store.page(self._collection, question)
                columns[status] = documents.records(found)
        return await answered(
            request, store, envelope(columns, count=sum(counts.values()), counts=counts, filters=filters)
        )

    async def get_statistics(self, request: Request) -> Response:
        read(Filters, request)
        store = _store(request)
        with problems_told():
            counts = await store.counts(self._collection, "status", Asked())
        return await answered(request, store, envelope({"total": sum(counts.values()), "by_status": counts}))

    async def get_one(self, request: Request, id: Id) -> Response:
        read(Filters, request)
        store = _store(request)
        with problems_told():
            found = await store.get(self._collection, int(id))
        return await answered(request, store, envelope(found.record), tag=found.etag)

    async def get_history(self, request: Request, id: Id) -> Response:
        given = read(documents.Newest, request)
        store = _store(request)
        with problems_told():
            changes = await store.history(int(id), given.limit)
        return await answered(request, store, envelope([documents.entry(each) for each in changes], count=len(changes)))

    async def post(self, request: Request) -> Response:
        read(Filters, request)
        who, given = bodies.who(request), await bodies.read(request)
        if self._collection.id.name in given:
            raise bodies.wrong(self._collection.id.name, "is given by the service", "nothing")
        with problems_told(self._collection):
            require_sendable(self._collection, given)
            made = await _store(request).create(self._collection, given, who)
        id = made.record[self._collection.id.name]
        return changed_answer(made, 201, {"Location": f"/api/v1/{self._collection.route}/{id}"})

    async def put(self, request: Request, id: Id) -> Response:
        read(Filters, request)
        who, match, given = bodies.who(request), bodies.match(request), await bodies.read(request)
        if str(given.get(self._collection.id.name, id)) != id:
            raise bodies.wrong(self._collection.id.name, "is another one than in the address", id)
        with problems_told(self._collection):
            require_sendable(self._collection, given)
            return changed_answer(await self._put(_store(request), int(id), given, match, who))

    async def _put(self, store: Store, id: int, given: dict[str, object], match: str | None, who: str) -> Stored:
        """Puts what is given over what stands; what was not read is never lost to a change that comes between."""
        for _ in range(ATTEMPTS):
            current = await store.current(self._collection, id)
            fresh(match, current)
            try:
                merged = with_given(self._collection, current.record, given)
                return await store.replace(self._collection, id, merged, current.etag, who)
            except Changed:
                continue
        raise Problem(503, "Others change this record all the time; ask again.", {"Retry-After": "1"}, retry_after_s=1)

    async def delete(self, request: Request, id: Id) -> Response:
        read(Filters, request)
        who, match = bodies.who(request), bodies.match(request)
        with problems_told():
            gone = await _store(request).remove(self._collection, int(id), match, who)
        return changed_answer(gone)


for each in COLLECTIONS:
    Routes(each).add(router)
