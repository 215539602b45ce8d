"""The catalog's tables: a column for each field of a value; and rows to values and back (docs/formats/catalog.md)."""

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar, get_type_hints

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from dalsegno.backup.records import Copy, Drill, DumpEntry, Earlier, Job, Medium, Run

REVISION_BYTES: Final = 32
T = TypeVar("T")
_LARGE: Final = ("_ns", "_bytes", "_count")
"""Whole numbers of these units take eight bytes."""


def columns_of(kind: type[Any], *, keys: Collection[str] = (), binary: Collection[str] = ()) -> list[Column[Any]]:
    """Return a column for each field of a value, in their order. What is no bytes, text or number is JSON in a text.

    `binary`: fields that are joined into bytes instead.
    """
    columns: list[Column[Any]] = []
    for name, hint in get_type_hints(kind).items():
        column: type[TypeEngine[Any]] = Text
        if hint is bytes or name in binary:
            column = LargeBinary
        elif hint is int:
            column = BigInteger if name.endswith(_LARGE) else Integer
        columns.append(Column(name, column, primary_key=name in keys, nullable=False))
    return columns


METADATA = MetaData()
STATE = Table("catalog", METADATA, Column("version", Integer, nullable=False))
DUMPS = Table(
    "dumps",
    METADATA,
    *columns_of(DumpEntry, keys=["dump_id"], binary=["base_revisions"]),
    Index("dumps_by_id_and_time", "volume_id", "cloned_at_ns"),
    Index("dumps_by_name_and_time", "volume_name", "cloned_at_ns"),
    Index("dumps_by_revision", "revision"),
    Index("dumps_by_set", "set_name", "cloned_at_ns"),
)
EARLIER = Table(
    "earlier",
    METADATA,
    Column("dump_id", LargeBinary, ForeignKey("dumps.dump_id", ondelete="CASCADE"), primary_key=True),
    *columns_of(Earlier, keys=["revision"]),
    Index("earlier_by_revision", "revision"),
)
COPIES = Table(
    "copies",
    METADATA,
    *columns_of(Copy, keys=["dump_id", "target", "number", "part"]),
    Index("copies_by_medium", "medium"),
)
MEDIA = Table("media", METADATA, *columns_of(Medium, keys=["label"]))
RUNS = Table("runs", METADATA, *columns_of(Run, keys=["id"]))
JOBS = Table(
    "jobs", METADATA, *columns_of(Job, keys=["run_id", "set_name", "volume_name"]), Index("jobs_by_state", "state")
)
DRILLS = Table(
    "drills",
    METADATA,
    Column("id", Integer, primary_key=True),
    *columns_of(Drill),
    Index("drills_by_volume", "volume_id", "ended_ns"),
)


def of_volume(volume: str | bytes) -> ColumnElement[bool]:
    """Return the condition that a dump is of a volume, by name or id."""
    return DUMPS.c.volume_name == volume if isinstance(volume, str) else DUMPS.c.volume_id == volume


def row_of(value: Any) -> dict[str, Any]:
    """Return the row of a value whose fields are columns."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def row_of_dump(entry: DumpEntry) -> dict[str, Any]:
    """Return the row of a dump."""
    assert all(len(revision) == REVISION_BYTES for revision in entry.base_revisions)
    return {**row_of(entry), "base_revisions": b"".join(entry.base_revisions)}


def value_of(kind: type[T], row: Mapping[Any, Any]) -> T:
    """Return the value in a row whose columns are its fields."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: _plain(row[name]) for name in names})


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, (memoryview, bytearray)) else value


def dump_of(row: Mapping[Any, Any]) -> DumpEntry:
    """Return the dump in a row."""
    joined = bytes(row["base_revisions"])
    bases = tuple(joined[start : start + REVISION_BYTES] for start in range(0, len(joined), REVISION_BYTES))
    return value_of(DumpEntry, {**row, "base_revisions": bases})


def to_json(value: Any) -> str:
    """Return a value as it stands in a column of text."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
