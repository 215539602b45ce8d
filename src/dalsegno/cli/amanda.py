"""`dal amanda`: install the application into Amanda, and print the lines that a disklist needs."""

import argparse
import os
import pwd
import shlex
import sys
from pathlib import Path

from dalsegno import __version__
from dalsegno.actions.remote import RemoteHouse, split_place
from dalsegno.actions.session import House
from dalsegno.bridges.amanda import NAME, matching, support_lines
from dalsegno.cli.door import open_volumes
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.replicas.profile import profile_path
from dalsegno.terms.errors import EXIT_DONE, BadInput, DalError, NoAccess, NotFound, Refused
from dalsegno.world import places
from dalsegno.world.files import write_durable
from dalsegno.world.programs import run_program

APPLICATIONS = Path("/usr/lib/amanda/application")
SUDOERS = Path("/etc/sudoers.d")
SUDO = Path("/usr/bin/sudo")
CONFIGURATIONS = Path("/etc/amanda")
DESCRIPTORS_KEPT = 5
"""Input, output, errors, messages, index: sudo closes the rest."""
SECONDS_MAX = 60

_SCRIPT = """\
#!/bin/sh
# {name}: an Amanda application, written by `dal amanda install` of dalsegno {version}; run that again to change it.
# It works as {owner}, to whom the pool or the realm's profile belongs; Amanda's own user gets neither that nor a key.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
if [ "$1" = support ]; then
    printf '%s\\n' {support}
    exit 0
fi
right=full
[ "$SUDO_USER" = {user} ] && right=guarded
if [ "$(id -u)" = {uid} ]; then
{settings}fi
case $(id -u) in
0|{uid}) exec {python} -I -W ignore -m dalsegno.cli.amdalsegno {place} {key} $right "$@" ;;
esac
{otherwise}
"""

_RULE = """\
# Written by `dal amanda install`: Amanda's user may start this one program as the owner of the pool.
# The program refuses to restore, or to use another pool or key, when it is started this way.
Defaults!{script} closefrom_override, !use_pty, !requiretty
{user} ALL=({owner}) NOPASSWD: {script}
"""


_DEFINITIONS = """\
define application-tool app_dalsegno {
  plugin "amdalsegno"
}
define dumptype dalsegno {
  auth "AUTH"
  program "APPLICATION"
  application "app_dalsegno"
  compress none
  index yes
}
"""
AUTHS = ("local", "bsdtcp", "bsdudp", "bsd", "krb5", "ssh", "ssl")


def add_amanda(parser: Parser) -> None:
    """Define the arguments of `dal amanda`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="install|disklist")
    install = verbs.add_parser(
        "install",
        help="set up Amanda to back up the volumes of the pool",
        epilog="example: dal amanda install --config daily --dry-run",
    )
    install.add_argument("--user", metavar="NAME", help="Amanda's user on this host (default: backup or amandabackup)")
    install.add_argument("--applications", type=Path, default=APPLICATIONS, metavar="DIR", help=f"({APPLICATIONS})")
    install.add_argument(
        "--config", metavar="NAME", help="the Amanda configuration on this host to add the dumptype to"
    )
    install.add_argument(
        "--auth", choices=AUTHS, default="local", help="how Amanda's server reaches the client (local)"
    )
    install.add_argument("--secret", type=Path, metavar="FILE", help="holds the pool's passphrase, if it has one")
    install.add_argument("-n", "--dry-run", action="store_true", help="only show what would be done")
    install.set_defaults(run=_install)
    disklist = verbs.add_parser(
        "disklist",
        help="print a disklist line for each volume that matches a pattern",
        epilog="example: dal amanda disklist 'home*' >> disklist",
    )
    disklist.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="or //SERVER/PATTERN")
    disklist.add_argument("--host", default="localhost", metavar="NAME", help="(localhost)")
    disklist.add_argument("--dumptype", default="dalsegno", metavar="NAME", help="(dalsegno)")
    disklist.set_defaults(run=_disklist)


def _amandas_user(given: str | None) -> str:
    for name in [given] if given else ["backup", "amandabackup"]:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NotFound(f"no user {given or 'backup or amandabackup'} on this host: install amanda-client, or give --user")


def script_text(
    *,
    place: str,
    key: Path | None,
    owner: str,
    uid: int,
    user: str,
    script: Path,
    python: str,
    environment: dict[str, str],
) -> str:
    """Return the application as Amanda starts it: it answers `support` at once and becomes the pool's owner."""
    become = f'exec {SUDO} -n -H -C {DESCRIPTORS_KEPT} -u {shlex.quote(owner)} -- {shlex.quote(os.fspath(script))} "$@"'
    refuse = f"echo '{NAME}: must be started by {user} or root' >&2; exit 1"
    return _SCRIPT.format(
        name=NAME,
        version=__version__,
        owner=owner,
        support=" ".join(shlex.quote(text) for text in support_lines()),
        uid=uid,
        user=shlex.quote(user),
        python=shlex.quote(python),
        place=shlex.quote(place),
        settings="".join(f"    {name}={shlex.quote(text)}\n    export {name}\n" for name, text in environment.items()),
        key=shlex.quote(os.fspath(key) if key is not None else "-"),
        otherwise=refuse if user == owner else become,
    )


def _install(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if os.getuid() != 0 and not arguments.dry_run:
        raise NoAccess("dal amanda install: only root may write into Amanda's application directory")
    if not arguments.applications.is_dir():
        raise NotFound(f"{arguments.applications}: not there: `apt-get install amanda-client` makes it")
    config = CONFIGURATIONS / arguments.config if arguments.config else None
    if config is not None and not (config / "amanda.conf").is_file():
        raise NotFound(f"{config / 'amanda.conf'}: not there: docs/guides/amanda.md has one to begin with")
    user = _amandas_user(arguments.user)
    with open_volumes(arguments, terminal) as house:
        place, key, uid = _place(house, arguments.secret)
    owner = pwd.getpwuid(uid).pw_name
    script = arguments.applications / NAME
    rule = SUDOERS / NAME
    done = [f"{script}: works on {place}, key {key or 'none'}, as {owner}"]
    if place.startswith("//"):
        done = [f"{script}: works on {place}, as {owner} joined it"]
    if user != owner:
        if not SUDO.exists() and not arguments.dry_run:
            raise Refused(f"the pool belongs to {owner}, and Amanda runs as {user}: `apt-get install sudo` first")
        done.append(f"{rule}: {user} may start it as {owner}, and nothing else")
    if not arguments.dry_run:
        text = script_text(
            place=place,
            key=key,
            owner=owner,
            uid=uid,
            user=user,
            script=script,
            python=sys.executable,
            environment=_environment(uid),
        )
        if user != owner:
            _write_rule(rule, _RULE.format(user=user, owner=owner, script=script))
        write_durable(script, text.encode(errors="surrogateescape"), mode=0o755)
        script.chmod(0o755)
        _try(script, user)
        done.append(f"tried as {user}: it answers")
    definitions = _DEFINITIONS.replace("AUTH", arguments.auth)
    if config is not None:
        done.append(_define(config, definitions, dry_run=arguments.dry_run))
        lines = [*done, "Its disklist gets what `dal amanda disklist` prints"]
    else:
        shown = [f"  {line}" for line in definitions.splitlines()]
        lines = [*done, "For amanda.conf (or give --config NAME):", *shown]
        lines.append("and for its disklist what `dal amanda disklist` prints")
    terminal.result(
        {"script": script, "pool": place, "key": key, "owner": owner, "user": user, "dry_run": arguments.dry_run}, lines
    )
    return EXIT_DONE


def _place(house: House, secret: Path | None) -> tuple[str, Path | None, int]:
    """Return the pool, or //REALM, its key if it has one that must be named, and the user id of its owner."""
    if isinstance(house, RemoteHouse):
        return f"//{house.realm_name}", None, os.stat(profile_path(house.realm_name)).st_uid
    directory = house.pool.backend.directory
    if directory is None:
        raise BadInput(f"{house.pool.place}: Amanda works as the owner of the pool: name one that is a directory")
    place = os.path.realpath(directory)
    key = house.pool.key_path
    if house.pool.encryption == "passphrase":
        if secret is None:
            raise BadInput("the pool has a passphrase, and Amanda cannot ask for it: give --secret FILE")
        key = secret
    return place, Path(os.path.realpath(key)) if key is not None else None, os.stat(place).st_uid


def _environment(uid: int) -> dict[str, str]:
    """Return where the owner's profiles of realms and caches are: Amanda and sudo keep that from the application."""
    if os.getuid() != uid:
        return {"HOME": pwd.getpwuid(uid).pw_dir}
    return places.environment()


def _define(config: Path, definitions: str, *, dry_run: bool) -> str:
    """Put the definitions beside an amanda.conf, let it include them, and return what was done. What is there stays."""
    conf, included = config / "amanda.conf", config / "dalsegno.conf"
    text = conf.read_bytes()
    include = f'includefile "{included}"\n'.encode()
    if include not in text and b"app_dalsegno" in text:
        return f"{conf}: defines app_dalsegno itself, and stays as it is"
    if not dry_run:
        if not included.exists():
            _write_like(conf, included, definitions.encode())
        if include not in text:
            _write_like(conf, conf, _ended(text) + include)
    return f"{conf}: includes {included}, which defines dumptype dalsegno"


def _write_like(model: Path, path: Path, data: bytes) -> None:
    """Write a file that belongs to whom `model` belongs to."""
    stat = model.stat()
    write_durable(path, data, mode=stat.st_mode & 0o777)
    os.chown(path, stat.st_uid, stat.st_gid)
    path.chmod(stat.st_mode & 0o777)


def _ended(text: bytes) -> bytes:
    return text if text.endswith(b"\n") or not text else text + b"\n"


def _write_rule(rule: Path, text: str) -> None:
    write_durable(rule, text.encode(), mode=0o440)
    rule.chmod(0o440)
    outcome = run_program(["/usr/sbin/visudo", "-c", "-q", "-f", os.fspath(rule)], timeout_seconds=SECONDS_MAX)
    if outcome.code:
        rule.unlink()
        raise DalError(f"{rule}: sudo does not take it: {outcome.last_words}")


def _try(script: Path, user: str) -> None:
    words = ["/usr/sbin/runuser", "-u", user, "--", os.fspath(script)]
    for command in ("support", "discover"):
        outcome = run_program([*words, command], timeout_seconds=SECONDS_MAX)
        if outcome.code or outcome.error:
            raise DalError(f"{script}: installed, but as {user} it fails: {outcome.last_words}")


def _disklist(arguments: argparse.Namespace, terminal: Terminal) -> int:
    server, pattern = split_place(arguments.pattern)
    with open_volumes(arguments, terminal, *([arguments.pattern] if server else [])) as house:
        names = matching([state.name for state in house.volumes.list()], pattern)
    if not names:
        raise NotFound(f"no volume {arguments.pattern!r}: `dal volume list` shows what there is")
    lines = [f"{arguments.host} {_word(name)} {arguments.dumptype}" for name in names]
    terminal.result({"volumes": names}, lines)
    return EXIT_DONE


def _word(name: str) -> str:
    return f'"{name}"' if " " in name else name
