"""Fixtures of room host."""

from pathlib import Path

import pytest
from host_kit import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
