"""docs/guides/old-files.md, as typed, by somebody with volumes that have a past."""

import os
import shutil
from dataclasses import replace

import pytest
from guide_house import PERSON, ROOT
from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/old-files.md",
    before=f"""
        mkdir -p ~/home/letters ~/.dal/bin ~/dalsegno
        cp "$(command -v dal)" ~/.dal/bin; cp -r {ROOT}/share ~/dalsegno; cd ~/dalsegno
        echo offer > ~/home/letters/offer.txt; echo plan > ~/home/plan.txt
        [ "$USER" != root ] || export DAL_POOL=/backup/pool
        DAL_NOW=2026-10-03T02:00:00Z dal backup ~/home
        DAL_NOW=2026-11-20T02:00:00Z dal backup ~/home
        DAL_NOW=$(date -u -d yesterday +%FT02:00:00Z) dal backup ~/home
        dal dump home --level 0 -o full.dump
        echo more > ~/home/more
        dal backup ~/home
        dal dump home --level 1 -o incr1.dump
        dal key export pool.key
        dal volume create proj
        dal volume create u.hmpierce; dal import u.hmpierce ~/home
        dal clone u.hmpierce backup""",
    between={
        "dal umount work": """
            for path in october/letters letters all/home chain/more full/letters; do ls $path; done
            echo new > work/new
            for place in october letters chain full all; do dal umount $place; done""",
        "umount /srv/old": "cat /srv/old/more",
    },
    after="""
        [ "$(cat offer.txt)" = offer ] && [ "$(dal cat proj:/new)" = new ]
        for place in old work; do dal umount $place; done""",
)
can_mount = pytest.mark.skipif(
    not os.path.exists("/dev/fuse"), reason="!!! no /dev/fuse: the guide of mounts IS NOT TRIED"
)


@can_mount
def test_as_typed() -> None:
    follow(SCENE)


@can_mount
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="!!! no fusermount3: users' mounts ARE NOT TRIED")
def test_as_typed_by_an_ordinary_user() -> None:
    reason = "for root only"
    left_out = dict.fromkeys(("cp share/mount.dal", "ln -s ~/.dal", "mkdir /srv/old", "mount /srv/old"), reason)
    follow(
        replace(
            SCENE,
            left_out=left_out,
            between={"dal umount work": SCENE.between["dal umount work"]},
            only_read={"home@latest   /srv": reason},
        ),
        person=PERSON,
    )
