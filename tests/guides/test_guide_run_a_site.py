"""docs/guides/run-a-site.md, as typed: two homes, two projects and the mail, on plain directories in the place of disks."""

from guide_kit import ROOT, Scene, follow

LOSE = "rm -rf $place; mkdir $place"
SCENE = Scene(
    page="docs/guides/run-a-site.md",
    before=f"""
        rm -rf /home/reader /var/mail; mkdir -p /home/ann/letters /home/bob /srv/projects/sky /srv/projects/sea /var/mail
        mkdir -p /mnt/disk-a /mnt/disk-b /nfs/g1 /nfs/g2 /nfs/g3 /nfs/g4 /nfs/g5 /media/stick ~/.dal/bin
        echo "the first offer" > /home/ann/letters/offer.txt; head -c 300000 /dev/urandom > /home/bob/pictures
        for place in /srv/projects/sky /srv/projects/sea /var/mail; do echo $place > $place/file; done
        ln -s {ROOT}/share share""",
    between={
        "dal plan --check": "sed -i s/^cycle_days/cycle_day/ /etc/dalsegno.toml",
        "dal init": "sed -i s/^cycle_day/cycle_days/ /etc/dalsegno.toml; dal plan --check",
        "dal media lost disk-a": f"for place in /mnt/disk-a /nfs/g2 /nfs/g4; do {LOSE}; done",
        "dal media label /mnt/disk-a disk-c": """
            cmp /tmp/day5/pictures /home/bob/pictures && [ "$(wc -l < /home/ann/diary)" = 14 ]
            [ "$(cat /tmp/day3/letters/offer.txt)" = "the first offer" ]
            [ "$(dal --json clones ann | grep -c '"clone"')" = 7 ]""",
        "cp /media/stick": """
            cp -a /home /tmp/homes; rm -rf /srv/pool /var/lib/dalsegno /home/* /etc/dalsegno.key ~/.cache ~/.config""",
    },
    after="diff -r --no-dereference /tmp/homes /home && dal backup --set all && dal drill",
    left_out={"systemctl enable": "no systemd in a namespace"},
    only_read={"/etc/dalsegno.toml: 9 days": "what a plan looks like on another day"},
)


def test_as_typed() -> None:
    follow(SCENE)
