"""The key of a realm with several servers is changed at one after the other."""

from pathlib import Path

from realm_kit import running_realm


def test_servers_get_a_changed_key_one_after_the_other_and_replicas_meet_again(tmp_path: Path) -> None:
    with running_realm(tmp_path, "s1", "s2") as realm:
        me = realm.client("me")
        files = me.home / "files"
        files.mkdir()
        me.quick("volume", "create", "home", "--replicas", "s1,s2")
        (files / "before").write_text("one")
        me.quick("import", "home", str(files))
        realm.users["s1"].quick("key", "rotate")
        copy = tmp_path / "new.key"
        realm.users["s1"].quick("key", "export", str(copy))
        (files / "between").write_text("two" * 10000)
        done = me.quick("import", "home", str(files))
        assert b"without s2: the pack's key does not open" in done.err, "what s2 cannot read is said, and waits"
        realm.users["s2"].quick("key", "rotate", "--to", str(copy))
        (files / "after").write_text("three" * 10000)
        assert b"s2 was behind" in me.quick("import", "home", str(files)).err
        assert len(realm.heads(me)) == 1
        for name in ("s1", "s2"):
            realm.users[name].quick("verify", "--pool")
            assert realm.users[name].quick("cat", "home:/after").out == b"three" * 10000
            assert realm.users[name].quick("cat", "home:/between").out == b"two" * 10000
