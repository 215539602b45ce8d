"""`make try`: it ends well on any directory that a person names, and says what it left out."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "try.sh"
READS_NO_MORE_THAN_ITS_OWN = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.slow  # a whole tour: some fifteen commands
def test_try_goes_on_around_what_the_user_may_not_read(tmp_path: Path) -> None:
    """Kind: one entry that cannot be read ends everything, without a word (/etc, for everybody but root)."""
    tree = tmp_path / "etc"
    for number in range(60):
        (tree / f"d{number % 7}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{number % 7}" / f"f{number}").write_text(f"{number}\n")
    (tree / "d3" / "locked").mkdir()
    (tree / "secret").write_text("secret\n")
    with (tree / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 201 << 20)
    (tree / "d5").chmod(0o555)
    for path in (tree / "d3" / "locked", tree / "secret"):
        path.chmod(0)
    done = subprocess.run(
        [*(READS_NO_MORE_THAN_ITS_OWN if os.getuid() == 0 else []), "bash", SCRIPT, tree],
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    (tree / "large").unlink()
    said = done.stdout.decode()
    assert done.returncode == 0 and said.endswith("\nno difference\n"), (done.returncode, said, done.stderr)
    told = said[said.index("NOT copied") : said.index("1. The first backup")]
    assert "  large  (20" in told and "  secret  (a socket, or not readable for you)\n" in told
    assert "  d3  (a part of it could not be copied)\n" in told
