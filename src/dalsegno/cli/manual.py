"""The manual page dal(1): all commands, all options, all topics of `dal help` (the macros are those of man(7))."""

import argparse

from dalsegno import __version__
from dalsegno.cli.help import GLOBAL_OPTIONS, GROUPS, START, TOPICS
from dalsegno.cli.main import COMMANDS, command_parser
from dalsegno.cli.words import new_parser


def man_page() -> str:
    """Return the manual page dal(1), with every command and its options."""
    lines = [f'.TH DAL 1 "" "dal {__version__}" "Dal Segno"', ".SH NAME", "dal \\- volume backup and replication"]
    lines += [".SH SYNOPSIS", ".B dal", "[OPTION...] COMMAND [WORD...]", ".SH DESCRIPTION", _roff(START)]
    lines += [".SH OPTIONS OF EVERY COMMAND", *_paragraphs(GLOBAL_OPTIONS)]
    for title, names in GROUPS:
        lines.append(f".SH COMMANDS: {_roff(title.upper())}")
        for name in names:
            if name in COMMANDS:
                lines += _man_command(command_parser(name))
    for name, (line, text) in TOPICS.items():
        lines += [f".SH {_roff(name.upper())}", _roff(f"{line[0].upper()}{line[1:]}:"), *_paragraphs(text)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Return a text in which nothing is an order to roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines())


def _verbatim(text: str) -> list[str]:
    """Return lines as they are, without man's own margin: they are as wide as a terminal."""
    return [".PP", ".nf", ".in 0", *(_roff(line) for line in text.rstrip().splitlines()), ".in", ".fi"]


def _paragraphs(text: str) -> list[str]:
    """Return prose that fills the lines of the reader's terminal, and tables (indented) as they are."""
    lines = []
    for part in text.strip("\n").split("\n\n"):
        lines += _verbatim(part) if part.startswith(" ") else [".PP", _roff(part)]
    return lines


def _man_command(parser: argparse.ArgumentParser, *, depth: int = 0) -> list[str]:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = [f".SS {_roff(parser.prog)}" if depth == 0 else f".TP\n.B {_roff(parser.prog)}"]
    lines += [_roff(parser.description or ""), ".PP", _roff(usage)]
    common = _common_options()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                lines += _man_command(verb, depth=depth + 1)
        elif action.help != argparse.SUPPRESS and not common.intersection(action.option_strings):
            word = _word_of(action)
            lines += [".TP", f".B {_roff(word)}", _roff((action.help or "").replace("%%", "%"))]
    if parser.epilog:
        lines += [".PP", _roff(parser.epilog)]
    return lines


def _common_options() -> set[str]:
    return {option for action in new_parser("x", "x", "x")._actions for option in action.option_strings}


def _word_of(action: argparse.Action) -> str:
    choices = "|".join(map(str, action.choices)) if action.choices else None
    value = action.metavar if isinstance(action.metavar, str) else choices or action.dest.upper()
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")
