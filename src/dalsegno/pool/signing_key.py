"""The key with which this user signs the revisions that he makes: `signing.key`, an OpenSSH private key file.

It is made when the first revision is. Who has no place for it, or a key that cannot be read, makes revisions without a
signature, and is told so once: a backup never fails for that.
"""

import os
from pathlib import Path
from typing import Final

from dalsegno.chunks.signatures import SigningKey
from dalsegno.formats.objects import Revision
from dalsegno.terms.errors import AlreadyThere, DalError, NotFound
from dalsegno.terms.events import Note, Report, silent
from dalsegno.world import places
from dalsegno.world.files import (
    PRIVATE_FILE,
    file_errors,
    is_open_to_all,
    make_directory,
    remove_left_behind,
    settle_file,
    write_durable,
)
from dalsegno.world.workers import new_lock

SIGNING_KEY_NAME: Final = "signing.key"
KEY_BYTES_MAX: Final = 64 * 1024


def read_signing_key(path: Path) -> SigningKey:
    """Return the key in a file. NotFound, NoAccess, or Damaged when it holds something else."""
    with file_errors(path), open(path, "rb") as file:
        return SigningKey.of_text(file.read(KEY_BYTES_MAX))


def make_signing_key(path: Path) -> SigningKey:
    """Return the key in a file, which is made, durable, if it is not there."""
    make_directory(path.parent, mode=0o700, to_owner=True)
    remove_left_behind(path.parent, path.name)
    key = SigningKey.generate()
    try:
        write_durable(path, key.text(), mode=PRIVATE_FILE, replace=False, to_owner=True)
    except AlreadyThere:
        settle_file(path)  # somebody else made it at this moment
        return read_signing_key(path)
    return key


class OwnSigner:
    """Signs what this user makes. May be used from several threads."""

    def __init__(self, *, name: str, report: Report = silent) -> None:
        """`name` is who he is, as user@host."""
        self.name = name
        self._report = report
        self._lock = new_lock()
        self._key: SigningKey | None = None
        self._told = False

    @property
    def path(self) -> Path | None:
        """Where the key is, or will be; None for somebody without a home."""
        config = places.find_config_dir()
        return config / SIGNING_KEY_NAME if config is not None else None

    def public(self) -> bytes | None:
        """Return the public key; None when there is none yet, or none that can be read."""
        with self._lock:
            if self._key is None and self.path is not None:
                try:
                    self._key = read_signing_key(self.path)
                except DalError:
                    return None
            return self._key.public if self._key is not None else None

    def ready(self) -> bytes | None:
        """Return the public key, made if it is not there; None when none can be had, which is said once."""
        with self._lock:
            if self._key is None:
                try:
                    self._key = self._get()
                except DalError as error:  # a full disk, say: a mount tries again at its next commit
                    if not self._told:
                        self._tell(f"there is no key to sign with, so this is not signed: {error}")
                    self._told = True
            return self._key.public if self._key is not None else None

    def sign(self, revision: Revision) -> Revision:
        """Return a revision signed, or as it is where no key can be had."""
        return self._key.sign(revision) if self.ready() is not None and self._key is not None else revision

    def _get(self) -> SigningKey:
        path = places.config_dir() / SIGNING_KEY_NAME
        try:
            key = read_signing_key(path)
        except NotFound:
            return make_signing_key(path)
        if is_open_to_all(path):
            self._tell("everybody on this machine may read this key, and sign with it: chmod 600 it")
        return key

    def _tell(self, text: str) -> None:
        path = os.fsencode(self.path or SIGNING_KEY_NAME)
        self._report(Note(severity="notice", path=path, text=text))
