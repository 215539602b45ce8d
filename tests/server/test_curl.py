"""Volumes over plain HTTP: `curl URL | dal verify -`, and a dump sent in and loaded."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from served_kit import Served, make_user

from cli_kit import User, tree
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import NoAccess, NotFound, Refused
from server_kit import start_server

pytestmark = pytest.mark.skipif(not os.access("/usr/bin/curl", os.X_OK), reason="no curl")


def curl(served: Served, *words: str, code: int = 0) -> bytes:
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {served.token}", *words],
        capture_output=True,
        cwd=served.user.home,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def test_a_whole_volume_is_fetched_with_curl_and_verified(served: Served) -> None:
    url = f"{served.server.url}/v1/volumes/home/dump?clone=daily"
    dal = " ".join(served.user.command())
    line = f"set -o pipefail; curl -sS -f -H 'Authorization: Bearer {served.token}' '{url}' | {dal} verify -"
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=served.user.environ({}), cwd=served.user.home)
    assert (done.returncode, done.stdout) == (0, b"-: whole\n"), done.stderr


def test_a_dump_cut_short_is_noticed(served: Served) -> None:
    data = curl(served, f"{served.server.url}/v1/volumes/home/dump")
    (served.user.home / "cut.dump").write_bytes(data[:-1])
    served.user.quick("verify", "cut.dump", code=5)
    (served.user.home / "whole.dump").write_bytes(data)
    served.user.quick("verify", "whole.dump")
    served.user.quick("restore", "whole.dump", "--to", "out")
    assert tree(served.user.home / "out") == tree(served.user.home / "source")


def test_words_of_a_dump(served: Served) -> None:
    url = f"{served.server.url}/v1/volumes/home/dump"
    for query, status in (
        ("clone=nobody", 404),
        ("level=1", 422),
        ("level=10", 400),
        ("base=" + "0" * 32, 404),
        ("base=x", 400),
        ("clone=a%0ab", 400),
    ):
        answer = subprocess.run(
            ["curl", "-s", "-w", "%{http_code}", "-H", f"Authorization: Bearer {served.token}", f"{url}?{query}"],
            capture_output=True,
        ).stdout
        assert answer.endswith(str(status).encode()), (query, answer)


def test_increments_over_http_build_on_recorded_dumps(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user) as server:
        site = server.site(server.token("read"))
        full = user.value("dump", "home@daily", "-o", "full.dump")
        (user.home / "source" / "new").write_bytes(b"something new")
        user.quick("import", "home", str(user.home / "source"))
        (user.home / "one.dump").write_bytes(b"".join(site.dump("home", level=1)))
        (user.home / "two.dump").write_bytes(b"".join(site.dump("home", base=full["dump"])))
        for name in ("one.dump", "two.dump"):
            assert (user.home / name).stat().st_size < 20_000
            user.quick("restore", f"full.dump+{name}", "--to", f"out-{name}")
            assert tree(user.home / f"out-{name}") == tree(user.home / "source")
        assert [one["level"] for one in user.value("volume", "show", "home")["dumps"]] == [0]


def test_a_dump_is_sent_in_and_becomes_a_living_volume(served: Served, tmp_path: Path) -> None:
    other = make_user(tmp_path / "home")
    other.quick("dump", "home@daily", "-o", "full.dump", "--no-record")
    target = User(tmp_path / "target")
    key = other.home / "key"
    other.quick("key", "export", str(key))
    target.quick("init", "--join", str(key), "--encryption", "none")
    with start_server(target) as server:
        served_there = Served(server, server.token("administer"))
        dump_id = os.urandom(16)
        place = f"{server.url}/v1/dumps/{dump_id.hex()}"
        size = (other.home / "full.dump").stat().st_size
        assert json.loads(curl(served_there, "-T", str(other.home / "full.dump"), f"{place}?offset=0")) == {
            "size": size
        }
        body = json.dumps({"dumps": [dump_id.hex()]})
        loaded = json.loads(curl(served_there, "-d", body, f"{server.url}/v1/volumes/back/load"))
        assert loaded["name"] == "back" and "daily" in loaded["clones"]["newest"]
        assert json.loads(curl(served_there, place)) == {"size": 0}
        target.quick("restore", "back@daily", "--to", "out")
        assert tree(target.home / "out") == tree(other.home / "source")
        (target.home / "more").mkdir()
        target.quick("import", "back", str(target.home / "more"))
        # A volume of that name is there: neither the same dump again nor one that was never sent.
        with pytest.raises(NotFound):
            server.site(served_there.token).load("back", [dump_id])


def test_loading_needs_its_rights_and_bytes_that_are_a_dump(served: Served) -> None:
    writer = served.server.site(served.server.token("write"))
    dump_id = os.urandom(16)
    writer.send_dump(dump_id, 0, [os.urandom(1000)])
    with pytest.raises(NotFound, match="administer"):
        writer.load("new", [dump_id])
    with pytest.raises(NoAccess):
        served.server.site(served.server.token("read", "append")).load("new", [dump_id])
    administrator = served.server.site(served.token)
    administrator.send_dump(dump_id, 0, [os.urandom(1000)])
    with pytest.raises(Exception, match="magic"):
        administrator.load("new", [dump_id])
    with pytest.raises(Refused):
        administrator.send_dump(dump_id, 5000, [b"x"])
    assert "new" not in [state.name for state in administrator.states()]


def test_curl_trusts_the_exported_certificate_and_no_other(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, "--export-cert", "backup1.pem", tls=True) as server:
        there = Served(server, server.token("read"))
        url = f"{server.url}/v1/volumes/home/dump"
        assert curl(there, "--cacert", "backup1.pem", url)[:8] == b"DALSEGNO"
        curl(there, url, code=60)


def test_ipv6(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    try:
        server = start_server(user, tls=True, listen="[::1]:0")
    except AssertionError:
        pytest.skip("no IPv6 here")
    with server:
        assert server.url.startswith("https://[::1]:")
        site = RemoteSite(server.url, server.token("read"), fingerprint=server.fingerprint)
        assert site.state("home").name == "home"
        site.close()
