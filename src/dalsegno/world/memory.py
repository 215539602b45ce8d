"""How this process takes memory from the system."""

import contextlib
import ctypes
from typing import Final

from dalsegno.terms.sizes import KIB, MIB

KEPT_BYTES_MAX: Final = 32 * MIB
"""Freed memory that each heap keeps for what comes next instead of giving it back to the system."""
_LARGE_BYTES: Final = 32 * MIB
"""What is larger is taken from the system by itself and goes back at once: the most that glibc takes."""

_APART_BYTES: Final = 512 * KIB

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2


def give_large_blocks_back() -> None:
    """Let what is as large as a block go back to the system at once: for a process that also keeps millions of records.

    By itself glibc soon puts blocks among the small things, and the room between them is lost: 40 MiB of 210 in a
    restore of 1,500,000 hard links.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _APART_BYTES)


def keep_freed_memory() -> None:
    """Let what was freed be used again instead of giving it back: for a process that opens block after block.

    To get a block of 4 MiB from the system costs 1,024 page faults, about as much as to copy it twice. Source:
    mallopt(3) of glibc; with another C library nothing changes. Threads share two heaps: one for each of them
    would keep as much each, 400 MiB after minutes of writing to a mount.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
    share_heaps()


def share_heaps() -> None:
    """Let many threads share two heaps of the C library (mallopt(3)): each of their own would keep its largest size."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)


def give_back_freed() -> None:
    """Give back what was freed in the middle of the heaps, too: what lives longer had kept it. About a millisecond."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
