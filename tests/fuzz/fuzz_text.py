"""Targets for what people, files and the kernel say: TOML, keys, patterns, names, times, labels, FUSE messages."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3
from fuzz_packs import PLACE

from dalsegno.actions.policy import examine_policy
from dalsegno.bridges.amanda import decode_path, parse_call
from dalsegno.chunks.cut import Cutter
from dalsegno.chunks.recipients import age_identity, check_recipient, read_identity
from dalsegno.chunks.signatures import SigningKey, read_public
from dalsegno.formats import fuse, media
from dalsegno.formats.join import check_fingerprint, check_url, format_join, parse_join
from dalsegno.host.attributes import parse_names
from dalsegno.host.mounts import parse_mounts
from dalsegno.host.patterns import read_lines, read_words
from dalsegno.mount.acl import decode_acl
from dalsegno.pool.damage import decode_damage
from dalsegno.pool.holders import open_by_identity, open_by_passphrase
from dalsegno.pool.keys import key_file_text, read_realm
from dalsegno.pool.settings import decode_settings
from dalsegno.replicas.calls import CALLS
from dalsegno.replicas.histories import parse_patterns
from dalsegno.replicas.tokens import split_token
from dalsegno.replicas.view import check_realm_name
from dalsegno.terms.errors import DalError
from dalsegno.terms.names import file_name
from dalsegno.terms.sizes import parse_size
from dalsegno.terms.times import format_time, parse_duration_seconds, parse_time_ns, show_minute, show_time
from dalsegno.volumes.address import dump_paths, parse_address, plain_name
from dalsegno.volumes.store import check_clone_name, check_volume_name

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from make_revision_signed import REVISION

NOW_NS: Final = 1_795_910_400 * 10**9
IDENTITY: Final = read_identity(age_identity(bytes(32)))
PATHS: Final = (b"a", b"src/main.o", b"a/b/c/d/e/f.txt", b"a" * 200, b"a/" * 100 + b"b", "é/ü.txt".encode(), b"[x]*\\")


def _text(data: bytes) -> str:
    """Return what Python makes of the words of a command line."""
    return os.fsdecode(data)


def _file(data: bytes) -> Path:
    path = PLACE / f"{os.getpid()}"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _signed(data: bytes) -> bytes:
    """Return TOML with the checksum that its lines should have, for a line that begins so in the input."""
    text = data.decode(errors="replace")
    lines = [line + "\n" for line in text.splitlines() if line and not line.startswith(("#", "checksum"))]
    return f'checksum = "{blake3("".join(lines).encode()).hexdigest(16)}"\n{"".join(lines)}'.encode()


def join(data: bytes) -> None:
    """A join string, a URL, a fingerprint, a token."""
    text = _text(data)
    for each in (check_url, check_fingerprint, check_recipient, read_public, split_token):
        with suppress(DalError):
            each(text)
    found = parse_join(text)
    assert parse_join(format_join(found)) == found


def settings(data: bytes) -> None:
    """A pool.toml with a right checksum; the passphrase is tried where that is cheap."""
    with suppress(DalError):
        decode_settings(data, PLACE)
    found = decode_settings(_signed(data), PLACE)
    if sum(holder.cost.work_kib for holder in found.holders if holder.kind == "passphrase") <= 256:
        open_by_passphrase(found, "x")
    open_by_identity(found, IDENTITY)


def key(data: bytes) -> None:
    """A key file, of a pool or of a machine that only writes, and what is done with it."""
    for content in (data, _with_checksum(data)):
        with suppress(DalError):
            realm = read_realm(_file(content))
            realm.identify(1, b"payload")
            Cutter(realm.chunk_seed).cut(bytes(100), final=True)
            key_file_text(realm, {"place": _text(data)})


def _with_checksum(data: bytes) -> bytes:
    words = _text(data).split()[:-1]
    text = " ".join(words)
    return os.fsencode(f"{text} {blake3(text.encode(errors='replace')).hexdigest(16)}\n")


def identity(data: bytes) -> None:
    """A private key of somebody to whom dumps are made, or who signs."""
    with suppress(DalError):
        SigningKey.of_text(data).sign(REVISION)
    read_identity(_text(data))


def policy(data: bytes) -> None:
    """A policy file: problems are told, each with its line."""
    _, problems = examine_policy(_file(data))
    for problem in problems:
        assert "\n" not in str(problem), str(problem)


def ignore(data: bytes) -> None:
    """A .dalignore file, and patterns of a command line."""
    for patterns in (read_lines(data), read_words(data.split(b"\n"))):
        for path in PATHS:
            patterns.excludes(path.rsplit(b"/", 1)[-1], path, is_directory=False)
            patterns.excludes(path.rsplit(b"/", 1)[-1], path, is_directory=True)


def label(data: bytes) -> None:
    """The label of a medium, with a right checksum."""
    with suppress(DalError):
        media.decode_label(data)
    media.decode_label(_signed(data))


def part(data: bytes) -> None:
    """The header of a part of a dump on a medium, with a right digest."""
    with suppress(DalError):
        media.decode_part_header(data)
    start = media.PREAMBLE.pack(media.MAGIC, media.VERSION, 0, len(data)) + data
    header = media.decode_part_header(start + blake3(start).digest(media.HEADER_DIGEST_BYTES))
    if header.kind == media.PART_SHARE:
        media.stripe_count(header)


def kernel(data: bytes) -> None:
    """A FUSE message whose length is right, in both forms of setxattr, and an access list: the opcode, the body."""
    with suppress(OSError):
        decode_acl(data)
    opcode = data[0] if data and data[0] in fuse.REQUESTS else fuse.LOOKUP
    whole = fuse.HEADER.pack(fuse.HEADER.size + len(data[1:]), opcode, 1, 1, 0, 0, 1, 0) + data[1:]
    with suppress(fuse.ProtocolError):
        fuse.decode_header(data)
    for extended in (True, False):
        with suppress(fuse.ProtocolError):
            fuse.decode_body(fuse.decode_header(whole), whole, setxattr_extended=extended)


def times(data: bytes) -> None:
    """A time, a duration, a size."""
    text = _text(data)
    for each in (parse_duration_seconds, parse_size):
        with suppress(DalError):
            assert each(text) >= 0
    at_ns = parse_time_ns(text, now_ns=NOW_NS)
    if at_ns is not None:
        format_time(at_ns), show_time(at_ns), show_minute(at_ns)


def names(data: bytes) -> None:
    """An address, and names of volumes, clones, servers and files."""
    text = _text(data)
    for check in (
        check_volume_name,
        check_clone_name,
        check_realm_name,
        dump_paths,
        lambda name: file_name(name, of="x"),
    ):
        with suppress(DalError):
            check(text)
    address = parse_address(text)
    plain_name(address.volume)


def words(data: bytes) -> None:
    """A call of Amanda and a path of its index, patterns of clones, notes about damage, tables of mounts and of names."""
    text = _text(data)
    decode_damage(data)
    parse_mounts(data)
    parse_names(data)
    decode_path(text)
    for parse in (lambda: parse_call(text.split("\0")), lambda: parse_patterns(text)):
        with suppress(DalError):
            parse()


def queries(data: bytes) -> None:
    """The words of a query, for every call of the table."""
    text = data.decode(errors="replace")
    for call in CALLS:
        for parameter in call.query:
            with suppress(DalError, ValueError):  # both are refused as 400
                parameter.read(text)
