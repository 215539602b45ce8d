"""What a mount needs of a house: what an address shows, a volume's clones, what a mount point names."""

import os
from pathlib import Path

from dalsegno.actions.house import House
from dalsegno.actions.view import View, open_view
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.pool.keys import read_realm
from dalsegno.terms.errors import BadInput, NotFound
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import VolumeState


def open_shown(house: House, text: str) -> View:
    """Open what an address or a chain of dumps names, as the top of a mount."""
    return open_view(house, text)


def open_shown_dumps(paths: list[Path], key_path: Path, *, clone: str, path: bytes) -> View:
    """Open dumps without their pool: the key alone is enough."""
    return open_chain(paths, read_realm(key_path), clone=clone, path=path)


def open_chain(paths: list[Path], realm: Realm, *, clone: str, path: bytes) -> View:
    """Open a chain of dumps that begins with a full one."""
    chain = DumpChain.open(paths, realm)
    try:
        chain.require_full()
        target = chain.find_target(clone)
        revision = read_revision(chain, target.revision)
    except BaseException:
        chain.close()
        raise
    return View(
        source=chain,
        revision_id=target.revision,
        revision=revision,
        path=path,
        label="+".join(map(os.fspath, paths)),
        clone=target.clone or None,
        state=None,
        chain=chain,
    )


def volume_by_id(house: House, volume_id: bytes) -> VolumeState:
    """Return a volume's state now."""
    state = house.volumes.get_by_id(volume_id)
    if state is None:
        raise NotFound("the volume was removed meanwhile")
    return state


def open_clone(house: House, volume_id: bytes, name: str) -> View:
    """Open one clone of a volume, or its newest state as `latest`."""
    state = volume_by_id(house, volume_id)
    clone = state.clones.get(name)
    revision_id = clone.revision if clone is not None else state.head if name == "latest" else b""
    if not revision_id:
        raise NotFound(f"no clone {state.name}@{name}: `dal clones {state.name}` shows what there is")
    return View(
        source=house.pool,
        revision_id=revision_id,
        revision=read_revision(house.pool, revision_id),
        path=b"",
        label=f"{state.name}@{name}",
        clone=name,
        state=state,
        chain=None,
    )


def open_point(house: House, point: bytes) -> View:
    """Open what a mount point within a volume names: an address of this pool."""
    text = point.decode(errors="surrogateescape")
    if os.sep in text.partition(":/")[0]:
        raise BadInput(f"mount point to {text!r}: expected VOLUME[@CLONE]")
    return open_view(house, text)
