"""The `command` target: any program that takes a file and gives it back: tar to a tape, rclone, scp, a script.

Each command line is split into words first, then `{file} {name} {dump} {level} {volume} {size}` are put in, so a name
with spaces stays one word and no shell reads it. Write `sh -c '...'` to have one; it finds the same values in DAL_FILE,
DAL_NAME and so on. Exit code 0 is success; anything else is told with the program's last line.
"""

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dalsegno.archive.labels import BadLabel
from dalsegno.archive.parts import file_digest, media_name
from dalsegno.archive.scan import scanned_whole
from dalsegno.archive.targets import Found
from dalsegno.backup.policy import CommandPolicy
from dalsegno.backup.records import BAD, GOOD, MISSING, UNKNOWN, Copy, DumpEntry, Medium
from dalsegno.terms.errors import BadInput, DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.names import file_name
from dalsegno.world.files import PARTIAL_SUFFIX, durable_step, file_errors, make_directory, remove_durable
from dalsegno.world.programs import run_program

LIST_BYTES_MAX = 64 * 1024 * 1024


def fill_words(template: str, values: dict[str, str]) -> list[str]:
    """Return the words of a command line with the fields put in. BadInput names a field that there is not."""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise BadInput(f"command {template!r}: {error}") from None
    if not words:
        raise BadInput("a command is empty: correct the policy")
    filled = []
    for word in words:
        for name, value in values.items():
            word = word.replace("{" + name + "}", value)
        filled.append(word)
    return filled


class CommandTarget:
    """A program's front door. A Target (targets.py)."""

    kind = "command"

    def __init__(self, policy: CommandPolicy, *, scratch: Path) -> None:
        self.name = policy.name
        self._policy = policy
        self._scratch = scratch

    def _run(self, verb: str, template: str, values: dict[str, str], *, output_bytes_max: int = 65536) -> bytes:
        if not template:
            raise BadInput(f"target {self.name}: the policy has no `{verb}` command")
        words = fill_words(template, values)
        with file_errors(self.name):
            durable_step(f"command-{verb}", writes=verb == "store")
        try:
            outcome = run_program(
                words,
                environment={f"DAL_{name.upper()}": value for name, value in values.items()},
                timeout_seconds=self._policy.timeout_seconds,
                output_bytes_max=output_bytes_max,
            )
        except (NotFound, Unavailable) as error:
            raise type(error)(f"target {self.name}: {error}") from None
        if outcome.code != 0:
            ended = f"exit code {outcome.code}" if outcome.code > 0 else f"signal {-outcome.code}"
            raise Unavailable(f"target {self.name}: {verb} ended with {ended}: {outcome.last_words}")
        return outcome.output

    def _values(self, entry: DumpEntry, *, name: str, file: Path) -> dict[str, str]:
        return {
            "file": os.fspath(file),
            "name": file_name(name, of=f"target {self.name}"),
            "dump": entry.dump_id.hex(),
            "level": str(entry.level),
            "volume": file_name(entry.volume_name, of="volume"),
            "size": str(entry.size_bytes),
        }

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Give the dump to `store`, get it back with `fetch`, and compare. Unavailable: the program failed; Damaged."""
        name = media_name(source.name, entry.dump_id)
        report(Progress(phase="archive", total_bytes=entry.size_bytes))
        self._run("store", self._policy.store, self._values(entry, name=name, file=source.absolute()))
        report(Progress(phase="read back", total_bytes=entry.size_bytes))
        copy = Copy(
            dump_id=entry.dump_id,
            target=self.name,
            medium=self.name,
            place=name,
            size_bytes=entry.size_bytes,
            written_at_ns=now_ns,
            checked_at_ns=now_ns,
        )
        if self.check(copy, entry, report=report) != GOOD:
            raise Damaged(f"target {self.name}: {name} read back, and it is not what was stored: see to the program")
        return [copy]

    def fetch(self, copies: Sequence[Copy], entry: DumpEntry, to: Path, *, report: Report = silent) -> None:
        """Have `fetch` write the dump, from its beginning: a program cannot be asked to go on in the middle.

        Unavailable: the program failed. Damaged: what it wrote is not what was stored.
        """
        make_directory(to.parent)
        partial = to.with_name(to.name + PARTIAL_SUFFIX)
        remove_durable(partial)
        report(Progress(phase="fetch", total_bytes=entry.size_bytes))
        self._run("fetch", self._policy.fetch, self._values(entry, name=copies[0].place, file=partial.absolute()))
        try:
            digest = file_digest(partial, phase="check", report=report, fresh=False)
        except NotFound:
            raise Damaged(f"target {self.name}: fetch said that all is well, and wrote no {partial}") from None
        if digest != entry.digest:
            remove_durable(partial)
            raise Damaged(f"target {self.name}: {copies[0].place} is not what was stored: take another copy")
        with file_errors(to):
            descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            try:
                durable_step("fsync")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            durable_step("rename")
            os.rename(partial, to)

    def open_read(self, copies: Sequence[Copy], entry: DumpEntry) -> None:
        """A program gives whole files only."""
        return

    def check(self, copy: Copy, entry: DumpEntry, *, report: Report = silent) -> str:
        """Fetch the copy into the scratch directory and compare it; MISSING when the program cannot find it."""
        scratch = self._scratch / f"check.{hex_short(entry.dump_id)}.{self.name}"
        try:
            self.fetch([copy], entry, scratch, report=report)
        except Damaged:
            return BAD
        except Unavailable:
            if self._policy.list and copy.place not in self._names():
                return MISSING
            raise
        finally:
            remove_durable(scratch)
            remove_durable(scratch.with_name(scratch.name + PARTIAL_SUFFIX))
        return GOOD

    def repair(self, copies: Sequence[Copy], entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """A program's store has nothing to rebuild from: the dump is archived anew from another copy instead."""
        return []

    def remove(self, copy: Copy) -> None:
        """Have `remove` remove the copy."""
        values = {
            "name": file_name(copy.place, of=f"target {self.name}"),
            "dump": copy.dump_id.hex(),
            "size": str(copy.size_bytes),
        }
        self._run("remove", self._policy.remove, values)

    def present(self) -> list[Medium]:
        """Return one medium, named like the target: what is behind the program is the program's business."""
        return [Medium(label=self.name, target=self.name, kind=self.kind)]

    def bad_labels(self) -> list[BadLabel]:
        """A program's media have no labels that we read."""
        return []

    def _names(self) -> list[str]:
        output = self._run("list", self._policy.list, {}, output_bytes_max=LIST_BYTES_MAX)
        return [line.strip() for line in output.decode(errors="surrogateescape").splitlines() if line.strip()]

    def scan(self, *, report: Report = silent, media: Collection[str] | None = None) -> Iterator[Found]:
        """Fetch every dump that `list` names, one after the other, and read what it says about itself."""
        names = self._names() if self._policy.list else []
        make_directory(self._scratch)
        for number, name in enumerate(names):
            report(Progress(phase="scan", done_count=number, total_count=len(names)))
            scratch = self._scratch / f"scan.{self.name}.dump"
            try:
                values = {"file": os.fspath(scratch.absolute()), "name": file_name(name, of=f"target {self.name}")}
                self._run("fetch", self._policy.fetch, values)
                header = scanned_whole(scratch, name=name, report=report)
            except DalError as error:
                report(Note(severity="error", path=os.fsencode(f"{self.name}:{name}"), text=str(error)))
                continue
            finally:
                remove_durable(scratch)
            copy = Copy(
                dump_id=header.dump_id,
                target=self.name,
                medium=self.name,
                place=name,
                size_bytes=header.dump_bytes,
                written_at_ns=header.written_at_ns,
                checked_at_ns=0,
                verdict=UNKNOWN,
            )
            yield Found(copy=copy, header=header, path=None)
