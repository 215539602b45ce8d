"""Which pool a command is about: one rule, the same for all commands, said wherever keys or pools are the trouble."""

import os
import tempfile
from pathlib import Path

import pytest

from cli_kit import User
from dalsegno.cli.choice import Facts, choose, find_policy_file
from dalsegno.terms.errors import BadInput
from dalsegno.world import places

OWN, SITE = Path("/h/pool"), Path("/srv/pool")
POLICY = {"policy": Path("/etc/p.toml"), "policy_pool": SITE}
HERE = {"own_pool": OWN, "own_is_there": True}


@pytest.mark.parametrize(
    ("facts", "volumes", "pools", "why"),
    [
        ({}, OWN, OWN, "not made yet"),
        (HERE, OWN, OWN, "your own"),
        ({**HERE, **POLICY}, SITE, SITE, "the policy /etc/p.toml; your own pool is /h/pool"),
        (POLICY, SITE, SITE, "the policy /etc/p.toml"),
        ({**HERE, **POLICY, "pool_named": "/env"}, Path("/env"), Path("/env"), "DAL_POOL"),
        ({**HERE, **POLICY, "pool_named": "/env", "pool_option": "/o"}, Path("/o"), Path("/o"), "--pool"),
        ({"realms": ("r",)}, "r", OWN, "only one"),
        ({**HERE, "realms": ("r",)}, OWN, OWN, "your own; realm r was joined (DAL_REALM"),
        ({**POLICY, "realms": ("r",)}, SITE, SITE, "the policy /etc/p.toml; realm r was joined"),
        ({"realms": ("q", "r")}, OWN, OWN, "not made yet; realm q, r was joined"),
        ({**HERE, "realms": ("q", "r"), "realm_named": "q"}, "q", OWN, "DAL_REALM"),
        ({**HERE, "realm_named": "q", "pool_named": "/env"}, "q", Path("/env"), "DAL_REALM"),
        ({**HERE, "realm_named": "q", "pool_option": "/o"}, Path("/o"), Path("/o"), "--pool"),
    ],
)
def test_one_rule_tells_what_a_command_is_about(
    facts: dict[str, object], volumes: Path | str, pools: Path, why: str
) -> None:
    """Kind of fault: half of the commands work on one pool, half on another."""
    known = Facts(**{"own_pool": OWN, **facts})  # type: ignore[arg-type]
    found = choose(known, about_volumes=True)
    assert (found.realm or found.pool) == volumes and why in str(found)
    assert choose(known, about_volumes=False).pool == pools


@pytest.mark.parametrize("named", ["pool_option", "pool_named"])
def test_an_address_of_a_place_that_cannot_hold_a_pool_is_no_directory_of_that_name(named: str) -> None:
    """Kind of fault: a backup that is believed to be far away, in a directory called `s3:`."""
    with pytest.raises(BadInput, match="s3://bucket/home: a pool cannot be kept"):
        choose(Facts(**{named: "s3://bucket/home"}), about_volumes=True)  # type: ignore[arg-type]
    for text in ("file:///srv/pool", "/srv/pool"):
        assert choose(Facts(**{named: text}), about_volumes=True).pool == SITE  # type: ignore[arg-type]
    assert choose(Facts(**{named: "./s3://odd"}), about_volumes=True).pool == Path("s3:/odd")  # type: ignore[arg-type]


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home", environment={"DAL_POOL": "", "DAL_POLICY": str(tmp_path / "site.toml")})
    for name in ("ann", "doc"):
        (user.home / name).mkdir()
        (user.home / name / "f").write_text(name)
    (tmp_path / "site.toml").write_text(
        f'pool = "{tmp_path}/pool"\nkey = "{tmp_path}/site.key"\nstate = "{tmp_path}/state"\n'
        f'[sets.all]\nsources = ["{user.home}/ann"]\n'
    )
    return user


def test_all_commands_work_on_the_policys_pool_with_its_key(user: User, tmp_path: Path) -> None:
    """Kind of fault: half of the commands work on one pool, half on another."""
    user.quick("backup", "doc", DAL_POLICY="")  # a pool of one's own
    user.quick("init", "--key", str(tmp_path / "site.key"))
    assert (tmp_path / "pool" / "pool.toml").exists()
    user.quick("backup", "--set", "all")
    assert [each["volume"] for each in user.value("volume", "list")] == ["ann"]
    for words in (("clones", "ann"), ("ls", "ann"), ("find", "f"), ("versions", "ann:/f"), ("stats",), ("gc",),
                  ("verify", "--pool"), ("restore", "ann", "--to", "back"), ("status",), ("history",), ("doctor",),
                  ("plan",), ("backup", "ann"), ("prune",), ("estimate", "ann"), ("key", "show")):  # fmt: skip
        user.quick(*words, code=(0, 1))
    own = str(user.home / ".local/share/dalsegno/pool")
    shown = user.quick("status").out.decode()
    assert (
        f"pool {tmp_path}/pool, by the policy {tmp_path}/site.toml; your own pool is {own} (--pool names it)" in shown
    )
    error = user.quick("ls", "doc", code=6).error
    assert "by the policy" in error and own in error
    error = user.quick("ls", "ann", code=8, DAL_KEY=str(user.home / "ann" / "f")).error
    assert "not a key" in error and f"pool {tmp_path}/pool, by the policy" in error
    assert (
        user.value("status")["others"]
        and "by default: it is your own" in user.quick("status", DAL_POLICY="").out.decode()
    )
    assert [each["volume"] for each in user.value("volume", "list", "--pool", own)] == ["doc"]
    for broken in ("pool = ", "pool = 3\n"):
        (tmp_path / "site.toml").write_text(broken)
        user.quick("volume", "list", code=2 if broken == "pool = " else 0)


def test_an_empty_machine_gets_a_site_back_with_the_key_of_the_policy(user: User, tmp_path: Path) -> None:
    """Kind of fault: a guide works on the machine where it was written."""
    policy = tmp_path / "site.toml"
    (tmp_path / "disk").mkdir()
    target = f'[targets.disk]\nkind = "directory"\npaths = ["{tmp_path}/disk"]\n'
    policy.write_text(policy.read_text() + 'targets = ["disk"]\n' + target)
    user.quick("init")
    user.quick("media", "label", str(tmp_path / "disk"), "d1", "--target", "disk")
    user.quick("backup", "--set", "all")
    user.quick("key", "export", "stick.key")
    for name in ("pool", "state"):
        os.rename(tmp_path / name, tmp_path / f"lost-{name}")
    os.unlink(tmp_path / "site.key")
    assert "site.key" in user.quick("restore", "--site", code=(2, 6, 8)).error
    os.rename(user.home / "stick.key", tmp_path / "site.key")
    user.quick("restore", "--site")
    user.quick("restore", "ann", "--to", "back")
    assert (user.home / "back" / "f").read_text() == "ann"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_policy_of_the_machine_is_not_for_who_may_not_use_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind of fault: what root has set up takes away what a user has."""
    with tempfile.TemporaryDirectory(prefix="dal-machine-") as place:  # tmp_path is root's alone
        machine, own, broken = (Path(place) / name for name in ("machine.toml", "own.toml", "broken.toml"))
        (Path(place) / "pool").mkdir(mode=0o700)
        machine.write_text(f'pool = "{place}/pool"\n')
        own.write_text("")
        broken.write_text("pool = ")
        os.chmod(place, 0o755)
        monkeypatch.delenv("DAL_POLICY", raising=False)
        for first, for_root in ((machine, machine), (broken, broken), (Path(place) / "none", own)):
            monkeypatch.setattr(places, "policy_files", lambda first=first: [first, own])
            assert find_policy_file(None) == for_root
            child = os.fork()
            if child == 0:
                os.setgroups([])
                os.setuid(65534)
                os._exit(find_policy_file(None) != own)
            assert os.waitpid(child, 0)[1] == 0, first


@pytest.mark.parametrize("text", ["pool = [", "pool = " + "[" * 5000, "pool = " + "9" * 5000, "pool = \udcff"])
def test_a_policy_that_cannot_be_read_at_all_is_said(user: User, text: str) -> None:
    """Kind of fault: what a parser of TOML raises besides its own error."""
    Path(user.environment["DAL_POLICY"]).write_text(text, errors="surrogateescape")
    error = user.quick("clones", code=2).error
    assert "which pool it means cannot be told" in error and error.count("\n") < 4


def test_no_pool_is_made_at_an_address_that_is_no_directory(user: User) -> None:
    """Kind of fault: a backup that is believed to be far away, in a directory called `s3:`."""
    for words in (("init", "s3://bucket/pool"), ("backup", "--pool", "s3://bucket/pool", "doc")):
        assert b"name a directory" in user.quick(*words, code=2).err
    assert not (user.home / "s3:").exists()
