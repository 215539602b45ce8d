"""Join strings: one table, both directions; and what is refused without a word of the token."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dalsegno.formats.join import Join, check_fingerprint, format_join, parse_join
from dalsegno.terms.errors import BadInput

FINGERPRINT = "sha256:" + "0a" * 32
TOKEN = "dal_0123456789abcdef_" + "x" * 43

CASES = [
    ("dal://backup.example.org:8420/", Join(host="backup.example.org")),
    (
        f"dal://10.0.0.1:99/?name=s1&fp={FINGERPRINT}&token={TOKEN}",
        Join(host="10.0.0.1", port=99, name="s1", fingerprint=FINGERPRINT, token=TOKEN),
    ),
    ("dal://[2001:db8::1]:8420/?name=s2&tls=no", Join(host="2001:db8::1", name="s2", tls=False)),
]


@pytest.mark.parametrize("text, join", CASES)
def test_join_strings_are_written_and_read(text: str, join: Join) -> None:
    assert format_join(join) == text
    assert parse_join(text) == join
    assert parse_join(f"  {text}\n") == join


def test_urls() -> None:
    assert parse_join(CASES[1][0]).url == "https://10.0.0.1:99"
    assert parse_join(CASES[2][0]).url == "http://[2001:db8::1]:8420"


@given(some.text(some.characters(codec="utf-8"), max_size=30).filter(str.isprintable))
def test_any_name_survives(name: str) -> None:
    join = Join(host="h", name=name)
    assert parse_join(format_join(join)) == join


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://host:8420/",
        "dal:host",
        "dal://",
        "dal://:8420/",
        "dal://host:0/",
        "dal://host:99999/",
        "dal://host:x/",
        "dal://user@host:8420/",
        "dal://host:8420/path",
        "dal://host:8420/#x",
        f"dal://host:8420/?token={TOKEN}&token={TOKEN}",
        f"dal://host:8420/?token={TOKEN}&admin=1",
        f"dal://host:8420/?token={TOKEN}&fp=sha256:00",
        f"dal://host:8420/?token={TOKEN}&fp=md5:{'0' * 64}",
        f"dal://host:8420/?token={TOKEN}&tls=yes",
        f"dal://host:8420/?token={TOKEN}&tls=no&fp={FINGERPRINT}",
        f"dal://host:8420/?token={TOKEN}\x00",
        f"dal://[::1:8420/?token={TOKEN}",
        f"dal://host:8420/?token={TOKEN}&" + "x=1&" * 20,
        f"dal://host:8420/?token={TOKEN}{'x' * 3000}",
    ],
)
def test_what_is_no_join_string_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_join(text)
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_fingerprints_have_one_spelling() -> None:
    digits = ":".join(["AB"] * 32)
    assert check_fingerprint(digits) == check_fingerprint("sha256:" + "ab" * 32) == "sha256:" + "ab" * 32
    assert check_fingerprint("") == ""
    for wrong in ("x", "sha256:", "ab" * 31, "gg" * 32):
        with pytest.raises(BadInput):
            check_fingerprint(wrong)
