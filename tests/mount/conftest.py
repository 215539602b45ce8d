"""Let the tests of mounts import their kit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cli_kit import User


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A person with a home directory and a pool in it."""
    return User(tmp_path)
