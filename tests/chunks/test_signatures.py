"""Signatures of revisions: what is genuine, and everything that an enemy could say is."""

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dalsegno.chunks.signatures import SigningKey, find_signer, fingerprint, is_sound_key, public_text, read_public
from dalsegno.formats.objects import Coverage, Revision, decode_revision, encode
from dalsegno.terms.errors import BadInput, Damaged

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_revision_signed import KEY, REVISION  # noqa: E402

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493


def changed(revision: Revision, **changes: object) -> Revision:
    return msgspec.structs.replace(revision, **changes)


def test_the_golden_revision_is_read_and_made_alike():
    data = (GOLDEN / "revision-signed.object").read_bytes()
    revision = decode_revision(data)
    assert find_signer(revision) == KEY.public
    assert changed(revision, signature=b"") == REVISION
    assert encode(KEY.sign(REVISION)) == data
    assert find_signer(REVISION) is None


def test_the_signed_bytes_are_those_of_the_page():
    """docs/formats/objects.md, "Signature", with another program's means."""
    revision = KEY.sign(REVISION)
    signed = b"dalsegno revision signature 1\0" + encode(REVISION)
    Ed25519PublicKey.from_public_bytes(revision.signature[:32]).verify(revision.signature[32:], signed)


@pytest.mark.parametrize(
    "change",
    [
        {"volume": b"another volume.."},
        {"parents": []},
        {"parents": [bytes(32)]},
        {"root": changed(REVISION.root, content=bytes(32))},
        {"root": changed(REVISION.root, mode=0o777)},
        {"links": bytes(32)},
        {"created_ns": 1},
        {"author": "bob@laptop"},
        {"message": ""},
        {"entry_count": 3},
        {"total_bytes": 4},
        {"coverage": Coverage()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_holds_for_nothing_else(change):
    """The kind: something that a signature does not cover; so one of another volume is not taken for this one's."""
    with pytest.raises(Damaged):
        find_signer(changed(KEY.sign(REVISION), **change))


def test_a_flipped_bit_anywhere_in_a_signature_is_found():
    signature = KEY.sign(REVISION).signature
    for place in range(8 * len(signature)):
        bad = bytearray(signature)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(Damaged):
            find_signer(changed(REVISION, signature=bytes(bad)))


def test_a_signature_of_another_length_is_none():
    signature = KEY.sign(REVISION).signature
    for bad in [signature[:end] for end in range(1, len(signature))] + [signature + b"\0", signature * 2]:
        with pytest.raises(Damaged):
            find_signer(changed(REVISION, signature=bad))


def test_anothers_key_before_ones_own_signature_is_found():
    other = SigningKey.generate()
    with pytest.raises(Damaged):
        find_signer(changed(REVISION, signature=KEY.public + other.sign(REVISION).signature[32:]))


def add(a, b):
    (ax, ay), (bx, by) = a, b
    k = D * ax * bx * ay * by
    return (ax * by + bx * ay) * pow(1 + k, -1, P) % P, (ay * by + ax * bx) * pow(1 - k, -1, P) % P


def times(point, number):
    found = (0, 1)
    while number:
        if number & 1:
            found = add(found, point)
        point, number = add(point, point), number >> 1
    return found


def small_points():
    """Return the eight points whose order divides 8: L times any point is one of them."""
    found = set()
    y = 2
    while len(found) < 8:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
        if x * x % P == square:
            small = times((x, y), ORDER)
            found |= {times(small, number) for number in range(8)}
        y += 1
    return found


def test_a_key_for_which_everybody_can_sign_is_no_key():
    """With a public key of small order one signature is genuine for many messages, and nobody needs a private key."""
    points = small_points()
    keys = set()
    for x, y in points:
        for encoded in (y, y + P) if y + P < 2**255 else (y,):
            for sign in (0, 1):
                keys.add((encoded | sign << 255).to_bytes(32, "little"))
        keys.add((y | (x & 1) << 255).to_bytes(32, "little"))
    assert len(points) == 8 and len(keys) > 8
    identity = (1).to_bytes(32, "little")
    forged = changed(REVISION, signature=identity + identity + bytes(32))
    Ed25519PublicKey.from_public_bytes(identity).verify(
        identity + bytes(32), b"whatever is said"
    )  # so it would be taken
    for key in sorted(keys):
        assert not is_sound_key(key), key.hex()
    with pytest.raises(Damaged):
        find_signer(forged)
    with pytest.raises(BadInput):
        read_public(public_text(identity))


def test_public_keys_are_those_of_openssh(tmp_path):
    file = tmp_path / "signing.key"
    file.write_bytes(KEY.text())
    file.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True).stdout
    assert read_public(shown) == KEY.public == SigningKey.of_text(file.read_bytes()).public
    assert public_text(KEY.public, comment="anna") == " ".join([*shown.split()[:2], "anna"])
    listed = subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, text=True, check=True).stdout
    assert fingerprint(KEY.public) in listed


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa AAAA", "age1qqq", "\ud800", "x" * 9999]
)
def test_what_is_no_public_key_is_said(text):
    with pytest.raises(BadInput):
        read_public(text)


def test_what_is_no_private_key_is_damaged():
    seed = 20261130
    print("seed", seed)
    chance = random.Random(seed)
    text = KEY.text()
    for bad in [b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", text[:-40], chance.randbytes(400)]:
        with pytest.raises(Damaged):
            SigningKey.of_text(bad)
