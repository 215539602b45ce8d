"""Which names may become files' names."""

import os

import pytest

from dalsegno.terms.errors import Refused
from dalsegno.terms.names import file_name, is_file_name
from lying_kit import BAD_NAMES

GOOD = ("home", "home.2026-11-30T06:03:39Z.dump", "Ärger mit Öl", "a b", "x" * 255, "日本", os.fsdecode(b"\xff\xfe"))
BAD = (*BAD_NAMES, "a/", "x" * 256, "é" * 128, "\x7f", "a\u2028b", "a\u202eb", "~\0")


@pytest.mark.parametrize("name", GOOD)
def test_a_name_stays_what_it_is(name: str) -> None:
    assert file_name(name, of="volume") == name


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("@", "$(touch victim)", "\ud800")])
def test_what_would_lead_elsewhere_is_no_file_name(name: str) -> None:
    """A name from outside that becomes a path, an option, or two lines."""
    assert not is_file_name(name)
    with pytest.raises(Refused, match="not used") as caught:
        file_name(name, of="volume")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
