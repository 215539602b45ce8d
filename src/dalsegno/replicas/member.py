"""What a server is in its realm: it says where it is, and tells clients the directory, from memory when that is away.

In the server's pool, sealed under the server's own key (server_key.py):

    server/realm   the directory's url, the server's name, the last known view and tokens
    server/peer    the token that this server shows the others
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from dalsegno.chunks.signatures import SigningKey
from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.pool import Pool
from dalsegno.replicas.contract import Site
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.makers import (
    MEMBERSHIP,
    find_maker,
    find_own,
    meet_directory,
    own_key,
    problem_of,
    read_makers,
    settle_makers,
    sign_token,
)
from dalsegno.replicas.pins import believed, with_server
from dalsegno.replicas.server_key import ServerValues, find_server_values, open_server_values
from dalsegno.replicas.servers import Servers
from dalsegno.replicas.tokens import PEER_NOTE, READ, Token, new_token, split_token
from dalsegno.replicas.view import Placed, RealmView, Server, check_realm_name
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, NotFound, Unavailable
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.workers import new_lock

PEER: Final = "peer"
AWAY_NS: Final = 5 * SECOND_NS
"""So long a directory that did not answer is not asked again: everybody would wait for it."""
TOKEN_NS: Final = SECOND_NS
"""How long a token that was looked up counts: one that is revoked opens nothing after this."""
TOKENS_KNOWN_MAX: Final = 4096
SEEN_SECONDS: Final = 30
"""How often a server says that it is there."""
T = TypeVar("T")


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's pool keeps of its realm."""

    url: str
    name: str
    view: RealmView | None = None
    tokens: list[Token] = []


def read_membership(pool: Pool) -> Membership | None:
    """Return which realm the server of a pool is in, or None."""
    values = find_server_values(pool)
    return _read_membership(values) if values is not None else None


def _read_membership(values: ServerValues) -> Membership | None:
    data = values.get(MEMBERSHIP)
    if data is None:
        return None
    try:
        return msgspec.msgpack.decode(data, type=Membership)
    except UNREADABLE as error:
        raise Damaged(f"what the server of this pool knows of its realm: {error}") from None


def write_membership(values: ServerValues, change: Callable[[Membership | None], Membership | None]) -> None:
    """Replace what the pool keeps of the realm; durable on return. Conflict when others were faster each time."""

    def changed(data: bytes | None) -> bytes | None:
        known = msgspec.msgpack.decode(data, type=Membership) if data is not None else None
        wanted = change(known)
        return msgspec.msgpack.encode(wanted) if wanted is not None else None

    values.update(MEMBERSHIP, changed, what="what the server of this pool knows of its realm")
    values.settle_seen(MEMBERSHIP)


def remember_directory(pool: Pool, *, url: str) -> None:
    """Note which directory the server of a pool belongs to, before it has a name."""
    write_membership(
        open_server_values(pool),
        lambda known: known if known is not None and known.url == url else Membership(url=url, name=""),
    )


class Member:
    """A server's part in its realm. Threads may share it."""

    def __init__(
        self, pool: Pool, *, url: str, name: str, clock: Callable[[], int] = now_ns, ticks: Callable[[], int] = ticks_ns
    ) -> None:
        self.name = name
        self.url = url
        self.tokens = MemberTokens(self)
        self._pool = pool
        self._clock = clock
        self._ticks = ticks
        self._lock = new_lock()
        self.tell: Callable[[str], None] = lambda text: None
        """Is told, in a line, what the directory says that is not believed."""
        self._told: set[str] = set()
        self._directory: SqlDirectory | None = None
        self._away: tuple[int, Unavailable] | None = None
        self._values = open_server_values(pool)
        settle_makers(self._values)
        self._known: Membership | None = _read_membership(self._values)
        self._own: bytes | None = None
        self._makers_of: dict[bytes, bytes | None] = {}
        """Of records whose signature was looked at: whose it is."""

    @classmethod
    def open(cls, pool: Pool, *, url: str | None = None, name: str | None = None) -> "Member | None":
        """Return the server's part in the realm at `url`, or in that which its pool remembers; None without one.

        None, too, for a server that has no name yet.

        NotFound, Refused or BadInput when there is no such realm, or it is another one than the pool's.
        """
        known = read_membership(pool)
        if (url is None and known is None) or not (name or (known is not None and known.name)):
            return None
        url = url if url is not None else known.url if known is not None else ""
        name = check_realm_name(name or (known.name if known is not None else ""))
        member = cls(pool, url=url, name=name)
        if known is None or known.url != url or known.name != name:
            # For the first time it must be there: afterwards what is remembered will do.
            with SqlDirectory.open(url, realm_id=pool.realm.realm_id):
                pass
            member._remember(lambda membership: Membership(url=url, name=name))
        member._values.settle_seen(MEMBERSHIP)
        return member

    def close(self) -> None:
        """Give back connections to the database."""
        with self._lock:
            directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    def _remember(self, change: Callable[[Membership], Membership]) -> None:
        def step(known: Membership | None) -> Membership:
            return change(known or Membership(url=self.url, name=self.name))

        write_membership(self._values, step)
        with self._lock:
            self._known = _read_membership(self._values)

    def directory(self) -> SqlDirectory:
        """Return the directory; Unavailable at once for some seconds after it did not answer."""
        with self._lock:
            if self._away is not None and self._ticks() < self._away[0]:
                raise Unavailable(str(self._away[1]))
            known = self._directory
        if known is None:
            known = self.ask(lambda: SqlDirectory.open(self.url, realm_id=self._pool.realm.realm_id))
            with self._lock:
                self._directory = known
        return known

    def ask(self, question: Callable[[], T]) -> T:
        """Return what the database answers; when it does not, it is left alone for some seconds."""
        try:
            answer = question()
        except (Unavailable, NotFound) as error:
            if isinstance(error, NotFound) and self._directory is not None:
                raise
            away = error if isinstance(error, Unavailable) else Unavailable(str(error))
            with self._lock:
                self._away = self._ticks() + AWAY_NS, away
            raise away from None
        with self._lock:
            self._away = None
        return answer

    # The directory

    def view(self) -> RealmView:
        """Return the directory, or what was known last when it is away."""
        try:
            directory = self.directory()
            view = self.ask(lambda: directory.view(now_ns=self._clock()))
        except Unavailable:
            known = self._known.view if self._known is not None else None
            if known is None:
                raise
            return known
        known = self._known.view if self._known is not None else None
        if known is not None:
            view, told = believed(known, view)
            for text in told:
                self._say(text)
        if known is None or _lasting(known) != _lasting(view):
            self._remember(lambda membership: msgspec.structs.replace(membership, view=view))
        return view

    def _say(self, text: str) -> None:
        with self._lock:
            if text in self._told:
                return
            self._told.add(text)
        self.tell(text)

    def place_of(self, name: str) -> str:
        """Return the url of a server; empty when it is not known."""
        try:
            server = self.view().server(name)
        except Unavailable:
            server = None
        return server.url if server is not None else ""

    def publish(self, placed: Placed) -> None:
        """Replace where a volume is."""
        directory = self.directory()
        for name in (*placed.replicas.writers, *placed.replicas.readers, *placed.replicas.standbys):
            if self.view().server(name) is None:
                raise NotFound(f"no server {name!r} in realm {directory.name}: `dal realm status` shows what there is")
        self.ask(lambda: directory.publish(placed))
        self.view()

    def forget(self, volume: str) -> None:
        """Forget where a volume is."""
        directory = self.directory()
        self.ask(lambda: directory.forget(volume))
        self.view()

    def remove_server(self, name: str) -> None:
        """Forget a server that holds nothing, and what it showed the others."""
        directory = self.directory()
        self.ask(lambda: directory.remove_server(name))
        for token in self.ask(directory.all):
            if token.peer and token.note == peer_note(name):
                directory.revoke(token.id)
        self.view()

    # This server

    def register(self, url: str, fingerprint: str) -> None:
        """Say where this server is. Unavailable: to be said again later."""
        directory = self.directory()
        meet_directory(self._values, directory.maker, now_ns=self._clock())
        server = Server(name=self.name, url=url, fingerprint=fingerprint, seen_ns=self._clock())
        self.ask(lambda: directory.put_server(server))
        known = self._known.view if self._known is not None else None
        if known is not None and _is_elsewhere(known.server(self.name), server):
            # Where this server is, it knows better than whoever writes to the database.
            self._remember(lambda membership: msgspec.structs.replace(membership, view=with_server(known, server)))
        self._show_peer_token(directory)
        self.view()
        self.list_tokens()

    def _show_peer_token(self, directory: SqlDirectory) -> None:
        text = self.peer_token()
        parts = split_token(text) if text else None
        if parts is not None and self.ask(lambda: directory.find(parts[0])) is not None:
            return
        note = peer_note(self.name)
        # What it may do depends on what its server holds (server/peers.py).
        token, text = new_token(rights=[READ], volumes=["*"], note=note, now_ns=self._clock(), peer=True)
        for earlier in self.ask(directory.all):
            if earlier.peer and earlier.note == note:
                directory.revoke(earlier.id)  # of a pool that is gone, or another server's that had this name
        try:
            self.ask(lambda: directory.add(token))
        except AlreadyThere:
            raise BadInput("chance gave the same token twice: try again") from None
        self._values.swap(PEER, self._values.get(PEER), text.encode())

    def peer_token(self) -> str:
        """Return what this server shows the others; empty before it registered."""
        return (self._values.get(PEER) or b"").decode()

    def is_revoked(self, token_id: str) -> bool:
        """Tell whether a token was revoked by this server, whatever else is remembered of it."""
        return self._values.is_revoked(token_id)

    def note_revoked(self, token_id: str) -> None:
        """Remember for ever that a token is revoked."""
        self._values.note_revoked(token_id)

    # Tokens: what stands in the directory counts when this server knows who made it (makers.py)

    def makes_for_all(self) -> bool:
        """Tell whether servers that come to the realm take this one as the maker of its tokens. Unavailable."""
        return self.directory().maker == self.own_key().public

    def own_key(self) -> SigningKey:
        """Return the key with which this server signs the tokens that it makes."""
        return own_key(self._values)

    def sign_token(self, token: Token) -> Token:
        """Return a token as this server puts it into the directory."""
        return sign_token(token, self.own_key(), realm_id=self._pool.realm.realm_id)

    def judge(self) -> Callable[[Token], str]:
        """Return what tells why a record of the directory does not count here; empty for one that does."""
        makers = read_makers(self._values)
        if self._own is None and (own := find_own(self._values)) is not None:
            self._own = own.public
        clients = {token.id for token in self.known_tokens() if not token.peer}
        now = self._clock()

        def problem(token: Token) -> str:
            if token.peer:
                # It gives what its server's roles give (server/peers.py), and takes no other token's place.
                return "it was a client's" if token.id in clients else ""
            try:
                maker = self._maker_of(token)
            except Damaged as error:
                return str(error)
            return problem_of(token, maker, makers, own=self._own, now_ns=now)

        return problem

    def _maker_of(self, token: Token) -> bytes | None:
        record = msgspec.msgpack.encode(msgspec.structs.replace(token, used_ns=0))
        if record in self._makers_of:
            return self._makers_of[record]
        maker = find_maker(token, realm_id=self._pool.realm.realm_id)
        with self._lock:
            if len(self._makers_of) >= TOKENS_KNOWN_MAX:
                self._makers_of.clear()
            self._makers_of[record] = maker
        return maker

    def known_tokens(self) -> list[Token]:
        """Return the tokens as they were known last."""
        known = self._known
        return list(known.tokens) if known is not None else []

    def known_token(self, token_id: str, problem: Callable[[Token], str]) -> Token | None:
        """Return a token as it was known last, if it counts still."""
        found = next((token for token in self.known_tokens() if token.id == token_id), None)
        return found if found is not None and not self.is_revoked(token_id) and not problem(found) else None

    def find_token(self, token_id: str) -> Token | None:
        """Return what counts of a token of the directory, and remember it. Unavailable."""
        # Known before the directory is asked: what is added meanwhile was not revoked.
        before = self.known_tokens()
        directory = self.directory()
        row = self.ask(lambda: directory.find(token_id))
        others = [each for each in self.known_tokens() if each.id != token_id]
        if row is None:
            if any(each.id == token_id for each in before):
                self.note_revoked(token_id)
                self._remember_tokens(others)
            return None
        if self.is_revoked(token_id):
            return None
        token = self._counting(row, self.judge())
        if token is not None:
            self._remember_tokens([*others, token])
        return token

    def list_tokens(self) -> list[Token]:
        """Return the directory's tokens, and keep those that count, for when it is away. Unavailable."""
        before = self.known_tokens()
        directory = self.directory()
        rows = self.ask(directory.all)
        there = {row.id for row in rows}
        for known in before:
            if known.id not in there:
                self.note_revoked(known.id)  # elsewhere; an older row that is put back opens nothing here
        problem = self.judge()
        counting = [self._counting(row, problem) for row in rows if not self.is_revoked(row.id)]
        self._remember_tokens([token for token in counting if token is not None])
        return rows

    def _counting(self, row: Token, problem: Callable[[Token], str]) -> Token | None:
        """Return a row of the directory, what is known of that token where others changed the row, or None."""
        why = problem(row)
        if not why:
            return row
        self._say(f"token {row.id}: {why}: not believed (`dal token makers`)")
        return self.known_token(row.id, problem)

    def _remember_tokens(self, tokens: list[Token]) -> None:
        kept = sorted(_without_use(tokens), key=lambda token: (token.created_ns, token.id))
        if kept != self.known_tokens():
            self._remember(lambda membership: msgspec.structs.replace(membership, tokens=kept))

    def servers(self, *, connect: Callable[[Server, str], Site], owner: str, local: Site | None = None) -> Servers:
        """Return the realm's servers as this one sees them; `connect` is given a server and a token."""
        return Servers(
            self,
            self._pool.realm,
            connect=lambda server: connect(server, self.peer_token()),
            owner=owner,
            here=self.name,
            local=local,
        )


class MemberTokens:
    """The realm's tokens: those of the directory, or those known last when it is away."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._lock = new_lock()
        self._found: dict[str, tuple[int, Token | None]] = {}

    def find(self, token_id: str, /) -> Token | None:
        """Return the token with this id as it was a second ago at most."""
        member = self.member
        with self._lock:
            known = self._found.get(token_id)
            if known is not None and ticks_ns() < known[0]:
                return known[1]
        try:
            token = member.find_token(token_id)
        except Unavailable:
            return member.known_token(token_id, member.judge())
        with self._lock:
            if len(self._found) >= TOKENS_KNOWN_MAX:
                self._found.clear()
            self._found[token_id] = ticks_ns() + TOKEN_NS, token
        return token

    def all(self) -> list[Token]:
        """Return the tokens, oldest first, those, too, that do not count here."""
        try:
            return self.member.list_tokens()
        except Unavailable:
            return self.member.known_tokens()

    def add(self, token: Token, /) -> None:
        """Keep a new token, signed by this server."""
        directory = self.member.directory()
        signed = self.member.sign_token(token)
        self.member.ask(lambda: directory.add(signed))
        with self._lock:
            self._found.pop(token.id, None)
        self.all()

    def revoke(self, token_id: str, /) -> Token:
        """Forget a token and return what it was."""
        directory = self.member.directory()
        token = self.member.ask(lambda: directory.revoke(token_id))
        self.member.note_revoked(token_id)
        with self._lock:
            self._found.pop(token_id, None)
        self.all()
        return token

    def problem(self, token: Token, /) -> str:
        """Return why a token opens nothing here; empty for one that counts."""
        return "revoked" if self.member.is_revoked(token.id) else self.member.judge()(token)

    def used(self, token_id: str, *, now_ns: int) -> None:
        """Note that a token was used, if the directory is there."""
        try:
            directory = self.member.directory()
            self.member.ask(lambda: directory.used(token_id, now_ns=now_ns))
        except Unavailable:
            pass


def peer_note(name: str) -> str:
    """Return what the token of a server is called."""
    return PEER_NOTE + name


def _without_use(tokens: list[Token]) -> list[Token]:
    return [msgspec.structs.replace(token, used_ns=0) for token in tokens]


def _is_elsewhere(known: Server | None, server: Server) -> bool:
    return known is None or (known.url, known.fingerprint) != (server.url, server.fingerprint)


def _lasting(view: RealmView) -> RealmView:
    """Return a view without what changes all the time."""
    servers = [msgspec.structs.replace(server, seen_ns=0) for server in view.servers]
    return msgspec.structs.replace(view, servers=servers, as_of_ns=0)
