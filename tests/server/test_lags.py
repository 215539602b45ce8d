"""How far standbys are behind, as Prometheus sees it."""

import os
from pathlib import Path

from http_kit import ask
from served_kit import make_user

from server_kit import start_server


def test_an_origin_says_how_far_its_followers_are_behind(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user) as server:
        site = server.site(server.token("administer"))
        head = site.state("home").head
        site.watch("home", head, seconds=0, follower="s2")
        site.watch("home", b"", seconds=0, follower='s"3\\')
        for number in range(3):
            (user.home / "source" / "new").write_bytes(os.urandom(100 + number))
            user.quick("import", "home", str(user.home / "source"))
        metrics = ask(server, "GET", "/metrics", token=server.token("read"))[2].decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in metrics if not line.startswith("#"))
        assert values['dalsegno_follower_lag_revisions{volume="home",follower="s2"}'] == "3"
        assert values['dalsegno_follower_lag_revisions{volume="home",follower="s\\"3\\\\"}'] == "4"
        assert float(values['dalsegno_follower_lag_seconds{volume="home",follower="s2"}']) >= 0
        site.watch("home", site.state("home").head, seconds=0, follower="s2")
        text = ask(server, "GET", "/metrics", token=server.token("read"))[2].decode()
        assert 'dalsegno_follower_lag_revisions{volume="home",follower="s2"} 0\n' in text
        # A token for another volume hears of none.
        text = ask(server, "GET", "/metrics", token=server.token("read", volumes=("work",)))[2].decode()
        assert "home" not in text
