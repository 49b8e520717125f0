"""Many rows of a query at once: over `/exp` as CSV, which Arrow reads in threads of its own while it comes.

CSV, for `/exp` as Parquet cannot be relied on in QuestDB 9.3.4: over several partitions some of its files have two
dictionaries in a column, which no reader takes, and in some a `VARCHAR` column of short texts is null. In CSV every value
comes back as it is stored: numbers in their shortest exact form, null apart from an empty text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

#: What Arrow parses at once; no row may be longer. The largest document that is stored has 8 MB.
_BLOCK = 16 << 20
_TIMEOUT_S = 300
#: Too many export at once; or this user may ask over the PG wire only, as the reader.
_NOT_THIS_WAY = {401, 403, 429}
#: How a moment and a day are read: with their zone, which the text names.
_AS_READ: dict[pa.DataType, pa.DataType] = {
    pa.timestamp("us"): pa.timestamp("us", "UTC"),
    pa.date32(): pa.timestamp("ms", "UTC"),
}


class Refused(Exception):
    """The server refused the query; its own words."""


def exported(http_url: str, user: str, password: str, query: str, schema: pa.Schema) -> pa.Table | None:
    """The rows of a SELECT in the given Arrow schema; None when the server gives no export now, or not to this user.

    Raises Refused; OSError or HTTPException when the server is away or breaks off; ArrowInvalid when a row is too long.
    """
    url = urlsplit(http_url)
    connect = HTTPSConnection if url.scheme == "https" else HTTPConnection
    # for this one answer: as long as it is open, the server counts it among the few that may export
    connection = connect(url.hostname or "127.0.0.1", url.port, timeout=_TIMEOUT_S)
    try:
        secret = b64encode(f"{user}:{password}".encode()).decode()
        target = "/exp?" + urlencode({"query": query, "nm": "true"})
        connection.request("GET", target, headers={"Authorization": f"Basic {secret}"})
        answer = connection.getresponse()
        if answer.status in _NOT_THIS_WAY:
            return None
        if answer.status != 200:
            raise Refused(_reason(answer.read(), answer.status))
        return _read(answer, schema) if answer.peek(1) else schema.empty_table()
    finally:
        connection.close()


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"


def _read(stream: Any, schema: pa.Schema) -> pa.Table:
    read = pyarrow.csv.read_csv(
        stream,
        pyarrow.csv.ReadOptions(column_names=schema.names, block_size=_BLOCK),
        pyarrow.csv.ParseOptions(ignore_empty_lines=False),  # of one column, an empty line is a null
        pyarrow.csv.ConvertOptions(
            column_types={f.name: _AS_READ.get(f.type, f.type) for f in schema},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    rows = read.unify_dictionaries().combine_chunks()
    return pa.table([_converted(rows.column(f.name), f.type) for f in schema], schema=schema)


def _converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms")).cast(kind)
    if pa.types.is_string(kind):
        return _unescaped(column)
    if pa.types.is_dictionary(kind):
        chunks = [pa.DictionaryArray.from_arrays(c.indices, _unescaped(c.dictionary)) for c in column.chunks]
        return pa.chunked_array(chunks, kind)
    return column.cast(kind)


def _unescaped(texts: Any) -> Any:
    """The texts as they are stored: control characters and backslashes come escaped as in JSON, quotes do not."""
    escaped = pc.match_substring(texts, "\\")
    if not pc.any(escaped).as_py():
        return texts
    plain = [json.loads('"' + text.replace('"', '\\"') + '"') for text in texts.filter(escaped).to_pylist()]
    return pc.replace_with_mask(texts, pc.fill_null(escaped, False), pa.array(plain, pa.string()))
