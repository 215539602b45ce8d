"""docs/guides/amanda.md, as typed: the real Amanda, from its first configuration to files that came back, and a server's volume."""

import shutil

import pytest
from guide_kit import Scene, follow

MISSING = [
    name
    for name in ("amdump", "amcheck", "amrecover", "amfetchdump", "sudo", "runuser", "curl")
    if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None
]
TIMES = "$(asb amadmin daily find localhost '^home$' | awk '$4 == \"home\" { print $1 $2 }' | tr -d ':-' | sort | sed -n %dp)"
SERVER = """
    dal --pool /srv/s1 init; dal --pool /srv/s1 realm init --db sqlite:////srv/directory.db --name site
    dal --pool /srv/s1 serve --realm sqlite:////srv/directory.db --name s1 --listen backup1:8420 > /srv/s1.log 2>&1 &
    for i in $(seq 300); do curl -skf https://backup1:8420/health > /dev/null && break; sleep 0.1; done
    dal --pool /srv/s1 token add --right administer"""
SHARED = """
    cd /root
    mkdir shared; head -c 100000 /dev/urandom > shared/big
    dal volume create //site/shared --replicas s1; dal import //site/shared shared"""

SCENE = Scene(
    page="docs/guides/amanda.md",
    before="""
        rm -rf /etc/amanda/* /var/lib/amanda/daily /var/log/amanda/*/daily
        mkdir -p /home/letters /mnt/card ~/.dal/bin; cp "$(command -v dal)" ~/.dal/bin
        echo offer > /home/letters/offer.txt; head -c 100000 /dev/urandom > /home/big
        head -c 100000 /dev/urandom > /mnt/card/p1.jpg""",
    between={
        "dal unclone home@amanda": "echo 'better offer' > /home/letters/offer.txt",
        "asb amfetchdump -a -p daily localhost '^home$' 20261121020000": """
            [ "$(cat /tmp/back/letters/offer.txt)" = 'better offer' ]""",
        "dal realm join": SERVER,
        "dal amanda disklist '//site/*'": SHARED,
    },
    after="""
        diff -r /home /tmp/home
        [ "$(tail -1 /etc/amanda/daily/disklist)" = 'localhost shared dalsegno-site' ]
        asb amcheck -c daily
        asb amdump daily
        asb amadmin daily find localhost '^shared$' | grep -q 'shared *0 .* OK'
        head -c 20000 /dev/urandom > shared/new; dal import //site/shared shared; dal unclone //site/shared@amanda
        asb amadmin daily force-level-1 localhost shared; asb amdump daily
        fetch() { asb amfetchdump -a -p daily localhost '^shared$' $(asb amadmin daily find localhost '^shared$' |
            awk -v level=$1 '$4 == "shared" && $5 == level { print $1 $2 }' | tr -d ':-') < /dev/null; }
        fetch 0 > shared.0; fetch 1 > shared.1
        dal --pool /srv/s1 restore shared.0+shared.1 --to /tmp/shared; diff -r shared /tmp/shared
        cksum /etc/amanda/daily/*.conf > sums; dal amanda install --config daily; cksum /etc/amanda/daily/*.conf | diff sums -
        dal-out home 0 > home.0.bpipe; dal-out home 1 | dal-in home.1.bpipe
        dal merge -o bpipe.dump home.0.bpipe home.1.bpipe; dal restore bpipe.dump --to /tmp/bpipe; diff -r /home /tmp/bpipe
        ! dal-out nobody 0 > nothing; [ ! -s nothing ]""",
    left_out={"apt-get install": "`make test INSTALL=1` does that"},
    only_read={"# Bacula; bacula-fd.conf": "Bacula's configuration"},
    answers={"amrecover -C daily": "sethost localhost"},
    instead={
        "20261121020000": TIMES % 1,
        "20261122020000": TIMES % 2,
        "extract\n": "extract\ny\ny\n",
    },
)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(MISSING), reason=f"!!! Amanda is not here ({', '.join(MISSING)}): its guide IS NOT TRIED")
def test_as_typed() -> None:
    printed = "\n".join(follow(SCENE))
    assert "tried as backup: it answers" in printed and "0 problems found" in printed
