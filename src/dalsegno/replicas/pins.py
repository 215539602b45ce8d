"""What a realm's directory may change of how its servers are known: pins and TLS never get weaker. Pure.

The directory is a database that others may write to, and each server tells it: whoever can change it must not get the
tokens of clients by saying that a server is elsewhere. Only a join string, which a person got from a person, makes
less of it (docs/decisions/019-servers-are-not-believed.md).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dalsegno.replicas.view import RealmView, Server

PLAIN: Final = "http:"


def is_plain(server: Server) -> bool:
    """Tell whether a server speaks without TLS."""
    return server.url.startswith(PLAIN)


def believed(known: RealmView, shown: RealmView) -> tuple[RealmView, list[str]]:
    """Return what of a newer view is taken, and in a line each what is not, or should be known.

    A server that is known keeps its address where the new one would be less sure; one that is not known is left out.
    """
    if not shown.servers and known.servers:
        return known, ["the realm has no servers any more, it says: those that are known stay"]
    servers, told = [], []
    for server in shown.servers:
        before = known.server(server.name)
        why = _weaker(server, before, known.servers)
        if why:
            told.append(f"{server.name}: {why}: not believed (serve it with TLS, or join it with its join string)")
            if before is not None:
                servers.append(before)
            continue
        if before is not None and before.fingerprint not in ("", server.fingerprint):
            told.append(f"{server.name}: has a new certificate ({server.fingerprint[:23]}...), the realm says")
        servers.append(server)
    return msgspec.structs.replace(shown, servers=servers), told


def with_server(view: RealmView, server: Server) -> RealmView:
    """Return a view in which a server is where it said itself, or a person said."""
    others = [each for each in view.servers if each.name != server.name]
    return msgspec.structs.replace(view, servers=[*others, server])


def _weaker(server: Server, before: Server | None, known: Iterable[Server]) -> str:
    """Return in what way a server would be known less surely than before; empty when it would not."""
    if before is not None:
        if is_plain(server) and not is_plain(before):
            return "is now said to speak without TLS"
        if before.fingerprint and not server.fingerprint:
            return "is now said to have no certificate of its own"
        return ""
    if is_plain(server):
        return "" if any(map(is_plain, known)) else "is new, and said to speak without TLS"
    if not server.fingerprint and any(each.fingerprint for each in known):
        return "is new, and said to have no certificate of its own"
    return ""
