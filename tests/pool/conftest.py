"""Places for pools: each test that asks for `place` runs over every backend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dalsegno.backends.contract import Backend
from dalsegno.backends.local import LocalBackend
from dalsegno.backends.memory import MemoryBackend

MAKERS: dict[str, Callable[[Path], Backend]] = {
    "local": lambda folder: LocalBackend(folder / "pool"),
    "memory": lambda folder: MemoryBackend(),
}


@pytest.fixture(params=MAKERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place where nothing is yet."""
    return MAKERS[request.param](tmp_path)
