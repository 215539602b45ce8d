"""Let the tests of this room import its kit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with an empty disk."""
    return Machine(tmp_path / "machine")
