"""What leaves the machine when a run has ended, and what programs of others get to see."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dalsegno.actions.hooks import run_hooks
from dalsegno.actions.notify import send
from dalsegno.backup.policy import Notify
from dalsegno.world.programs import run_program


class Answering(HTTPServer):
    """A server that leads everybody elsewhere, or answers 200, and remembers who asked."""

    def __init__(self, leads_to: str = "") -> None:
        self.leads_to = leads_to
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Answer(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.asked.append(self.command)
        self.send_response(302 if self.server.leads_to else 200)
        if self.server.leads_to:
            self.send_header("Location", self.server.leads_to)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def servers() -> Iterator[tuple[Answering, Answering]]:
    """A webhook's server, and another that it leads to."""
    inside = Answering()
    outside = Answering(leads_to=inside.url + "admin")
    for server in (inside, outside):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield outside, inside
    for server in (inside, outside):
        server.shutdown()
        server.server_close()


def test_a_webhook_does_not_choose_what_this_machine_asks(servers: tuple[Answering, Answering]) -> None:
    outside, inside = servers
    (problem,) = send(Notify(webhook=outside.url), subject="s", lines=["l"], value={})
    assert "302" in problem and "not followed" in problem and inside.url in problem
    assert outside.asked == ["POST"] and inside.asked == []
    assert send(Notify(webhook=inside.url), subject="s", lines=["l"], value={}) == []


def test_programs_do_not_get_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_PASSPHRASE", "open sesame")
    monkeypatch.setenv("DAL_PASSPHRASE_FILE", "/etc/dal.pass")
    run_hooks([f"env > {tmp_path}/env"], name="before", environment={"DAL_VOLUME": "v"}, timeout_seconds=30)
    seen = (tmp_path / "env").read_text()
    assert "DAL_VOLUME=v" in seen and "DAL_PASSPHRASE_FILE" in seen and "sesame" not in seen
    assert b"sesame" not in run_program(["env"]).output
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\ncat > /dev/null\n")
    sendmail.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert send(Notify(mail_to=("root",)), subject="s", lines=["l"], value={}) == []
    assert "sesame" not in (tmp_path / "env").read_text()
