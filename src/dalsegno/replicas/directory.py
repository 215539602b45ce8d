"""The directory of a realm: its servers, which of them hold which volume, and its tokens (docs/formats/directory.md).

SQLite for servers that share a disk, PostgreSQL for a site. A volume's replica set is replaced only by one with a
larger version, so that of two who change it at once one hears that he was late. There is no secret in it: of a token it
has the hash, and what servers show each other is kept in their own pools.
"""

from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text, delete, insert, inspect, select
from sqlalchemy import update as change_rows
from sqlalchemy.exc import IntegrityError

from dalsegno.formats import messages
from dalsegno.formats.objects import UNREADABLE
from dalsegno.replicas.tokens import USED_STEP_NS, Token
from dalsegno.replicas.view import Placed, RealmView, Server, check_realm_name
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, Damaged, NotFound, Refused, TooNew
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.state import ReplicaSet
from dalsegno.world.database import Database

VERSION: Final = 1
BUSY_SECONDS_MAX: Final = 10

METADATA: Final = MetaData()
REALM: Final = Table(
    "realm",
    METADATA,
    Column("one", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("realm_id", LargeBinary, nullable=False),
)
MAKER: Final = Table(
    "realm_maker",
    METADATA,
    Column("one", Integer, primary_key=True),
    Column("key", LargeBinary, nullable=False),
)
SERVERS: Final = Table(
    "realm_servers",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("seen_ns", BigInteger, nullable=False),
)
VOLUMES: Final = Table(
    "realm_volumes",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("id", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("replicas", Text, nullable=False),
)
TOKENS: Final = Table(
    "realm_tokens",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("token", LargeBinary, nullable=False),
    Column("used_ns", BigInteger, nullable=False),
)


class SqlDirectory:
    """A realm's directory in a database. Threads may share it. Every method that writes is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.label = database.label
        self.name = ""
        self.realm_id = b""
        self.maker = b""
        """The public key of the server whose tokens those that join for the first time take (replicas/makers.py)."""

    @classmethod
    def create(cls, url: str, *, name: str, realm_id: bytes, maker: bytes = b"") -> Self:
        """Make the tables of a new realm; the same again is no error, and another realm in them AlreadyThere.

        `maker` is the public key of the server that makes its tokens; of two, the later one counts.
        """
        check_realm_name(name)
        directory = cls(_open(url, create=True))
        try:
            with directory._database.write() as connection:
                METADATA.create_all(connection)
                if connection.execute(select(REALM.c.name)).scalar() is None:
                    connection.execute(insert(REALM).values(one=1, version=VERSION, name=name, realm_id=realm_id))
            directory._prepare()
            if (directory.name, directory.realm_id) != (name, realm_id):
                raise AlreadyThere(
                    f"{directory.label}: holds realm {directory.name!r} ({hex_short(directory.realm_id)}): "
                    "choose another database"
                )
            if maker:
                directory._put_maker(maker)
        except IntegrityError:
            directory.close()
            raise Conflict(f"{directory.label}: made by somebody else at the same time: look again") from None
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def open(cls, url: str, *, realm_id: bytes) -> Self:
        """Open the directory of this realm. NotFound: no realm there; Refused: another realm; Unavailable: away."""
        directory = cls(_open(url, create=False))
        try:
            directory._prepare()
            if directory.realm_id != realm_id:
                raise Refused(
                    f"{directory.label}: is of realm {directory.name!r} ({hex_short(directory.realm_id)}), this pool "
                    f"is of realm {hex_short(realm_id)}: make the server's pool with `dal init --join KEYFILE`"
                )
        except BaseException:
            directory.close()
            raise
        return directory

    def _prepare(self) -> None:
        with self._database.read() as connection:
            if not inspect(connection).has_table(REALM.name):
                raise NotFound(f"{self.label}: no realm in it: `dal realm init` makes one")
            row = connection.execute(select(REALM)).mappings().first()
            # Directories of older programs have no such table.
            has_maker = inspect(connection).has_table(MAKER.name)
            maker = connection.execute(select(MAKER.c.key)).scalar() if has_maker else b""
        if row is None:
            raise NotFound(f"{self.label}: no realm in it: `dal realm init` makes one")
        if row["version"] > VERSION:
            raise TooNew(f"{self.label}: version {row['version']}, this program reads {VERSION}: install a newer one")
        self.name, self.realm_id, self.maker = row["name"], bytes(row["realm_id"]), bytes(maker or b"")

    def _put_maker(self, key: bytes) -> None:
        with self._database.write() as connection:
            if connection.execute(change_rows(MAKER).values(key=key)).rowcount == 0:
                connection.execute(insert(MAKER).values(one=1, key=key))
        self.maker = key

    def close(self) -> None:
        """Give connections back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def view(self, *, now_ns: int) -> RealmView:
        """Return the servers and where the volumes are, by name."""
        with self._database.read() as connection:
            servers = connection.execute(select(SERVERS).order_by(SERVERS.c.name)).mappings().all()
            volumes = connection.execute(select(VOLUMES).order_by(VOLUMES.c.name)).mappings().all()
        return RealmView(
            name=self.name,
            realm=self.realm_id,
            servers=[Server(**row) for row in servers],
            volumes=[self._placed(row) for row in volumes],
            as_of_ns=now_ns,
        )

    # Servers

    def put_server(self, server: Server) -> None:
        """Say where a server is; one of this name is replaced."""
        check_realm_name(server.name)
        values = {"url": server.url, "fingerprint": server.fingerprint, "seen_ns": server.seen_ns}
        with self._database.write() as connection:
            there = change_rows(SERVERS).where(SERVERS.c.name == server.name).values(**values)
            if connection.execute(there).rowcount == 0:
                connection.execute(insert(SERVERS).values(name=server.name, **values))

    def remove_server(self, name: str) -> None:
        """Forget a server. Refused while a volume is placed on it; NotFound."""
        with self._database.write() as connection:
            for row in connection.execute(select(VOLUMES).order_by(VOLUMES.c.name)).mappings():
                placed = self._placed(row)
                replicas = placed.replicas
                if name in (*replicas.writers, *replicas.readers, *replicas.standbys):
                    raise Refused(
                        f"server {name} holds volume {placed.name!r}: `dal replica remove {placed.name} {name}` first"
                    )
            if connection.execute(delete(SERVERS).where(SERVERS.c.name == name)).rowcount == 0:
                raise NotFound(f"no server {name!r} in realm {self.name}: `dal realm status` shows what there is")

    # Volumes

    def publish(self, placed: Placed) -> None:
        """Replace where a volume is by a replica set with a larger version; the same again is no error.

        Conflict when another of this version, or a later one, is there. AlreadyThere when the name is another volume's.
        """
        text = messages.encode(placed.replicas).decode()
        version = placed.replicas.version
        with self._database.write() as connection:
            newer = (
                change_rows(VOLUMES)
                .where(VOLUMES.c.name == placed.name, VOLUMES.c.id == placed.id, VOLUMES.c.version < version)
                .values(version=version, replicas=text)
            )
            if connection.execute(newer).rowcount:
                return
            row = connection.execute(select(VOLUMES).where(VOLUMES.c.name == placed.name)).mappings().first()
            if row is None:
                values = {"name": placed.name, "id": placed.id, "version": version, "replicas": text}
                try:
                    connection.execute(insert(VOLUMES).values(**values))
                except IntegrityError:
                    raise Conflict(f"volume {placed.name!r}: placed by somebody else at the same time") from None
                return
        known = self._placed(row)
        if known.id != placed.id:
            raise AlreadyThere(f"volume {placed.name!r} exists already in realm {self.name}: choose another name")
        if known.replicas != placed.replicas:
            raise Conflict(
                f"volume {placed.name!r}: its replica set is at version {known.replicas.version} already: look again"
            )

    def forget(self, volume: str, *, volume_id: bytes = b"") -> None:
        """Forget where a volume is; one that is not there is no error."""
        wanted = [VOLUMES.c.name == volume, *([VOLUMES.c.id == volume_id] if volume_id else [])]
        with self._database.write() as connection:
            connection.execute(delete(VOLUMES).where(*wanted))

    def _placed(self, row: Mapping[Any, Any]) -> Placed:
        try:
            replicas = messages.decode(row["replicas"].encode(), ReplicaSet)
        except BadInput as error:
            raise Damaged(f"{self.label}: volume {row['name']!r}: {error}") from None
        return Placed(name=row["name"], id=bytes(row["id"]), replicas=replicas)

    # Tokens

    def find(self, token_id: str, /) -> Token | None:
        """Return the token with this id as it is now."""
        with self._database.read() as connection:
            row = connection.execute(select(TOKENS).where(TOKENS.c.id == token_id)).mappings().first()
        return self._token(row) if row is not None else None

    def all(self) -> list[Token]:
        """Return the tokens, oldest first, with their last use."""
        with self._database.read() as connection:
            found = [self._token(row) for row in connection.execute(select(TOKENS)).mappings()]
        return sorted(found, key=lambda token: (token.created_ns, token.id))

    def add(self, token: Token, /) -> None:
        """Keep a new token."""
        values = {"id": token.id, "token": msgspec.msgpack.encode(token), "used_ns": 0}
        with self._database.write() as connection:
            try:
                connection.execute(insert(TOKENS).values(**values))
            except IntegrityError:
                raise AlreadyThere(f"token {token.id} exists already") from None

    def revoke(self, token_id: str, /) -> Token:
        """Forget a token and return what it was."""
        with self._database.write() as connection:
            row = connection.execute(select(TOKENS).where(TOKENS.c.id == token_id)).mappings().first()
            if row is None:
                raise NotFound(f"no token {token_id[:64]!r}: `dal token list` shows what there is")
            connection.execute(delete(TOKENS).where(TOKENS.c.id == token_id))
        return self._token(row)

    def used(self, token_id: str, *, now_ns: int) -> None:
        """Note that a token was used; within a short time once."""
        step = change_rows(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.used_ns < now_ns - USED_STEP_NS)
        with self._database.write() as connection:
            connection.execute(step.values(used_ns=now_ns))

    def _token(self, row: Mapping[Any, Any]) -> Token:
        try:
            token = msgspec.msgpack.decode(bytes(row["token"]), type=Token)
        except UNREADABLE as error:
            raise Damaged(f"{self.label}: token {row['id']}: {error}") from None
        return msgspec.structs.replace(token, used_ns=row["used_ns"])


def _open(url: str, *, create: bool) -> Database:
    return Database.open(url, what="directory", create=create, busy_seconds=BUSY_SECONDS_MAX)
