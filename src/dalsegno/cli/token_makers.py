"""`dal token makers|trust-maker|remove-maker`: whose tokens count on a server of a realm."""

import argparse
from typing import Any, Final

from dalsegno.chunks.signatures import fingerprint, public_text, read_public
from dalsegno.cli.door import open_house
from dalsegno.cli.key_holders import read_public_key
from dalsegno.cli.terminal import Terminal, show
from dalsegno.replicas.makers import Maker, own_key, read_makers, remove_maker, trust_maker
from dalsegno.replicas.server_key import open_server_values
from dalsegno.replicas.tokens import TokenStore
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, Unavailable
from dalsegno.terms.times import format_time, parse_duration_seconds, show_time
from dalsegno.world.clock import SECOND_NS, now_ns

MAKER_VERBS: Final = "makers|trust-maker|remove-maker"


def add_maker_verbs(verbs: Any) -> None:
    """Define the arguments of these verbs."""
    words = "list the servers whose tokens count on this one, and this one's key"
    verbs.add_parser("makers", help=words, epilog="example: dal token makers").set_defaults(run=_makers)
    words = "have the tokens count here that a server of the realm made"
    trust = verbs.add_parser(
        "trust-maker", help=words, epilog="example: dal token trust-maker s1 'ssh-ed25519 AAAAC3NzaC1lZDI1...'"
    )
    trust.add_argument("name", metavar="NAME", help="how the maker is called here")
    trust.add_argument("key", metavar="KEY", help="`ssh-ed25519 ...`, as `dal token makers` prints it there, or a file")
    trust.add_argument("--expires", metavar="TIME", help="for how long, for example 30d (default: for ever)")
    trust.set_defaults(run=_trust)
    words = "have the tokens of a maker count here no more"
    remove = verbs.add_parser("remove-maker", help=words, epilog="example: dal token remove-maker s1")
    remove.add_argument("name", metavar="NAME", help="one of those that `dal token makers` lists")
    remove.set_defaults(run=_remove)


def note_of_makers(store: TokenStore) -> str:
    """Return what to know of a token that was made here: that not every server believes this one; or nothing."""
    # Only the server of a realm with a directory loads what speaks to databases, and then it is loaded.
    member: Any = getattr(store, "member", None)
    try:
        if member is None or member.makes_for_all():
            return ""
    except Unavailable:
        return ""
    key = public_text(member.own_key().public)
    return (
        "it counts on this server; on others where it was, or is, said there: "
        f"`dal token trust-maker {member.name} '{key}'`"
    )


def _value(maker: Maker) -> dict[str, Any]:
    return {
        "name": maker.name,
        "key": public_text(maker.key),
        "fingerprint": fingerprint(maker.key),
        "since": format_time(maker.since_ns),
        "expires": format_time(maker.expires_ns) if maker.expires_ns else None,
    }


def _makers(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        values = open_server_values(house.pool)
        own = own_key(values).public
        known = read_makers(values)
    lines = [f"this server signs with  {show(public_text(own))}"]
    now = now_ns()
    rows = []
    for each in known.makers:
        ended = bool(each.expires_ns) and now >= each.expires_ns
        ends = "ended" if ended else f"until {show_time(each.expires_ns)}" if each.expires_ns else ""
        rows.append([show(each.name), fingerprint(each.key), show_time(each.since_ns), ends])
    if rows:
        lines += ["", *terminal.listing(["maker", "key", "since", ""], rows)]
    if known.older:
        lines += [
            "",
            f"{count_of(len(known.older), 'token')} count unsigned, of before: `dal token revoke` ends them",
        ]
    own_value = {"key": public_text(own), "fingerprint": fingerprint(own)}
    value = {"own": own_value, "makers": [_value(each) for each in known.makers], "older": len(known.older)}
    terminal.result(value, lines)
    return EXIT_DONE


def _trust(arguments: argparse.Namespace, terminal: Terminal) -> int:
    text, _ = read_public_key(arguments.key)
    now = now_ns()
    ends = now + parse_duration_seconds(arguments.expires) * SECOND_NS if arguments.expires else 0
    maker = Maker(name=arguments.name, key=read_public(text), since_ns=now, expires_ns=ends)
    with open_house(arguments, terminal) as house:
        trust_maker(open_server_values(house.pool), maker)
    terminal.result(_value(maker), [f"tokens made by {show(maker.name)} count here: {fingerprint(maker.key)}"])
    return EXIT_DONE


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        maker = remove_maker(open_server_values(house.pool), arguments.name)
    terminal.result(_value(maker), [f"tokens made by {show(maker.name)} count here no more"])
    return EXIT_DONE
