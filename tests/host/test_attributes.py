"""Names of owners, read once or asked one by one: always what the C library says."""

import grp
import os
import pwd

import pytest

from dalsegno.host.attributes import OwnerNames, is_all_in_files, parse_names


def test_names_are_those_of_the_c_library() -> None:
    names = OwnerNames()
    for number in [*range(200), *range(995, 1010), 65533, 65534, 100_000, 2**31, 2**32 - 1]:
        try:
            user = pwd.getpwuid(number).pw_name
        except KeyError:
            user = ""
        try:
            group = grp.getgrgid(number).gr_name
        except KeyError:
            group = ""
        assert (names.user(number), names.group(number)) == (os.fsencode(user), os.fsencode(group)), number


@pytest.mark.parametrize(
    ("line", "has_userdb", "expected"),
    [
        (b"passwd: files", True, True),
        (b"passwd:\tfiles systemd  # usual", False, True),
        (b"passwd: files systemd", True, False),
        (b"passwd: files sss", False, False),
        (b"passwd: compat", False, False),
        (b"passwd: files [NOTFOUND=return] ldap", False, False),
        (b"#passwd: files", False, False),
        (b"group: files", False, False),
    ],
)
def test_only_plain_files_hold_all_names(line: bytes, has_userdb: bool, expected: bool) -> None:
    assert is_all_in_files(b"# x\n" + line + b"\nhosts: dns\n", b"passwd", has_userdb=has_userdb) is expected


def test_names_of_a_file_are_read_as_they_are_written() -> None:
    data = b"root:x:0:0::/root:/bin/sh\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\nbob:x:1000:1\n+nis\n\nodd:x:y:\n"
    assert parse_names(data) == {0: b"root", 1000: b"ann"}
