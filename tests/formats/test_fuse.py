"""The FUSE protocol: every request and every answer, in both directions."""

import pytest

from dalsegno.formats import fuse
from dalsegno.formats.fuse import Attr, Dirent, EntryReply, Header, InitReply, ProtocolError, StatfsReply

# Opcode, body, and what the kernel writes behind the header: little-endian, as on the hosts that CI has.
REQUESTS = [
    (fuse.LOOKUP, fuse.Name(b"name"), "6e616d6500"),
    (fuse.FORGET, fuse.Forget(3), "0300000000000000"),
    (fuse.GETATTR, fuse.GetAttr(1, 7), "01000000 00000000 0700000000000000"),
    (
        fuse.SETATTR,
        fuse.SetAttr(fuse.SET_SIZE | fuse.SET_MTIME, 5, 4096, 6, 1, -2, 3, 10, 20, 30, 0o100644, 1000, 100),
        "28000000 00000000 0500000000000000 0010000000000000 0600000000000000 0100000000000000 feffffffffffffff"
        "0300000000000000 0a000000 14000000 1e000000 a4810000 00000000 e8030000 64000000 00000000",
    ),
    (fuse.READLINK, fuse.Empty(), ""),
    (fuse.SYMLINK, fuse.Symlink(b"name", b"to/there"), "6e616d6500 746f2f746865726500"),
    (fuse.MKNOD, fuse.MakeNode(0o100600, 0x801, 0o22, b"n"), "80810000 01080000 12000000 00000000 6e00"),
    (fuse.MKDIR, fuse.MakeDirectory(0o755, 0o22, b"d"), "ed010000 12000000 6400"),
    (fuse.UNLINK, fuse.Name(b"\xff"), "ff00"),
    (fuse.RMDIR, fuse.Name(b"d"), "6400"),
    (fuse.RENAME, fuse.Rename(9, b"a", b"b"), "0900000000000000 6100 6200"),
    (fuse.RENAME2, fuse.Rename2(9, 1, b"a", b"b"), "0900000000000000 01000000 00000000 6100 6200"),
    (fuse.LINK, fuse.Link(9, b"b"), "0900000000000000 6200"),
    (fuse.OPEN, fuse.Open(0o1, 1), "01000000 01000000"),
    (fuse.OPENDIR, fuse.Open(0, 0), "00000000 00000000"),
    (
        fuse.READ,
        fuse.Read(1, 8192, 4096, 2, 3, 4),
        "0100000000000000 0020000000000000 00100000 02000000 0300000000000000 04000000 00000000",
    ),
    (
        fuse.WRITE,
        fuse.Write(1, 8192, 3, fuse.WRITE_KILL_SUIDGID, 3, 4, memoryview(b"a\0b")),
        "0100000000000000 0020000000000000 03000000 04000000 0300000000000000 04000000 00000000 610062",
    ),
    (fuse.STATFS, fuse.Empty(), ""),
    (fuse.RELEASE, fuse.Release(1, 2, 3, 4), "0100000000000000 02000000 03000000 0400000000000000"),
    (fuse.FSYNC, fuse.Fsync(1, fuse.FSYNC_DATA_ONLY), "0100000000000000 01000000 00000000"),
    (fuse.FSYNCDIR, fuse.Fsync(1, 0), "0100000000000000 00000000 00000000"),
    (
        fuse.SETXATTR,
        fuse.SetXattr(4, 1, fuse.SETXATTR_ACL_KILL_SGID, b"user.a", b"v\0\0w"),
        "04000000 01000000 01000000 00000000 757365722e6100 76000077",
    ),
    (fuse.GETXATTR, fuse.GetXattr(0, b"user.a"), "00000000 00000000 757365722e6100"),
    (fuse.LISTXATTR, fuse.ListXattr(100), "64000000 00000000"),
    (fuse.REMOVEXATTR, fuse.Name(b"user.a"), "757365722e6100"),
    (fuse.FLUSH, fuse.Flush(1, 2), "0100000000000000 0000000000000000 0200000000000000"),
    (fuse.INIT, fuse.Init(7, 31, 131072, fuse.ASYNC_READ | fuse.MAX_PAGES), "07000000 1f000000 00000200 01004000"),
    (
        fuse.INIT,
        fuse.Init(7, 45, 131072, fuse.INIT_EXT | 5 << 32),
        "07000000 2d000000 00000200 00000040 05000000" + "00" * 44,
    ),
    (fuse.ACCESS, fuse.Access(4), "04000000 00000000"),
    (fuse.INTERRUPT, fuse.Interrupt(77), "4d00000000000000"),
    (fuse.DESTROY, fuse.Empty(), ""),
    (
        fuse.BATCH_FORGET,
        fuse.BatchForget(((2, 1), (1 << 40, 3))),
        "02000000 00000000 0200000000000000 0100000000000000 0000000000010000 0300000000000000",
    ),
    (
        fuse.FALLOCATE,
        fuse.Fallocate(1, 4096, 8192, 3),
        "0100000000000000 0010000000000000 0020000000000000 03000000 00000000",
    ),
    (fuse.LSEEK, fuse.Seek(1, 4096, 4), "0100000000000000 0010000000000000 04000000 00000000"),
    (fuse.READDIR, fuse.Read(0, 2, 4096, 0, 0, 0), "0000000000000000 0200000000000000 00100000" + "00" * 20),
    (fuse.READDIRPLUS, fuse.Read(0, 2, 4096, 0, 0, 0), "0000000000000000 0200000000000000 00100000" + "00" * 20),
    (fuse.RELEASEDIR, fuse.Release(0, 0, 0, 0), "00" * 24),
    (fuse.SYNCFS, fuse.Empty(), ""),
]

ATTR = Attr(1 << 40, 5000, 10, 1_500_000_000, -1, 3 * 10**9 + 7, 0o100644, 2, 1000, 100, 0x801)
ENTRY = EntryReply(1 << 33, 0, 5 * 10**9 + 1, 2 * 10**9, ATTR)

ANSWERS = [
    (fuse.encode_attr, fuse.decode_attr, ATTR, 88),
    (fuse.encode_entry, fuse.decode_entry, ENTRY, 128),
    (fuse.encode_entry, fuse.decode_entry, fuse.NO_ENTRY, 128),
    (fuse.encode_statfs, fuse.decode_statfs, StatfsReply(1, 2, 3, 4, 5, 4096, 255, 4096), 80),
    (fuse.encode_init, fuse.decode_init, InitReply(7, 38, 131072, 1 | 5 << 32, 12, 9, 1 << 20, 1, 256), 64),
    (fuse.encode_size, fuse.decode_size, 77, 8),
    (fuse.encode_offset, fuse.decode_offset, 1 << 40, 8),
]


def header(opcode: int) -> Header:
    return Header(0, opcode, 99, 1 << 34, 1000, 100, 4321)


@pytest.mark.parametrize(("opcode", "body", "digits"), REQUESTS)
def test_request_is_read_and_written_as_the_kernel_lays_it_out(opcode: int, body: fuse.Body, digits: str) -> None:
    expected = bytes.fromhex(digits)
    message = fuse.encode_request(header(opcode), body)
    assert message[fuse.HEADER.size :] == expected
    read = fuse.decode_header(message)
    assert read == header(opcode)._replace(length=40 + len(expected))
    assert fuse.decode_body(read, message) == body


def test_every_request_of_the_table_has_a_case() -> None:
    assert {opcode for opcode, _, _ in REQUESTS} == set(fuse.REQUESTS)


def test_setxattr_before_its_extension_is_shorter() -> None:
    body = fuse.SetXattr(1, 2, 0, b"user.a", b"v")
    message = fuse.encode_request(header(fuse.SETXATTR), body, setxattr_extended=False)
    assert message[40:] == bytes.fromhex("01000000 02000000 757365722e6100 76")
    assert fuse.decode_body(fuse.decode_header(message), message, setxattr_extended=False) == body


@pytest.mark.parametrize(("encode", "decode", "value", "size"), ANSWERS)
def test_answer_is_read_back_as_it_was_written(encode, decode, value, size) -> None:  # type: ignore[no-untyped-def]
    data = encode(value)
    assert len(data) == size
    assert decode(data) == value


def test_attr_puts_each_number_where_the_kernel_looks() -> None:
    assert fuse.encode_attr(ATTR).hex(" ", -8) == (
        "0000000000010000 8813000000000000 0a00000000000000 0100000000000000 ffffffffffffffff 0300000000000000 "
        "0065cd1dffc99a3b 07000000a4810000 02000000e8030000 6400000001080000 0010000000000000"
    )


def test_attr_reply_and_open_reply_come_back() -> None:
    assert fuse.decode_attr_reply(fuse.encode_attr_reply(10**9 + 1, ATTR)) == (10**9 + 1, ATTR)
    assert fuse.decode_open(fuse.encode_open(5, fuse.OPEN_KEEP_CACHE)) == (5, fuse.OPEN_KEEP_CACHE)


def test_directories_come_back_whatever_the_length_of_a_name() -> None:
    dirents = [Dirent(number, number + 1, 4, b"n" * number) for number in range(1, 20)]
    plain = [fuse.encode_dirent(each) for each in dirents]
    assert all(len(each) % 8 == 0 for each in plain)
    assert fuse.decode_dirents(b"".join(plain)) == dirents
    plus = b"".join(fuse.encode_dirent_plus(ENTRY, each) for each in dirents)
    assert fuse.decode_dirents_plus(plus) == [(ENTRY, each) for each in dirents]
    assert plus == b"".join(fuse.encode_entry(ENTRY) + each for each in plain)


def test_answers_carry_their_request_and_their_error() -> None:
    assert fuse.decode_reply(fuse.encode_reply(7, b"xyz")) == (7, 0, b"xyz")
    assert fuse.decode_reply(fuse.encode_error(7, 2)) == (7, 2, b"")
    assert fuse.encode_reply_header(7, 3) + b"xyz" == fuse.encode_reply(7, b"xyz")


def test_notices_name_the_node_and_the_name() -> None:
    assert fuse.encode_inval_inode(5, -1, 0).hex() == (
        "280000000200000000000000000000000500000000000000ffffffffffffffff0000000000000000"
    )
    assert fuse.encode_inval_entry(5, b"ab").hex() == (
        "2300000003000000000000000000000005000000000000000200000000000000616200"
    )
    assert fuse.encode_store_header(5, 4096, 3).hex() == (
        "2b000000040000000000000000000000050000000000000000100000000000000300000000000000"
    )
    assert fuse.encode_prune([5, 6]).hex() == (
        "300000000900000000000000000000000200000000000000000000000000000005000000000000000600000000000000"
    )


def test_known_name_is_the_same_without_tuples() -> None:
    attr = fuse.Attr(9, 100, 1, 5_000_000_007, 5_000_000_007, 5_000_000_007, 0o100644, 1, 3, 4, 6)
    for name in (b"n", b"name-of-8", b"12345678"):
        expected = fuse.encode_dirent_plus(fuse.EntryReply(77, 0, 60 * 10**9, 60 * 10**9, attr), Dirent(9, 12, 8, name))
        assert fuse.encode_known_name(77, 9, 12, name, 0o100644, 100, 1, 5_000_000_007, 3, 4, 6, 60) == expected


@pytest.mark.parametrize(
    "message",
    [
        b"short",
        fuse.HEADER.pack(41, fuse.STATFS, 1, 1, 0, 0, 0, 0),
        fuse.HEADER.pack(43, fuse.LOOKUP, 1, 1, 0, 0, 0, 0) + b"abc",
        fuse.HEADER.pack(42, fuse.GETATTR, 1, 1, 0, 0, 0, 0) + b"ab",
        fuse.HEADER.pack(40, fuse.INIT, 1, 1, 0, 0, 0, 0),
        fuse.encode_request(header(fuse.SETXATTR), fuse.SetXattr(5, 0, 0, b"user.a", b"v")),
        fuse.encode_request(header(fuse.WRITE), fuse.Write(0, 0, 5, 0, 0, 0, memoryview(b"v"))),
        fuse.HEADER.pack(56, fuse.BATCH_FORGET, 1, 1, 0, 0, 0, 0) + b"\2" + bytes(15),
    ],
)
def test_messages_that_are_not_what_they_say_are_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        fuse.decode_body(fuse.decode_header(message), message)
