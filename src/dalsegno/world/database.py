"""Databases: SQLite for one machine, PostgreSQL for a site, opened alike; drivers' errors become ours."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from dalsegno.terms.errors import BadInput, DalError, Damaged, Full, NoAccess, NotFound, Unavailable
from dalsegno.world.files import PRIVATE_DIRECTORY, claim_private_file, durable_step, file_errors, make_directory

CONNECT_SECONDS: Final = 5
DRIVER_HINT: Final = f"{sys.executable} -m pip install 'psycopg[binary]'"
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"


class Database:
    """An open database. Threads may share it."""

    def __init__(self, engine: Engine, label: str, *, remedy: str) -> None:
        self._engine = engine
        self.label = label
        """What people know it by: its url without a password."""
        self._remedy = remedy

    @classmethod
    def open(
        cls, url: str, *, what: str, create: bool, busy_seconds: float, remedy: str = "put back your copy of it"
    ) -> "Database":
        """Open `sqlite:///PATH` or `postgresql://...`; nothing is asked of it yet.

        NotFound when a file is not there and not wanted. BadInput: the url, or its driver is not installed. `remedy` is
        what to do about a file that is missing or damaged.
        """
        expected = "expected sqlite:////absolute/path or postgresql://USER@HOST/NAME"
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise BadInput(f"{what}: its url is none: {expected}") from None
        backend = parsed.get_backend_name()
        if backend not in (SQLITE, POSTGRESQL):
            raise BadInput(f"{what} {parsed.render_as_string()}: {expected}")
        label = f"{what} {parsed.render_as_string()}"
        if backend == POSTGRESQL and parsed.drivername == POSTGRESQL:
            parsed = parsed.set(drivername="postgresql+psycopg")
        if backend == SQLITE:
            if not parsed.database or not parsed.database.startswith("/"):
                raise BadInput(f"{label}: name a file, sqlite:////absolute/path")
            path = Path(parsed.database)
            if not path.exists():
                if not create:
                    raise NotFound(f"no {what} at {path}: {remedy}")
                make_directory(path.parent, mode=PRIVATE_DIRECTORY)
                claim_private_file(path)
        try:
            if backend == SQLITE:
                # The driver neither begins nor ends transactions: `write` does, and takes the lock at its beginning.
                engine = create_engine(parsed, isolation_level="AUTOCOMMIT", connect_args={"timeout": busy_seconds})
                event.listen(engine, "connect", _tune_sqlite)
            else:
                engine = create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})
        except (ModuleNotFoundError, NoSuchModuleError):
            raise BadInput(f"{label}: its driver is missing: {DRIVER_HINT}") from None
        return cls(engine, label, remedy=remedy)

    def close(self) -> None:
        """Give connections back."""
        self._engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        """True of a file, False of a server."""
        return self._engine.dialect.name == SQLITE

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection to read with."""
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection whose changes all count when the block ends well, else none."""
        with self._errors(), self._engine.connect() as connection:
            if not self.is_sqlite:
                with connection.begin():
                    yield connection
                    self._announce()
                return
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                self._announce()
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    def _announce(self) -> None:
        with file_errors(self.label):
            durable_step("database")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # somebody else was first: who writes knows with what
        except DBAPIError as error:
            raise _translate(self.label, error, remedy=self._remedy, path=self._engine.url.database) from None


def _tune_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _translate(label: str, error: DBAPIError, *, remedy: str, path: str | None) -> DalError:
    text = " ".join(str(error.orig).split()) or type(error).__name__
    lower = text.lower()
    if "is full" in lower or "no space left" in lower:
        return Full(f"{label}: {text}: free some space and run again")
    if "disk i/o error" in lower:
        return Unavailable(f"{label}: {text}: look at its disk (or is it full?), and run again")
    if "malformed" in lower or "not a database" in lower:
        return Damaged(f"{label}: {text}: {remedy}")
    if "readonly" in lower or "permission denied" in lower or "authentication" in lower:
        return NoAccess(f"{label}: {text}")
    if "unable to open" in lower and path and os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return NoAccess(f"{label}: {text}: permission denied")
    # All that is left is a server that is away, starts, stops or is overtaxed, or a file that cannot be reached.
    return Unavailable(f"{label}: {text}: try again")
