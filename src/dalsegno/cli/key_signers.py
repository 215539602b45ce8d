"""`dal key signers|trust-signer|remove-signer`: whose signatures on states are known."""

import argparse
from typing import Any

from dalsegno.actions import signers as actions
from dalsegno.chunks.signatures import fingerprint, public_text
from dalsegno.cli.door import open_volumes
from dalsegno.cli.key_holders import read_public_key
from dalsegno.cli.terminal import Terminal, show
from dalsegno.pool.signers import Signer, remove_signer
from dalsegno.terms.errors import EXIT_DONE
from dalsegno.terms.times import format_time, show_time


def add_signer_verbs(verbs: Any) -> None:
    """Define the arguments of these verbs."""
    words = "list this user's key for signing states, and the signers that the pool knows"
    verbs.add_parser("signers", help=words, epilog="example: dal key signers").set_defaults(run=_signers)
    words = "know whose signature it is that is made with this key"
    trust = verbs.add_parser(
        "trust-signer", help=words, epilog="example: dal key trust-signer anna 'ssh-ed25519 AAAAC3NzaC1lZDI1...'"
    )
    trust.add_argument("name", metavar="NAME", help="the signer's name here")
    trust.add_argument("key", metavar="KEY", help="`ssh-ed25519 ...`, as `dal key signers` prints it there, or a file")
    trust.set_defaults(run=_trust)
    words = "know a signer no more"
    remove = verbs.add_parser("remove-signer", help=words, epilog="example: dal key remove-signer anna")
    remove.add_argument("name", metavar="NAME", help="one of those that `dal key signers` lists")
    remove.set_defaults(run=_remove)


def _value(signer: Signer, *, own: bytes | None) -> dict[str, Any]:
    return {
        "name": signer.name,
        "key": public_text(signer.key),
        "fingerprint": fingerprint(signer.key),
        "since": format_time(signer.since_ns),
        "own": signer.key == own,
    }


def _signers(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal) as house:
        known = actions.known(house)
    own = None
    lines = ["this user has signed nothing yet: the first backup makes a key"]
    if known.own is not None:
        text = public_text(known.own, comment=known.own_name)
        own = {"name": known.own_name, "key": public_text(known.own), "fingerprint": fingerprint(known.own)}
        lines = [f"this user signs with  {show(text)}"]
    rows = [
        [show(each.name), fingerprint(each.key), show_time(each.since_ns), "this user" if each.key == known.own else ""]
        for each in known.signers
    ]
    if rows:
        lines += ["", *terminal.listing(["signer", "key", "since", ""], rows)]
    values = [_value(each, own=known.own) for each in known.signers]
    terminal.result({"own": own, "signers": values}, lines)
    return EXIT_DONE


def _trust(arguments: argparse.Namespace, terminal: Terminal) -> int:
    text, _ = read_public_key(arguments.key)
    with open_volumes(arguments, terminal) as house:
        signer = actions.trust(house, arguments.name, text)
        own = actions.known(house).own
    line = f"{show(signer.name)} is who signs with {fingerprint(signer.key)}"
    terminal.result(_value(signer, own=own), [line])
    return EXIT_DONE


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal) as house:
        signer = remove_signer(house.pool, arguments.name)
        own = actions.known(house).own
    line = f"{show(signer.name)} is no known signer any more: what that key signed is not signed by a known signer"
    terminal.result(_value(signer, own=own), [line])
    return EXIT_DONE
