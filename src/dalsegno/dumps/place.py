"""Where a new dump's file may stand: not where it would take away what nobody gave up."""

import stat
from dataclasses import dataclass
from pathlib import Path

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.plan import describe
from dalsegno.terms.errors import DalError, NoAccess, Refused
from dalsegno.terms.names import file_name
from dalsegno.world.files import file_errors


def dump_name(volume: str, clone: str, level: int) -> str:
    """Return the file name of a dump: without a colon, which rsync, scp and tar take for a host's end, and FAT for none
    of a name's characters. Refused when the names that it is made of are none."""
    return file_name(f"{volume}.{clone}.{level}.dump".replace(":", ""), of="dump")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the file of a new dump goes."""

    path: Path
    replaced: bytes = b""
    """The id of the dump that is there now, and gives way."""


def place_for(output: Path, realm: Realm, *, volume: bytes, level: int) -> Place:
    """Return the place for the file of a new dump, symlinks followed; refused when what stands there must stay.

    A dump gives way to one of the same volume, of its own level or a lower one: one of a higher level may build on it.
    """
    with file_errors(output):
        place = output.resolve() if output.is_symlink() else output
        try:
            found = place.stat()
        except FileNotFoundError:
            return Place(path=place)
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{output}: is no ordinary file; name another, or write to the output with `-o -`")
    if found.st_size == 0:
        return Place(path=place)
    try:
        with DumpChain.open([place], realm) as chain:
            note, dump_id = chain.notes[0], chain.readers[0].pack_id
    except NoAccess:
        raise
    except DalError:
        raise Refused(f"{output}: exists, and is no whole dump of this pool; name another file") from None
    if note.volume != volume or note.level < level:
        raise Refused(f"{output}: holds another dump, {describe(note, dump_id)}; name another file")
    return Place(path=place, replaced=dump_id)
