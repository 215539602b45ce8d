"""Deep histories, large states, long waits: what a token may ask for costs who asks, not who answers."""

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest
from forge_kit import Forge
from http_kit import ask, connect, read_answer
from served_kit import Served

from cli_kit import User
from dalsegno.formats import objects
from dalsegno.pool.pool import Pool
from dalsegno.replicas import keeper as keepers
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import Diverged, NotFound, Refused
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.workers import Workers
from kit import REALM
from server_kit import Server, start_server

DEEP = 10_000


def cpu_ticks(server: Server) -> int:
    """Return how much work a server has done."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def send_history(site: RemoteSite, name: str, count: int) -> list[bytes]:
    """Make a volume with a past of so many revisions, and return them."""
    volume = os.urandom(16)
    site.create(VolumeState(id=volume, name=name, kind=NATIVE, source=b"", created_ns=1))
    forge = Forge(site)
    root = forge.put(objects.KIND_DIRECTORY, objects.DirectoryLeaf([]))
    line: list[bytes] = []
    for number in range(count):
        line.append(forge.revision(volume, root, parents=line[-1:], created_ns=number + 1))
    upload, data = forge.pack()
    site.upload(name, upload, 0, [data])
    site.adopt(name, [upload])
    return line


def test_who_asks_about_a_deep_past_again_and_again_makes_the_server_walk_once(tmp_path: Path) -> None:
    """The kind of fault: a question that costs who answers more than who asks."""
    user = User(tmp_path / "home")
    Pool.create(user.home / "pool", encryption="none", realm=REALM).close()
    with start_server(user) as server:
        site = server.site(server.token("administer"))
        line = send_history(site, "deep", DEEP)
        assert site.advance("deep", line[-1]).head == line[-1]  # an honest one, however far it goes
        enemy = server.token("append")
        before = cpu_ticks(server)
        self_made = server.site(enemy)
        with pytest.raises(NotFound):
            self_made.advance("deep", bytes(32))
        once = cpu_ticks(server) - before
        before = cpu_ticks(server)

        def attack() -> None:
            own = server.site(enemy)
            for number in range(10):
                for absent in (os.urandom(32), bytes(31) + bytes([number])):
                    with pytest.raises(NotFound):
                        own.advance("deep", absent)
                assert own.advance("deep", line[number]).head == line[-1]

        threads = [threading.Thread(target=attack) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        often = cpu_ticks(server) - before
        print(f"once {once}, 120 times {often}")
        assert often < 20 * max(once, 10)

        # The owner goes on, also after he was away for long.
        forge = Forge(site)
        root = forge.put(objects.KIND_DIRECTORY, objects.DirectoryLeaf([]))
        volume, more = site.state("deep").id, [line[-1]]
        for number in range(1500):
            more.append(forge.revision(volume, root, parents=more[-1:], created_ns=DEEP + number + 1))
        aside = forge.revision(volume, root, parents=[line[2000]], created_ns=DEEP + 5000)
        upload, data = forge.pack()
        assert site.commit("deep", more[-1], upload, [data]).head == more[-1]
        with pytest.raises(Diverged):
            site.advance("deep", aside)


def test_a_watch_whose_token_was_revoked_is_told_nothing_more(served: Served) -> None:
    """The kind of fault: who may ask is looked at when the question comes, and not when the answer goes."""
    server, admin = served.server, served.server.site(served.token)
    token = server.token("read")
    admin.create(VolumeState(id=bytes(16), name="told", kind=NATIVE, source=b"", created_ns=1))
    with connect(server) as sock:
        sock.sendall(
            f"GET /v1/volumes/told/watch?seconds=300 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        while b"dalsegno_watches_running 1\n" not in ask(server, "GET", "/metrics", token=served.token)[2]:
            pass
        served.user.quick("token", "revoke", token.split("_")[1])
        forge = Forge(admin)
        head = forge.revision(bytes(16), forge.put(objects.KIND_DIRECTORY, objects.DirectoryLeaf([])))
        upload, data = forge.pack()
        assert admin.commit("told", head, upload, [data]).head == head
        status, _, body = read_answer(sock)
    assert status == 401 and head.hex().encode() not in body


def test_hundreds_who_follow_from_one_address_are_told_whatever_strangers_do(served: Served) -> None:
    server, admin = served.server, served.server.site(served.token)
    admin.create(VolumeState(id=bytes(15) + b"f", name="followed", kind=NATIVE, source=b"", created_ns=1))
    token = server.token("read")
    ask_on = f"GET /v1/volumes/followed/watch?seconds=300 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(200)]
        for sock in socks:
            sock.sendall(ask_on.encode())
        while b"dalsegno_watches_running 200\n" not in ask(server, "GET", "/metrics", token=served.token)[2]:
            pass
        for _ in range(200):
            stack.enter_context(connect(server))
        forge = Forge(admin)
        root = forge.put(objects.KIND_DIRECTORY, objects.DirectoryLeaf([]))
        head = forge.revision(bytes(15) + b"f", root)
        upload, data = forge.pack()
        assert admin.commit("followed", head, upload, [data]).head == head
        for sock in socks:
            assert json.loads(read_answer(sock)[2])["head"] == head.hex()


def test_a_record_with_a_path_like_a_book_is_refused(served: Served) -> None:
    record = {
        "dump_id": "00" * 16,
        "level": 0,
        "revision": served.server.site(served.token).state("home").head.hex(),
        "base_dump": "",
        "taken_at_ns": 1,
        "size_bytes": 1,
    }
    for more in ({"path": "x" * 1_900_000}, {"path": "x", "recorder": "y" * 1_900_000}):
        token = served.server.token("write")
        body = json.dumps({**record, **more}).encode()
        assert ask(served.server, "POST", "/v1/volumes/home/record", token=token, body=body)[0] == 400


def test_a_state_does_not_grow_without_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of fault: what each may add to has no bound as a whole."""
    monkeypatch.setattr(keepers, "STATE_BYTES_MAX", 20_000)
    Pool.create(tmp_path / "a", encryption="none", realm=REALM).close()
    with Workers(1) as workers, Pool.open(tmp_path / "a") as pool:
        keeper = Keeper("a", pool, Volumes(pool), workers=workers, clock=lambda: 5, scratch=tmp_path / "a" / "uploads")
        keeper.create(VolumeState(id=bytes(16), name="home", kind=NATIVE, source=b"", created_ns=1))
        clone = Clone(revision=bytes(32), created_ns=1)
        with pytest.raises(Refused, match=r"19\.5 KiB"):
            for number in range(1000):
                keeper.unclone("home", f"{number}" * 30, clone)
        state = keeper.state("home")
        assert len(state.uncloned) > 20
        keeper.agree("home", b"", uncloned={name: [clone] for name in list(state.uncloned)[:5]})  # less is no matter
        assert len(keeper.state("home").uncloned) == len(state.uncloned) - 5
        with pytest.raises(Refused, match="too many bytes"):
            keeper.create(
                VolumeState(
                    id=bytes(15) + b"2",
                    name="big",
                    kind=NATIVE,
                    source=b"",
                    created_ns=1,
                    settings={"note": "x" * 30_000},
                )
            )
