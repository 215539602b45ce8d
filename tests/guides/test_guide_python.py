"""docs/guides/python.md: its programs run, one after the other, by somebody with the pool and volume that they name."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/python.md",
    before="""
        export DAL_POOL=/backup/pool
        mkdir -p ~/home/doc
        echo plan > ~/home/doc/plan.txt
        DAL_NOW=2026-10-03T02:00:00Z dal backup ~/home
        DAL_NOW=$(date -u -d yesterday +%FT02:00:00Z) dal backup ~/home""",
    after='[ "$(cat /tmp/back/doc/plan.txt)" = plan ]',
)


def test_programs_run_as_they_stand() -> None:
    printed = follow(SCENE)
    assert any("plan.txt' 5" in line for line in printed) and any(line.startswith("not-found ") for line in printed), (
        printed
    )
