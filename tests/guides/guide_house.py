"""A machine to follow a guide on: this one, with everything that is written gone afterwards.

A private mount namespace with an overlay over the root, empty /home, /srv, /mnt, /media, /nfs, /tmp and /root, a network, process
numbers and a host name (backup1) of its own. One shell lives in it; each step is sourced by it, so that directories, variables, functions and jobs
stay, as they do at a terminal. Nothing outlives `close`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kit import readable

ROOT = Path(__file__).parents[2]
STEP_SECONDS_MAX = 240
PERSON = "reader"
EMPTY = ("home", "srv", "mnt", "media", "nfs", "tmp", "root", "backup")

_SETUP = r"""
set -e
work=$1 control=$2 person=$3; shift 3
if [ "$NETWORK" != host ]; then
    ip link set lo up
    # With no address but its own loopback a machine resolves no names.
    if ip link add lan type dummy || ip link add lan type veth; then
        ip addr add 192.0.2.1/24 dev lan
        ip link set lan up
    fi
fi
hostname backup1
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"
for name in EMPTY; do
    mkdir -p "$name"
    mount -t tmpfs -o mode=755,size=64g tmpfs "$name"
done
chmod 1777 tmp
# The project, its Python and the steps stay where they are.
for path in "$control" "$@"; do
    if [ "$path" != "$control" ] && [ -e ".$path" ]; then continue; fi
    mkdir -p ".$path"
    mount --rbind "$path" ".$path"
done
mount --rbind /dev dev
# As it is where udev runs: everybody may use it.
if [ -e dev/fuse ]; then
    mknod -m 666 "$work/fuse" c 10 229
    mount --bind "$work/fuse" dev/fuse
fi
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock old
pivot_root . old
cd /
mount -t proc proc proc
umount -l /old
rmdir /old
printf '127.0.1.1 backup1\n' >> /etc/hosts
printf '%s:x:4242:4242::/home/%s:/bin/bash\n' "$person" "$person" >> /etc/passwd
printf '%s:x:4242:\n' "$person" >> /etc/group
install -d -o 4242 -g 4242 "/home/$person"
if [ "$AS" = "$person" ]; then
    export HOME=/home/$person USER=$person LOGNAME=$person
    cd "$HOME"
    exec setpriv --reuid 4242 --regid 4242 --clear-groups bash "$control/shell"
fi
export HOME=/root USER=root LOGNAME=root
cd "$HOME"
exec bash "$control/shell"
""".replace("EMPTY", " ".join(EMPTY))

_SHELL = r"""
exec 9<&0 8>&1 </dev/null >/dev/null 2>&1
set -m
while read -r guide_step <&9; do
    # shellcheck disable=SC1090
    if [ -e "$guide_step.in" ]; then
        . "$guide_step" <"$guide_step.in" >"$guide_step.out" 2>&1 9<&- 8>&-
    else
        . "$guide_step" </dev/null >"$guide_step.out" 2>&1 9<&- 8>&-
    fi
    echo "$?" >&8
done
"""


@dataclass
class House:
    """A shell on a machine of its own."""

    control: Path
    process: subprocess.Popen[bytes]
    count: int = 0
    printed: list[str] = field(default_factory=list)
    """Every line so far."""

    def step(self, text: str, *, typed: str | None = None) -> tuple[int, list[str]]:
        """Run a command; return its exit code and its lines. `typed`: what it reads."""
        path = self.begin(text, typed=typed)
        assert self.process.stdout is not None
        ready = readable([self.process.stdout], STEP_SECONDS_MAX)
        if not ready:
            raise AssertionError(f"has not ended after {STEP_SECONDS_MAX} s: {text}\n" + "\n".join(self.lines(path)))
        answer = self.process.stdout.readline()
        assert answer, f"the shell ended: {text}\n" + "\n".join(self.lines(path))
        lines = self.lines(path)
        self.printed += lines
        return int(answer), lines

    def begin(self, text: str, *, typed: str | None = None) -> Path:
        """Give the shell a command without waiting for it; return the place of its script."""
        self.count += 1
        path = self.control / f"{self.count:03}"
        path.write_text(text)
        path.chmod(0o755)
        if typed is not None:
            path.with_suffix(".in").write_text(typed)
            path.with_suffix(".in").chmod(0o644)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        return path

    def last_lines(self) -> list[str]:
        """Return what the last command has printed by now."""
        return self.lines(self.control / f"{self.count:03}")

    def lines(self, path: Path) -> list[str]:
        out = path.with_suffix(".out")
        return out.read_text(errors="replace").splitlines() if out.exists() else []


def why_no_house() -> str:
    """Return why this machine gives no such namespace, or nothing."""
    for program in ("unshare", "setpriv", "ip", "mount", "pivot_root", "bash", "hostname"):
        if shutil.which(program) is None:
            return f"no {program}"
    if os.geteuid() != 0:
        return "not root"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "true"], capture_output=True, text=True
    )
    return tried.stderr.strip() if tried.returncode else ""


@contextlib.contextmanager
def house(*, person: str = "root", network: bool = False) -> Iterator[House]:
    """Give a machine, as root's or as an ordinary user's; skip the test, and say so, where that cannot be."""
    why = why_no_house()
    if why:
        pytest.skip(f"!!! GUIDES ARE NOT TRIED as typed: no namespace of our own ({why})")
    control = Path(tempfile.mkdtemp(prefix="dal-guide-", dir="/var/tmp"))
    work = control / "machine"
    work.mkdir()
    control.chmod(0o1777)
    (control / "shell").write_text(_SHELL)
    (control / "setup").write_text(_SETUP)
    program = control / "bin" / "dal"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "src"} exec {sys.executable} -m dalsegno.cli.main "$@"\n')
    program.chmod(0o755)
    python = control / "python" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix) / "bin" / "python3"} "$@"\n')
    python.chmod(0o755)
    places = {str(ROOT), sys.prefix, sys.base_prefix}
    names = ("PIP_", "SSL_CERT_", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
    environment = {name: value for name, value in os.environ.items() if name.startswith(names)}
    environment |= {
        "PATH": f"{program.parent}:{python.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "AS": person,
        "NETWORK": "host" if network else "own",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    own = ["--mount", "--uts", "--ipc", "--pid", *([] if network else ["--net"])]
    command = ["unshare", *own, "--fork", "--kill-child", "bash"]
    with open(control / "errors", "wb") as errors:
        process = subprocess.Popen(
            [*command, str(control / "setup"), str(work), str(control), PERSON, *sorted(places)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, bufsize=0,
        )  # fmt: skip
    made = House(control, process)
    try:
        try:
            code, _ = made.step("umask 022\n")
            assert code == 0
        except (AssertionError, BrokenPipeError):
            pytest.skip(f"!!! GUIDES ARE NOT TRIED as typed: {(control / 'errors').read_text().strip()[-300:]}")
        yield made
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(control, ignore_errors=True)
