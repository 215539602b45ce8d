"""The key of a user for signing: had as soon as there is a place for it, and missed without harm."""

import sys
from pathlib import Path

import pytest

from dalsegno.chunks.signatures import find_signer
from dalsegno.pool.signing_key import SIGNING_KEY_NAME, OwnSigner, read_signing_key
from dalsegno.terms.events import Event, Note

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from make_revision_signed import REVISION


def test_what_has_no_room_for_a_key_signs_as_soon_as_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind: a failure of one moment that a long-running process keeps for ever."""
    place = tmp_path / "config"
    place.write_bytes(b"in the way")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place))
    told: list[Event] = []
    signer = OwnSigner(name="anna@laptop", report=told.append)
    assert signer.public() is None
    assert signer.sign(REVISION) == signer.sign(REVISION) == REVISION
    assert [isinstance(event, Note) and "not signed" in event.text for event in told] == [True]
    place.unlink()
    signed = signer.sign(REVISION)
    key = read_signing_key(place / "dalsegno" / SIGNING_KEY_NAME).public
    assert find_signer(signed) == signer.public() == key == OwnSigner(name="").public()
    assert len(told) == 1


def test_who_has_no_home_signs_nothing_and_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalsegno.world.places.find_home", lambda: None)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    told: list[Event] = []
    signer = OwnSigner(name="anna@laptop", report=told.append)
    assert signer.path is None and signer.public() is None and signer.sign(REVISION) == REVISION
    assert len(told) == 1 and isinstance(told[0], Note) and "XDG_CONFIG_HOME" in told[0].text
