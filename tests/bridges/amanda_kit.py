"""The real Amanda on this host: a configuration of its own, virtual tapes, a holding disk, no daemon (auth local)."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.volumes.state import VolumeState

APPLICATION = Path("/usr/lib/amanda/application/amdalsegno")
RULE = Path("/etc/sudoers.d/amdalsegno")
LOCK = "/var/tmp/dalsegno-test-amanda.lock"
LEFT_BEHIND = (Path("/tmp/amanda"), Path("/var/tmp/amdalsegno-0"))
ENVIRONMENT = {"HOME": "/var/backups", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
TAPES = 9
PROGRAM_SECONDS_MAX = 300
TEST_SECONDS_MAX = 1200
"""With the wait for other tests of Amanda on this host, and on a busy one."""


def why_not() -> str:
    """Return why the real Amanda cannot run here, or nothing."""
    if os.getuid() != 0:
        return "not root"
    for program in ("amdump", "amcheck", "amfetchdump", "amrecover", "amadmin", "sudo", "runuser"):
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            return f"no {program}: apt-get install amanda-server amanda-client libencode-locale-perl procps sudo"
    if os.stat("/dev/shm").st_mode & 0o7777 != 0o1777:
        return "/dev/shm is not of mode 1777"
    return ""


def as_backup(*words: str | Path, code: int | None = 0, **streams: object) -> subprocess.CompletedProcess[bytes]:
    """Run a program as Amanda's user, with little environment."""
    streams.setdefault("stdin", subprocess.DEVNULL)
    streams.setdefault("stdout", subprocess.PIPE)
    streams.setdefault("stderr", subprocess.PIPE)
    command = ["runuser", "-u", "backup", "--", "env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items()), *words]
    done = subprocess.run(command, cwd="/", timeout=PROGRAM_SECONDS_MAX, **streams)  # type: ignore[call-overload]
    if code is not None:
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """Return content and metadata of everything under `root`, itself included."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        stat = path.lstat()
        data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        xattrs = tuple(
            (name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False)
        )
        key = os.fsencode(path.relative_to(root)).decode(errors="surrogateescape")
        found[key] = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, stat.st_nlink, data, xattrs)
    return found


@dataclass
class Site:
    """One host with Amanda, a pool that belongs to root, and its volumes."""

    root: Path
    name: str
    user: User

    @property
    def config(self) -> Path:
        return Path("/etc/amanda") / self.name

    def configure(self, disklist: str, *, properties: str = "", holding: str = "", more: str = "") -> None:
        """Write amanda.conf and disklist, and label the tapes."""
        for path in (
            self.config,
            self.root / "vtapes",
            self.root / "holding",
            Path("/var/lib/amanda") / self.name / "log",
        ):
            path.mkdir(parents=True, exist_ok=True)
        (self.config / "amanda.conf").write_text(
            _CONF.format(name=self.name, root=self.root, properties=properties, holding=holding, more=more)
        )
        (self.config / "disklist").write_text(disklist)
        (self.config / "tapelist").touch()
        for path in (self.config, self.root / "vtapes", self.root / "holding", Path("/var/lib/amanda") / self.name):
            subprocess.run(["chown", "-R", "backup:backup", path], check=True)
        for number in range(1, TAPES):
            as_backup("amlabel", self.name, f"DAL-0{number}", "slot", str(number))
        as_backup("amtape", self.name, "reset")

    def amdump(self, *, code: int = 0, retried: bool = False) -> str:
        """Run one night and return its report; `retried`: its one volume has a failed try before the good one."""
        done = as_backup("amdump", self.name, code=None)
        report = as_backup("amreport", self.name, "--text=-", code=None).stdout.decode()
        expected = code_after_retry(self.night_log()) if retried else code
        assert done.returncode == expected, (done.returncode, done.stdout, done.stderr, report, self.logs())
        return report

    def night_log(self) -> str:
        """Return what Amanda's programs wrote down of the newest night."""
        found = sorted((Path("/var/lib/amanda") / self.name / "log").glob("log.2*"))
        return found[-1].read_text()

    def start_amdump(self) -> "subprocess.Popen[bytes]":
        """Begin a night."""
        words = ["runuser", "-u", "backup", "--", "env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items())]
        return subprocess.Popen(
            [*words, "amdump", self.name], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def logs(self) -> str:
        """Return the newest logs of the client, for whoever must see why."""
        found = sorted(Path(f"/var/log/amanda/client/{self.name}").glob("*"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2500:]}" for path in found[-3:])

    def found(self, volume: str) -> list[tuple[str, int]]:
        """Return (timestamp, level) of the dumps of a volume that Amanda has, oldest first."""
        text = as_backup("amadmin", self.name, "find", "localhost", f"^{volume}$").stdout.decode()
        rows = [line.split() for line in text.splitlines()]
        return sorted(
            (row[0].replace("-", "") + row[1].replace(":", ""), int(row[4]))
            for row in rows
            if len(row) > 5 and row[3] == volume and row[-1] == "OK"
        )

    def fetch(self, volume: str, timestamp: str, target: Path) -> None:
        """Bring an image back from tape, as Amanda's user."""
        with open(target, "wb") as file:
            done = as_backup("amfetchdump", "-a", "-p", self.name, "localhost", f"^{volume}$", timestamp, stdout=file)
        assert target.stat().st_size, done.stderr

    def recover(self, target: Path, *lines: str) -> str:
        """Let root use amrecover in a directory."""
        target.mkdir(parents=True, exist_ok=True)
        words = ["amrecover", "-C", self.name, "-s", "localhost", "-t", "localhost", "-o", "auth=local"]
        text = "\n".join(["sethost localhost", *lines, "extract", *"yyyyyyyy", "quit", ""])
        done = subprocess.run(
            words,
            cwd=target,
            env={**os.environ, "PATH": ENVIRONMENT["PATH"], "TMPDIR": str(self.root)},
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_SECONDS_MAX,
        )
        return done.stdout.decode(errors="replace")

    def state(self, volume: str) -> VolumeState:
        """Return what the pool knows about a volume."""
        with open_pool(self.user.home / "pool", key_path=self.key) as house:
            return house.volumes.get(volume)

    @property
    def key(self) -> Path:
        return self.user.home / "pool.key"

    def recorded(self, volume: str) -> list[int]:
        """Return the levels that are recorded as bases, oldest first."""
        return [record.level for record in self.state(volume).dumps]


def code_after_retry(log: str) -> int:
    """Return amdump's exit code of a night whose one volume was dumped in the end.

    Amanda's report puts the lines of dumper and chunker together into tries: a line belongs to the newest try in which
    its program has not ended. Of a try that failed early only one of the two has said so, and the other's line about
    the good one is then put there when it is written first. The good try is half, and its code 4 (Report.pm,
    _get_try and check_missing_fail_strange). Dumper and chunker are two processes, and either may be first.
    """
    tries: list[dict[str, str]] = []
    for line in log.splitlines():
        what, program, *_ = [*line.split(), "", ""]
        if program not in ("dumper", "chunker") or what not in ("SUCCESS", "STRANGE", "FAIL", "PARTIAL"):
            continue
        ended = {"SUCCESS", "FAIL"} if program == "chunker" else {"SUCCESS", "FAIL", "PARTIAL"}
        open_tries = [each for each in reversed(tries) if each.get(program) not in ended]
        if not open_tries:
            tries.append({})
            open_tries = tries[-1:]
        open_tries[0][program] = what
    last = tries[-1]
    assert last.get("chunker", "SUCCESS") == "SUCCESS" and last.get("dumper", "SUCCESS") == "SUCCESS", log
    return 0 if "dumper" in last else 4


def descendants(number: int) -> dict[int, str]:
    """Return the processes that a process started, and those that they started, with their words."""
    found: dict[int, str] = {}
    above = [number]
    while above:
        try:
            tasks = Path(f"/proc/{above.pop()}/task").iterdir()
            children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
            for child in children:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            above += children
        except OSError:
            continue
    return found


@contextmanager
def amanda_site() -> Iterator[Site]:
    """Give a site, one at a time on this host, and take it away again, with what Amanda's programs leave behind."""
    with _alone():
        left_behind = [path for path in LEFT_BEHIND if not path.exists()]
        root = Path(tempfile.mkdtemp(prefix="dal-amanda-", dir="/var/tmp"))
        root.chmod(0o755)
        name = f"daltest{os.getpid()}"
        user = User(root / "home")
        user.home.chmod(0o700)
        user.environment["DAL_KEY"] = str(user.home / "pool.key")
        try:
            yield Site(root, name, user)
        finally:
            for path in (APPLICATION, RULE):
                path.unlink(missing_ok=True)
            places = [root, Path("/etc/amanda") / name, Path("/var/lib/amanda") / name]
            places += [Path("/var/log/amanda") / side / name for side in ("server", "client")]
            for place in (*places, *left_behind):
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this host; its file is gone when nobody wants it any more."""
    while True:
        with open(LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(LOCK) or os.fstat(lock.fileno()).st_ino != os.stat(LOCK).st_ino:
                continue  # whoever held it has removed it
            try:
                yield
            finally:
                os.unlink(LOCK)
            return


_CONF = """\
org "test"
mailto ""
dumpuser "backup"
infofile "/var/lib/amanda/{name}/curinfo"
logdir   "/var/lib/amanda/{name}/log"
indexdir "/var/lib/amanda/{name}/index"
tapelist "/etc/amanda/{name}/tapelist"
dumpcycle 7 days
runspercycle 7
tapecycle 8 tapes
runtapes 1
bumppercent 0
bumpsize 8 kbytes
bumpmult 1.0
bumpdays 1
reserve 0
etimeout 60
dtimeout 60
ctimeout 30
taperflush 0
autoflush yes
define changer vtapes {{
  tpchanger "chg-disk:{root}/vtapes"
  property "num-slot" "9"
  property "auto-create-slot" "yes"
}}
tpchanger "vtapes"
define tapetype VT {{
  length 100 mbytes
  filemark 4 kbytes
}}
tapetype VT
labelstr "^DAL-[0-9][0-9]$"
define holdingdisk hd1 {{
  directory "{root}/holding"
  use 200 Mb
  chunksize 0
  {holding}
}}
holdingdisk hd1
define application-tool app_dalsegno {{
  plugin "amdalsegno"
  {properties}
}}
define dumptype dalsegno {{
  auth "local"
  program "APPLICATION"
  application "app_dalsegno"
  compress none
  estimate client
  index yes
  record yes
  holdingdisk auto
  maxpromoteday 0
}}
define dumptype dalsegno-gz {{
  dalsegno
  compress client fast
}}
define dumptype dalsegno-history {{
  dalsegno
  estimate server
  holdingdisk required
}}
{more}
"""
