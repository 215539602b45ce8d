"""The program behind the installed Amanda application: `amdalsegno POOL|//SERVER KEY|- full|guarded COMMAND ...`."""

import os
import sys
from importlib import import_module
from pathlib import Path

from dalsegno.actions.session import House
from dalsegno.assembly.local import open_pool
from dalsegno.bridges import application
from dalsegno.bridges.amanda import Call, one_line, parse_call
from dalsegno.chunks.realm import Realm
from dalsegno.pool.keys import open_pool_settings, read_realm
from dalsegno.terms.errors import DalError, NoAccess, NotFound
from dalsegno.world.background import on_stop

MESSAGES_FD = 3
INDEX_FD = 4
IMAGES_BASE = "/var/tmp"


class _Places:
    """Pool and key, or a realm: those that were installed, or those of the properties."""

    def __init__(self, pool: str, key: str) -> None:
        self._pool = pool
        self._key = key

    def _of(self, call: Call) -> tuple[Path, Path | None]:
        pool = call.properties.get("pool", self._pool)
        key = call.properties.get("key-file", self._key if pool == self._pool else "")
        return Path(pool), Path(key) if key else None

    def house(self, call: Call) -> House:
        """Open the pool, or the realm in which the server is."""
        if call.server:
            house: House = import_module("dalsegno.assembly.realm").open_realm(_realm_name(call))
            return house
        pool, key = self._of(call)
        return open_pool(pool, passphrase=lambda: _passphrase(key), key_path=key)

    def realm(self, call: Call) -> Realm:
        """Return the realm that images are of: of the pool, or when it is lost, of the key alone."""
        pool, key = self._of(call)
        if call.server:
            return _realm_key(call)
        try:
            return open_pool_settings(pool, passphrase=lambda: _passphrase(key), key_path=key).realm
        except NotFound:
            if key is None:
                raise
            return read_realm(key)


def _realm_name(call: Call) -> str:
    # What belongs to realms takes long to load: only who uses one waits for it.
    found: str = import_module("dalsegno.cli.realm").realm_of_addresses([f"//{call.server}/{call.volume or '*'}"])
    return found


def _realm_key(call: Call) -> Realm:
    key = call.properties.get("key-file")
    if key is not None:
        return read_realm(Path(key))
    profile = import_module("dalsegno.replicas.profile")
    found: Realm = profile.read_profile_realm(profile.read_profile(_realm_name(call)))
    return found


def _passphrase(key: Path | None) -> str:
    if key is None:
        raise NoAccess("the pool has a passphrase: KEY-FILE must name a file that holds it")
    try:
        lines = key.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NoAccess(f"{key}: {error}") from None
    return lines[0] if lines else ""


def _interrupt() -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Do one command of Amanda's and return the exit code."""
    if len(sys.argv) < 5:
        print("amdalsegno is called by Amanda: `dal amanda install` installs it", file=sys.stderr)
        return 2
    pool, key, right, *words = sys.argv[1:]
    key = "" if key == "-" else key
    if pool.startswith("//") and "--pool" not in words:
        words[1:1] = ["--server", pool.removeprefix("//")]  # a property of this name comes later, and counts
    is_backup = words[0] == "backup"
    line = application.Line(
        input=sys.stdin.buffer,
        output=sys.stdout.buffer,
        messages=os.fdopen(MESSAGES_FD, "wb", buffering=0) if is_backup else None,
        index=os.fdopen(INDEX_FD, "wb") if is_backup and "--index" in words else None,
    )
    if is_backup:
        # A single byte there would fail the dump; what matters goes to the messages.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    images = Path(os.environ.get("TMPDIR") or IMAGES_BASE) / f"amdalsegno-{os.getuid()}"
    places = _Places(pool, key)
    doors = application.Doors(house=places.house, realm=places.realm, images=images)
    on_stop(_interrupt)
    try:
        call = parse_call(words)
        if right != "full":
            application.forbid_as_other(call)
        return application.run(call, line, doors)
    except DalError as error:
        return _refused(words, line, error)
    except OSError as error:
        return _refused(words, line, DalError(str(error)))
    except KeyboardInterrupt:
        return _refused(words, line, DalError("interrupted"))
    except Exception as error:
        return _refused(words, line, DalError(f"internal error: {type(error).__name__}: {error}; please report it"))


def _refused(words: list[str], line: application.Line, error: DalError) -> int:
    try:
        return application.refuse(words, line, error)
    except DalError:
        print(f"amdalsegno: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except OSError:
        return application.FAILED


def _leave() -> None:
    """End without the interpreter's own complaints about a reader that went away."""
    code = main()
    try:
        sys.stdout.flush()
    except OSError:
        code = code or application.FAILED
    os._exit(code)


if __name__ == "__main__":
    _leave()
