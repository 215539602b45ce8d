"""Object encodings: one table of cases, run in both directions, and ids that may never change."""

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import (
    Coverage,
    DirectoryChild,
    DirectoryLeaf,
    DirectoryList,
    Entry,
    RecipeLeaf,
    RecipeList,
    Revision,
)
from kit import REALM

ROOT = Entry(
    name=b"", kind=objects.ENTRY_DIRECTORY, mode=0o755, content_kind=objects.CONTENT_DIRECTORY, content=bytes(32)
)

CASES = [
    (
        objects.KIND_DIRECTORY,
        DirectoryLeaf([Entry(name=b"a\xff", kind=1, mode=0o4755, uid=1, gid=2, owner=b"o", group=b"g", mtime_ns=-5)]),
        "92a16491dc0011c40261ff01cd09ed0102c4016fc40167fb00000000c400000000c400",
    ),
    (objects.KIND_DIRECTORY, DirectoryLeaf([]), "92a16490"),
    (
        objects.KIND_DIRECTORY,
        DirectoryList(1, [DirectoryChild(b"z", 7, bytes(32))]),
        "93a144019193c4017a07c4200000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        objects.KIND_RECIPE,
        RecipeLeaf([5, 9], [bytes(32), b""]),
        "93a17292050992c4200000000000000000000000000000000000000000000000000000000000000000c400",
    ),
    (
        objects.KIND_RECIPE,
        RecipeList(2, [5], [bytes(32)]),
        "94a15202910591c4200000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        objects.KIND_REVISION,
        Revision(
            volume=bytes(16),
            parents=[bytes(32)],
            root=ROOT,
            links=b"",
            created_ns=1,
            author="a",
            message="m",
            entry_count=2,
            total_bytes=3,
        ),
        "9ba176c4100000000000000000000000000000000091c4200000000000000000000000000000000000000000000000000000000000000000dc0011c40002cd01ed0000c400c4000000000004c4200000000000000000000000000000000000000000000000000000000000000000000000c400c40001a161a16d0203c400",
    ),
    (
        objects.KIND_REVISION,
        Revision(
            volume=bytes(16),
            parents=[],
            root=ROOT,
            links=b"",
            created_ns=1,
            author="a",
            message="m",
            entry_count=2,
            total_bytes=3,
            coverage=Coverage(
                patterns=[b"*.o"],
                ignore_files=True,
                larger_than=1024,
                unreadable=[b"a/b"],
                not_entered=[b"mnt"],
                is_coarse=True,
            ),
        ),
        "9ca176c4100000000000000000000000000000000090dc0011c40002cd01ed0000c400c4000000000004c4200000000000000000000000000000000000000000000000000000000000000000000000c400c40001a161a16d0203c4009991c4032a2e6fc3c2cd0400c2c291c403612f6291c4036d6e74c3",
    ),
]
DECODERS = {
    objects.KIND_DIRECTORY: objects.decode_directory,
    objects.KIND_RECIPE: objects.decode_recipe,
    objects.KIND_REVISION: objects.decode_revision,
}
GOLDEN_IDS = [
    "245b6c430afa0f67f04657753e2be5bb7430e54f9525e49f8f3ec2f8e9983e1a",
    "89be02bcbf4bdb881c63ce14dbc0a4408404e73fa95726c5e51bbabf83973bc8",
    "f78adf35ac810ae32214298f60a42c9ccdf6a9bf11f2484bb4d88ac77694a1a7",
    "fa74bde915f9409715de37314a82b1132ee4f39132295181a828f8a44080d6a2",
    "579ee734683509679ec0a67ed08825d02e93d9113174d934312265add391f85e",
    "cda844945ff00e69927fed0492f443745feef0a1e2c1a6f672fe15b9884ff0c0",
    "2360596728444f9af823f9b03c3ed6f86e80376e2d9a178c96d79d6a10b42d5d",
    "9cdf46df5ab0742a2de3a602728671911667d497ade7a6263ed95b200508ab34",
]


@pytest.mark.parametrize(("kind", "value", "encoded"), CASES)
def test_both_directions(kind, value, encoded):
    data = objects.encode(value)
    assert DECODERS[kind](data) == value
    assert objects.encode(DECODERS[kind](data)) == data
    assert data.hex() == encoded


def test_ids_of_version_1_never_change():
    found = [REALM.identify(kind, objects.encode(value)).hex() for kind, value, _ in CASES]
    found.append(REALM.identify(objects.KIND_CHUNK, b"hello").hex())
    assert found == GOLDEN_IDS
