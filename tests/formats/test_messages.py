"""Values as JSON and back: one table, both directions; and what is refused."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dalsegno.formats import messages
from dalsegno.terms.errors import BadInput
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import Lease, Release, ReplicaSet, VolumeState

STATE = VolumeState(
    id=bytes(range(16)),
    name="home é",
    kind="native",
    source=b"\x00\xff",
    created_ns=5,
    head=b"\x01" * 32,
    clones={"daily": Clone(revision=b"\x02" * 32, created_ns=6, held=True)},
    dumps=[DumpRecord(dump_id=b"d", level=1, revision=b"r", base_dump=b"", taken_at_ns=7, path="/x", size_bytes=2**40)],
    settings={"text": "a", "number": 3, "flag": True, "list": ["b", "c"]},
    lease=Lease(owner="me", until_ns=8),
    role="writer",
    replicas=ReplicaSet(version=2, writers=["s1", "s2"], clones={"s1": "daily-*@last7"}),
    common=b"\x03" * 32,
    uncloned={"old": [Clone(revision=b"\x04", created_ns=-9)]},
    released=Release(number=10, revision=b"\x05", clone="c", released_ns=11),
)

CASES: list[tuple[msgspec.Struct, dict[str, Any]]] = [
    (Lease(owner="me", until_ns=-(2**63)), {"owner": "me", "until_ns": -(2**63), "proof": ""}),
    (
        Clone(revision=b"\xab\x00", created_ns=1),
        {"revision": "ab00", "created_ns": 1, "held": False, "automatic": None, "entry_count": None}
        | {"total_bytes": None},
    ),
    (
        Release(number=1, revision=b"", clone="", released_ns=2**63 - 1),
        {"number": 1, "revision": "", "clone": "", "released_ns": 2**63 - 1},
    ),
]


@pytest.mark.parametrize("value, plain", CASES)
def test_values_are_written_and_read(value: msgspec.Struct, plain: dict[str, Any]) -> None:
    assert messages.to_plain(value) == plain
    assert json.loads(messages.encode(value)) == plain
    assert messages.decode(json.dumps(plain).encode(), type(value)) == value


def test_everything_of_a_volume_survives() -> None:
    assert messages.decode(messages.encode(STATE), VolumeState) == STATE


def test_what_is_left_away_has_its_default() -> None:
    state = messages.decode(b'{"id":"00","name":"a","kind":"k","source":"","created_ns":1}', VolumeState)
    assert state == VolumeState(id=b"\0", name="a", kind="k", source=b"", created_ns=1)


@given(
    some.builds(
        Clone, revision=some.binary(max_size=40), created_ns=some.integers(-(2**63), 2**63 - 1), held=some.booleans()
    )
)
def test_any_clone_survives(clone: Clone) -> None:
    assert messages.decode(messages.encode(clone), Clone) == clone


@pytest.mark.parametrize(
    "change, where",
    [
        ({"revision": "AB"}, "$.revision"),
        ({"revision": "a"}, "$.revision"),
        ({"revision": "a "}, "$.revision"),
        ({"revision": "٣٣"}, "$.revision"),
        ({"revision": 5}, "$.revision"),
        ({"revision": None}, "$.revision"),
        ({"created_ns": 2**63}, "$.created_ns"),
        ({"created_ns": -(2**63) - 1}, "$.created_ns"),
        ({"created_ns": 1.5}, "$.created_ns"),
        ({"created_ns": "1"}, "$.created_ns"),
        ({"created_ns": True}, "$.created_ns"),
        ({"held": 1}, "$.held"),
        ({"more": 1}, "unknown field 'more'"),
        ({"__class__": 1}, "unknown field"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], where: str) -> None:
    good = {"revision": "ab", "created_ns": 1, "held": False}
    with pytest.raises(BadInput) as caught:
        messages.decode(json.dumps({**good, **change}).encode(), Clone)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"revision":"ab"',
        b"[1]",
        b"null",
        b"nan",
        b'"\\ud800"',
        b"[" * 100_000,
        b"1" * 100_000,
        b'{"revision":"ab","created_ns":1e400}',
    ],
)
def test_what_is_no_message_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        messages.decode(data, Clone)


@given(some.recursive(some.none() | some.booleans() | some.integers() | some.floats() | some.text(), some.lists))
def test_no_json_breaks_the_reader(value: Any) -> None:
    try:
        data = json.dumps(value).encode()
    except (UnicodeEncodeError, ValueError):
        return
    for kind in (Clone, VolumeState, ReplicaSet):
        with pytest.raises(BadInput):
            messages.decode(data, kind)


def test_maps_in_maps_are_read_too() -> None:
    plain = json.loads(messages.encode(STATE))
    plain["uncloned"]["old"][0]["extra"] = 1
    with pytest.raises(BadInput, match="extra"):
        messages.from_plain(plain, VolumeState)


def test_schemas_say_what_the_reader_refuses() -> None:
    found = messages.schemas([VolumeState])
    forms = {"ClonesForm", "CloneTable", "DumpsForm", "DumpTable"}
    assert set(found) == {"VolumeState", "Clone", "DumpRecord", "Lease", "ReplicaSet", "Release"} | forms
    assert found["Clone"]["properties"]["revision"] == {"type": "string", "pattern": messages.HEX_PATTERN}
    assert all(schema["additionalProperties"] is False for schema in found.values())
    assert found["Lease"]["properties"]["until_ns"]["maximum"] == 2**63 - 1
