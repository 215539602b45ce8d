"""What counts as signed, in a volume that takes only what known signers made."""

from pathlib import Path

import msgspec
import pytest

from dalsegno.chunks.signatures import SigningKey
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.pool.pool import Pool
from dalsegno.pool.signers import Signer, list_signers, remove_signer, trust_signer
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, NotFound, Refused
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import read_revision
from dalsegno.volumes import signed
from dalsegno.volumes.resolve import merge_heads
from dalsegno.volumes.signed import find_problem
from dalsegno.volumes.state import NATIVE, VolumeState
from dalsegno.volumes.store import Volumes
from kit import REALM, DictStore, ref_path

ANNA, EVE = SigningKey.generate(), SigningKey.generate()
SIGNERS = {ANNA.public: "anna"}
STATE = VolumeState(id=b"v" * 16, name="home", kind=NATIVE, source=b"", created_ns=1)


def revision(store, *names: bytes, parents=(), created_ns=1, volume=STATE.id, sign=ANNA.sign) -> bytes:
    entries = [Entry(name=name, kind=objects.ENTRY_FILE, node=number + 1) for number, name in enumerate(sorted(names))]
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_directory(store, entries),
    )
    made = Revision(
        volume=volume,
        parents=list(parents),
        root=root,
        links=b"",
        created_ns=created_ns,
        author="anna",
        message="",
        entry_count=len(names),
        total_bytes=0,
    )
    return bytes(store.put(objects.KIND_REVISION, objects.encode(sign(made))))


def unsigned(made: Revision) -> Revision:
    return made


def stripped(made: Revision) -> Revision:
    return msgspec.structs.replace(ANNA.sign(made), signature=b"")


def cut(made: Revision) -> Revision:
    return msgspec.structs.replace(made, signature=ANNA.sign(made).signature[:-1])


def flipped(made: Revision) -> Revision:
    signature = ANNA.sign(made).signature
    return msgspec.structs.replace(made, signature=signature[:40] + bytes([signature[40] ^ 4]) + signature[41:])


def in_annas_name(made: Revision) -> Revision:
    return msgspec.structs.replace(made, signature=ANNA.public + EVE.sign(made).signature[32:])


def small_order(made: Revision) -> Revision:
    identity = (1).to_bytes(32, "little")
    return msgspec.structs.replace(made, signature=identity + identity + bytes(32))


FORGERIES = [unsigned, stripped, cut, flipped, in_annas_name, small_order, EVE.sign]


@pytest.mark.parametrize("sign", FORGERIES, ids=lambda sign: sign.__name__)
def test_what_a_known_signer_did_not_sign_does_not_count(sign):
    store = DictStore()
    known = {**SIGNERS, (1).to_bytes(32, "little"): "nobody"}
    assert find_problem(store, REALM, STATE, revision(store, b"a"), known) is None
    assert find_problem(store, REALM, STATE, revision(store, b"b", sign=sign), known) is not None


def test_what_was_signed_for_another_volume_does_not_count():
    """The kind: a replay of something genuine where it does not belong."""
    store = DictStore()
    other = revision(store, b"a", volume=b"w" * 16)
    assert "another volume" in str(find_problem(store, REALM, STATE, other, SIGNERS))


def diverged(store, *, sign=ANNA.sign):
    base = revision(store, b"a", created_ns=1)
    one = revision(store, b"a", b"b", parents=[base], created_ns=2)
    other = revision(store, b"a", b"c", parents=[base], created_ns=3, sign=sign)
    return base, one, other


def test_a_merge_of_what_was_signed_counts_whoever_made_it():
    store = DictStore()
    _, one, other = diverged(store)
    merged = merge_heads(store, store, one, other)
    assert not read_revision(store, merged).signature
    before = dict(store.objects)
    assert find_problem(store, REALM, STATE, merged, SIGNERS) is None
    assert store.objects == before


def test_a_merge_that_was_not_made_by_merging_does_not_count():
    """The kind: what needs no signature is not looked at."""
    store = DictStore()
    _, one, other = diverged(store)
    merged = read_revision(store, merge_heads(store, store, one, other))
    root = read_revision(store, revision(store, b"evil")).root
    for changes in ({"root": root}, {"author": "anna"}, {"created_ns": 99}, {"volume": b"w" * 16}):
        forged = msgspec.structs.replace(merged, **changes)
        made = bytes(store.put(objects.KIND_REVISION, objects.encode(forged)))
        assert "not what merging" in str(find_problem(store, REALM, STATE, made, SIGNERS)), changes


def test_a_merge_brings_in_nothing_that_was_not_signed():
    store = DictStore()
    base, one, other = diverged(store, sign=unsigned)
    merged = merge_heads(store, store, one, other)
    assert "is not signed" in str(find_problem(store, REALM, STATE, merged, SIGNERS))
    # What a server has behind its head it took before.
    assert find_problem(store, REALM, STATE, merged, SIGNERS, is_known={base, other}.__contains__) is None


def test_a_merge_whose_parents_are_gone_is_not_taken_for_genuine():
    store = DictStore()
    _, one, other = diverged(store)
    merged = merge_heads(store, store, one, other)
    del store.objects[read_revision(store, other).root.content]
    assert find_problem(store, REALM, STATE, merged, SIGNERS) is not None


def test_endless_merges_are_not_made_again():
    """The kind: work that an enemy can have done for nothing."""
    store = DictStore()
    _, one, other = diverged(store)
    for number in range(signed.MERGES_MAX + 1):
        made = merge_heads(store, store, one, other)
        one, other = made, revision(store, b"x%d" % number, parents=[one], created_ns=10 + 2 * number)
    reads = store.gets
    assert "merges" in str(find_problem(store, REALM, STATE, merge_heads(store, store, one, other), SIGNERS))
    assert store.gets - reads < 20 * signed.MERGES_MAX


@pytest.fixture
def pool(tmp_path: Path):
    with Pool.create(tmp_path / "pool", encryption="keyfile", key_path=tmp_path / "key") as pool:
        yield pool


def test_the_list_of_signers(pool):
    assert list_signers(pool) == []
    anna = Signer(name="anna", key=ANNA.public, since_ns=5)
    trust_signer(pool, anna)
    trust_signer(pool, anna)
    assert list_signers(pool) == [anna]
    with pytest.raises(AlreadyThere):
        trust_signer(pool, Signer(name="anna", key=EVE.public, since_ns=6))
    with pytest.raises(AlreadyThere):
        trust_signer(pool, Signer(name="eve", key=ANNA.public, since_ns=6))
    with pytest.raises(BadInput):
        trust_signer(pool, Signer(name="\x1b[1m", key=EVE.public, since_ns=6))
    with pytest.raises(NotFound, match="there are anna"):
        remove_signer(pool, "eve")
    assert remove_signer(pool, "anna") == anna
    assert list_signers(pool) == []


def test_who_has_the_files_of_a_pool_and_not_its_key_adds_no_signer(pool, tmp_path):
    """Another pool's list, or one that was changed, is damage, and nobody is taken for known."""
    with Pool.create(tmp_path / "other", encryption="keyfile", key_path=tmp_path / "other.key") as other:
        trust_signer(other, Signer(name="eve", key=EVE.public, since_ns=1))
        ref_path(pool, "signers").write_bytes(ref_path(other, "signers").read_bytes())
    with pytest.raises(Damaged):
        list_signers(pool)


def test_a_volume_that_requires_signatures_takes_no_other_commit(pool):
    volumes = {key: Volumes(pool, sign=key.sign if key else unsigned) for key in (ANNA, EVE, None)}
    trust_signer(pool, Signer(name="anna", key=ANNA.public, since_ns=1))
    state = volumes[ANNA].create("home", kind=NATIVE, now_ns=1, settings={signed.SETTING: signed.REQUIRED})
    heads = []
    for key in (ANNA, EVE, None):
        with pool.writer() as writer:
            root = store_directory(writer, [Entry(name=b"a", kind=objects.ENTRY_FILE)])
            made = Revision(
                volume=state.id,
                parents=[state.head] if state.head else [],
                root=Entry(
                    name=b"", kind=objects.ENTRY_DIRECTORY, content_kind=objects.CONTENT_DIRECTORY, content=root
                ),
                links=b"",
                created_ns=2 + len(heads),
                author="anna",
                message="",
                entry_count=1,
                total_bytes=0,
            )
            if key is ANNA:
                state, _ = volumes[key].commit_revision(writer, state, made)
            else:
                with pytest.raises(Refused, match="takes only signed states"):
                    volumes[key].commit_revision(writer, state, made)
        heads.append(volumes[ANNA].get("home").head)
    assert len(set(heads)) == 1
