"""docs/guides/archive-and-drills.md, as typed, on a machine with two disks that has been backed up for a week."""

from pathlib import Path

from guide_kit import ROOT, Scene, follow
from guide_page import Block, read_page

from dalsegno.actions.policy import examine_policy

PAGE = "docs/guides/archive-and-drills.md"
SCENE = Scene(
    page=PAGE,
    before="""
        mkdir -p /home/ann/letters /mnt/backup-a /mnt/backup-b /mnt/tars /nfs/d /nfs/e /srv/a /srv/b /srv/c /media/stick
        mkdir -p /var/lib/node_exporter
        rm -rf /home/reader
        dal --key /etc/dalsegno.key init /srv/pool
        cp /etc/dalsegno.key /media/stick""",
    between={
        "dal history ann": """
            for day in 6 5 4 3 2 1 0; do
                echo "the offer of $day days ago" > /home/ann/letters/offer.txt
                DAL_NOW=$(date -u -d "$day days ago" +%FT00:00:01Z) dal -q backup --set all
            done""",
        "dal media lost week-1": "rm /mnt/backup-a/dumps/*.1.* || true",
        "dal archive repair grid": "ls /srv/a/dumps > /tmp/shares",
        "dal drill": """
            [ "$(cat /tmp/back/letters/offer.txt)" = "the offer of 3 days ago" ]
            [ "$(cat /tmp/letter/letters/offer.txt)" = "the offer of 3 days ago" ] && ls /tmp/dumps/*.dump
            [ "$(ls /nfs/d/dumps | wc -l)" = "$(ls /srv/b/dumps | wc -l)" ]""",
        "export DAL_KEY": "rm -rf /srv/pool /var/lib/dalsegno /home/* /etc/dalsegno.* /root/.cache",
    },
    after="[ \"$(cat /home/ann/letters/offer.txt)\" = 'the offer of 0 days ago' ]",
    left_out={"mount /dev/sd": "no disks: their mount points are plain directories"},
    only_read={"[targets.cloud]": "another program, which is read by the test below"},
)


def test_as_typed() -> None:
    follow(SCENE)


def test_targets_of_the_page_are_taken_by_the_policys_reader(tmp_path: Path) -> None:
    """Kind: a checker refuses what a guide says."""
    blocks = [step.text for step in read_page(ROOT / PAGE) if isinstance(step, Block) and step.language == "toml"]
    assert len(blocks) == 2
    (tmp_path / "site.toml").write_text("\n".join(blocks))
    assert examine_policy(tmp_path / "site.toml")[1] == []
