"""`dal --help` and `dal help TOPIC`: the commands in groups, and what holds for all of them."""

from collections.abc import Sequence
from typing import Final

from dalsegno.cli.main import COMMANDS
from dalsegno.terms.errors import BadInput

GROUPS: Final = (
    ("Back up", ("init", "backup", "import", "volume")),
    ("Name and keep states", ("clone", "clones", "unclone", "hold", "unhold", "log")),
    ("Browse them", ("ls", "cat", "find", "diff", "versions", "mount", "umount", "mkmount", "rmmount")),
    ("Restore", ("restore", "retrieve", "repair")),
    ("Dumps", ("dump", "estimate", "mark", "merge", "inspect", "verify")),
    ("The nightly cycle", ("status", "plan", "prune", "history", "archive", "media", "catalog", "drill", "amanda")),
    ("The pool", ("stats", "gc", "doctor", "key", "pool")),
    ("Several servers", ("serve", "token", "realm", "replica", "release", "follow", "promote", "move")),
    ("The shell", ("completion", "help")),
)

GLOBAL_OPTIONS: Final = """\
They are accepted before or after the command.

  --pool PATH    the pool to work on; else the one that DAL_POOL names, else
                 the policy's, else your own (~/.local/share/dalsegno/pool);
                 `dal status` says which one it is, and why
  --key FILE     the pool's key file; else the one that DAL_KEY names, else the
                 policy's, else the one that was made with the pool
  --trust-pool   use the pool although another, or a newer one, was seen at
                 its path: only this time (`dal pool trust`: from now on)
  --json         print the result as JSON, and errors as JSON on standard error
  --utc          read and show times in UTC, not in the local time zone
  -q, --quiet    print only results that were asked for, and errors
  -v, --verbose  print more: notes on single files, and complete lists where
                 they are otherwise shortened
  -h, --help     print a command's options and an example
  --version      print the version
"""

TOPICS: Final = {
    "addresses": (
        "how volumes, clones, files and dumps are named",
        """\
  home                       the volume, in its newest state
  home@before-upgrade        the clone of that name
  home@latest                the same, explicitly
  home@yesterday             the newest clone of that day or before
  home@2026-11-21            (`dal help times` has all words)
  home@#3f21bc0a             a revision, by its first digits (`dal log`)
  home:/letters/offer.txt    a path in the volume
  home@3d:/letters           a path in an older state
  //SERVER/home              a volume on a server of a realm
  full.dump                  a dump in a file
  full.dump+1.dump+2.dump    a dump with its increments, oldest first

Quote a name with spaces, * or other characters that the shell expands. A
name that begins with - comes after `--`: `dal find -- '-x*'`.
""",
    ),
    "times": (
        "how times are written in addresses and options",
        """\
  now
  today, yesterday           the end of that day
  monday ... sunday          the end of the last such day, today included
  2026-11-21                 the end of that day
  2026-11-21T14:30           the end of that minute, in your own time zone
  2026-11-21T14:30Z          the same in UTC; also +01:00
  90s, 15m, 4h, 3d, 2w       that long ago

The time zone is that of the machine, or TZ; --utc reads and shows UTC.
`home@TIME` is the newest clone that was made at that time or before it.
""",
    ),
    "exit-codes": (
        "what a command's exit code means",
        """\
    0  done
    1  failed
    2  wrong arguments; nothing was done
    3  done, but something could not be read, written or set, or looks wrong:
       it is listed
    4  refused: it would overwrite, remove or mix up data
    5  damaged: data is not what was written
    6  not found
    7  conflict: another process changed it, or is using it
    8  no access: a key, a passphrase or a right is missing
    9  unreachable: try again later
   10  no space; what was stored before is intact
  130  interrupted (Ctrl-C or SIGTERM): what was stored before is intact
  141  the reader of the output closed it early (`dal ls home | head`)

With --json an error is an object with its `code`, `message` and `exit_code`.
""",
    ),
    "environment": (
        "environment variables",
        """\
  DAL_POOL                   the pool, as --pool
  DAL_KEY                    the pool's key file, as --key
  DAL_PASSPHRASE             the pool's passphrase; preferably use
  DAL_PASSPHRASE_FILE        a file whose first line is the passphrase
  DAL_NEW_PASSPHRASE, DAL_NEW_PASSPHRASE_FILE
                             the new one, for `dal key passphrase` and `key add`
  DAL_POLICY                 the policy, as --policy; else /etc/dalsegno.toml,
                             else ~/.config/dalsegno/dalsegno.toml
  DAL_REALM                  the realm whose volumes are addressed
  DAL_NOW                    use this time instead of the clock's (rehearsals)
  DAL_DEBUG=1                print where an error was raised, for a report
  TZ                         the time zone
  NO_COLOR, TERM=dumb        no colours
  XDG_DATA_HOME, XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME
                             where pools, keys, catalogs and caches are, instead
                             of ~/.local/share, ~/.config, ~/.local/state,
                             ~/.cache (each with /dalsegno behind it)

A policy's hooks and target programs get more: docs/formats/policy.md.
""",
    ),
    "excludes": (
        "patterns for files that backups omit",
        """\
A pattern is a line of .gitignore. `dal backup --exclude PATTERN` takes one for
this time only, `dal volume set NAME --exclude PATTERN` from now on; a file
.dalignore in any directory has one in each line.

  *.tmp        names that end so, anywhere
  cache/       directories of this name, with all that is in them
  /build       only at the top, or beside the .dalignore
  logs/*.gz    in the directory logs at the top
  !keep.tmp    not this one, although a line above says so

`--exclude-caches` omits directories with a file CACHEDIR.TAG,
`--exclude-larger-than 1G` large files, `--nodump` what `chattr +d` marks,
`--one-file-system` what is mounted within. Pseudo file systems (proc, sysfs
and the like), the pool itself, and caches of this program are always omitted.
Each backup says what it omits.
""",
    ),
}

START: Final = """\
Volume backup: instant clones, dumps at levels 0-9, merge, verify, restore.
Start with `dal backup DIR`: it makes all that is missing."""


def _line_of(name: str) -> str:
    return COMMANDS[name][1] if name in COMMANDS else "this page; `dal help COMMAND`, `dal help TOPIC`"


def overview() -> str:
    """Return what `dal --help` says: every command in its group, the global options, the topics."""
    parts = ["usage: dal [OPTION...] COMMAND [WORD...]", "", START]
    for title, names in GROUPS:
        parts += ["", f"{title}:", *(f"  {name:<12}{_line_of(name)}" for name in names)]
    parts += ["", "Options of every command:", GLOBAL_OPTIONS.partition("\n\n")[2].rstrip(), "", "More:"]
    parts += [f"  dal help {name:<14}{line}" for name, (line, _) in TOPICS.items()]
    parts += ["  dal COMMAND --help     a command's options and an example"]
    parts += ["  dal help --man         all of it as a manual page (| man -l -)"]
    return "\n".join(parts)


def show_help(words: Sequence[str]) -> list[str] | None:
    """Print what `dal help WORDS` asks for, or return the command line that shows it. BadInput for unknown topics."""
    if words in (["--man"], ["man"]):
        from dalsegno.cli.manual import man_page

        print(man_page(), end="")
        return None
    asked = [word for word in words if not word.startswith("-")]
    if not asked or asked == ["help"]:
        print(overview())
        return None
    if asked[0] in COMMANDS:
        return [*asked, "--help"]
    if asked[0] in TOPICS:
        line, text = TOPICS[asked[0]]
        print(f"{line[0].upper()}{line[1:]}:\n\n{text}", end="")
        return None
    from dalsegno.cli.hints import unknown_topic

    raise BadInput(unknown_topic(asked[0], list(TOPICS)))
