"""What a reading command is pointed at: an address in the pool, or a dump, or a chain of dumps."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dalsegno.actions.session import House
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.formats.objects import Revision
from dalsegno.pool.checked import CheckedSource
from dalsegno.pool.contract import Source
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import Damaged, Lost, NotFound, Unavailable, Unsigned
from dalsegno.terms.events import Note
from dalsegno.terms.ids import hex_short
from dalsegno.trees.read import read_revision
from dalsegno.volumes.address import dump_paths, parse_address, resolve
from dalsegno.volumes.signed import find_problem, known_signers, requires_signatures
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns

NAMED_BY_VERIFY: Final = "`dal verify --pool` names all that is lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One revision to read, from whatever source; a `with` block closes dumps."""

    source: Source
    revision_id: bytes
    revision: Revision
    path: bytes
    label: str
    clone: str | None
    state: VolumeState | None
    chain: DumpChain | None

    def __enter__(self) -> "View":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.chain is not None:
            self.chain.close()
        else:
            _name(error, self.label)


def _name(error: BaseException | None, label: str) -> None:
    if isinstance(error, Damaged | Lost) and NAMED_BY_VERIFY not in str(error):
        error.args = (f"{label}: {error}: {NAMED_BY_VERIFY}",)


@contextmanager
def named(label: str) -> Iterator[None]:
    """Say of damage that is met here in which state it was met."""
    try:
        yield
    except (Damaged, Lost) as error:
        _name(error, label)
        raise


def _signed_problem(house: House, view: View) -> str | None:
    """Return why a state does not count as signed, of a volume that requires it, or None."""
    try:
        state = view.state or house.volumes.get_by_id(view.revision.volume)
    except (NotFound, Unavailable):
        return None  # a dump, of a volume of which nobody can tell now
    if state is None or not requires_signatures(state):
        return None
    signers = known_signers(house.pool, house.signer)
    return find_problem(view.source, house.pool.realm, state, view.revision_id, signers)


def require_signed_view(house: House, view: View) -> None:
    """Refuse a state that does not count as signed, of a volume that takes only such states."""
    problem = _signed_problem(house, view)
    if problem is not None:
        raise Unsigned(f"{view.label}: {problem}; --untrusted or --trusted takes it all the same")


def split_dumps(text: str) -> tuple[list[Path], str, bytes] | None:
    """Return (files, clone, path) of `FULL+INCR...[@CLONE][:/PATH]`, or None when `text` names no dump files."""
    if text.startswith("//"):
        return None  # on a server, whatever file has that name here
    head, colon, path = text.partition(":/")
    attempts = [(text, "", b"")]
    if colon:
        attempts.append((head, "", path.strip("/").encode(errors="surrogateescape")))
    stem, at, clone = head.rpartition("@")
    if at:
        attempts.append((stem, clone, path.strip("/").encode(errors="surrogateescape")))
    missing: NotFound | None = None
    for files, name, inner in attempts:
        try:
            paths = dump_paths(files)
        except NotFound as error:
            missing = error
            continue
        if paths is not None:
            return paths, name, inner
    if missing is not None:
        raise missing
    return None


def open_view(house: House, text: str) -> View:
    """Open what an address or a chain of dumps names, to be looked at: what does not count as signed is said."""
    view = open_unchecked_view(house, text)
    problem = _signed_problem(house, view)
    if problem is not None:
        house.report(Note(severity="notice", path=os.fsencode(view.label), text=problem))
    return view


def open_unchecked_view(house: House, text: str) -> View:
    """Open the same; the caller looks whether it counts as signed."""
    dumps = split_dumps(text)
    if dumps is None:
        resolved = resolve(house.pool, house.volumes, parse_address(text), now_ns=now_ns())
        clone = resolved.clone or "#" + hex_short(resolved.revision)
        label = f"{resolved.state.name}@{clone}"
        source = CheckedSource(house.pool, house.pool.realm)
        try:
            revision = read_revision(source, resolved.revision)
        except (Damaged, Lost) as error:
            raise Damaged(f"{label}: cannot be read, its revision is damaged: {error}: {NAMED_BY_VERIFY}") from None
        return View(
            source=source,
            revision_id=resolved.revision,
            revision=revision,
            path=resolved.path,
            label=label,
            clone=resolved.clone,
            state=resolved.state,
            chain=None,
        )
    paths, clone, path = dumps
    return open_dumps(paths, house.pool.realm, clone, path=path, label="+".join(map(str, paths)))


def open_dumps(places: Sequence[Path | PackFile], realm: Realm, clone: str, *, path: bytes, label: str) -> View:
    """Open a state that a chain of dumps carries: a clone by name, `#` and a revision, or the newest."""
    chain = DumpChain.open(places, realm)
    try:
        chain.require_full()
        target = chain.find_target(clone)
        source = CheckedSource(chain, realm)
        try:
            revision = read_revision(source, target.revision)
        except NotFound as error:
            raise Damaged(f"{label}: its list of files is lost: nothing in it can be found by name") from error
    except BaseException:
        chain.close()
        raise
    return View(
        source=source,
        revision_id=target.revision,
        revision=revision,
        path=path,
        label=label,
        clone=target.clone or None,
        state=None,
        chain=chain,
    )
