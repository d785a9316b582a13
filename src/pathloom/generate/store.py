"""The store of paid answers: one SQLite file that is only ever added to.

A key is the hash of exactly what the answer depends on (`Request.key`), so the store outlives recipes: nothing that is
in it is asked again, whatever else has changed. An answer is on disk before anyone sees it.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathloom.generate.generator import Generation, Request
from pathloom.stage import UserError

_VERSION = 2  # PRAGMA user_version, raised when the table changes

_STORED = ("model", "text", "prompt_tokens", "completion_tokens", "seconds", "cut_off")
"""Fields of a Generation that are kept: all but those of an error."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    cut_off INTEGER NOT NULL,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    written TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ'))
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Usage:
    """What an answer takes: tokens, and seconds from sending to the last byte."""

    prompt_tokens: float
    completion_tokens: float
    seconds: float


def kind_of(request: Request) -> str:
    """What is asked for, by the title of its schema and its bound: answers of one kind are of like length."""
    title = str((request.json_schema or {}).get("title", "text"))
    return f"{title}, at most {request.sampling.max_tokens} tokens"


class AnswerStore:
    """Answers by key. Several processes may use one file at once."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises UserError for one that is no store of this version."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            # A commit returns after its fsync. The rollback journal, unlike WAL, also works on network file systems.
            self._database.execute("PRAGMA synchronous = FULL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise UserError(f"{path}: version {version}, and {_VERSION} is read here; name another file")
            self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise UserError(f"{path}: no store of answers ({error}); name another file") from error
        except UserError:
            self._database.close()
            raise

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def get(self, key: str) -> Generation | None:
        row = self._database.execute(
            f"SELECT {', '.join(_STORED)} FROM answers WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        return Generation(**dict(zip(_STORED, row, strict=True)))

    def mean(self, model: str, request: Request) -> Usage | None:
        """Of a model's answers to requests of this one's kind; None where there is none."""
        prompt_tokens, completion_tokens, seconds = self._database.execute(
            "SELECT avg(prompt_tokens), avg(completion_tokens), avg(seconds) FROM answers WHERE model = ? AND kind = ?",
            (model, kind_of(request)),
        ).fetchone()
        return None if seconds is None else Usage(prompt_tokens, completion_tokens, seconds)

    def add(self, answers: Iterable[tuple[str, Request, Generation]]) -> None:
        """All of them or none, on disk when this returns. Errors are left out: they hold no answer.

        The request is kept beside its answer for people to read, without the bytes of its images. Of two answers to
        one key, by two processes at once, the first stays.
        """
        rows = [
            (
                key,
                *(getattr(answer, name) for name in _STORED),
                kind_of(request),
                request.model_dump_json(exclude={"messages": {"__all__": {"images": {"__all__": {"data"}}}}}),
            )
            for key, request, answer in answers
            if answer.error is None
        ]
        if not rows:
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(
                f"INSERT OR IGNORE INTO answers (key, {', '.join(_STORED)}, kind, request)"
                f" VALUES ({', '.join('?' * (len(_STORED) + 3))})",
                rows,
            )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
