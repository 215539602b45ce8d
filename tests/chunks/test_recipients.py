"""Keys sealed to public keys, as somebody writes them who means harm."""

import secrets
import time

import pytest

from dalsegno.chunks.recipients import (
    RECIPIENTS_MAX,
    age_identity,
    age_recipient,
    open_sealed,
    read_identity,
    seal_to,
)
from dalsegno.terms.errors import BadInput, NoAccess

STRANGER = age_recipient(age_identity(bytes(32)))


def test_a_key_that_is_sealed_in_very_many_ways_costs_nothing() -> None:
    """Kind: the head of a pack, which anybody can write, keeps who opens it busy for hours."""
    sealed = seal_to([STRANGER], b"x")
    head, mark, rest = sealed.partition(b"\n-> X25519")
    stanza, end, body = (mark + rest).partition(b"\n--- ")
    identity = read_identity(age_identity(secrets.token_bytes(32)))
    began = time.process_time()
    for forged in (stanza * 3000, b"\n-> a\n" * 3000, b"\n-> a" + (b"\n" + b"A" * 64) * 3000 + b"\n"):
        with pytest.raises(NoAccess, match="no way that this program reads"):
            open_sealed(head + forged + end + body, [identity])
    assert time.process_time() - began < 1


def test_as_many_readers_as_there_may_be_open_it_and_one_more_is_said() -> None:
    mine = age_identity(secrets.token_bytes(32))
    many = [STRANGER] * (RECIPIENTS_MAX - 1) + [age_recipient(mine)]
    assert open_sealed(seal_to(many, b"x" * 80), [read_identity(mine)]) == b"x" * 80
    with pytest.raises(BadInput, match="at most"):
        seal_to([*many, STRANGER], b"x")
