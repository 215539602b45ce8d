"""Content-defined chunks: FastCDC (Xia et al., USENIX ATC 2016) with cut points keyed by the realm."""

from typing import Final

from pyfastcdc import FastCDC

from dalsegno.terms.sizes import KIB

CHUNK_BYTES_AVERAGE: Final = 128 * KIB
CHUNK_BYTES_MIN: Final = 32 * KIB
CHUNK_BYTES_MAX: Final = 512 * KIB
WINDOW_BYTES: Final = 8 * CHUNK_BYTES_MAX
"""How much of a stream is looked at in one step; a multiple of the largest chunk, so most steps end in a real cut."""
assert WINDOW_BYTES % CHUNK_BYTES_MAX == 0


class Cutter:
    """Cuts buffers at points that depend on content and realm only. Not thread-safe."""

    def __init__(self, seed: int) -> None:
        self._cdc = FastCDC(avg_size=CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MAX, seed=seed)

    def cut(self, buffer: bytes | memoryview, *, final: bool) -> list[int]:
        """Return the ends of the chunks in `buffer`.

        Unless `final`, a last piece that more data could lengthen is left out: the caller keeps those bytes
        and gives them again at the front of the next buffer.
        """
        ends = [chunk.offset + chunk.length for chunk in self._cdc.cut_buf(buffer)]
        if not final and ends:
            last_start = ends[-2] if len(ends) > 1 else 0
            if ends[-1] - last_start < CHUNK_BYTES_MAX:
                ends.pop()
        return ends
