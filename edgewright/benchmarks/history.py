"""Every benchmark of this machine's user, kept in one SQLite file: what a model's figures were, and when they changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgewright.benchmarks.comparable import device_of
from edgewright.errors import EdgewrightError, UsageError
from edgewright.report import Report

__all__ = ["Entry", "History", "Series", "history_file", "note", "set_aside", "time_text"]

log = logging.getLogger("edgewright")

BUSY_S = 30.0
HERE = "local"

_VERSION_1 = (
    """
    CREATE TABLE reports (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,              -- seconds since 1970, UTC
        model TEXT NOT NULL,           -- the file's name
        stem TEXT NOT NULL,            -- the same without its ending
        path TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        device TEXT NOT NULL,
        engine TEXT NOT NULL,
        library TEXT NOT NULL,
        fingerprint TEXT NOT NULL,     -- of the machine
        digest TEXT NOT NULL UNIQUE,   -- of the report, so that none is kept twice
        report BLOB NOT NULL           -- JSON, deflated
    )
    """,
    """
    CREATE TABLE figures (
        report INTEGER NOT NULL REFERENCES reports(id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        subject TEXT NOT NULL,
        unit TEXT NOT NULL,
        value REAL,                    -- NULL where why_absent tells why
        low REAL,
        high REAL,
        interval TEXT NOT NULL,
        samples INTEGER NOT NULL,
        why_absent TEXT NOT NULL
    )
    """,
    "CREATE INDEX reports_by_model ON reports(model, device, at)",
    "CREATE INDEX reports_by_digest ON reports(sha256)",
    "CREATE INDEX figures_by_report ON figures(report)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1,)
"""Statements that lead from each version of the file to the next; version 0 is an empty file."""


@dataclass(frozen=True, slots=True)
class Series:
    """A model on a device with an engine.

    Args:
        model: the file's name.
        device: where it was measured.
        engine: the engine's name.
        count: measurements.
        last: time of the last one.
    """

    model: str
    device: str
    engine: str
    count: int
    last: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One report of the history.

    Args:
        id: its number in the file.
        at: when it was added, in seconds since 1970.
        model: the file's name.
        sha256: the file's digest.
        device: where it was measured.
        engine: the engine's name.
        library: the engine's package and release.
        report: the whole report.
    """

    id: int
    at: float
    model: str
    sha256: str
    device: str
    engine: str
    library: str
    report: Mapping[str, Any]


def history_file() -> Path:
    """Where the history lies: $XDG_DATA_HOME/edgewright/history.sqlite, by default below ~/.local/share.

    Raises:
        EdgewrightError: there is no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:
        raise EdgewrightError("there is no home folder for the history", hint="name a folder in XDG_DATA_HOME") from error
    return home / "edgewright" / "history.sqlite"


def note(report: Report | Mapping[str, Any], device: str | None = None) -> None:
    """Add a report to the history; where that fails, a warning says why, since the report itself is worth more.

    Args:
        report: of kind "bench".
        device: see `History.add`.
    """
    try:
        with History() as history:
            history.add(report, device)
    except EdgewrightError as error:
        log.warning("the history does not have this report: %s%s", error.message, f" ({error.hint})" if error.hint else "")


def set_aside(path: Path | None = None) -> Path:
    """Rename the history and what SQLite keeps beside it, so that a new one begins.

    Returns:
        The old file's new path.

    Raises:
        EdgewrightError: there is no history, or it cannot be renamed.
    """
    path = path or history_file()
    number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.name}.old-{n}").exists())
    try:
        # Its log first: a new file of this name beside the old file's log would be taken for the old one.
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).replace(path.with_name(f"{path.name}.old-{number}{ending}"))
        return path.replace(path.with_name(f"{path.name}.old-{number}"))
    except FileNotFoundError as error:
        raise EdgewrightError(f"there is no history {path}") from error
    except OSError as error:
        raise EdgewrightError(f"the history {path} cannot be renamed: {error.strerror}", hint="check its rights") from error


class History:
    """The file, open; a context manager.

    Several processes may write at once: each waits for the others up to 30 s. What is being written when a process dies
    is not in the file afterwards, what was added before is.

    Args:
        path: the file; None takes `history_file`. It is made if it is not there.

    Raises:
        EdgewrightError: the file is no history, was written by a newer release, or cannot be opened.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or history_file()
        with self._guarded():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            with self._guarded():
                self._file.execute("PRAGMA foreign_keys = ON")
                self._keep_a_log()
                self._migrate()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what SQLite and the file system say into one error."""
        try:
            yield
        except sqlite3.OperationalError as error:
            hint = "check its rights and the free space there, or name another folder in XDG_DATA_HOME"
            raise EdgewrightError(f"the history {self.path} cannot be used: {error}", hint=hint) from error
        except (sqlite3.DatabaseError, zlib.error, ValueError) as error:
            raise EdgewrightError(
                f"the history {self.path} is damaged: {error}",
                hint="'edgewright history --set-aside' renames it and a new one begins; .recover of sqlite3 may save the old",
            ) from error
        except OSError as error:
            hint = "check its rights, or name another folder in XDG_DATA_HOME"
            raise EdgewrightError(f"the history {self.path} cannot be used: {error.strerror}", hint=hint) from error

    def _keep_a_log(self) -> None:
        """Write ahead into a log, so that readers and a writer do not wait for each other; the file remembers it.

        SQLite does not wait for others here as it does everywhere else.
        """
        last = time.monotonic() + BUSY_S
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > last:
                    raise
                time.sleep(0.02)

    def _version(self) -> int:
        return int(self._file.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        """Bring the file to this release's version, in one transaction.

        Raises:
            EdgewrightError: it is of a newer version.
        """
        if self._version() == len(MIGRATIONS):
            return
        with self._transaction():
            version = self._version()  # another process may have been faster
            if version > len(MIGRATIONS):
                raise EdgewrightError(
                    f"the history {self.path} has version {version}, this release knows up to {len(MIGRATIONS)}",
                    hint="update Edgewright, or name another folder in XDG_DATA_HOME",
                )
            foreign = version == 0 and self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if foreign:
                raise EdgewrightError(
                    f"{self.path} is a database, but no history of Edgewright", hint="move it away, or set XDG_DATA_HOME"
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    self._file.execute(statement)
            self._file.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # the first error counts
                self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def add(self, report: Report | Mapping[str, Any], device: str | None = None, *, at: float | None = None) -> bool:
        """Keep a report.

        Args:
            report: of kind "bench", or its JSON.
            device: the board's name; None takes the report's own, or "local".
            at: when it was measured, in seconds since 1970; None is now.

        Returns:
            False if this very report is there already.

        Raises:
            EdgewrightError: the file cannot be written.
        """
        data = report.to_json() if isinstance(report, Report) else dict(report)
        text = json.dumps(data, sort_keys=True).encode()
        model, path = data["model"], str(data["model"]["path"])
        file = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
        row = (
            time.time() if at is None else at,
            file.name,
            file.stem,
            path,
            model["sha256"],
            device or device_of(data) or HERE,
            model["engine"],
            model.get("library") or "",
            data["settings"]["fingerprint"],
            hashlib.sha256(text).hexdigest(),
            zlib.compress(text, 6),
        )
        with self._guarded(), self._transaction():
            done = self._file.execute(
                "INSERT OR IGNORE INTO reports"
                "(at, model, stem, path, sha256, device, engine, library, fingerprint, digest, report)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            if done.rowcount == 0:
                return False
            keys = ("name", "subject", "unit", "value", "low", "high", "interval", "samples", "why_absent")
            self._file.executemany(
                f"INSERT INTO figures(report, {', '.join(keys)}) VALUES (?{', ?' * len(keys)})",
                [(done.lastrowid, *(_storable(metric[key]) for key in keys)) for metric in data["metrics"]],
            )
        return True

    def series(self) -> list[Series]:
        """What there is, the latest first."""
        asked = (
            "SELECT model, device, engine, count(*), max(at) FROM reports GROUP BY model, device, engine ORDER BY max(at) DESC"
        )
        with self._guarded():
            return [
                Series(model, device, engine, count, time_text(at))
                for model, device, engine, count, at in self._file.execute(asked)
            ]

    def query(self, model: str | None = None, device: str | None = None) -> list[Entry]:
        """Reports, the oldest first.

        Args:
            model: the file's name with or without its ending, its path, or 6 or more digits of its sha256; None for all.
            device: the board's name; None for all.

        Raises:
            UsageError: there is none.
        """
        conditions, values = [], []
        if device is not None:
            conditions.append("device = ?")
            values.append(device)
        if model is not None:
            asked_name = PurePosixPath(model).name
            conditions.append("(model = ? OR stem = ? OR sha256 LIKE ?)")
            digits = model.lower()
            is_digest = 6 <= len(digits) <= 64 and set(digits) <= set("0123456789abcdef")
            values += [asked_name, asked_name, f"{digits}%" if is_digest else ""]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        asked = "SELECT id, at, model, sha256, device, engine, library, report FROM reports"
        asked += f"{where} ORDER BY at, id"
        with self._guarded():
            rows = self._file.execute(asked, values).fetchall()
            entries = [
                Entry(key, at, name, sha256, board, engine, library, json.loads(zlib.decompress(blob)))
                for key, at, name, sha256, board, engine, library, blob in rows
            ]
        if not entries:
            raise UsageError(
                self._none(model, device), hint="'edgewright history' lists what there is; 'edgewright bench' adds to it"
            )
        return entries

    def _none(self, model: str | None, device: str | None) -> str:
        of = f" of {model}" if model else ""
        return f"the history has no measurement{of}{f' on {device}' if device else ''}"


def time_text(at: float) -> str:
    """Seconds since 1970 as "2026-01-31 12:00", UTC."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _storable(value: Any) -> Any:
    """A metric's value as SQLite holds it: infinities are texts in JSON."""
    return float(value) if value in ("inf", "-inf", "nan") else value
