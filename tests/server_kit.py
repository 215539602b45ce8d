"""Servers for tests: real `dal serve` processes on loopback, with their logs in files.

server = start_server(user)                      # over user's pool; port chosen by the system
site = server.site(server.token("administer"))   # a RemoteSite
server.stop()                                    # or server.kill(): -9
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli_kit import User
from dalsegno.formats.join import Join, parse_join
from dalsegno.replicas.remote import RemoteSite

STOP_SECONDS = 60
_MAIN = "import sys; from dalsegno.cli.main import main; sys.exit(main())"


@dataclass
class Server:
    """A running `dal serve`."""

    user: User
    process: subprocess.Popen[bytes]
    log_path: Path
    name: str
    url: str
    fingerprint: str
    sites: list[RemoteSite] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def token(self, *rights: str, volumes: tuple[str, ...] = ("*",), **environment: str) -> str:
        """Return a new token's text."""
        words = [word for right in rights for word in ("--right", right)]
        words += [word for volume in volumes for word in ("--volume", volume)]
        return str(json.loads(self.user.run("--json", "token", "add", *words, **environment).out)["token"])

    def join(self, token: str) -> Join:
        return Join(
            host="127.0.0.1",
            port=self.port,
            name=self.name,
            fingerprint=self.fingerprint,
            token=token,
            tls=self.url.startswith("https"),
        )

    def site(self, token: str, **options: Any) -> RemoteSite:
        site = RemoteSite.from_join(self.join(token), **options)
        self.sites.append(site)
        return site

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]

    def is_running(self) -> bool:
        return self.process.poll() is None

    def memory_peak_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def stop(self) -> int:
        """End it as a service manager does, and return its exit code."""
        self._close_sites()
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._close_sites()
        self.process.kill()
        self.process.wait()

    def _close_sites(self) -> None:
        for site in self.sites:
            site.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        text = self.log_path.read_text()
        assert '"event": "crash"' not in text and "Traceback" not in text, text[-4000:]


def start_server(
    user: User,
    *words: str,
    name: str = "s1",
    tls: bool = False,
    listen: str = "127.0.0.1:0",
    prefix: tuple[str, ...] = (),
    limits: dict[str, float] | None = None,
    **environment: str,
) -> Server:
    """Start `dal serve` over a user's pool and return it when it answers.

    `prefix`: `ip netns exec ...` and the like. `limits`: other values for names in server/limits.py.
    """
    log_path = user.home / f"serve-{name}.log"
    begin = user.command()
    if limits:
        settings = "; ".join(f"limits.{key} = {value}" for key, value in limits.items())
        begin = [sys.executable, "-c", f"from dalsegno.server import limits; {settings}; {_MAIN}"]
    command = [*prefix, *begin, "--json", "serve", "--listen", listen, "--name", name]
    command += [] if tls else ["--no-tls"]
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            [*command, *words],
            cwd=user.home,
            env=user.environ(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip() == b"}":
            break
    if not lines or process.poll() is not None:
        process.wait()
        raise AssertionError(f"dal serve ended: {log_path.read_text()[-2000:]}")
    ready = json.loads(b"".join(lines))
    join = parse_join(ready["join"])
    return Server(
        user=user,
        process=process,
        log_path=log_path,
        name=ready["name"],
        url=ready["url"],
        fingerprint=join.fingerprint,
    )


def end_all(servers: list[Server]) -> None:
    """End servers whatever state they are in."""
    for server in servers:
        with contextlib.suppress(OSError):
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
