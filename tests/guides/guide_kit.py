"""Follow a guide as typed: every command of the page, in order, on a machine of its own.

SCENE = Scene(
    page="docs/guides/first-backup.md",
    before="mkdir ~/documents; echo offer > ~/documents/letter",     # what the page takes for granted
    left_out={"systemctl": "no systemd in a test"},                 # commands that cannot be typed here, with the reason
)
def test_as_typed() -> None:
    follow(SCENE)

Commands are typed as they stand. Only what the page itself leaves open is filled in: a word that ends in `…'` becomes what was printed
with that beginning, and the ids and times that a page shows become those that were printed in their place.
"""

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guide_house import House, house
from guide_page import Block, Command, fill_gap, learn, missing_line, read_page

ROOT = Path(__file__).parents[2]
GOES_ON = re.compile(
    r"^dal (--\S+ \S+ )*(serve|follow)\b(?!.*(--once|--status|--stop|--export-cert))|^dal .*--foreground"
)
"""Commands that stay; the reader goes on in another terminal when they have printed what the page shows."""
WAIT_SECONDS_MAX = 60
JOB_NOTICE = re.compile(r"^\[\d+\]|: line \d+: +\d+ Killed")
"""What bash says of its jobs."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a page takes for granted, and what of it cannot be typed here."""

    page: str
    network: bool = False
    """Whether the page reaches for the network, as pip does."""
    before: str = ""
    """Typed before the page's first command; must succeed."""
    between: Mapping[str, str] = field(default_factory=dict)
    """Typed before the command that begins so: what the story says has happened meanwhile."""
    after: str = ""
    """Typed after the last command; must succeed: checks of what the reader has then."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """{a part of a command: why it is not typed}."""
    only_read: Mapping[str, str] = field(default_factory=dict)
    """{the beginning of a block that is neither typed nor a file: what it is}."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """{beginning of a command: the beginning of the block that is typed into it}."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """{an example's value that no reader has: what is typed in its place}."""


def follow(scene: Scene, *, person: str = "root") -> list[str]:
    """Follow a page to its end; return every line that was printed."""
    steps = read_page(ROOT / scene.page)
    unused = {*scene.between, *scene.left_out, *scene.only_read, *scene.answers}
    with house(person=person, network=scene.network) as machine:
        _must(machine, scene, "before", scene.before)
        known: dict[str, str] = {}
        programs = ""
        for step in steps:
            if isinstance(step, Command):
                known |= _type(machine, scene, step, steps, known, unused)
            elif any(step.text.startswith(begin) for begin in (*scene.only_read, *scene.answers.values())):
                unused -= {begin for begin in scene.only_read if step.text.startswith(begin)}
            elif step.language == "python":
                programs += step.text
                program = f"PYTHONPATH={ROOT / 'src'} {sys.executable} - <<'GUIDE'\n{programs}GUIDE\n"
                _must(machine, scene, f"line {step.line}", program)
            elif step.path:
                _write(machine, scene, step)
            else:
                raise AssertionError(
                    f"{scene.page}:{step.line}: neither typed nor a file: say in `only_read` what it is"
                )
        _must(machine, scene, "after", scene.after)
        assert not unused, f"{scene.page}: the test speaks of what the page does not have: {sorted(unused)}"
        return machine.printed


def _must(machine: House, scene: Scene, where: str, text: str) -> None:
    if text:
        code, lines = machine.step(f"{{ set -e; {text}\n}}; set +e\n")
        assert code == 0, f"{scene.page}, {where}: {code}\n{text}\n" + "\n".join(lines)


def _write(machine: House, scene: Scene, block: Block) -> None:
    mode = "chmod +x" if block.text.startswith("#!") else ":"
    directory = block.path.rpartition("/")[0]
    text = f"mkdir -p {directory} && cat > {block.path} <<'GUIDE'\n{block.text}GUIDE\n{mode} {block.path}\n"
    _must(machine, scene, f"line {block.line}", text)


def _type(
    machine: House,
    scene: Scene,
    command: Command,
    steps: list[Command | Block],
    known: Mapping[str, str],
    unused: set[str],
) -> dict[str, str]:
    where = f"{scene.page}:{command.line}"
    for begin, text in scene.between.items():
        if command.text.startswith(begin) and begin in unused:
            unused.discard(begin)
            _must(machine, scene, f"before line {command.line}", text)
    for part in scene.left_out:
        if part in command.text:
            unused.discard(part)
            return {}
    typed = None
    for begin, block_begin in scene.answers.items():
        if command.text.startswith(begin):
            unused.discard(begin)
            typed = next(step.text for step in steps if isinstance(step, Block) and step.text.startswith(block_begin))
    text = fill_gap(command.text, machine.printed)
    for old, new in (*known.items(), *scene.instead.items()):
        text = text.replace(old, new)
        typed = typed.replace(old, new) if typed is not None else None
    if GOES_ON.search(text) and not text.rstrip().endswith("&"):
        return _go_on(machine, where, command, text)
    code, lines = machine.step(text, typed=typed)
    if text.rstrip().endswith("&"):
        lines = _answer(machine)
    right = code != 0 if command.code is None else code == command.code
    story = f"{where}: ended with {code}\n$ {text}" + "\n".join(lines)
    assert right, story
    assert not any(line.startswith("Traceback") for line in lines), story
    missing = missing_line(command.prints, lines)
    assert missing is None, f"{where}: the page shows a line that was not printed: {missing!r}\n{story}"
    return learn(command.prints, lines)


def _answer(machine: House) -> list[str]:
    """Wait until what was just put into the background says something, as a person does before typing on."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        lines = [line for line in machine.last_lines() if not JOB_NOTICE.search(line)]
        if lines:
            return lines
        assert time.monotonic() < deadline, "it says nothing"
        time.sleep(0.05)


def _go_on(machine: House, where: str, command: Command, text: str) -> dict[str, str]:
    """Type a command that stays, and go on when it has printed what the page shows."""
    code, _ = machine.step(f"{{ {text.rstrip()}\n}} >> {machine.control}/stays-{command.line} 2>&1 &\n")
    assert code == 0
    said = machine.control / f"stays-{command.line}"
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        lines = said.read_text(errors="replace").splitlines() if said.exists() else []
        missing = missing_line(command.prints, lines)
        if missing is None and lines:
            machine.printed += lines
            return learn(command.prints, lines)
        assert time.monotonic() < deadline, f"{where}: not printed: {missing!r}\n$ {text}" + "\n".join(lines)
        time.sleep(0.05)
