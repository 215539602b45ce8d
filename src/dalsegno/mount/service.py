"""One mount from its beginning to its end."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dalsegno.mount import kernel
from dalsegno.mount.kernel import MountOptions
from dalsegno.mount.readonly import Gallery, Owners, Picture, ReadOnly, Shelf
from dalsegno.mount.session import Session, log_to_stderr
from dalsegno.terms.errors import DalError
from dalsegno.world.background import on_stop
from dalsegno.world.clock import now_ns

THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How the caller wants to see it."""

    allow_other: bool = False
    as_user: bool = False


def show_read_only(
    top: Picture | Shelf,
    gallery: Gallery | None,
    directory: Path,
    *,
    wishes: Wishes,
    label: str,
    ready: Callable[[], None],
) -> None:
    """Show `top` at `directory` until it is unmounted, or this process is asked to end."""
    owners = Owners(uid=os.getuid(), gid=os.getgid()) if wishes.as_user else Owners()
    file_system = ReadOnly(top, gallery, owners=owners, now_ns=now_ns())
    options = MountOptions(
        read_only=True, allow_other=wishes.allow_other, default_permissions=True, label=label
    )
    path = os.path.realpath(directory)
    descriptor = kernel.mount(directory, options)
    try:
        session = Session(descriptor, file_system, log=log_to_stderr)
        session.negotiate()
        kernel.set_read_ahead(path)
        on_stop(lambda: _leave(path))
        ready()
        session.serve(thread_count=THREADS)
    finally:
        os.close(descriptor)


def _leave(path: str) -> None:
    try:
        kernel.unmount(path, lazy=True)
    except DalError as error:
        log_to_stderr(str(error))
