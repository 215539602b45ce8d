"""The catalog's tables, and rows to values and back (docs/formats/catalog.md)."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.sql.elements import ColumnElement

from dalsegno.backup.records import DumpEntry

REVISION_BYTES: Final = 32
T = TypeVar("T")

METADATA = MetaData()
STATE = Table("catalog", METADATA, Column("version", Integer, nullable=False))
DUMPS = Table(
    "dumps",
    METADATA,
    Column("dump_id", LargeBinary, primary_key=True),
    Column("volume_id", LargeBinary, nullable=False),
    Column("volume_name", Text, nullable=False),
    Column("level", Integer, nullable=False),
    Column("revision", LargeBinary, nullable=False),
    Column("base_dump", LargeBinary, nullable=False),
    Column("base_revisions", LargeBinary, nullable=False),
    Column("clone_name", Text, nullable=False),
    Column("cloned_at_ns", BigInteger, nullable=False),
    Column("taken_at_ns", BigInteger, nullable=False),
    Column("received_at_ns", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("raw_bytes", BigInteger, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("set_name", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("verified_at_ns", BigInteger, nullable=False),
    Index("dumps_by_id_and_time", "volume_id", "cloned_at_ns"),
    Index("dumps_by_name_and_time", "volume_name", "cloned_at_ns"),
    Index("dumps_by_revision", "revision"),
    Index("dumps_by_set", "set_name", "cloned_at_ns"),
)
EARLIER = Table(
    "earlier",
    METADATA,
    Column("dump_id", LargeBinary, ForeignKey("dumps.dump_id", ondelete="CASCADE"), primary_key=True),
    Column("revision", LargeBinary, primary_key=True),
    Column("clone_name", Text, nullable=False),
    Column("cloned_at_ns", BigInteger, nullable=False),
    Index("earlier_by_revision", "revision"),
)
COPIES = Table(
    "copies",
    METADATA,
    Column("dump_id", LargeBinary, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("parts", Integer, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("medium", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("written_at_ns", BigInteger, nullable=False),
    Column("checked_at_ns", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Index("copies_by_medium", "medium"),
)
MEDIA = Table(
    "media",
    METADATA,
    Column("label", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("id", LargeBinary, nullable=False),
    Column("capacity_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("first_used_ns", BigInteger, nullable=False),
    Column("last_seen_ns", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)
RUNS = Table(
    "runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("started_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("run_id", Integer, primary_key=True),
    Column("set_name", Text, primary_key=True),
    Column("volume_name", Text, primary_key=True),
    Column("volume_id", LargeBinary, nullable=False),
    Column("step", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Index("jobs_by_state", "state"),
)
DRILLS = Table(
    "drills",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("volume_id", LargeBinary, nullable=False),
    Column("volume_name", Text, nullable=False),
    Column("set_name", Text, nullable=False),
    Column("dump_id", LargeBinary, nullable=False),
    Column("kind", Text, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("file_count", BigInteger, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("findings", Text, nullable=False),
    Column("media", Text, nullable=False),
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
