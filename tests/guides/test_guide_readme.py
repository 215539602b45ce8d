"""README.md, as typed: the recording; then from a clone of the project to a backup that was restored, and the server's libraries."""

import pytest
from guide_house import PERSON, ROOT
from guide_kit import Scene, follow

CLONE = " ".join(f"{ROOT}/{name}" for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml", "src"))
SCENE = Scene(
    page="README.md",
    network=True,
    before=f"""
        mkdir -p ~/documents/letters ~/dalsegno; for name in offer reply; do echo draft > ~/documents/letters/$name.txt; done
        cp -r {CLONE} ~/dalsegno; rm -rf ~/dalsegno/src/*.egg-info; cd ~/dalsegno""",
    between={
        "dal backup ~/documents --name final": "echo final > ~/documents/letters/offer.txt",
        "python3 -m venv": """
            PATH=${PATH#*:}  # the recording is over: no dal yet, and no pool
            rm -rf ~/.local ~/.config ~/.cache ~/*.dump ~/back; echo offer > ~/documents/letters/offer.txt""",
        "dal backup ~/documents\n": "export DAL_NOW=$(date -u -d '+1 day' +%FT%TZ); echo better > ~/documents/letters/offer.txt",
    },
    after="""
        diff -r ~/documents/letters /tmp/back/letters && exit 1
        [ "$(cat /tmp/back/letters/offer.txt /tmp/one/letters/offer.txt /tmp/yesterday/letters/offer.txt offer.txt | uniq)" = offer ]
        [ "$(command -v dal)" = ~/.dal/bin/dal ]
        ~/.dal/bin/pip install -q '.[server]'""",
    left_out={"make try": "takes its own time: scripts/try.sh", "make test": "this is it"},
)  # fmt: skip


@pytest.mark.slow
def test_as_typed() -> None:
    follow(SCENE, person=PERSON)
