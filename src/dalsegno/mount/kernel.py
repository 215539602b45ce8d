"""The way to the kernel: open /dev/fuse, mount and unmount, the list of our mounts, and the settings beside them.

Root calls mount(2); everybody else asks fusermount3 (or fusermount), which hands back the descriptor over a socket.
"""

import array
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dalsegno.terms.errors import BadInput, DalError, NoAccess, NotFound, Refused
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.programs import environment_of_programs

DEVICE: Final = "/dev/fuse"
TYPE: Final = "fuse.dal"
READ_AHEAD_KIB: Final = 1024
REQUEST_BYTES_MAX: Final = 1 * MIB
MOUNTINFO: Final = Path("/proc/self/mountinfo")

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How a directory is mounted."""

    read_only: bool
    allow_other: bool
    default_permissions: bool
    label: str
    """What the list of mounts shows as the source."""
    devices: bool = False
    """Whether devices and set-id bits mean something in it: root only, and only when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """One of our mounts, from /proc/self/mountinfo."""

    path: str
    label: str
    read_only: bool
    device: str
    """Major and minor number with a colon between."""
    uid: int
    """The user that made it."""


def mount(directory: Path, options: MountOptions) -> int:
    """Mount at `directory` and return the descriptor on which the kernel asks."""
    if not directory.is_dir():
        raise NotFound(f"{directory}: no such directory: make it first (mkdir)")
    if os.geteuid() == 0:
        return _mount_as_root(directory, options)
    return _mount_as_user(directory, options)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{DEVICE}: not there: `modprobe fuse` (in a container: --device {DEVICE})") from None
    except PermissionError:
        raise NoAccess(f"{DEVICE}: not yours to open: ask root for `chmod 666 {DEVICE}`") from None
    except OSError as error:
        raise DalError(f"{DEVICE}: {error.strerror}: `modprobe fuse`, or ask who runs this machine") from None


def _common(options: MountOptions) -> list[str]:
    words = []
    if options.default_permissions:
        words.append("default_permissions")
    if options.allow_other:
        words.append("allow_other")
    return words


def _escape(label: str) -> str:
    """Return a label that may stand in mount options, and in a line of /proc/self/mountinfo."""
    return "".join(character if character.isprintable() and character not in ",\\ #" else "_" for character in label)


def _mount_as_root(directory: Path, options: MountOptions) -> int:
    descriptor = _open_device()
    root_mode = stat.S_IFDIR
    data = ",".join([f"fd={descriptor}", f"rootmode={root_mode:o}", "user_id=0", "group_id=0", *_common(options)])
    flags = (_MS_RDONLY if options.read_only else 0) | (0 if options.devices else _MS_NOSUID | _MS_NODEV)
    label = _escape(options.label).encode(errors="replace")
    if _libc.mount(label, os.fsencode(directory.resolve()), TYPE.encode(), ctypes.c_ulong(flags), data.encode()):
        code = ctypes.get_errno()
        os.close(descriptor)
        remedy = {
            errno.ENODEV: ": the kernel has no FUSE: `modprobe fuse`",
            errno.EPERM: ": mounting is not allowed here (in a container: --cap-add SYS_ADMIN --device /dev/fuse)",
        }.get(code, "")
        raise DalError(f"{directory}: cannot mount: {os.strerror(code)}{remedy}")
    return descriptor


def fusermount() -> str:
    """Return the program that mounts for ordinary users."""
    found = shutil.which("fusermount3") or shutil.which("fusermount")
    if found is None:
        raise NotFound("fusermount3: no such program: install it (`apt install fuse3`), or mount as root")
    return found


def _mount_as_user(directory: Path, options: MountOptions) -> int:
    program = fusermount()
    if not os.path.exists(DEVICE):
        os.close(_open_device())
    words = ["nosuid", "nodev", f"fsname={_escape(options.label)}", "subtype=dal", *_common(options)]
    words += ["ro"] if options.read_only else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        process = subprocess.run(
            [program, "-o", ",".join(words), "--", os.path.realpath(directory)],
            env={**environment_of_programs(), "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        if process.returncode:
            said = process.stderr.decode(errors="replace").strip().splitlines()
            raise NoAccess(f"{directory}: {said[-1] if said else 'fusermount failed'}")
        room = array.array("i", [0])
        _, extra, _, _ = ours.recvmsg(1, socket.CMSG_LEN(room.itemsize))
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            room = array.array("i", data[: room.itemsize])
            os.set_inheritable(room[0], False)
            return room[0]
    raise DalError(f"{directory}: {program} mounted nothing")


def unmount(path: str, *, lazy: bool = False) -> None:
    """Take a mount away; `lazy`: at once for new callers, and wholly when the last one has left."""
    if os.geteuid() == 0:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if _libc.umount2(os.fsencode(path), flags):
            code = ctypes.get_errno()
            if code == errno.EBUSY:
                raise Refused(f"{path}: somebody still works in it: leave it, or `dal umount --lazy {path}`")
            raise DalError(f"{path}: cannot unmount: {os.strerror(code)}")
        return
    words = [fusermount(), "-u", *(["-z"] if lazy else []), "--", path]
    process = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=environment_of_programs())
    if process.returncode:
        said = process.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(f"{said[-1] if said else path + ': cannot unmount'}")


def _unescape(word: str) -> str:
    """Return a word of mountinfo with its `\\040` and the like undone."""
    parts = word.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def list_mounts() -> list[Mounted]:
    """Return our mounts that this process can see, oldest first."""
    found = []
    for line in MOUNTINFO.read_text(errors="surrogateescape").splitlines():
        before, _, behind = line.partition(" - ")
        words, (kind, source, _) = before.split(), behind.split(" ", 2)
        if kind == TYPE:
            read_only = "ro" in words[5].split(",")
            path, label = _unescape(words[4]), _unescape(source)
            owner = re.search(r"(?:^|,)user_id=(\d+)", behind)
            uid = int(owner[1]) if owner else 0
            found.append(Mounted(path=path, label=label, read_only=read_only, device=words[2], uid=uid))
    return found


def holders(device: str) -> list[int]:
    """Return processes that still show a mount of this device (`major:minor`), one of each mount namespace.

    Those of others are seen by root alone.
    """
    found: dict[str, int] = {}
    for process in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        place = f"/proc/{process}"
        try:
            namespace = os.readlink(f"{place}/ns/mnt")
            if namespace in found:
                continue
            with open(f"{place}/mountinfo", errors="surrogateescape") as file:
                if any(line.split()[2] == device and f" - {TYPE} " in line for line in file):
                    found[namespace] = process
        except OSError:
            continue  # it ended, or is somebody else's
    return sorted(found.values())


def find_mount(path: str) -> Mounted:
    """Return our newest mount at `path`; the directory is not looked at, since its server may be gone."""
    wanted = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path.rstrip("/")))
    for each in reversed(list_mounts()):
        if each.path in (wanted, os.path.abspath(path)):
            return each
    raise BadInput(f"{path}: not a mount of ours: `dal mount --list` shows them")


def flush_pages(path: str, handed_over: Callable[[], int]) -> None:
    """Let the kernel hand over what was written through memory maps; other threads must be there to take it.

    It does not wait until all is taken. So something is asked that stands in line behind it, until `handed_over`, which
    counts what was taken, counts no further.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # the mount is going: the kernel hands everything over then
    try:
        _libc.syncfs(descriptor)
        before = -1
        while before != handed_over():
            before = handed_over()
            os.fstatvfs(descriptor)
    finally:
        os.close(descriptor)


def set_read_ahead(path: str) -> None:
    """Let the kernel read further ahead than its 128 KiB; without root's rights it stays as it is.

    The device is looked up in the list of mounts: to ask the mount itself would be to ask ourselves.
    """
    device = next((each.device for each in reversed(list_mounts()) if each.path == path), None)
    if device is None:
        return
    place = f"/sys/class/bdi/{device}/read_ahead_kb"
    try:
        with open(place, "w") as file:
            file.write(str(READ_AHEAD_KIB))
    except OSError:
        pass  # slower, and nothing else


assert READ_AHEAD_KIB * KIB <= REQUEST_BYTES_MAX
