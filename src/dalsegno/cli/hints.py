"""What somebody may have meant: commands and options with a slip of the finger, and those of other programs."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from dalsegno.cli.main import COMMANDS

if TYPE_CHECKING:
    from argparse import ArgumentParser

# What restic, borg, zfs, git, rsync, tar and others call it, and what does it here.
_OTHER_COMMANDS: Final = {
    "add": "`dal backup DIR` backs up a directory",
    "archives": "`dal clones` lists what there is to go back to",
    "check": "`dal verify --pool` reads every byte of the pool, `dal verify FILE` those of a dump; `dal doctor` looks "
    "for what is set up wrong",
    "checkout": "`dal restore VOLUME@CLONE --to DIR` brings files back",
    "compact": "`dal gc` gives back the room of what was removed",
    "copy": "`dal archive` copies dumps to their targets; a pool is copied with cp or rsync (docs/guides/upkeep.md)",
    "create": "`dal backup DIR` backs up a directory, `dal volume create NAME` makes a volume",
    "delete": "`dal unclone VOLUME@CLONE` removes a clone, `dal volume remove NAME` a volume",
    "destroy": "`dal unclone VOLUME@CLONE` removes a clone, `dal volume remove NAME` a volume",
    "du": "`dal stats` shows sizes",
    "export": "`dal dump VOLUME -o FILE` writes a volume into a file; `dal key export FILE` copies the key",
    "extract": "`dal restore VOLUME@CLONE --to DIR` brings files back",
    "forget": "`dal unclone VOLUME@CLONE` removes a clone; `dal prune VOLUME --keep-daily 7` many",
    "fsck": "`dal verify --pool` reads every byte of the pool",
    "get": "`dal restore VOLUME:/PATH --to DIR` brings files back, `dal cat` writes one to the output",
    "info": "`dal volume show NAME`, `dal stats`, and `dal inspect FILE` for a dump",
    "job": "`dal plan` shows what a policy does and when",
    "jobs": "`dal plan` shows what a policy does and when",
    "list": "`dal clones` lists what there is to go back to, `dal volume list` the volumes, `dal ls ADDRESS` files",
    "login": "`dal realm join` makes servers known to you",
    "passwd": "`dal key show` tells where the key is; a passphrase cannot be changed yet",
    "receive": "`dal restore FILE --volume NAME` makes a volume of a dump",
    "recover": "`dal restore ADDRESS --to DIR` brings files back; the pool's index repairs itself",
    "remove": "`dal unclone VOLUME@CLONE` removes a clone, `dal volume remove NAME` a volume",
    "rename": "`dal volume rename OLD NEW`",
    "rewrite": "a clone never changes; `dal unclone VOLUME@CLONE` removes one",
    "rm": "`dal unclone VOLUME@CLONE` removes a clone, `dal volume remove NAME` a volume",
    "rollback": "`dal restore VOLUME@CLONE --to DIR` brings files back, in place too",
    "save": "`dal backup DIR` backs up a directory",
    "schedule": "`dal plan` shows what a policy does and when; timers are in share/",
    "scrub": "`dal verify --pool` reads every byte of the pool",
    "send": "`dal dump VOLUME -o -` writes a volume to the output",
    "show": "`dal volume show NAME` shows a volume, `dal inspect FILE` a dump",
    "snapshot": "`dal clone VOLUME NAME` names a volume's state",
    "snapshots": "`dal clones` lists what there is to go back to",
    "sync": "`dal backup` takes in what changed; `dal follow` keeps a standby behind a volume",
    "tag": "`dal clone VOLUME NAME` names a state, `dal hold VOLUME@CLONE` keeps it",
    "test": "`dal verify FILE` checks a dump, `dal drill` restores a sample",
    "undelete": "`dal versions VOLUME:/PATH` lists a file's versions, `dal restore` brings one back",
    "unlock": "no command leaves a lock behind: there is nothing to unlock",
    "unmount": "`dal umount DIR` ends a mount",
    "upgrade": "docs/guides/upkeep.md tells how a newer version is installed",
    "version": "`dal --version` shows it",
}
# What others call an option, and its name here; a hint is given only where the command has that.
_OTHER_OPTIONS: Final = {
    "-C": "--to",
    "--destination": "--to",
    "--dest": "--to",
    "--exclude-file": "--exclude-from",
    "--include": "--path",
    "--tag": "--name",
    "--list": "--verbose",
    "--force": "--yes",
    "--yes": "--force",
    "--lazy": "--force",
    "--numeric-ids": "--owners",
    "--numeric-owner": "--owners",
    "--same-owner": "--owners",
    "--checksum": "--compare",
    "--recurse": "--recursive",
    "-r": "--recursive",
    "--repo": "--pool",
    "--repository": "--pool",
    "--password-file": "--key",
    "--keyfile": "--key",
    "-f": "--output",
    "--file": "--output",
    "--no-cache": "--anew",
    "--as-of": "--level",
    "--incremental": "--level",
    "--full": "--level",
    "-0": "--level",
    "-1": "--level",
}
_OPTION_WORDS: Final = {
    "--iexclude": "a pattern like *.[jJ][pP][gG] fits both cases",
    "--compression": "everything is compressed already",
    "--progress": "progress is drawn on a terminal by itself",
}


_BEFORE_COMMAND: Final = (
    "--pool",
    "--key",
    "--json",
    "--utc",
    "--quiet",
    "--verbose",
    "--help",
    "-q",
    "-v",
    "-h",
    "-V",
)


def unknown_command(name: str, before: Sequence[str] = ()) -> str:
    """Return the error for a command that there is not: the one that was meant, or all; `before`: the words before."""
    strange = [word for word in before if word.startswith("-") and word.partition("=")[0] not in _BEFORE_COMMAND]
    if strange and not re.fullmatch("-[qvh]+", strange[0]):
        meant = get_close_matches(strange[0], [word for word in _BEFORE_COMMAND if len(word) > 2], n=1, cutoff=0.88)
        hint = f"; did you mean `{meant[0]}`?" if meant else ", where a command has such an option: `dal --help`"
        return f"{strange[0]} stands behind the command{hint}"
    if name in _OTHER_COMMANDS:
        return f"unknown command {name!r}: {_OTHER_COMMANDS[name]}"
    meant = get_close_matches(name.lower(), COMMANDS, n=2, cutoff=0.6)
    if meant:
        return f"unknown command {name!r}: did you mean {' or '.join(f'`dal {each}`' for each in meant)}?"
    return f"unknown command {name!r}: `dal --help` lists them"


def options_of(parser: "ArgumentParser") -> Iterator[str]:
    """Yield the options that a command and its verbs take."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for verb in action.choices.values():
                yield from options_of(verb)


def advice(parser: "ArgumentParser", words: Sequence[str], complaint: str) -> str:
    """Return what to add to the parser's complaint about `words`: a sentence that begins with `; `, or nothing."""
    choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", complaint)
    if choice is not None:
        meant = get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1, cutoff=0.6)
        return f"; did you mean {meant[0]!r}?" if meant else ""
    if "expected one argument" in complaint:
        option = complaint.removeprefix("argument ").partition(":")[0].rpartition("/")[2]
        return f"; a value that begins with - is given as {option}=VALUE" if option.startswith("--") else ""
    known = set(options_of(parser))
    takes_names = any(not action.option_strings for action in parser._actions)
    before = words[: words.index("--")] if "--" in words else words
    for word in before:
        if len(word) > 1 and word.startswith("-") and not _is_known(word, known):
            return _about_option(word, known, takes_names=takes_names)
    return ""


def _is_known(word: str, known: set[str]) -> bool:
    if word.startswith("--"):
        return word.partition("=")[0] in known
    return all(f"-{letter}" in known for letter in word[1:]) or (word[:2] in known and word[1] not in "qv")


def _about_option(word: str, known: set[str], *, takes_names: bool) -> str:
    name = word.partition("=")[0]
    if name in _OPTION_WORDS:
        return f"; {_OPTION_WORDS[name]}"
    if _OTHER_OPTIONS.get(name) in known:
        return f"; here it is `{_OTHER_OPTIONS[name]}`"
    meant = get_close_matches(name, [each for each in known if each.startswith("--")], n=1, cutoff=0.7)
    if meant and name.startswith("--"):
        return f"; did you mean `{meant[0]}`?"
    return f"; no such option: a name that begins with - is given behind `--`, as in `-- {word}`" if takes_names else ""


def unknown_topic(name: str, topics: Sequence[str]) -> str:
    """Return the error for a topic or command that help knows nothing of."""
    meant = get_close_matches(name.lower(), [*topics, *COMMANDS], n=1, cutoff=0.6)
    topic_list = ", ".join(topics)
    if meant:
        return f"help: no topic {name!r}: did you mean `dal help {meant[0]}`? Topics: {topic_list}, and every command"
    return f"help: no topic {name!r}: there are {topic_list}, and every command"
