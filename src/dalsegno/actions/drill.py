"""A drill: restore a volume, or some files of it, from media into a scratch directory, and compare. Written down."""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dalsegno.actions.restore import restore_view
from dalsegno.actions.retrieve import find_and_plan, plan_retrieve, retrieve
from dalsegno.actions.session import House
from dalsegno.actions.view import View, open_dumps
from dalsegno.archive.installation import Installation
from dalsegno.backup.drills import SAMPLE, WHOLE, Candidate, choose_sample
from dalsegno.backup.records import BAD, GOOD, Drill
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_SYMLINK, Entry
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.events import Event, Note
from dalsegno.trees.read import iterate_content, resolve_link
from dalsegno.trees.walk import walk
from dalsegno.world.clock import now_ns
from dalsegno.world.files import file_errors, make_directory

FORMS = {ENTRY_FILE: stat.S_IFREG, ENTRY_DIRECTORY: stat.S_IFDIR, ENTRY_SYMLINK: stat.S_IFLNK}
FINDINGS_MAX = 100
READ_BYTES = 1024 * 1024


@contextmanager
def scratch_directory(site: Installation, name: str) -> Iterator[Path]:
    """Give an empty directory in the spool, and remove it with all that is in it."""
    path = site.spool.path / "drill" / name
    shutil.rmtree(path, ignore_errors=True)
    make_directory(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def drill(
    house: House, site: Installation, chosen: Candidate, *, selector: str = "latest", file_count: int | None
) -> Drill:
    """Try a volume: `file_count` files of it, or all with None; from media, as if pool and spool were gone (of a set
    without targets: from the spool, as if the pool was gone).

    What is found wrong is in the drill's findings, and the drill in the catalog. Unavailable: a medium is away, and
    nothing was tried.
    """
    started_ns = now_ns()
    findings: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            findings.append(event.text)
        else:
            house.report(event)

    name = chosen.volume_name
    # A set without targets has its archive in the spool.
    in_set = site.policy.sets.get(chosen.set_name)
    from_media = bool(in_set.targets if in_set is not None else site.targets)
    state = find_and_plan(site, name, selector, volume_id=chosen.volume_id, report=house.report).state
    plan = plan_retrieve(site, state, from_media=from_media, report=house.report)
    count = size = 0
    if file_count is None:
        wanted_bytes = plan.fetch_bytes + state.top.raw_bytes
        site.spool.require_room(wanted_bytes, purpose=f"a drill of the whole of {name}")
    with scratch_directory(site, chosen.volume_id.hex()) as scratch:
        try:
            dumps = scratch / "dumps"
            found = retrieve(
                site, plan, in_place=file_count is not None, from_media=from_media, directory=dumps, report=listen
            )
            with open_dumps(found.places, house.pool.realm, f"#{state.revision.hex()}", path=b"", label=name) as view:
                paths = _choose(view, file_count, seed=started_ns)
                outcome = restore_view(house, view, scratch / "files", paths=paths or ())
                findings += [f"{os.fsdecode(path)}: {text}" for path, text in outcome.result.failed]
                for path, entry in _entries(view, paths):
                    count += entry.kind == ENTRY_FILE
                    size += entry.size if entry.kind == ENTRY_FILE else 0
                    findings += compare(view, entry, scratch / "files" / os.fsdecode(path), os.fsdecode(path))
        except (Damaged, NotFound) as error:
            findings.append(str(error))
    made = Drill(
        volume_id=chosen.volume_id,
        volume_name=name,
        set_name=chosen.set_name,
        dump_id=state.top.dump_id,
        kind=SAMPLE if file_count is not None else WHOLE,
        started_ns=started_ns,
        ended_ns=now_ns(),
        file_count=count,
        total_bytes=size,
        verdict=BAD if findings else GOOD,
        findings=tuple(findings[:FINDINGS_MAX]),
        media=plan.media,
    )
    site.catalog.put_drill(made)
    return made


def _entries(view: View, paths: Sequence[bytes] | None = None) -> Iterator[tuple[bytes, Entry]]:
    """Yield every path and entry but the root, or some of them, links resolved."""
    wanted = set(paths) if paths is not None else None
    for path, entry in walk(view.source, view.revision):
        if path and (wanted is None or path in wanted):
            yield path, resolve_link(view.source, view.revision.links, entry)


def _choose(view: View, file_count: int | None, *, seed: int) -> Sequence[bytes] | None:
    if file_count is None:
        return None
    files = (path for path, entry in _entries(view) if entry.kind == ENTRY_FILE)
    return choose_sample(files, count=file_count, seed=seed)


def compare(view: View, entry: Entry, place: Path, name: str) -> list[str]:
    """Return how a restored path differs from its entry: kind, mode, time, link target, and every byte."""
    try:
        status = place.lstat()
    except FileNotFoundError:
        return [f"{name}: was not restored"]
    form = FORMS.get(entry.kind)
    if form is not None and stat.S_IFMT(status.st_mode) != form:
        return [f"{name}: is of another kind"]
    if entry.kind == ENTRY_SYMLINK:
        return [] if os.fsencode(os.readlink(place)) == entry.content else [f"{name}: points elsewhere"]
    wrong = []
    if stat.S_IMODE(status.st_mode) & 0o777 != entry.mode & 0o777:
        wrong.append(f"{name}: has mode {stat.S_IMODE(status.st_mode):04o} instead of {entry.mode:04o}")
    if entry.kind != ENTRY_FILE:
        return wrong
    if status.st_mtime_ns != entry.mtime_ns:
        wrong.append(f"{name}: has another time")
    if status.st_size != entry.size:
        return [*wrong, f"{name}: has {status.st_size} bytes instead of {entry.size}"]
    if not _same_bytes(view, entry, place):
        wrong.append(f"{name}: its bytes are others")
    return wrong


def _same_bytes(view: View, entry: Entry, place: Path) -> bool:
    with file_errors(place), open(place, "rb") as file:
        for offset, data in iterate_content(view.source, entry):
            while file.tell() < offset:  # a hole
                if any(file.read(min(READ_BYTES, offset - file.tell()))):
                    return False
            if file.read(len(data)) != data:
                return False
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(READ_BYTES), b""))
