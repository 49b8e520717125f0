"""Whether a source can be reached and lets us in, for `b3 doctor`: asks as the collector does, and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import httpx2

from b3_pipeline.sessions import session_of, to_local
from b3_pipeline.settings import Settings
from b3_pipeline.sources import fetching
from b3_pipeline.sources.catalog import Source
from b3_pipeline.sources.fetching import Asked, CredentialsRefused, Deadline, Getter, NotYet, Unchanged, Unreachable

#: How long one source may take in all.
SECONDS = 5.0
_FILE = "Look whether the legacy collector runs, and at B3_LEGACY_DIR."
_INBOX = "Make the folder, let this user read it, or correct B3_SIGNALS_INBOX."
_LET_IN = "Correct the credentials in the environment or in settings.toml; a block of this machine looks the same."
_REACH = "Look at the network, a proxy (HTTPS_PROXY), and the source's B3_…_URL."
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Probe:
    """Whether a source would give its data, what was found, and what to do when it would not."""

    ok: bool
    found: str
    advice: str = ""


def probe(source: Source, settings: Settings) -> Probe:
    """Asks a source once, within `SECONDS`, up to the head of its answer. Loads nothing, keeps nothing."""
    folder = settings.legacy_dir
    if source.file is not None and folder is not None:
        there = (folder / source.file).is_file()
        return Probe(there, f"{source.file} {'is' if there else 'is not'} in the legacy folder", "" if there else _FILE)
    if source.inbox and settings.signals_inbox is not None:
        there = settings.signals_inbox.is_dir()
        return Probe(there, f"its inbox {'is' if there else 'is not'} there", "" if there else _INBOX)
    if source.fetch is None:
        return Probe(True, "made here, asks nobody")
    now = settings.clock()
    try:
        source.fetch(settings, _Glance(settings), Asked(now, session_of(to_local(now).date())))
    except _Seen as seen:
        return _judged(seen)
    except Unchanged:
        return Probe(True, "answers 304")
    except NotYet as error:
        return Probe(True, f"answers, but {_clause(error)}", "No matter before its time; else look at its address.")
    except CredentialsRefused as error:
        return Probe(False, str(error), _LET_IN)
    except Unreachable as error:
        return Probe(False, str(error), _REACH)
    return Probe(True, "answers")


class _Seen(Exception):
    """The head of an answer, which is all that is wanted."""

    def __init__(self, url: str, content_type: str) -> None:
        super().__init__(url)
        self.url, self.content_type = url, content_type


class _Glance(Getter):
    """Asks once, and looks at the head of the answer only."""

    def __init__(self, settings: Settings) -> None:
        limits = {
            "http_attempts": 1,
            "http_deadline_s": SECONDS,
            "http_timeout_s": min(SECONDS, settings.http_timeout_s),
        }
        super().__init__(settings.model_copy(update=limits))

    def answer(self, response: httpx2.Response, deadline: Deadline) -> NoReturn:  # noqa: ARG002 (nothing is read)
        raise _Seen(fetching.shown(response.url), response.headers.get("Content-Type", ""))


def _judged(seen: _Seen) -> Probe:
    if seen.content_type.partition(";")[0].strip().lower() in _PAGES:
        return Probe(False, f"{seen.url} answers with an HTML page instead of data", _REACH)
    return Probe(True, f"{seen.url} answers")


def _clause(error: NotYet) -> str:
    """A sentence as the end of another."""
    return str(error).rstrip(".")
