"""docs/guides/replicated-site.md, as typed: one machine, three servers and more, what the story says happens to them."""

import os

import pytest
from guide_kit import Scene, follow

PEOPLE = r"""
port() { case $1 in ro*) echo 843${1#ro} ;; *) echo 842${1#s} ;; esac; }
await() { for i in $(seq 600); do curl -skf https://127.0.0.1:$(port $1)/health > /dev/null && return; sleep 0.1; done; false; }
serve() { for n; do dal --pool /srv/$n serve --listen 127.0.0.1:$(port $n) >> /srv/$n.log 2>&1 & done; for n; do await $n; done; }
fresh() {
    for n; do
        [ -e /srv/$n ] || dal --pool /srv/$n init --join /media/stick/realm.key
        dal --pool /srv/$n serve --realm sqlite:////srv/directory.db --name $n --listen 127.0.0.1:$(port $n) >> /srv/$n.log 2>&1 &
        await $n
    done
}
end() {
    for n; do
        for pid in /proc/[0-9]*; do
            tr '\0' ' ' < $pid/cmdline | grep -q -- "--pool /srv/$n serve" && kill -9 ${pid#/proc/} || true
        done
    done
}
write() { dal mount home ~/home; echo "$1" > ~/home/"$1"; sync ~/home/"$1"; dal umount ~/home; }
"""

SCENE = Scene(
    page="docs/guides/replicated-site.md",
    before=f"mkdir -p /media/stick /media/usb ~/home ~/doc; echo plan > ~/doc/plan.txt {PEOPLE}",
    between={
        "dal ls -l home ": """
            mkdir /home/bob; join=$(dal --pool /srv/s1 token add --right administer | tail -1)
            HOME=/home/bob dal realm join "$join"
            end s2 s3; echo "of Ada" > ~/home/plan.txt; echo ada > ~/home/ada; sync ~/home/ada ~/home/plan.txt
            end s1; serve s2 s3
            mkdir /tmp/bob; HOME=/home/bob dal mount home /tmp/bob
            echo "of Bob" > /tmp/bob/plan.txt; echo bob > /tmp/bob/bob; sync /tmp/bob/bob /tmp/bob/plan.txt
            HOME=/home/bob dal umount /tmp/bob; dal umount ~/home || dal umount --lazy ~/home
            serve s1""",
        "dal dump home@tuesday": "write tuesday; dal clone home tuesday",
        "dal realm join 'dal://…'": """
            end s1 s2 s3; rm -rf /srv/s* /srv/directory.db ~/.config/dalsegno/realms ~/.cache
            dal --pool /srv/s1 init --join /media/stick/realm.key
            dal --pool /srv/s1 realm init --db sqlite:////srv/directory.db --name site
            fresh s1 s2 s3; dal --pool /srv/s1 token add --right administer""",
        "dal replica add home s4     ": "write monday; fresh s4 s5",
        "dal release home@friday": "fresh ro1 ro2",
        "dal promote home --server s2": "end s1",
        "dal promote home --server s1": """
            serve s1
            for i in $(seq 100); do dal follow home --status | grep -qE '^s1 .* 0 +[0-9.]+ +0$' && break; sleep 0.2; done""",
        "dal move home s1 s6": "fresh s6",
        "dal replica add home s7 --seed": "fresh s7; cp home.0.dump /media/usb/home.full.dump; cp home.1.dump /media/usb",
    },
    after="""
        [ "$(dal cat home@tuesday:/tuesday)" = tuesday ] && [ "$(dal cat home:/monday)" = monday ]
        [ "$(dal cat home:/doc/plan.txt)" = plan ]; dal replica check home --deep""",
    only_read={"[sets.homes]": "a part of a policy"},
)
can_mount = pytest.mark.skipif(
    not os.path.exists("/dev/fuse"), reason="!!! no /dev/fuse: the guide of a replicated site IS NOT TRIED"
)


@can_mount
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(900)
def test_as_typed() -> None:
    follow(SCENE)
