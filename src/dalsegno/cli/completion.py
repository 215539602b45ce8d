"""`dal completion`: completion of commands and files, for three shells."""

import argparse

from dalsegno.cli import main
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.terms.errors import EXIT_DONE

OPTIONS = "--pool --key --json --quiet --verbose --help"


def add_completion(parser: Parser) -> None:
    """Say what `dal completion` understands."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=_completion)


def bash_script() -> str:
    """Return the script for bash (and, through bashcompinit, zsh)."""
    return f"""_dal() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            --pool|--key) ((i++)) ;;
            -*) ;;
            volume) [ $((COMP_CWORD - i)) = 1 ] && COMPREPLY=($(compgen -W "create list show rename remove" -- "$word"))
                return ;;
            completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")); return ;;
            *)  case "$word" in
                    -*) COMPREPLY=($(compgen -W "$(dal "${{COMP_WORDS[i]}}" --help 2>/dev/null |
                            grep -o -e '--[a-z-]*')" -- "$word")) ;;
                    *) COMPREPLY=($(compgen -W "$(dal ls 2>/dev/null </dev/null)" -- "$word")
                            $(compgen -f -- "$word")) ;;
                esac
                return ;;
        esac
    done
    COMPREPLY=($(compgen -W "{' '.join(main.COMMANDS)} {OPTIONS}" -- "$word"))
}}
complete -o filenames -F _dal dal"""


def zsh_script() -> str:
    """Return the script for zsh."""
    return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + bash_script()


def fish_script() -> str:
    """Return the script for fish."""
    lines = []
    for name, (_, line, _) in main.COMMANDS.items():
        text = line.replace("'", "\\'")
        lines.append(f"complete -c dal -n __fish_use_subcommand -f -a {name} -d '{text}'")
    lines += [f"complete -c dal -l {option.removeprefix('--')}" for option in OPTIONS.split()]
    return "\n".join(lines)


SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


def _completion(arguments: argparse.Namespace, terminal: Terminal) -> int:
    script = SCRIPTS[arguments.shell]()
    terminal.result({"shell": arguments.shell, "script": script}, [script])
    return EXIT_DONE
