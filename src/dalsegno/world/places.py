"""Where this user's own files are, as the XDG Base Directory Specification says: the one place that knows HOME.

A value that is empty or no whole path counts as not set; without HOME the password database tells. Who is in neither
(a container with a bare user number) is told what to set: nothing is ever written beneath the current directory.
"""

import os
import pwd
from pathlib import Path

from dalsegno.terms.errors import BadInput

OURS = "dalsegno"
VARIABLES = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
SITE_STATE_DIR = Path("/var/lib/dalsegno")
"""Where the coordinator of a whole site, which is root, keeps its catalog and spool."""


def find_home() -> Path | None:
    """Return the user's home directory, or None for a user number that has none."""
    given = os.environ.get("HOME", "")
    if not os.path.isabs(given):
        try:
            given = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return Path(given) if os.path.isabs(given) else None


def _base(variable: str, *below_home: str) -> Path | None:
    given = os.environ.get(variable, "")
    if os.path.isabs(given):
        return Path(given) / OURS
    home = find_home()
    return home.joinpath(*below_home, OURS) if home is not None else None


def environment() -> dict[str, str]:
    """Return the variables by which another program finds the same places: HOME, and those of the others that count."""
    named = {name: os.environ[name] for name in VARIABLES if os.path.isabs(os.environ.get(name, ""))}
    home = find_home()
    return {**({"HOME": str(home)} if home is not None else {}), **named}


def _required(found: Path | None, variable: str, what: str) -> Path:
    if found is None:
        raise BadInput(
            f"no place for {what}: HOME is not set, and user number {os.getuid()} has no name here: "
            f"set HOME, or {variable} to a whole path"
        )
    return found


def data_dir() -> Path:
    """Return where this user's own pool is; BadInput when nobody knows his home."""
    return _required(find_data_dir(), "XDG_DATA_HOME", "your own pool (--pool names another)")


def find_data_dir() -> Path | None:
    """Return where this user's own pool is, or None."""
    return _base("XDG_DATA_HOME", ".local", "share")


def policy_files() -> list[Path]:
    """Return where a policy is looked for: the machine's, then the user's own."""
    own = find_config_dir()
    return [Path("/etc/dalsegno.toml"), *([own / "dalsegno.toml"] if own is not None else [])]


def find_config_dir() -> Path | None:
    """Return where keys, joined realms and the user's policy are, or None."""
    return _base("XDG_CONFIG_HOME", ".config")


def config_dir() -> Path:
    """Return where keys, joined realms and the user's policy are; BadInput when nobody knows his home."""
    return _required(find_config_dir(), "XDG_CONFIG_HOME", "keys (--key names one)")


def find_cache_dir() -> Path | None:
    """Return where what may be lost is kept, or None."""
    return _base("XDG_CACHE_HOME", ".cache")


def cache_dir() -> Path:
    """Return where what may be lost is kept; BadInput when nobody knows the user's home."""
    return _required(find_cache_dir(), "XDG_CACHE_HOME", "caches")


def find_state_dir() -> Path | None:
    """Return where a coordinator keeps its catalog and spool, or None."""
    return _base("XDG_STATE_HOME", ".local", "state")


def state_dir() -> Path:
    """Return where a coordinator keeps its catalog; BadInput when nobody knows the user's home."""
    return _required(find_state_dir(), "XDG_STATE_HOME", "the catalog")
