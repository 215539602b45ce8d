"""What the command line says of itself, and to those who come from other programs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from face_kit import Person, environment

from dalsegno.cli import hints
from dalsegno.cli.help import GROUPS, TOPICS, overview
from dalsegno.cli.main import COMMANDS, command_parser
from dalsegno.terms import errors


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def test_every_command_stands_in_one_group_and_help_fits_a_terminal(person: Person) -> None:
    """Kind: a list that grew until nobody reads it."""
    grouped = [name for _, names in GROUPS for name in names]
    assert sorted(grouped) == sorted([*COMMANDS, "help"])
    said = person.run("--help").stdout.decode()
    assert said == overview() + "\n" == person.run("help").stdout.decode()
    assert all(len(line) <= 80 for line in said.splitlines())
    for word in ("--pool PATH", "--key FILE", "--json", "-q, --quiet", "-v, --verbose", "--version", *TOPICS):
        assert word in said


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_are_shown(person: Person, topic: str) -> None:
    said = person.run("help", topic).stdout.decode()
    assert TOPICS[topic][1] in said and all(len(line) <= 80 for line in said.splitlines())


def test_exit_codes_of_the_help_are_those_of_the_errors() -> None:
    listed = {int(number) for number in re.findall(r"^ +(\d+)  ", TOPICS["exit-codes"][1], re.MULTILINE)}
    raised = {kind.exit_code for kind in errors.error_kinds().values()}
    own = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert listed == raised | own


def test_variables_that_are_read_are_listed() -> None:
    source = Path(errors.__file__).parents[1]
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"((?:DAL|XDG)_\w+)\"", text)) - {"DAL_FAULT"}
    assert read and read <= set(re.findall(r"\w+", TOPICS["environment"][1]))


def test_help_of_a_command_and_of_its_verb_are_theirs(person: Person) -> None:
    assert person.run("help", "backup").stdout == person.run("backup", "--help").stdout
    assert person.run("help", "volume", "create").stdout == person.run("volume", "create", "--help").stdout
    assert b"did you mean `dal help environment`" in person.run("help", "enviroment", code=2).stderr


def test_manual_page_has_every_command_and_option_and_groff_takes_it(person: Person) -> None:
    page = person.run("help", "--man").stdout
    for name in COMMANDS:
        assert f".SS dal {name}\n".encode() in page
    text = page.replace(b"\\-", b"-").decode()
    for name in ("backup", "restore", "mount", "serve"):
        assert all(option in text for option in hints.options_of(command_parser(name)))
    try:
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-rLL=80n", "-P-cbou"], input=page, capture_output=True
        )
    except FileNotFoundError:
        return
    assert done.returncode == 0 and done.stderr == b""
    assert all(len(line) <= 80 for line in done.stdout.decode().splitlines())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("bakcup", "`dal backup`"), ("Backup", "`dal backup`"), ("verfy x", "`dal verify`"),
        ("snapshots", "`dal clones`"), ("check", "`dal verify --pool`"), ("forget", "`dal unclone"),
        ("unmount x", "`dal umount DIR`"), ("list", "`dal clones`"), ("send", "`dal dump"), ("receive", "`dal restore"),
        ("extract", "`dal restore"), ("create", "`dal backup DIR`"), ("version", "`dal --version`"),
        ("xyzzy", "`dal --help`"), ("--policy x status", "behind the command"), ("--pol x status", "`--pool`"),
        ("ls --recursve", "`--recursive`"), ("restore x --dest y", "`--to`"), ("ls -r", "`--recursive`"),
        ("volume shwo", "'show'"), ("backup --exclude-file f", "`--exclude-from`"), ("backup --repo x", "`--pool`"),
        ("find -dash", "-- -dash"), ("find -vault", "-- -vault"), ("find x -dash", "-- -dash"),
        ("backup --exclude -x", "--exclude=VALUE"), ("volume create", "NAME"), ("completion", "bash|zsh|fish"),
    ],
)  # fmt: skip
def test_words_of_others_and_slips_are_answered_with_what_was_meant(person: Person, words: str, hint: str) -> None:
    """Kind: an error that says what is wrong and not what would be right."""
    error = person.run(*words.split(), code=2).stderr.decode()
    assert hint in error and error.count("\n") == 1


def test_hints_name_commands_and_options_that_there_are() -> None:
    for name, hint in hints._OTHER_COMMANDS.items():
        assert name not in COMMANDS
        for command in re.findall(r"`dal ([a-z]+)", hint):
            assert command in COMMANDS, hint
    known = {option for name in COMMANDS for option in hints.options_of(command_parser(name))}
    assert set(hints._OTHER_OPTIONS.values()) <= known
    assert not known & set(hints._OPTION_WORDS)


def test_every_option_has_a_metavar_in_upper_case_and_every_verb_an_example() -> None:
    """Kind: `the following arguments are required: verb`."""

    def look(parser: object) -> None:
        for action in parser._actions:  # type: ignore[attr-defined]
            word = action.metavar or action.dest
            if isinstance(action.choices, dict):
                for verb in action.choices.values():
                    assert verb.epilog and verb.epilog.startswith("example: dal"), verb.prog
                    assert {"--json", "-q", "-v", "--pool", "--key"} <= set(hints.options_of(verb)), verb.prog
                    look(verb)
            elif not action.choices and action.nargs != 0:
                assert action.metavar and ("|" in word or word != word.lower()), (parser, word)

    for name in COMMANDS:
        look(command_parser(name))


def test_what_needs_no_command_loads_none(person: Person) -> None:
    """Kind: a start that grows with what is not used."""
    script = (
        "import sys\nfrom dalsegno.cli.main import main\n"
        "for words in (['--version'], ['--help'], ['help', 'times']): main(words)\n"
        "print(*sorted(set(sys.modules) & {'argparse', 'difflib', 'json', 'numpy', 'dalsegno.cli.words'}))\n"
        "main(['bakcup'])\n"
        "print(*sorted(set(sys.modules) & {'argparse', 'numpy', 'dalsegno.cli.words'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(person.home), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-2:] == ["", ""], done.stdout[-300:]
