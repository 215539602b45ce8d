"""The bench of hostile clients (bench/hostile.py) in small: all kinds at once, and an honest client beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "hostile.py"
PEAK_MIB_MAX = {False: 150, True: 250}
"""With TLS each connection has some 60 KiB more, and the harm comes with hundreds."""


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "tls"])
def test_all_kinds_of_harm_at_once_leave_an_honest_client_its_answers(tmp_path: Path, tls: bool) -> None:
    words = ["--seconds", "1", "--revisions", "2000", "--files", "8", "--patience", "120", *(["--tls"] if tls else [])]
    done = subprocess.run(
        [sys.executable, str(BENCH), str(tmp_path / "bench"), *words],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)["all at once"]
    print(found)
    assert found["failed"] == 0 and found["calls"] >= 30
    assert found["peak_mib"] < PEAK_MIB_MAX[tls]
    log = (tmp_path / "bench" / "server.log").read_text()
    assert "Traceback" not in log and '"crash"' not in log
