"""Seed: fill a new replica from dumps that were carried by hand, so that only the rest crosses the network.

A chain of dumps stands in for the server that everything is copied from: what is missing is what the dumps hold.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dalsegno.chunks.realm import Realm
from dalsegno.formats import pack
from dalsegno.formats.object_rows import Rows, encode_rows
from dalsegno.formats.pack_index import decode_kinds, file_order
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.transfer import Transferred, copy
from dalsegno.terms.errors import NotFound
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES, hex_short
from dalsegno.volumes.state import VolumeState
from dalsegno.world.workers import Workers

"""Where an index row has the kind, above the offset in its block."""


class PacksOrigin:
    """Packs that are read as one, where a server is copied from otherwise. Of an object in two the last one counts."""

    name = "the dumps"

    def __init__(self, readers: Sequence[PackReader], realm: Realm, *, workers: Workers | None = None) -> None:
        self._readers = list(readers)
        self._realm = realm
        self._workers = workers

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the rows of all objects, in the order in which they lie in the packs, each once."""
        for number, reader in enumerate(self._readers):
            ids, values = reader.objects()
            order = file_order(values)
            for start in range(0, len(order), BATCH_IDS_MAX):
                chosen = order[start : start + BATCH_IDS_MAX]
                again = np.zeros(len(chosen), bool)
                for later in self._readers[number + 1 :]:
                    again |= later.find_rows(ids[chosen]) >= 0
                chosen = chosen[~again]
                yield _rows(ids[chosen], values[chosen]).tobytes()

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Yield a pack of these objects."""
        done: list[bytes] = []
        header = new_header(self._realm, kind=pack.PACK_POOL, sealed=True)
        with PackWriter(done.append, realm=self._realm, header=header, workers=self._workers) as writer:
            for start in range(0, len(ids), OBJECT_ID_BYTES):
                identity = ids[start : start + OBJECT_ID_BYTES]
                kind, payload = self._view(identity)
                writer.put(kind, identity, payload)
                if self._workers is None:
                    yield from done
                    done.clear()
            writer.finish()
        yield from done

    def _view(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        for reader in reversed(self._readers):
            row = reader.find(identity)
            if row is not None:
                return reader.view_row(row, identity)
        raise NotFound(f"object {hex_short(identity)}: in none of the dumps")


def _rows(ids: npt.NDArray[np.uint8], values: npt.NDArray[np.uint32]) -> Rows:
    return encode_rows(ids, decode_kinds(values[:, 1]), values[:, 2])


def seed(
    volume: str,
    origin: PacksOrigin,
    carried: Sequence[tuple[str, bytes]],
    there: VolumeState,
    *,
    to: Site,
    report: Report = silent,
) -> Transferred:
    """Put all that the dumps hold into the replica at `to`, and name what is a clone of the volume, too.

    `carried` are the dumps' clones with their revisions; `there` is the volume as another server has it.
    """
    transferred = copy(origin, to, volume, [revision for _, revision in carried], report=report)
    for name, revision in carried:
        clone = there.clones.get(name)
        if clone is not None and clone.revision == revision:
            to.clone(volume, name, clone)
    return transferred
