"""Where a user's own files are: values that are empty or relative count as not set, and nothing begins with `~`."""

import os
import pwd
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_kit import User
from dalsegno.terms.errors import BadInput
from dalsegno.world import places

OWN_HOME = pwd.getpwuid(os.getuid()).pw_dir
PLACES: list[tuple[Callable[[], Path], str, str]] = [
    (places.data_dir, "XDG_DATA_HOME", ".local/share/dalsegno"),
    (places.config_dir, "XDG_CONFIG_HOME", ".config/dalsegno"),
    (places.cache_dir, "XDG_CACHE_HOME", ".cache/dalsegno"),
    (places.state_dir, "XDG_STATE_HOME", ".local/state/dalsegno"),
]


@pytest.mark.parametrize(("place", "variable", "below"), PLACES)
@pytest.mark.parametrize(
    ("home", "xdg", "expected"),
    [
        ("/h", None, "/h/{below}"),
        ("/h", "/x", "/x/dalsegno"),
        ("/h", "", "/h/{below}"),
        ("/h", "x", "/h/{below}"),
        ("/h", "~/x", "/h/{below}"),
        ("", None, OWN_HOME + "/{below}"),
        ("h", None, OWN_HOME + "/{below}"),
        (None, None, OWN_HOME + "/{below}"),
        (None, "/x", "/x/dalsegno"),
    ],
)
def test_a_value_that_is_no_whole_path_counts_as_not_set(
    place: Callable[[], Path],
    variable: str,
    below: str,
    home: str | None,
    xdg: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kind of fault: a place of one's own that depends on the current directory."""
    for name, value in (("HOME", home), (variable, xdg)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    assert place() == Path(expected.format(below=below))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user number without a name")
def test_a_user_number_without_a_name_is_told_what_to_set() -> None:
    """Kind of fault: `~` that nobody could expand becomes a directory of that name."""
    with tempfile.TemporaryDirectory(prefix="dal-nameless-") as place:  # tmp_path is root's alone
        _nameless(User(Path(place)))


def _nameless(user: User) -> None:
    (user.home / "s").mkdir()
    (user.home / "s" / "a").write_text("a")
    for name in (".out", ".err"):
        (user.home / name).touch()
        (user.home / name).chmod(0o666)
    user.home.chmod(0o777)
    user.uid = 54321
    forget = "import os\nfor each in ('HOME', 'DAL_POOL', 'USER', 'LOGNAME'): os.environ.pop(each, None)"
    for words in (("backup", "s"), ("status",), ("init",), ("ls", "s"), ("key", "show")):
        refused = user.quick(*words, code=2, before=forget)
        assert "set HOME, or XDG_DATA_HOME" in refused.error
    refused = user.quick("init", "pool", code=2, before=forget)
    assert "set HOME, or XDG_" in refused.error
    assert {each.name for each in user.home.iterdir()} - {".out", ".err"} == {"s"}
    own = {f"XDG_{name}_HOME": str(user.home / name) for name in ("DATA", "CONFIG", "CACHE")}
    user.quick("backup", "s", before=forget, **own)
    assert user.quick("cat", "s:/a", before=forget, **own).out == b"a"


def test_who_has_no_home_is_told_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind of fault: an error that does not say what to do next."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(places.os, "getuid", lambda: 4_000_000_001)
    for place, variable, _ in PLACES:
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(BadInput, match=f"4000000001.*set HOME, or {variable}"):
            place()
    assert places.find_home() is None and places.find_cache_dir() is None


def test_another_program_is_told_all_places_that_are_not_where_they_are_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kind of fault: a list of variables that one was left out of: Amanda forgot what was seen of a pool, and its keys' places."""
    for _, variable, _ in PLACES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/h")
    assert places.environment() == {"HOME": "/h"}
    for _, variable, _ in PLACES:
        monkeypatch.setenv(variable, f"/x/{variable}")
    before = {place(): variable for place, variable, _ in PLACES}
    given = places.environment()
    for name in (*given, "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert {place(): variable for place, variable, _ in PLACES} == before
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert "XDG_STATE_HOME" not in places.environment()
