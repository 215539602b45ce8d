"""The OpenAPI page, and schemathesis against a real server: no crash, and answers as the page says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from http_kit import ask
from served_kit import Served, make_user

from dalsegno.replicas.calls import CALLS
from dalsegno.replicas.contract import Site
from server_kit import start_server

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
EXAMPLES = int(os.environ.get("DAL_TEST_EXAMPLES", "25"))
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]


def test_the_page_lists_every_call(served: Served) -> None:
    status, _, body = ask(served.server, "GET", "/openapi.json")
    page = json.loads(body)
    assert status == 200 and page["openapi"].startswith("3.1")
    operations = {one["operationId"] for path in page["paths"].values() for one in path.values()}
    assert operations == {call.name for call in CALLS}
    for name in (name for name in vars(Site) if not name.startswith("_") and name != "name"):
        assert name in operations, name
    text = json.dumps(page)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in page["components"]["schemas"]


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="no schemathesis")
@pytest.mark.parametrize("volume", ["", "home"])
def test_schemathesis_finds_nothing(tmp_path: Path, volume: str) -> None:
    seed = int(os.environ.get("DAL_TEST_SEED", int.from_bytes(os.urandom(4), "big")))
    user = make_user(tmp_path / "home")
    # Its own list lacks 413: a list of more items than are allowed may be a body of more bytes, too.
    settings = f"[checks]\nnegative_data_rejection.expected-statuses = {REFUSED}\n"
    if volume:
        settings += f'[parameters]\n"path.volume" = "{volume}"\n'
    (tmp_path / "schemathesis.toml").write_text(settings)
    with start_server(user, "--rate", "1000000") as server:
        token = server.token("administer")
        words = [
            str(SCHEMATHESIS),
            "run",
            f"{server.url}/openapi.json",
            *("-H", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(seed)),
            *("--exclude-operation-id", "watch", "--exclude-operation-id", "remove" if volume else "metrics"),
            *("--request-timeout", "30"),
        ]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"seed {seed}\n{done.stdout[:6000]}{done.stdout[-4000:]}{done.stderr[-2000:]}"
        assert not [line for line in server.log() if line["event"] in ("crash", "cut")]
        assert {line["status"] for line in server.log() if line["event"] == "request"} >= {200, 400, 401, 404, 405}
