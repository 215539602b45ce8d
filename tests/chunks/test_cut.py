"""Where files are cut, and what the places of the cuts give away."""

import secrets

import numpy as np
from pyfastcdc.py.constants import GEAR, MASKS

from dalsegno.chunks.cut import CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, Cutter
from dalsegno.chunks.realm import CHUNK_SEED_MAX
from dalsegno.terms.sizes import MIB

BITS = CHUNK_BYTES_AVERAGE.bit_length() - 1
ZERO_BITS = [bit for bit in range(64) if (MASKS[BITS - 1] & MASKS[BITS + 1]) >> bit & 1]
"""Of the hash of what stands before a cut."""


def cuts_of(content: bytes, seed: int) -> list[int]:
    return Cutter(seed).cut(content, final=True)


def seeds_that_fit(content: bytes, ends: list[int]) -> list[int]:
    """Return the seeds with which `content` is cut at `ends`: found from their lowest bits up, as the hash adds up."""
    starts = [0, *ends[:-1]]
    known = [
        end for start, end in zip(starts, ends, strict=True) if end - start < CHUNK_BYTES_MAX and end < len(content)
    ]
    gear = np.array(GEAR, np.uint64)
    before = [gear[np.frombuffer(content[end - 63 : end + 1], np.uint8)[::-1]] for end in known]
    seeds, bits = np.zeros(1, np.uint64), 0
    for zero in ZERO_BITS:
        more = np.arange(1 << (zero + 1 - bits), dtype=np.uint64) << np.uint64(bits)
        seeds, bits = (seeds[:, None] | more[None, :]).ravel(), zero + 1
        for values in before:
            total = np.zeros(len(seeds), np.uint64)
            for shift in range(bits):
                total += (values[shift] ^ seeds) << np.uint64(shift)
            seeds = seeds[(total >> np.uint64(zero) & np.uint64(1)) == 0]
    return [int(seed) for seed in seeds]


def test_other_realms_cut_the_same_file_at_other_places() -> None:
    content = secrets.token_bytes(8 * MIB)
    one, other = (cuts_of(content, secrets.randbelow(CHUNK_SEED_MAX)) for _ in range(2))
    assert len(set(one[:-1]) & set(other[:-1])) <= 1


def test_who_knows_a_file_and_its_exact_cuts_knows_the_secret_of_the_cutter() -> None:
    """What is true today: the secret is mixed into a public table in a way that is undone bit by bit, in no time."""
    seed = secrets.randbelow(CHUNK_SEED_MAX)
    known, unknown = secrets.token_bytes(8 * MIB), secrets.token_bytes(8 * MIB)
    found = seeds_that_fit(known, cuts_of(known, seed))
    print(f"seed {seed:#x}, found {len(found)}")
    assert 1 <= len(found) <= 4
    assert cuts_of(unknown, seed) in [cuts_of(unknown, each) for each in found]
