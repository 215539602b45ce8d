"""`dal mount`, `umount`, `mkmount`, `rmmount`: old versions, dumps and volumes as a directory."""

import argparse
import json
import os
import pwd
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dalsegno.actions import mount as actions
from dalsegno.actions.view import split_dumps
from dalsegno.cli.choice import joined_realms, pool_path
from dalsegno.cli.door import no_key_for, open_volumes, realm_of_key
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser, add_trust
from dalsegno.mount import kernel, service
from dalsegno.mount.gallery import HouseGallery, dumps_picture
from dalsegno.mount.service import Wishes
from dalsegno.pool.settings import is_pool
from dalsegno.terms.errors import EXIT_DONE, BadInput, DalError, NotFound, Refused, Unavailable, error_kinds
from dalsegno.volumes.address import parse_address
from dalsegno.world import places
from dalsegno.world.background import run_in_background
from dalsegno.world.clock import pause
from dalsegno.world.control_socket import Words
from dalsegno.world.files import raise_file_error

END_SECONDS_MAX = 600
END_LOOK_SECONDS = 0.05
HOLDERS_LOOK_TURNS = 20
HOLDERS_SHOWN_MAX = 3


def add_mount(parser: Parser) -> None:
    """Define the arguments of `dal mount`."""
    parser.add_argument("what", nargs="?", metavar="ADDRESS|DUMPS", help="what to show; DUMPS: FULL.dump+INCR.dump...")
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="where to show it")
    parser.add_argument("--all", action="store_true", help="show all volumes: DIR/VOLUME/CLONE/...")
    parser.add_argument("--list", action="store_true", help="list what is mounted")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground until it is unmounted")
    parser.add_argument("--read-only", action="store_true", help="refuse writes, also to a native volume")
    parser.add_argument(
        "--allow-other", action="store_true", help="let other users in, subject to the files' permissions"
    )
    parser.add_argument("--as-user", action="store_true", help="show every file as your own, for reading")
    parser.add_argument("--devices", action="store_true", help="make devices and set-id bits effective (root)")
    parser.add_argument("--follow", action="store_true", help="let mount points in dumps refer to volumes of your pool")
    add_trust(
        parser,
        untrusted="show all as your own, without set-id bits, devices, security.* and trusted.* attributes (as "
        "without a word a dump of a volume that the pool does not know, or for readers)",
        trusted="show it as it is",
    )
    # Neither place is there with --list: without this an option between the two would end the places.
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    parser.set_defaults(run=_mount)


def add_umount(parser: Parser) -> None:
    """Define the arguments of `dal umount`."""
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("-l", "--lazy", action="store_true", help="also while it is in use")
    parser.set_defaults(run=_umount)


def add_mkmount(parser: Parser) -> None:
    """Define the arguments of `dal mkmount`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new name within a volume mounted for writing")
    parser.add_argument("address", metavar="VOLUME[@CLONE]", help="what it refers to")
    parser.set_defaults(run=_mkmount)


def add_rmmount(parser: Parser) -> None:
    """Define the arguments of `dal rmmount`."""
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    parser.set_defaults(run=_rmmount)


def cache_base() -> Path:
    """Return where this user's caches are, of all pools."""
    return places.cache_dir()


def log_path() -> Path:
    """Return where mounts in the background write what went wrong."""
    return cache_base() / "mount.log"


def _mount(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.list:
        return _list(terminal)
    if arguments.all:
        if arguments.directory is not None:
            raise BadInput("--all shows every volume: give only DIR")
        arguments.directory, arguments.what = Path(arguments.what) if arguments.what else None, None
    if arguments.directory is None or (arguments.what is None and not arguments.all):
        raise BadInput("say what to mount and where: `dal mount home@yesterday DIR`")
    at = os.path.realpath(arguments.directory)
    for each in kernel.list_mounts():
        if each.path == at:
            # On top of it would do, but then the first `dal umount` would not free the directory.
            raise Refused(
                f"{arguments.directory}: shows {each.label} already: `dal umount {arguments.directory}` first"
            )
    if not arguments.directory.is_dir():
        raise BadInput(f"{arguments.directory}: no such directory: make it first (mkdir)")
    shown = arguments.what or "all volumes"
    verb = "is" if arguments.what else "are"
    lines = [f"{shown} {verb} at {arguments.directory}; `dal umount {arguments.directory}` ends it"]
    value: dict[str, Any] = {"mounted": shown, "at": at}

    def tell() -> None:
        terminal.result(value, [] if terminal.quiet else lines)

    if arguments.foreground:
        _serve(arguments, terminal, tell)
        return EXIT_DONE
    process, answer = run_in_background(
        lambda ready: _serve(arguments, terminal, ready), describe=_describe, log_path=log_path()
    )
    if answer:
        raise _error_of(answer)
    value["process"] = process
    tell()
    return EXIT_DONE


def _serve(arguments: argparse.Namespace, terminal: Terminal, ready: Callable[[], None]) -> None:
    wishes = Wishes(
        allow_other=arguments.allow_other,
        as_user=arguments.as_user,
        devices=arguments.devices,
        takes_unsigned=arguments.is_trusted is not None,
    )
    dumps = split_dumps(arguments.what) if arguments.what is not None else None
    realm = realm_of_key(arguments, dumps[0][0]) if dumps is not None else None
    if dumps is not None and realm is None and not is_pool(pool_path(arguments)) and not joined_realms():
        raise NotFound(no_key_for(dumps[0][0]))
    if dumps is not None and realm is not None:
        paths, clone, inner = dumps
        wishes = replace(wishes, is_trusted=_is_trusted(arguments, terminal, is_own=False))
        with actions.open_shown_dumps(paths, realm, clone=clone, path=inner) as view:
            service.show_read_only(
                dumps_picture(view), None, arguments.directory, wishes=wishes, label=view.label, own=paths, ready=ready
            )
        return
    with open_volumes(arguments, terminal, *([arguments.what] if arguments.what is not None else [])) as house:
        gallery = HouseGallery(house, takes_unsigned=wishes.takes_unsigned)
        own = [*service.own_places(house), *(dumps[0] if dumps is not None else [])]
        if arguments.all:
            service.show_read_only(
                gallery.volumes(),
                gallery,
                arguments.directory,
                wishes=wishes,
                label="all volumes",
                own=own,
                ready=ready,
            )
            return
        reading = dumps is not None or arguments.read_only or arguments.as_user
        state = None if reading else actions.writable_volume(house, arguments.what)
        if state is not None:
            service.show_writable(house, state, arguments.directory, wishes=wishes, ready=ready)
            return
        picture, own_work = gallery.top_and_whether_own(arguments.what)
        wishes = replace(wishes, is_trusted=_is_trusted(arguments, terminal, is_own=own_work))
        # A mount point in a dump is the word of who made it: with --allow-other it would open what is this user's own.
        beside = gallery if dumps is None or arguments.follow else None
        service.show_read_only(
            picture, beside, arguments.directory, wishes=wishes, label=picture.label, own=own, ready=ready
        )


def _is_trusted(arguments: argparse.Namespace, terminal: Terminal, *, is_own: bool) -> bool:
    if arguments.is_trusted is None and not is_own:
        terminal.note(
            f"{arguments.what}: others may have made it (of a volume that is not known here, or for readers), so it is "
            "not trusted: all is shown as your own, without set-id bits, devices, security.* and trusted.* attributes "
            "(--trusted shows them)"
        )
        return False
    return arguments.is_trusted is None or bool(arguments.is_trusted)


def _describe(error: BaseException) -> bytes:
    if isinstance(error, OSError):
        try:
            raise_file_error(error, error.filename or "mount")
        except DalError as known:
            error = known
    code = error.code if isinstance(error, DalError) else "failed"
    return json.dumps({"code": code, "message": str(error) or type(error).__name__}).encode()


def _error_of(answer: bytes) -> DalError:
    words = json.loads(answer)
    return error_kinds().get(words["code"], DalError)(words["message"])


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _list(terminal: Terminal) -> int:
    mounts = kernel.list_mounts()
    values = [{"mounted": each.label, "at": each.path, "read_only": each.read_only, "uid": each.uid} for each in mounts]
    rows = [
        [each.label, each.path, "read-only" if each.read_only else "writable", _name_of(each.uid)] for each in mounts
    ]
    if not rows:
        terminal.note("nothing is mounted")
    terminal.result(values, terminal.listing(["shows", "at", "", "by"], rows))
    return EXIT_DONE


def _umount(arguments: argparse.Namespace, terminal: Terminal) -> int:
    done = []
    for directory in arguments.directories:
        found = kernel.find_mount(directory)
        held_by: list[int] = []
        control = None if found.read_only else actions.running_mount(cache_base(), found.path)
        if control is not None:
            # What cannot be stored is said while it is still there.
            actions.tell_mount(control, {"do": "commit"})
        kernel.unmount(found.path, lazy=arguments.lazy)
        if control is not None and not arguments.lazy:
            held_by = _wait_for_end(control, found)
            if held_by:
                processes = ", ".join(map(str, held_by[:HOLDERS_SHOWN_MAX]))
                terminal.note(
                    f"{found.path}: all that was written is stored; another mount namespace still shows it (that of "
                    f"process {processes}: a container or a service?), and the volume stays mounted until that ends"
                )
        done.append({"mounted": found.label, "at": found.path, "held_by": held_by})
    terminal.result(done, [] if terminal.quiet else [f"{each['at']} is free" for each in done])
    return EXIT_DONE


def _wait_for_end(control: Path, mounted: kernel.Mounted) -> list[int]:
    """Wait until the mount's process has stored the last writes and let go of the volume.

    It does not while other mount namespaces show the mount: then wait for the writes alone, and return processes there.
    """
    for turn in range(int(END_SECONDS_MAX / END_LOOK_SECONDS)):
        if not control.exists():
            return []
        if turn % HOLDERS_LOOK_TURNS == 0:
            if held_by := kernel.holders(mounted.device):
                actions.tell_mount(control, {"do": "commit"})
                return held_by
            if actions.has_failed(control):
                raise DalError(f"{mounted.path}: what was written last could not be stored: see {log_path()}")
        pause(END_LOOK_SECONDS)
    raise Unavailable(f"{mounted.path}: its process still stores what was written: see {log_path()}")


def _point_place(directory: Path) -> tuple[Path, str]:
    """Return where the mount that `directory` is in listens, and the path within it."""
    path = os.path.join(os.path.realpath(directory.parent), directory.name)
    above = [each for each in kernel.list_mounts() if path.startswith(each.path.rstrip("/") + "/")]
    if not above:
        raise BadInput(f"{directory}: not within a mount of ours: `dal mount --list` shows them")
    mount = max(above, key=lambda each: len(each.path))
    control = None if mount.read_only else actions.running_mount(cache_base(), mount.path)
    if control is None:
        raise Refused(f"{directory}: {mount.label} is not mounted for writing by you")
    return control, os.path.relpath(path, mount.path)


def _mkmount(arguments: argparse.Namespace, terminal: Terminal) -> int:
    parse_address(arguments.address)
    control, path = _point_place(arguments.directory)
    wish = {"do": "mkmount", "path": path, "target": arguments.address, "uid": os.getuid(), "gid": os.getgid()}
    nowhere = _ask_about(arguments.directory, control, wish).get("nowhere", "")
    value = {"at": os.fspath(arguments.directory), "leads_to": arguments.address, "warning": nowhere or None}
    lines = [f"{arguments.directory} leads to {arguments.address}"]
    if nowhere:
        terminal.note(f"warning: nothing is there now, so it shows as a link to `#{arguments.address}`: {nowhere}")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _rmmount(arguments: argparse.Namespace, terminal: Terminal) -> int:
    for directory in arguments.directories:
        control, path = _point_place(directory)
        _ask_about(directory, control, {"do": "rmmount", "path": path})
    places = [os.fspath(directory) for directory in arguments.directories]
    terminal.result({"removed": places}, [] if terminal.quiet else [f"{place} leads nowhere now" for place in places])
    return EXIT_DONE


def _ask_about(directory: Path, control: Path, wish: Words) -> Words:
    try:
        answer = actions.tell_mount(control, wish)
    except BadInput:
        raise BadInput(f"{directory}: not a mount point") from None
    except DalError as error:
        raise type(error)(f"{directory}: {error}") from None
    if answer is None:
        raise Unavailable(f"{directory}: its mount does not answer: see {log_path()}")
    return answer
