"""Many recorded dumps of a volume on several servers, one of which is away for some of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from realm_kit import Realm, running_realm


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    with running_realm(tmp_path, "s1", "s2", "s3") as made:
        yield made


def test_older_dumps_are_known_whoever_answers_and_bases_stay(realm: Realm) -> None:
    """Kind: what one server moved out of sight another takes for gone."""
    me = realm.client("me")
    source = me.home / "source"
    source.mkdir()
    (source / "file").write_text("x")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    me.quick("import", "home", str(source))
    me.quick("dump", "home", "--level", "0", "-o", "full.dump")

    def more(first: int, count: int) -> None:
        for number in range(first, first + count):
            me.quick("dump", "home", "--level", "1", "-o", f"{number}.dump")

    def recorded() -> list[str]:
        return [Path(each["path"]).name for each in me.ask("volume", "show", "home")["dumps"]]

    more(1, 8)
    realm.kill("s2")
    more(9, 4)
    names = ["full.dump", *(f"{number}.dump" for number in range(1, 13))]
    assert recorded() == names
    realm.start("s2")
    me.quick("ls", "home")
    assert recorded() == names
    realm.kill("s1")
    # Those that s2 has not heard of are known here; the next one brings them there.
    more(13, 1)
    assert recorded()[:9] == names[:9] and recorded()[-1] == "13.dump"
    realm.start("s1")
    me.quick("ls", "home")
    assert recorded() == [*names, "13.dump"]
    me.quick("mark", "--forget", "2.dump")
    names.remove("2.dump")
    me.quick("replica", "add", "home", "s3")
    assert recorded() == [*names, "13.dump"]
    realm.kill("s1", "s2")
    assert recorded()[-2:] == ["12.dump", "13.dump"]  # of a table the client has no copy
