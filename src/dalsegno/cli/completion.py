"""`dal completion`: completion of commands, options, volumes and files, for three shells.

The scripts are complete in themselves; only volumes are asked for, from `dal ls`, which never asks for a passphrase
then: its input and its errors go nowhere.
"""

import argparse
import re

from dalsegno.cli import main
from dalsegno.cli.help import TOPICS
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser, new_parser
from dalsegno.terms.errors import EXIT_DONE

VOLUMES = "dal ls 2>/dev/null </dev/null"
# Commands whose words are volumes or files; others take files alone, or the verbs below.
VOLUME_COMMANDS = (
    *("backup", "import", "clone", "clones", "unclone", "log", "hold", "unhold"),
    *("ls", "find", "cat", "diff", "versions", "restore", "dump", "estimate", "mount", "repair"),
    *("release", "follow", "promote", "move"),
)


BASH = r"""_dal() {
    local IFS=$' \t\n' word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}"
    local i command= place=0 words= volumes= files=
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
            --pool|--key) ((++i)) ;;
            -*) ;;
            *) command="${COMP_WORDS[i]}"; place=$i; break ;;
        esac
    done
    case "$command$last" in
        --pool|--key) files=1 ;;
@VALUES@
    esac
    if [ -n "$words$files" ]; then :
    elif [ -z "$command" ]; then words="@EVERY@"
    elif [ "${word#-}" != "$word" ]; then case "$command" in
@OPTIONS@
    esac
    elif [ $((COMP_CWORD - place)) = 1 ]; then case "$command" in
@VERBS@
        @VOLUME_COMMANDS@) volumes="$(@VOLUMES@)"; files=1 ;;
        *) files=1 ;;
    esac
    else files=1
    fi
    IFS=$'\n'
    words="${words// /$IFS}$IFS$volumes"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [ -n "$files" ]; then COMPREPLY+=($(compgen -f -- "$word")); fi
}
complete -o filenames -F _dal dal"""


FISH = r"""function __dal_is
    set -l words (commandline -opc)
    set -l command ''
    set -l skip 1
    for word in $words
        if test $skip = 1
            set skip 0
        else
            switch $word
                case --pool --key
                    set skip 1
                case '-*'
                case '*'
                    set command $word
                    break
            end
        end
    end
    test "$command" = "$argv"
end"""


def add_completion(parser: Parser) -> None:
    """Define the arguments of `dal completion`."""
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=_completion)


def command_parsers() -> dict[str, Parser]:
    """Return every command's parser."""
    return {name: main.command_parser(name) for name in main.COMMANDS}


def long_options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return a parser's long options, those of its verbs too."""
    found = {}
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--"):
                found[option] = action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                found.update(long_options(verb))
    return found


def first_words(parser: argparse.ArgumentParser) -> list[str]:
    """Return the words that a command's first argument must be one of, or nothing."""
    for action in parser._actions:
        if not action.option_strings and action.choices:
            return list(action.choices)
    return []


def bash_script() -> str:
    """Return the script for bash (and, through bashcompinit, zsh)."""
    options, values, verbs = [], [], []
    for name, parser in command_parsers().items():
        known = long_options(parser)
        options.append(f'        {name}) words="{" ".join(sorted(known))}" ;;')
        if first := first_words(parser):
            verbs.append(f'        {name}) words="{" ".join(first)}" ;;')
        for option, action in known.items():
            if action.choices:
                values.append(f'        {name}{option}) words="{" ".join(map(str, action.choices))}" ;;')
            elif action.nargs != 0:
                values.append(f"        {name}{option}) files=1 ;;")
    verbs.append(f'        help) words="{" ".join((*TOPICS, *main.COMMANDS))}" ;;')
    every = " ".join((*main.COMMANDS, "help", *sorted(long_options(new_parser("x", "x", "x")))))
    tables = {
        "EVERY": every,
        "VALUES": "\n".join(values),
        "OPTIONS": "\n".join(options),
        "VERBS": "\n".join(verbs),
        "VOLUME_COMMANDS": "|".join(VOLUME_COMMANDS),
        "VOLUMES": VOLUMES,
    }
    return re.sub("@([A-Z_]+)@", lambda match: tables[match[1]], BASH)


def zsh_script() -> str:
    """Return the script for zsh."""
    return "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n" + bash_script()


def fish_script() -> str:
    """Return the script for fish."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    common = long_options(new_parser("x", "x", "x"))
    lines = [FISH]
    for option, action in common.items():
        takes = " -r" if action.nargs != 0 else ""
        lines.append(f"complete -c dal -l {option[2:]} -d {quoted(action.help or '')}{takes}")
    for name, parser in command_parsers().items():
        lines.append(f"complete -c dal -n __dal_is -f -a {name} -d {quoted(main.COMMANDS[name][1])}")
        seen = f"complete -c dal -n '__dal_is {name}'"
        for option, action in long_options(parser).items():
            if option in common:
                continue
            takes = ""
            if action.choices:
                takes = f" -x -a {quoted(' '.join(map(str, action.choices)))}"
            elif action.nargs != 0:
                takes = " -r"
            lines.append(f"{seen} -l {option[2:]} -d {quoted(action.help or '')}{takes}")
        if first := first_words(parser):
            lines.append(f"{seen} -f -a {quoted(' '.join(first))}")
        elif name in VOLUME_COMMANDS:
            lines.append(f"{seen} -a '({VOLUMES})' -d volume")
    lines.append("complete -c dal -n __dal_is -f -a help -d 'explain commands and topics'")
    lines.append(f"complete -c dal -n '__dal_is help' -f -a {quoted(' '.join((*TOPICS, *main.COMMANDS)))}")
    return "\n".join(lines)


SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


def _completion(arguments: argparse.Namespace, terminal: Terminal) -> int:
    script = SCRIPTS[arguments.shell]()
    terminal.result({"shell": arguments.shell, "script": script}, script.split("\n"))
    return EXIT_DONE
