"""Find and read the policy file (docs/formats/policy.md)."""

import os
import stat
from pathlib import Path

from dalsegno.backup.policy import Policy
from dalsegno.backup.policy_file import parse_policy
from dalsegno.backup.toml_tables import Problem
from dalsegno.terms.errors import BadInput, NoAccess, NotFound
from dalsegno.world import places
from dalsegno.world.files import file_errors
from dalsegno.world.zones import local_zone_name


def find_policy(given: str | None) -> Path:
    """Return the policy's place: the option, DAL_POLICY, /etc, or the user's own. NotFound: there is none."""
    named = given or os.environ.get("DAL_POLICY")
    if named:
        return Path(named)
    for place in places.policy_files():
        if place.exists():
            return place
    looked = " or ".join(map(str, places.policy_files()))
    raise NotFound(f"no policy in {looked}: write one (docs/guides/run-a-site.md) or give --policy FILE")


def load_policy(path: Path) -> Policy:
    """Return the policy in a file. BadInput names the first problem and how many more there are; NotFound."""
    policy, problems = examine_policy(path)
    if policy is None:
        more = f" ({len(problems) - 1} more: `dal plan --check` shows all)" if len(problems) > 1 else ""
        raise BadInput(f"{problems[0]}{more}")
    return policy


def examine_policy(path: Path) -> tuple[Policy | None, list[Problem]]:
    """Return the policy in a file, or None and all that is wrong with it. NotFound: there is no such file.

    NoAccess: others write it. Its hooks and commands are run by the shell, so they would run what they like as us.
    """
    path = Path(os.path.abspath(path))
    try:
        with file_errors(path), open(path, "rb") as file:
            _require_ours(path, os.fstat(file.fileno()))
            data = file.read()
    except NotFound:
        raise NotFound(f"{path}: no such policy file") from None
    return parse_policy(data, path=path, state_dir=default_state_dir, timezone=local_zone_name)


def _require_ours(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        return
    if status.st_mode & stat.S_IWOTH:
        raise NoAccess(f"{path}: everybody may write this policy, whose commands you would run: `chmod o-w` it")
    asker = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and status.st_uid != 0 and asker != str(status.st_uid):
        raise NoAccess(
            f"{path}: belongs to user number {status.st_uid}, whose commands root would run: `chown root` it, or run "
            "as that user"
        )


def default_state_dir() -> Path:
    """Return where the coordinator keeps its catalog when the policy does not say."""
    if os.geteuid() == 0:
        return places.SITE_STATE_DIR
    return places.state_dir()
