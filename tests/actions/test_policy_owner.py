"""A policy's hooks are run by the shell: whoever may write the policy runs what he likes."""

import os
from pathlib import Path

import pytest

from dalsegno.actions.policy import load_policy
from dalsegno.terms.errors import NoAccess

POLICY = 'pool = "/srv/pool"\n[sets.all]\nsources = ["/srv/data"]\n'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "dalsegno.toml"
    path.write_text(POLICY)
    path.chmod(0o644)
    return path


def test_a_policy_that_everybody_may_write_is_not_obeyed(policy: Path) -> None:
    """Kind: commands of whoever comes by, run each night as the owner of the cycle."""
    load_policy(policy)
    policy.chmod(0o646)
    with pytest.raises(NoAccess, match="everybody may write"):
        load_policy(policy)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: root alone has more than others")
def test_root_obeys_no_policy_of_somebody_else(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: root with a user's HOME, as some `sudo` have it, runs the hooks of that user's own policy."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(policy, 12345, 12345)
    with pytest.raises(NoAccess, match="root would run"):
        load_policy(policy)
    monkeypatch.setenv("SUDO_UID", "12345")  # he may do all that root does
    load_policy(policy)
