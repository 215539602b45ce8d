"""The Amanda application as Amanda calls it: words in, lines on its descriptors out; what goes wrong leaves nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from amdalsegno_kit import Client

from cli_kit import SOURCE, User, tree
from dalsegno.assembly.local import open_pool
from dalsegno.dumps.plan import forget_dump
from dalsegno.volumes.leases import freeze
from dalsegno.world.clock import now_ns


@pytest.fixture
def client(tmp_path: Path) -> Client:
    user = User(tmp_path)
    user.environment["DAL_KEY"] = str(tmp_path / "pool.key")
    (tmp_path / "doc" / "d").mkdir(parents=True)
    (tmp_path / "doc" / "plan").write_bytes(os.urandom(300_000))
    (tmp_path / "doc" / "d" / "inner").write_text("inner")
    (tmp_path / "doc" / "goes\\away\n").write_text("old")
    user.quick("init", "--key", str(tmp_path / "pool.key"))
    user.quick("volume", "create", "doc", "--source", str(tmp_path / "doc"))
    return Client(user)


def test_support_answers_without_pool_or_key(client: Client) -> None:
    told = client.call("support", pool="/nowhere", key="/nowhere")
    lines = dict(line.split(" ") for line in told.out.decode().splitlines())
    assert told.code == 0 and not told.err
    assert (lines["MAX-LEVEL"], lines["MULTI-ESTIMATE"], lines["RECORD"], lines["DISCOVER"]) == (
        "9",
        "YES",
        "YES",
        "YES",
    )


def test_full_and_increment_restore_one_after_the_other_without_the_pool(client: Client) -> None:
    full = client.backup(0)
    assert full.code == 0 and not full.err
    assert full.index == ["/", "/d/", "/d/inner", "/goes\\\\away\\n", "/plan", "/./"]
    assert full.messages[-1] == f"sendbackup: size {-(-len(full.out) // 1024)}"
    (client.user.home / "doc" / "goes\\away\n").unlink()
    (client.user.home / "doc" / "d" / "inner").write_text("changed")
    (client.user.home / "doc" / "new").write_text("new")
    client.user.quick("unclone", "doc@amanda")
    increment = client.backup(1)
    assert sorted(increment.index) == ["/", "/././", "/d/", "/d/inner", "/new"]  # only what it carries, the way there
    assert len(increment.out) < len(full.out) / 10

    client.pool.rename(client.user.home / "burned")
    back = client.user.home / "back"
    back.mkdir()
    for level, image in enumerate((full.out, increment.out)):
        told = client.call("restore", "--disk", "doc", "--level", str(level), ".", stdin=image, cwd=back)
        assert told.code == 0, (told.out, told.err)
    assert tree(back) == tree(client.user.home / "doc")
    one = client.user.home / "one"
    one.mkdir()
    told = client.call("restore", "--disk", "doc", "--level", "0", "./goes\\\\away\\n", stdin=full.out, cwd=one)
    assert [path.name for path in one.iterdir()] == ["goes\\away\n"], told.err
    alone = client.call(
        "restore", "--disk", "doc", "--level", "1", ".", stdin=increment.out, cwd=client.user.home / "doc" / "d"
    )
    assert alone.code == 4 and b"is an increment" in alone.err
    assert [path.name for path in (client.user.home / "doc" / "d").iterdir()] == ["inner"]


def test_file_that_changed_in_one_place_comes_back_whole_or_not_at_all(client: Client) -> None:
    big = client.user.home / "doc" / "big"
    big.write_bytes(os.urandom(3_000_000))
    full = client.backup(0).out
    with open(big, "r+b") as file:
        file.seek(1_500_000)
        file.write(b"changed")
    client.user.quick("unclone", "doc@amanda")
    increment = client.backup(1).out
    assert len(increment) < len(full) / 5

    def restore(name: str, *steps: tuple[int, bytes, str]) -> tuple[list[int], bytes, dict[str, bytes]]:
        target = client.user.home / name
        target.mkdir()
        words = ("restore", "--disk", "doc", "--level")
        told = [client.call(*words, str(level), path, stdin=image, cwd=target) for level, image, path in steps]
        files = {path.name: path.read_bytes() for path in target.iterdir()}
        return [each.code for each in told], told[-1].out, files

    assert restore("with", (1, increment, "./big")) == ([0], b"", {"big": big.read_bytes()})
    client.pool.rename(client.user.home / "burned")
    codes, said, files = restore("without", (1, increment, "./big"))
    assert codes == [1] and said.startswith(b"big: object ") and said.count(b"\n") == 1 and not files
    # Whatever was taken from the lower level into the same directory, that level's image is there.
    assert restore("again", (0, full, "./big"), (1, increment, "./big"))[2] == {"big": big.read_bytes()}
    codes, said, files = restore("other", (0, full, "./plan"), (1, increment, "./big"))
    assert codes == [0, 0] and not said and files["big"] == big.read_bytes() and set(files) == {"big", "plan"}


def test_clone_is_used_again_until_it_is_old(client: Client) -> None:
    assert client.estimate(0)[0].startswith("0 ")
    first = client.state().clones["amanda"]
    (client.user.home / "doc" / "new").write_text("new")
    client.estimate(0, 1)
    assert client.backup(0).code == 0 and client.state().clones["amanda"] == first
    client.estimate(0, options=("--clone-age", "0s"))
    assert client.state().clones["amanda"].revision != first.revision and client.nothing_left(records=1)


def test_estimate_answers_several_levels_and_says_which_have_no_base(client: Client) -> None:
    zero, one = client.estimate(0, 1)
    assert int(zero.split()[1]) > 290 and one == "1 -1 -1"
    client.backup(0)
    zero, one, two = client.estimate(0, 1, 2)
    assert int(zero.split()[1]) > 290 and one == "1 1 1" and two == "2 1 1"  # nothing changed is 1, never 0


def test_dump_is_recorded_only_when_amanda_and_the_property_say_so(client: Client) -> None:
    assert client.backup(0, record=False).code == 0 and client.nothing_left()
    assert client.backup(0, "--record", "no").code == 0 and client.nothing_left()
    assert client.backup(0).code == 0 and client.nothing_left(records=1)


def test_dump_by_hand_builds_on_no_dump_that_amanda_has(client: Client) -> None:
    client.backup(0)
    (client.user.home / "doc" / "new").write_text("new")
    assert client.user.quick("backup", "doc").code == 0
    refused = client.user.quick("dump", "doc", "--level", "1", "-o", "1.dump", code=4).error
    assert "no recorded dump below level 1 (those recorded by amanda:daily:h:doc do not count)" in refused, refused
    assert client.user.value("estimate", "doc", "--level", "1")
    client.user.quick("dump", "doc", "-o", "0.dump")  # no level named: as if Amanda had none
    client.user.quick("dump", "doc", "--level", "1", "-o", "1.dump")
    client.user.quick("restore", "0.dump+1.dump", "--to", "back")
    assert [record.recorder for record in client.state().dumps] == ["amanda:daily:h:doc", "", ""]


def test_increment_builds_only_on_what_the_same_configuration_recorded(client: Client) -> None:
    client.user.quick("backup", "doc")
    client.user.quick("dump", "doc", "--level", "0", "-o", "mine.dump")
    assert client.estimate(1)[-1] == "1 -1 -1"
    client.backup(0)
    assert client.estimate(1) == ["1 1 1"]


def test_pruned_base_makes_amanda_force_a_full(client: Client) -> None:
    client.backup(0)
    with open_pool(client.pool, key_path=client.key) as house:
        state = house.volumes.get("doc")
        house.volumes.update(state.id, lambda current: forget_dump(current, state.dumps[0].dump_id))
    assert client.estimate(0, 1)[1] == "1 -1 -1"
    told = client.backup(1)
    assert told.messages == [
        "sendbackup: retry delay 1 level 0 message \"volume 'doc': no recorded dump below level 1; make a level 0 dump first\""
    ]
    assert not told.out and not told.err and client.nothing_left()


def test_base_whose_revision_the_pool_has_lost_makes_amanda_force_a_full(client: Client) -> None:
    client.backup(0)
    with open_pool(client.pool, key_path=client.key) as house:
        state = house.volumes.get("doc")
        lost = msgspec.structs.replace(state.dumps[0], revision=bytes(32))
        house.volumes.update(state.id, lambda current: msgspec.structs.replace(current, dumps=[lost]))
    assert client.estimate(0, 1)[1] == "1 -1 -1"
    told = client.backup(1)
    assert len(told.messages) == 1 and not told.out and not told.err
    assert told.messages[0].startswith("sendbackup: retry delay 1 level 0 message") and "no longer" in told.messages[0]
    assert client.backup(0).code == 0 and client.backup(1).code == 0


def test_pool_with_a_passphrase_is_opened_by_a_file_that_holds_it(tmp_path: Path) -> None:
    client = Client(User(tmp_path))
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc" / "plan").write_text("plan")
    client.user.environment["DAL_PASSPHRASE"] = "four words are better"
    client.user.quick("init", "--encryption", "passphrase")
    client.user.quick("volume", "create", "doc", "--source", str(tmp_path / "doc"))
    client.user.quick("key", "export", "exported.key")
    secret = tmp_path / "secret"
    secret.write_text("four words are worse\n")
    told = client.backup(0, key=str(secret))
    assert told.code == 2 and len(told.messages) == 1 and not told.out and "passphrase" in told.messages[0]
    secret.write_text("four words are better\n")
    told = client.backup(0, key=str(secret))
    assert told.code == 0 and told.out
    client.pool.rename(tmp_path / "burned")
    back = tmp_path / "back"
    back.mkdir()
    words = ("restore", "--disk", "doc", "--level", "0", ".")
    assert client.call(*words, stdin=told.out, cwd=back, key=str(secret)).code != 0
    assert client.call(*words, stdin=told.out, cwd=back, key=str(tmp_path / "exported.key")).code == 0
    assert tree(back) == tree(tmp_path / "doc")


def test_frozen_volume_is_tried_again_later_and_its_lease_stays(client: Client) -> None:
    client.user.quick("backup", "doc")
    with open_pool(client.pool, key_path=client.key) as house:
        state = house.volumes.get("doc")
        house.volumes.update(state.id, lambda current: freeze(current, owner="somebody", now_ns=now_ns(), seconds=600))
    told = client.backup(0)
    assert (
        told.messages == ["sendbackup: retry delay 60 message \"volume 'doc' is frozen by somebody\""] and not told.out
    )
    assert client.estimate(0)[0].split()[0] == "0" and client.state().lease is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"volume": "nobody"}, "no volume 'nobody'"),
        ({"volume": "do*"}, "a pattern"),
        ({"pool": "/nowhere"}, "no pool here"),
        ({"key": "/nowhere"}, "key file /nowhere: not there"),
        ({"key": "/etc/hostname"}, "not a key of this program"),
    ],
)
def test_every_failure_is_said_where_amanda_looks_for_it(client: Client, options: dict[str, str], text: str) -> None:
    volume = options.get("volume", "doc")
    places = {name: value for name, value in options.items() if name != "volume"}
    told = client.backup(0, volume=volume, **places)
    assert told.code == 2 and not told.out and not told.err
    assert len(told.messages) == 1 and told.messages[0].startswith("sendbackup: error [") and text in told.messages[0]
    lines = client.estimate(0, 1, volume=volume, **places)
    assert lines[0].startswith("ERROR ") and text in lines[0] and lines[1:] == ["0 -1 -1", "1 -1 -1"]
    check = client.call("selfcheck", "--disk", volume, "--device", volume, **places)
    assert check.code == 0 and not check.err
    assert [text in line for line in check.out.decode().splitlines() if line.startswith("ERROR ")] == [True]
    assert client.nothing_left()


def test_selfcheck_tells_a_misspelt_property_and_a_restore_passes_over_it(client: Client) -> None:
    told = client.call("selfcheck", "--disk", "doc", "--device", "doc", "--clone-aeg", "4h")
    assert b"ERROR unknown property CLONE-AEG" in told.out
    wrong = client.call("selfcheck", "--disk", "doc", "--device", "doc", "--clone-age", "soon")
    assert b"ERROR duration 'soon'" in wrong.out
    limited = client.call("selfcheck", "--disk", "doc", "--device", "doc", "--volumes", "u.*")
    assert b"ERROR volume 'doc' is not among those" in limited.out
    image = client.backup(0).out
    assert client.call("validate", "--disk", "doc", "--level", "0", "--clone-aeg", "4h", stdin=image).code == 0


def test_best_compression_makes_a_smaller_dump_of_the_same_content(client: Client) -> None:
    text = b"".join(path.read_bytes() for path in sorted((SOURCE / "dalsegno").rglob("*.py")))
    (client.user.home / "doc" / "text").write_bytes(text)
    (client.user.home / "doc" / "plan").unlink()
    plain, fast, best = (
        client.backup(0, *words).out for words in ((), ("--compression", "fast"), ("--compression", "best"))
    )
    assert len(fast) == len(plain) and len(best) < 0.9 * len(plain)
    for name, image in (("fast.dump", fast), ("best.dump", best)):
        (client.user.home / name).write_bytes(image)
    client.user.quick("verify", "fast.dump", "best.dump")
    client.user.quick("restore", "best.dump", "--to", "back")
    assert tree(client.user.home / "back") == tree(client.user.home / "doc")
    told = client.backup(0, "--compression", "gzip")
    assert told.code == 2 and not told.out and "property COMPRESSION 'gzip'" in told.messages[0]
    check = client.call("selfcheck", "--disk", "doc", "--device", "doc", "--compression", "none")
    assert b"ERROR property COMPRESSION 'none': expected fast" in check.out


def test_level_above_nine_is_an_error_and_not_a_dump(client: Client) -> None:
    told = client.backup(10)
    assert told.code == 2 and "expected 0 to 9" in told.messages[0] and not told.out and client.nothing_left()


def test_server_that_goes_away_leaves_nothing_recorded(client: Client) -> None:
    (client.user.home / "doc" / "big").write_bytes(os.urandom(8_000_000))
    messages = client.user.home / "messages"
    words = ["sh", "-c", 'exec 3>"$1" 4>/dev/null; shift; exec "$@"', "sh", str(messages)]
    words += client.command("backup", "--disk", "doc", "--device", "doc", "--level", "0", "--index", "line", "--record")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=client.environ())
    assert process.stdout is not None
    assert len(process.stdout.read(100_000)) == 100_000
    process.stdout.close()
    assert process.wait(30) == 2
    assert messages.read_text() == "sendbackup: error [Amanda closed the pipe: nothing is recorded]\n"
    assert client.nothing_left()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_server_that_goes_away_before_it_reads_a_small_dump_leaves_nothing_recorded(client: Client, kind: str) -> None:
    client.backup(0)
    client.user.quick("unclone", "doc@amanda")
    (client.user.home / "doc" / "new").write_text("small enough for the pipe")
    messages = client.user.home / "messages"
    ours: int | socket.socket
    theirs: int | socket.socket
    ours, theirs = os.pipe() if kind == "pipe" else socket.socketpair()
    words = ["sh", "-c", 'exec 3>"$1" 4>/dev/null; shift; exec "$@"', "sh", str(messages)]
    words += client.command("backup", "--disk", "doc", "--device", "doc", "--level", "1", "--index", "line", "--record")
    process = subprocess.Popen(words, stdout=theirs, env=client.environ())
    _close(theirs)
    deadline = time.monotonic() + 60
    while not messages.exists() or "sendbackup: size" not in messages.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    assert process.poll() is None and client.nothing_left(records=1)  # written, and read by nobody
    _close(ours)
    assert process.wait(30) == 2
    assert messages.read_text().endswith("sendbackup: error [Amanda closed the pipe: nothing is recorded]\n")
    assert client.nothing_left(records=1)


def _close(end: int | socket.socket) -> None:
    if isinstance(end, int):
        os.close(end)
    else:
        end.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_application_leaves_nothing_recorded_and_no_lease(client: Client, number: signal.Signals) -> None:
    (client.user.home / "doc" / "big").write_bytes(os.urandom(8_000_000))
    words = ["sh", "-c", 'exec 3>/dev/null 4>/dev/null; exec "$@"', "sh"]
    words += client.command("backup", "--disk", "doc", "--device", "doc", "--level", "0", "--index", "line", "--record")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=client.environ())
    assert process.stdout is not None
    assert len(process.stdout.read(100_000)) == 100_000
    time.sleep(0.1)
    process.send_signal(number)
    process.stdout.read()
    assert process.wait(30) != 0
    assert client.nothing_left() and client.backup(0).code == 0 and client.nothing_left(records=1)


def test_damaged_image_does_not_validate_and_restores_nothing(client: Client) -> None:
    image = bytearray(client.backup(0).out)
    image[len(image) // 2] ^= 1
    told = client.call("validate", "--disk", "doc", "--level", "0", stdin=bytes(image))
    assert told.code == 5 and told.err.startswith(b"amdalsegno: ") and told.err.count(b"\n") == 1
    back = client.user.home / "back"
    back.mkdir()
    cut = client.call("restore", "--disk", "doc", "--level", "0", ".", stdin=bytes(image[:-100]), cwd=back)
    assert cut.code != 0 and not list(back.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_restore_says_what_its_place_could_not_hold(client: Client) -> None:
    """Attributes lost without a word."""
    try:
        os.setxattr(client.user.home / "doc" / "plan", "user.x", b"y")
    except OSError:
        pytest.skip("NOT TESTED: no extended attributes here")
    image = client.backup(0).out
    back = client.user.home / "back"
    back.mkdir()
    if subprocess.run(["mount", "-t", "ramfs", "none", back], check=False).returncode:
        pytest.skip("NOT TESTED: no ramfs can be mounted")
    try:
        told = client.call("restore", "--disk", "doc", "--level", "0", ".", stdin=image, cwd=back)
        assert (told.code, told.out) == (0, b"could not be set: 1 extended attribute\n"), told.err
        assert tree(back) == tree(client.user.home / "doc")
    finally:
        subprocess.run(["umount", back], check=True)


def test_index_of_an_image_is_the_index_of_its_backup(client: Client) -> None:
    doc = client.user.home / "doc"
    for number in range(600):  # more than one leaf of a directory
        (doc / f"stays.{number}").write_bytes(os.urandom(200))
    (doc / "stays").mkdir()
    (doc / "stays" / "here").write_bytes(os.urandom(5000))
    os.link(doc / "plan", doc / "stays" / "plan")
    os.link(doc / "stays" / "here", doc / "stays" / "there")

    def index(image: bytes, level: int) -> list[str]:
        told = client.call("index", "--disk", "doc", "--level", str(level), stdin=image)
        assert told.code == 0 and not told.err
        return told.out.decode().splitlines()

    full = client.backup(0)
    assert index(full.out, 0) == full.index and len(full.index) > 600
    (doc / "d" / "inner").write_bytes(os.urandom(5000))
    (doc / "d" / "short").write_text("in its directory's entry")
    (doc / "stays.77").unlink()
    with open(doc / "stays" / "plan", "ab") as file:
        file.write(b"of two names")
    client.user.quick("unclone", "doc@amanda")
    increment = client.backup(1)
    changed = ["/", "/././", "/d/", "/d/inner", "/d/short", "/plan", "/stays/", "/stays/plan"]
    assert sorted(increment.index) == changed and index(increment.out, 1) == increment.index
    # By itself it tells of the data that it has: not of an inline file, nor of names in a directory that did not change.
    client.pool.rename(client.user.home / "burned")
    alone = index(increment.out, 1)
    assert set(alone) == set(changed) - {"/d/short", "/stays/", "/stays/plan"} and len(alone) == len(set(alone))


def test_discover_gives_the_volumes_of_a_pattern(client: Client) -> None:
    client.user.quick("volume", "create", "other")
    client.user.quick("volume", "create", "dir")
    found = json.loads(b"[" + client.call("discover", "--device", "d*").out + b"]")
    assert [each["dle_name"] for each in found] == ["dir", "doc"] and found[0]["diskname"] == "d*"


def test_a_source_that_is_not_mounted_is_told(client: Client) -> None:
    """Kind: a backup of what is not there counts as good."""
    doc = client.user.home / "doc"
    client.user.run("backup", "doc")
    doc.rename(client.user.home / "away")
    doc.mkdir()
    told = client.backup(0)
    strange = [line for line in told.messages if line.startswith("? ")]
    assert told.code == 0 and len(strange) == 1 and "none now: is everything mounted?" in strange[0], told


def test_unreadable_file_is_told_after_the_data_although_the_estimate_met_it(client: Client) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("!!! needs root and setpriv to meet a file that it may not read")
    (client.user.home / "doc" / "secret").write_text("x")
    (client.user.home / "doc" / "secret").chmod(0o600)
    os.chown(client.user.home / "doc" / "secret", 1234, 1234)
    meek = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    words = client.command("estimate", "--disk", "doc", "--device", "doc", "--level", "0")
    subprocess.run([*meek, *words], check=True, env=client.environ())
    told = client.backup(0)
    strange = [line for line in told.messages if line.startswith("? ")]
    assert told.code == 0 and len(strange) == 1 and "secret" in strange[0]
    assert not [path for path in told.index if "secret" in path]


@pytest.mark.parametrize(
    ("name", "text"),
    [("daily", "property CLONE"), ("amandax", "property CLONE"), ("amanda-mine", "was not made by Amanda")],
)
@pytest.mark.parametrize("command", ["estimate", "backup"])
def test_amandas_user_replaces_no_clone_of_the_owner(client: Client, command: str, name: str, text: str) -> None:
    """Kind of fault: who may start one program for the owner gives it a name of the owner's to write over."""
    client.user.quick("backup", "doc")
    client.user.quick("clone", "doc", name, "--no-scan")
    before = client.state()
    (client.user.home / "doc" / "new").write_text("new")
    words = ["--disk", "doc", "--device", "doc", "--level", "0", "--clone", name, "--clone-age", "0s"]
    told = client.call(command, *words, right="guarded")
    assert text in told.out.decode() + "".join(told.messages)
    if name.startswith("amanda-"):  # the owner himself is kept from it, too
        assert text in client.call(command, *words).out.decode() + "".join(told.messages)
    assert client.state().clones == before.clones


def test_amandas_user_names_clones_of_its_own(client: Client) -> None:
    words = ("--disk", "doc", "--device", "doc", "--level", "0", "--clone", "amanda-weekly", "--clone-age", "0s")
    for _ in range(2):
        assert client.call("estimate", *words, right="guarded").code == 0
    assert set(client.state().clones) == {"amanda-weekly"}
