"""What is mounted beneath a directory, and which of it holds nobody's files: made by the kernel, or lost at its end.

Read from /proc/self/mountinfo (proc_pid_mountinfo(5)); where there is no /proc, nothing is known to be mounted.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
KERNEL_KINDS: Final = frozenset(
    b"autofs binder binfmt_misc bpf cgroup cgroup2 configfs cpuset debugfs devpts devtmpfs efivarfs functionfs fusectl"
    b" hugetlbfs mqueue nfsd nsfs openpromfs proc pstore resctrl rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs"
    b" usbdevfs usbfs xenfs fuse.dal fuse.gvfsd-fuse fuse.lxcfs fuse.portal".split()
)
"""File systems whose files are views of something else: of the kernel, of a running program, of our own pools."""
PARTS_KINDS: Final = frozenset((b"proc", b"sysfs", b"debugfs", b"tracefs", b"devtmpfs", b"hugetlbfs"))
"""Of these a part that is mounted somewhere else (mount --bind) was put there to be seen, and is taken."""
MEMORY_KINDS: Final = frozenset((b"tmpfs", b"ramfs"))
SYSTEM_PLACES: Final = (b"/dev", b"/proc", b"/run", b"/sys", b"/var/lock", b"/var/run")
"""Memory is left out when it is mounted here: what programs keep there is made again at each start."""
_ESCAPES: Final = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\134": b"\\"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo."""

    point: bytes
    part: bytes
    """Which directory of the file system is mounted; b"/" is all of it."""
    kind: bytes
    major: int
    minor: int

    @property
    def is_pseudo(self) -> bool:
        """Whether a backup of what lies around it leaves it out."""
        if self.kind in KERNEL_KINDS:
            return self.part == b"/" or self.kind not in PARTS_KINDS
        if self.kind in MEMORY_KINDS:
            return any(self.point == place or self.point.startswith(place + b"/") for place in SYSTEM_PLACES)
        return False


def parse_mounts(data: bytes) -> list[Mount]:
    """Return the mounts of a mountinfo file, in its order; lines that are none are passed over."""
    found = []
    for line in data.splitlines():
        words, _, rest = line.partition(b" - ")
        fields, kind = words.split(b" "), rest.partition(b" ")[0]
        if len(fields) < 6 or not kind:
            continue
        major, _, minor = fields[2].partition(b":")
        if major.isdigit() and minor.isdigit():
            point, part = _unescape(fields[4]), _unescape(fields[3])
            found.append(Mount(point=point, part=part, kind=kind, major=int(major), minor=int(minor)))
    return found


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    head, *pieces = text.split(b"\\")
    return head + b"".join(_ESCAPES.get(b"\\" + piece[:3], b"\\" + piece[:3]) + piece[3:] for piece in pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """What a scan does not enter, by path from its root."""

    pseudo: dict[bytes, Mount]
    """Pseudo file systems."""
    mounted: dict[bytes, set[bytes]]
    """Of these directories, which mount on demand, the names that lead to something that is mounted now: to look for
    any other would mount it."""


def find_boundaries(root: bytes, mounts: Iterable[Mount]) -> Boundaries:
    """Return what a scan of `root` (a real path) does not enter: pseudo file systems strictly beneath it."""
    above = root.rstrip(b"/") + b"/"
    last = {mount.point[len(above) :]: mount for mount in mounts if mount.point.startswith(above)}
    pseudo = {path: mount for path, mount in last.items() if path and mount.is_pseudo}
    mounted: dict[bytes, set[bytes]] = {}
    for path in [path for path, mount in pseudo.items() if mount.kind == b"autofs"]:
        beneath = path + b"/"
        names = {
            each[len(beneath) :].partition(b"/")[0] for each in last if each.startswith(beneath) and each not in pseudo
        }
        if names:
            mounted[path] = names
            del pseudo[path]
    return Boundaries(pseudo=pseudo, mounted=mounted)


def boundaries_below(root: bytes) -> Boundaries:
    """Return what a scan of `root` does not enter now."""
    try:
        data = MOUNTINFO.read_bytes()
    except OSError:
        return Boundaries(pseudo={}, mounted={})
    return find_boundaries(os.path.realpath(root), parse_mounts(data))
