"""How a restore is wanted, as one value and as arguments."""

from dataclasses import fields
from typing import get_type_hints

from dalsegno.actions.restore import RestoreKeywords, RestoreRequest


def test_the_arguments_of_a_restore_are_the_fields_of_its_request() -> None:
    assert list(get_type_hints(RestoreKeywords).items()) == [
        (field.name, get_type_hints(RestoreRequest)[field.name]) for field in fields(RestoreRequest)
    ]
