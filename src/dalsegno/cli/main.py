"""The command `dal`: find the command's module, run it, and turn every outcome into one line and an exit code."""

import errno
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from dalsegno import __version__
from dalsegno.terms.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_READER,
    EXIT_PARTIAL,
    BadInput,
    DalError,
    Damaged,
    Full,
    NoAccess,
    NotFound,
    Unavailable,
)

if TYPE_CHECKING:
    from dalsegno.cli.words import Parser

# Command: (module in dalsegno.cli, one line, example). The module has `add_<command>(parser)`.
COMMANDS: Final = {
    "init": ("pool", "create a pool", "dal init /backup/pool --encryption passphrase"),
    "backup": ("backup", "back up a directory or a tracked volume", "dal backup ~/doc"),
    "volume": ("volume", "create, set, list, show, rename, remove volumes", "dal volume create home --source /home"),
    "import": ("backup", "put a directory into a native volume", "dal import photos /mnt/card"),
    "clone": ("clone", "give a volume's current state a name", "dal clone home before-upgrade"),
    "clones": ("clone", "list the clones of a volume, or of all", "dal clones home"),
    "unclone": ("clone", "forget a clone", "dal unclone home@before-upgrade"),
    "log": ("clone", "list the revisions of a volume", "dal log home"),
    "hold": ("clone", "protect a clone from removal", "dal hold home@2026"),
    "unhold": ("clone", "allow a clone to be removed again", "dal unhold home@2026"),
    "ls": ("browse", "list a directory", "dal ls -l home@yesterday:/doc"),
    "cat": ("browse", "write a file's bytes to the output", "dal cat home@3d:/doc/plan.txt > plan.txt"),
    "find": ("browse", "find names in one clone or all", "dal find '*.jpg'"),
    "diff": ("browse", "compare two clones, or a clone and its live source", "dal diff home@yesterday home@latest"),
    "versions": ("browse", "list the distinct versions of a file", "dal versions home:/doc/plan.txt"),
    "repair": ("repair", "resolve conflicts between replicas", "dal repair home:/plan.txt --keep 3f21bc0a9d11"),
    "restore": ("restore", "restore files or a volume", "dal restore home@yesterday --to /tmp/back --path doc"),
    "mount": ("mount", "show an old version, a dump or a volume as a directory", "dal mount home@yesterday /mnt/old"),
    "umount": ("mount", "unmount a directory", "dal umount /mnt/old"),
    "mkmount": ("mount", "create a mount point in a mounted volume", "dal mkmount OldFiles u.hmpierce@backup"),
    "rmmount": ("mount", "remove a mount point", "dal rmmount OldFiles"),
    "dump": ("dump", "write a dump", "dal dump home --level 1 -o home.1.dump"),
    "mark": ("dump", "record a dump as backed up", "dal mark home.1.dump"),
    "estimate": ("dump", "show how large dumps would be", "dal estimate home --level 0 --level 1"),
    "merge": ("merge", "merge a dump with its increments", "dal merge -o new.dump full.dump incr1.dump"),
    "inspect": ("merge", "show a dump's lineage", "dal inspect home.1.dump"),
    "verify": ("merge", "check every byte of a dump or of the pool", "dal verify home.1.dump"),
    "plan": ("plan", "show what is due in the coming days", "dal plan --days 30"),
    "prune": ("prune", "remove what retention no longer keeps", "dal prune home --keep-daily 7 --keep-weekly 4"),
    "history": ("archive", "list the dumps and where their copies are", "dal history home"),
    "archive": ("archive", "copy dumps to their targets; replace lost copies", "dal archive repair grid"),
    "retrieve": ("archive", "copy dumps back from media", "dal retrieve home@2026-10-03 -o /tmp/dumps"),
    "media": ("archive", "list and label archive media", "dal media label /mnt/a week-1 --target disks"),
    "catalog": ("archive", "rebuild the catalog from media, or compare them", "dal catalog check"),
    "amanda": ("amanda", "set up Amanda to back up volumes: install, disklist", "dal amanda install"),
    "gc": ("pool", "delete data that nothing refers to", "dal gc --grace 24h"),
    "pool": ("known", "show or accept another or an older pool", "dal pool trust"),
    "stats": ("pool", "show sizes and counts", "dal stats"),
    "drill": ("drill", "restore a sample from media and compare it", "dal drill --set homes --files 50"),
    "status": ("status", "show the volumes and their last backup", "dal status"),
    "doctor": ("doctor", "check the setup and say what to do about problems", "dal doctor"),
    "realm": ("realm", "create, join and show a realm of servers", "dal realm status"),
    "replica": ("replica", "add, remove, list, check and resolve the replicas of a volume", "dal replica check home"),
    "serve": ("serve", "serve the pool to other machines over HTTP", "dal serve --listen 0.0.0.0:8420 --name s1"),
    "token": (
        "serve",
        "create, list and revoke access tokens of the server",
        "dal token add --right read --volume 'home*'",
    ),
    "key": ("key", "show, copy, list and check keys", "dal key export /media/usb/pool.key"),
    "release": (
        "release",
        "publish a clone to the read-only replicas of a volume",
        "dal release home@monday --to ro1,ro2",
    ),
    "follow": ("follow", "keep a standby of a volume up to date", "dal follow home --to s2"),
    "promote": ("follow", "make a standby the writer", "dal promote home --server s2"),
    "move": ("move", "move a volume to another server while it is in use", "dal move home s1 s2"),
    "completion": ("completion", "print a shell's completion script", 'eval "$(dal completion bash)"'),
}


def _split_command(argv: list[str]) -> tuple[str | None, list[str]]:
    """Return the command and all other words: global options may stand before it or after."""
    before = 0
    while before < len(argv) and argv[before].startswith("-"):
        before += 2 if argv[before] in ("--pool", "--key") else 1
    if before >= len(argv):
        return None, argv
    return argv[before], argv[:before] + argv[before + 1 :]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_cleanly_on_signals() -> None:
    """Let a command that is told to end (by a service manager, by a closed terminal) tidy up as after Ctrl-C."""
    import signal

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            try:
                signal.signal(number, _interrupt)
            except ValueError:  # called from a thread of another program
                return


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from dalsegno.cli.streams import fill_closed_streams

        fill_closed_streams()
    if argv is not None or not _may_hang(words):
        return _finished(words, _outcome(words))

    from dalsegno.world.errands import are_left
    from dalsegno.world.watch import watched

    return watched(lambda: _finished(words, _outcome(words)), are_left)


def _may_hang(words: list[str]) -> bool:
    """Tell whether a run of many volumes is asked for, which has to end although a source of one never answers."""
    return "backup" in words and any(word.startswith("--set") for word in words)


def _outcome(words: list[str]) -> int:
    try:
        return _run(words)
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return _fail(words, "interrupted", "interrupted", EXIT_INTERRUPTED)
    except DalError as error:
        return _fail(words, error.code, str(error), error.exit_code)
    except OSError as error:
        return _fail_os(words, error)
    except Exception as error:
        return _fail_internal(words, error)


def command_parser(name: str) -> "Parser":
    """Return the parser of a command, which loads what the command needs."""
    from dalsegno.cli.words import new_parser

    module_name, line, example = COMMANDS[name]
    parser = new_parser(name, line, example)
    getattr(import_module(f"dalsegno.cli.{module_name}"), f"add_{name}")(parser)
    return parser


def _finished(words: list[str], code: int) -> int:
    """Write out what the streams hold, and return the exit code: what the command did counts, if its output was read.

    A reader who went away (`dal ls | head`) is no news; a full disk behind the output is.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        from dalsegno.cli.streams import finish, has_no_reader

        gone = has_no_reader(sys.stdout)
        error = finish(sys.stdout)
        finish(sys.stderr)
        if error is not None and not gone and code in (EXIT_DONE, EXIT_PARTIAL):
            error.filename = "standard output"
            return _fail_os(words, error)
    return code


def _run(words: list[str]) -> int:
    name, rest = _split_command(words)
    if name is None:
        if "--version" in words or "-V" in words:
            print(f'{{"version": "{__version__}"}}' if "--json" in words else f"dal {__version__}")
            return EXIT_DONE
        if not words or "-h" in words or "--help" in words:
            from dalsegno.cli.help import overview

            print(overview())
            return EXIT_DONE if words else BadInput.exit_code
        raise BadInput("no command: `dal --help` lists them")
    if name == "help":
        from dalsegno.cli.help import show_help

        asked = show_help([word for word in rest if word not in ("--json", "-q", "-v")])
        if asked is None:
            return EXIT_DONE
        name, *rest = asked
    if name not in COMMANDS:
        from dalsegno.cli.hints import unknown_command

        raise BadInput(unknown_command(name, before=words[: words.index(name)]))
    arguments = command_parser(name).parse_args(rest)

    from datetime import UTC

    from dalsegno.cli.terminal import Terminal
    from dalsegno.terms.times import set_zone

    set_zone(UTC if arguments.utc else None)  # whoever calls more than once gets what each line asks for
    terminal = Terminal(json=arguments.json, quiet=arguments.quiet, verbose=arguments.verbose)
    _end_cleanly_on_signals()
    try:
        code: int = arguments.run(arguments, terminal)
    except (NotFound, NoAccess, Damaged) as error:
        if terminal.about and terminal.about not in str(error):
            error.args = (f"{error} ({terminal.about})",)
        raise
    finally:
        terminal.end_progress()
    return code


def _fail(words: list[str], code: str, message: str, exit_code: int) -> int:
    line = " ".join(message.split())
    if "--json" in words:
        import json

        line = json.dumps({"error": {"code": code, "message": line, "exit_code": exit_code}})
    else:
        from dalsegno.cli.terminal import show

        line = f"dal: error: {show(line)}"  # names and servers have a say in it
    try:
        sys.stderr.buffer.write(line.encode(errors="surrogateescape") + b"\n")
        sys.stderr.flush()
    except OSError:
        pass
    return exit_code


def _fail_os(words: list[str], error: OSError) -> int:
    from dalsegno.cli.streams import finish, has_no_reader, is_full
    from dalsegno.world.files import AWAY

    where = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    if isinstance(error, BrokenPipeError) and where in (None, "standard output") and has_no_reader(sys.stdout):
        finish(sys.stdout)
        return EXIT_NO_READER
    if where is None and finish(sys.stdout) is not None:
        where = "standard output"
    message = f"{where}: {error.strerror}" if where else str(error.strerror or error)
    if is_full(error):
        return _fail(words, Full.code, f"{message}: free some space and run again", Full.exit_code)
    kinds: dict[int, type[DalError]] = {errno.ENOENT: NotFound, errno.EACCES: NoAccess, errno.EPERM: NoAccess}
    kind = Unavailable if error.errno in AWAY else kinds.get(error.errno or 0)
    code, exit_code = (kind.code, kind.exit_code) if kind is not None else ("failed", EXIT_FAILED)
    return _debugged(words, error, code, message, exit_code)


def _fail_internal(words: list[str], error: Exception) -> int:
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        text = "too little memory is allowed here (ulimit -v, a container's limit?): give it 300 MiB and run again"
        return _debugged(words, error, "failed", text, EXIT_FAILED)
    message = f"internal error: {type(error).__name__}: {error}; please report it (DAL_DEBUG=1 shows where)"
    return _debugged(words, error, "internal", message, EXIT_FAILED)


def _debugged(words: list[str], error: BaseException, code: str, message: str, exit_code: int) -> int:
    if os.environ.get("DAL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return _fail(words, code, message, exit_code)


if __name__ == "__main__":
    sys.exit(main())
