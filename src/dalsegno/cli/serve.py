"""`dal serve` and `dal token`."""

import argparse
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from dalsegno import __version__
from dalsegno.actions.serve import drop_old_dumps
from dalsegno.actions.session import House
from dalsegno.assembly.local import open_key_note
from dalsegno.cli.door import open_house
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.token_makers import MAKER_VERBS, add_maker_verbs, note_of_makers
from dalsegno.cli.words import Parser
from dalsegno.formats.join import PORT, Join, format_join
from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.adopt import UPLOADS
from dalsegno.replicas.makers import renew_identity
from dalsegno.replicas.server_key import find_server_values, open_server_values
from dalsegno.replicas.tokens import RIGHTS, PoolTokens, Token, TokenStore, new_token, store_of
from dalsegno.terms.errors import EXIT_DONE, BadInput, Conflict, DalError, Damaged, Unavailable
from dalsegno.terms.sizes import parse_size
from dalsegno.terms.times import format_time, parse_duration_seconds, show_time
from dalsegno.world.clock import SECOND_NS, now_ns
from dalsegno.world.files import is_open_to_all, write_durable
from dalsegno.world.memory import share_heaps
from dalsegno.world.service import notify
from dalsegno.world.workers import Workers, new_event

LISTEN = f"127.0.0.1:{PORT}"
SERVE_LOCK = "serve"
ADDRESS = "address"
REALM = "realm"
"""Names of the server's own values."""
SEEN_SECONDS = 30
STOP_SECONDS = 20


def add_serve(parser: Parser) -> None:
    """Define the arguments of `dal serve`."""
    parser.add_argument("--listen", default=LISTEN, metavar="HOST:PORT", help=f"default {LISTEN}; port 0: any free one")
    parser.add_argument(
        "--name", metavar="NAME", help="the server's name in its realm (default: as before, or the host's)"
    )
    parser.add_argument("--realm", metavar="URL", help="the directory of its realm (`dal realm init`); remembered")
    parser.add_argument("--advertise", metavar="HOST[:PORT]", help="what clients are told to connect to")
    parser.add_argument("--tls", choices=["self-signed"], help="the default: a certificate of its own, to be pinned")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="a certificate (with its chain), as PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument(
        "--no-tls", action="store_true", help="insecure: tokens and the realm's key are sent unencrypted"
    )
    parser.add_argument(
        "--export-cert",
        type=Path,
        metavar="FILE",
        help="write the server's certificate there; beside a server that runs, nothing else",
    )
    parser.add_argument(
        "--new-identity",
        action="store_true",
        help="make a new server key, and with it a new certificate to pin; tokens stay valid if the old key is there",
    )
    parser.add_argument(
        "--dumps-max",
        metavar="SIZE",
        help="dumps sent with one token and not yet loaded (default 64GiB; a token that administers all has no limit)",
    )
    parser.add_argument("--rate", type=_rate, metavar="N", help="requests per second and token (default 5000)")
    parser.add_argument(
        "--stop-seconds", type=_seconds, default=STOP_SECONDS, metavar="N", help="how long a stop waits for requests"
    )
    parser.set_defaults(run=_serve)


_TOKEN_EXAMPLE = "example: dal token add --right read --right append --volume 'laptop-*' --note ada"


def add_token(parser: Parser) -> None:
    """Define the arguments of `dal token`."""
    commands = parser.add_subparsers(dest="what", required=True, metavar=f"add|list|revoke|{MAKER_VERBS}")
    add = commands.add_parser("add", help="create a token; it is shown only once", epilog=_TOKEN_EXAMPLE)
    add.add_argument("--right", action="append", required=True, choices=RIGHTS, help="repeatable")
    add.add_argument(
        "--volume", action="append", metavar="PATTERN", help="volumes it is for, like 'home*' (default: all)"
    )
    add.add_argument("--expires", metavar="TIME", help="when it expires, for example 30d (default: never)")
    add.add_argument("--note", default="", metavar="TEXT", help="a note, such as the user's name")
    add.set_defaults(run=_token_add)
    show = commands.add_parser("list", help="list the tokens, without their secrets", epilog="example: dal token list")
    show.set_defaults(run=_token_list)
    revoke = commands.add_parser(
        "revoke", help="revoke a token immediately", epilog="example: dal token revoke 4f0c21aa"
    )
    revoke.add_argument("ids", nargs="+", metavar="ID")
    revoke.set_defaults(run=_token_revoke)
    add_maker_verbs(commands)


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) > 3600:
        raise argparse.ArgumentTypeError(f"seconds {text!r}: expected 0 to 3600")
    return int(text)


def _rate(text: str) -> float:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"rate {text!r}: expected 1 to 1000000")
    return float(text)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a server was called and where it was the last time that it ran."""

    name: str
    host: str
    port: int
    fingerprint: str
    tls: bool


def read_address(house: House) -> Address | None:
    """Return where the server of this pool is, or was."""
    values = find_server_values(house.pool)
    data = values.get(ADDRESS) if values is not None else None
    if data is None:
        return None
    try:
        return msgspec.msgpack.decode(data, type=Address)
    except UNREADABLE as error:
        raise Damaged(f"the server's address: {error}") from None


def _write_address(house: House, address: Address) -> None:
    encoded = msgspec.msgpack.encode(address)
    values = open_server_values(house.pool)
    values.update(ADDRESS, lambda _: encoded, what="the server's address")
    values.settle_seen(ADDRESS)


def split_place(text: str, *, option: str, default_port: int | None = None) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[::1]:PORT`."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare and not host.startswith("["):
        raise BadInput(f"{option} {text}: put an IPv6 address in brackets: [{text}]:{PORT}")
    if not port and default_port is not None:
        return bare, default_port
    if not bare or not port.isdecimal() or int(port) > 65535:
        raise BadInput(f"{option} {text}: expected HOST:PORT, for example {LISTEN}")
    return bare, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _import_server(name: str) -> Any:
    try:
        return import_module(f"dalsegno.server.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("starlette", "uvicorn", "httptools"):
            raise Unavailable(
                f"the server needs {error.name}, which is not installed: "
                f"{sys.executable} -m pip install starlette uvicorn httptools"
            ) from None
        raise


def _check_server_name(name: str) -> str:
    if not name or len(name) > 64 or not all(c.isalnum() or c in "._-" for c in name) or not name[0].isalnum():
        raise BadInput(f"--name {name[:80]!r}: expected letters, digits and . _ -")
    return name


def _certificate(
    arguments: argparse.Namespace, house: House, name: str, host: str
) -> tuple[ssl.SSLContext | None, str]:
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise BadInput("--tls-cert and --tls-key belong together")
    if sum((bool(arguments.tls_cert), bool(arguments.tls), arguments.no_tls)) > 1:
        raise BadInput("choose one of --tls-cert with --tls-key, --tls self-signed, --no-tls")
    if arguments.no_tls:
        if arguments.export_cert:
            raise BadInput("--export-cert: a server without TLS has no certificate")
        return None, ""
    tls = _import_server("tls")
    context: ssl.SSLContext
    fingerprint: str
    if arguments.tls_cert:
        context, fingerprint = tls.file_context(arguments.tls_cert, arguments.tls_key)
        if is_open_to_all(arguments.tls_key):
            house.report(open_key_note(arguments.tls_key))
        pem = arguments.tls_cert.read_bytes()
    else:
        own = tls.own_certificate(house.pool, name=name, host=host, now_ns=now_ns())
        context, fingerprint = tls.own_context(own)
        pem = own.certificate
    if arguments.export_cert:
        write_durable(arguments.export_cert, pem)
    return context, fingerprint


def _reload(
    arguments: argparse.Namespace, context: ssl.SSLContext | None, fingerprint: str, log: Any
) -> Callable[[], None] | None:
    """Return what is done on SIGHUP: the certificate's files are read again. None: the server ends, as on a hang-up."""
    if context is None or not arguments.tls_cert:
        return (lambda: log.line("reload", text="nothing to read again")) if os.environ.get("NOTIFY_SOCKET") else None

    def again() -> None:
        try:
            found = _import_server("tls").reload_files(context, arguments.tls_cert, arguments.tls_key)
        except (DalError, OSError) as error:
            log.line("reload", error="the certificate is as before", text=str(error))
            return
        text = "" if found == fingerprint else "of another key: clients that pinned the one before refuse it"
        log.line("reload", certificate=found, text=text)

    return again


def _export_running(path: Path, house: House, terminal: Terminal) -> int:
    """Write the certificate of the server that serves this pool already, and leave that alone."""
    address = read_address(house)
    if address is None or not address.tls:
        raise BadInput("--export-cert: a server without TLS has no certificate")
    tls = _import_server("tls")
    own = tls.own_certificate(house.pool, name=address.name, host=address.host, now_ns=now_ns())
    if tls.own_context(own)[1] != address.fingerprint:
        raise BadInput("--export-cert: the server that runs was given a certificate with --tls-cert: use that file")
    write_durable(path, own.certificate)
    shown = f"{path}: the certificate of {address.name}, which serves {house.pool.place} already"
    terminal.result({"certificate": str(path), "name": address.name, "fingerprint": address.fingerprint}, [shown])
    return EXIT_DONE


def _serve(arguments: argparse.Namespace, terminal: Terminal) -> int:
    listen, app_module, routes, log_module = (_import_server(name) for name in ("listen", "app", "routes", "log"))
    host, port = split_place(arguments.listen, option="--listen")
    share_heaps()
    with open_house(arguments, terminal) as house, house.pool.backend.lock(SERVE_LOCK) as lock:
        if not lock.acquire(wait=False):
            if arguments.export_cert:
                return _export_running(arguments.export_cert, house, terminal)
            raise Conflict(f"{house.pool.place}: another `dal serve` serves this pool already: stop it first")
        if arguments.new_identity:
            renew_identity(house.pool)
        known = read_address(house)
        name = _check_server_name(arguments.name or (known.name if known else os.uname().nodename.partition(".")[0]))
        sock = listen.bind(host, port)
        port = sock.getsockname()[1]
        shown_host, shown_port = (os.uname().nodename if _is_any(host) else host), port
        if arguments.advertise:
            shown_host, shown_port = split_place(arguments.advertise, option="--advertise", default_port=port)
        context, fingerprint = _certificate(arguments, house, name, shown_host)
        if context is None and not _is_loopback(host):
            terminal.note("without TLS everybody on the way can read and use the tokens and the realm's key")
        address = Address(name=name, host=shown_host, port=shown_port, fingerprint=fingerprint, tls=context is not None)
        if address != known:
            _write_address(house, address)
        open_server_values(house.pool).settle_seen(ADDRESS)
        drop_old_dumps(house)
        join = _join(address, "")
        member = _open_member(arguments, house, name)
        tokens: list[TokenStore] = [*([member.tokens] if member is not None else []), PoolTokens(house.pool)]
        log = log_module.Log(quiet=terminal.quiet)

        def ready() -> None:
            terminal.result(
                {
                    "name": name,
                    "url": join.url,
                    "fingerprint": fingerprint,
                    "join": format_join(join),
                    "pid": os.getpid(),
                },
                [
                    f"{name} serves {house.pool.place} at {join.url}",
                    f"join: {format_join(join)}",
                    "a client needs a token, too: dal token add --right read",
                ],
            )
            sys.stdout.flush()
            log.line("ready", name=name, url=join.url, pid=os.getpid())
            notify("READY=1")

        service = routes.Service(
            name=name, version=__version__, site=open_site(house, name), house=house, tokens=tokens, desk=member
        )
        if arguments.dumps_max is not None:
            service.dumps_bytes_max = parse_size(arguments.dumps_max)
        lags = _import_server("lags").Lags(service.site, house.pool)
        service.extra_metrics = lags.rows
        if member is not None:
            service.place_of = member.place_of
        with app_module.App(service, log=log, **({"rate": arguments.rate} if arguments.rate else {})) as app:
            with _keeping_up(member, service.site, address, log, lags):
                whole = listen.run(
                    app,
                    [sock],
                    tls=context,
                    stop_seconds=arguments.stop_seconds,
                    ready=ready,
                    reload=_reload(arguments, context, fingerprint, log),
                )
            notify("STOPPING=1")
            log.line("stopped", whole=whole)
            if not whole:
                # Requests that outlived their time are cut here, as a kill would: everything stored bears that.
                sys.stdout.flush()
                os._exit(EXIT_DONE)
    return EXIT_DONE


def _is_in_realm(house: House) -> bool:
    values = find_server_values(house.pool)
    return values is not None and values.get(REALM) is not None


def _open_member(arguments: argparse.Namespace, house: House, name: str) -> Any:
    """Return what the server is in its realm (a Member), or None."""
    if arguments.realm is None and not _is_in_realm(house):
        return None
    # Only the server of a realm with a directory loads what speaks to databases.
    return import_module("dalsegno.assembly.realm").open_member(house, url=arguments.realm, name=name)


@contextmanager
def _keeping_up(member: Any, site: Any, address: Address, log: Any, lags: Any) -> Iterator[None]:
    """Say in the realm that the server is there, and do what its volumes' roles ask for, while the block lasts."""
    if member is None:
        yield
        return
    remote = import_module("dalsegno.assembly.realm")
    standby = import_module("dalsegno.actions.standby")
    ended = new_event()

    def tell(note: Any) -> None:
        log.line("upkeep", volume=os.fsdecode(note.path), text=note.text)

    member.tell = lambda text: log.line("not-believed", text=text)

    def register() -> None:
        told = ""
        while not ended.is_set():
            try:
                member.register(_join(address, "").url, address.fingerprint)
                told = ""
            except DalError as error:
                if str(error) != told:
                    told = str(error)
                    log.line("unregistered", error=error.code, text=told)
            ended.wait(SEEN_SECONDS)

    with remote.member_servers(member, local=site) as servers, Workers(2) as crew, Workers(8) as followers:
        upkeep = standby.Upkeep(
            servers,
            site,
            merge=remote.merge_heads,
            crew=followers,
            ended=ended.is_set,
            report=tell,
            stepped=lags.stepped,
        )
        try:
            crew.submit(register)
            running = crew.submit(upkeep.run)
            yield
        finally:
            ended.set()
            running.exception()
            member.close()


def open_site(house: House, name: str) -> Any:
    """Return what answers the calls of replication over this pool."""
    return import_module("dalsegno.replicas.keeper").Keeper(
        name,
        house.pool,
        house.volumes,
        workers=house.workers,
        clock=now_ns,
        scratch=house.pool.backend.scratch(UPLOADS),
    )


def _join(address: Address, token: str) -> Join:
    return Join(
        host=address.host,
        port=address.port,
        name=address.name,
        fingerprint=address.fingerprint,
        token=token,
        tls=address.tls,
    )


def _token_value(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "rights": token.rights,
        "volumes": token.volumes,
        "note": token.note,
        "created": format_time(token.created_ns),
        "expires": format_time(token.expires_ns) if token.expires_ns else None,
        "used": format_time(token.used_ns) if token.used_ns else None,
    }


@contextmanager
def token_stores(house: House) -> Iterator[list[TokenStore]]:
    """Give the places where the tokens of a pool's server are; new ones go into the first."""
    if not _is_in_realm(house):
        yield [PoolTokens(house.pool)]
        return
    member = import_module("dalsegno.assembly.realm").open_member(house)
    try:
        yield [*([member.tokens] if member is not None else []), PoolTokens(house.pool)]
    finally:
        if member is not None:
            member.close()


def _token_add(arguments: argparse.Namespace, terminal: Terminal) -> int:
    now = now_ns()
    expires_ns = now + parse_duration_seconds(arguments.expires) * SECOND_NS if arguments.expires else 0
    token, text = new_token(
        rights=arguments.right,
        volumes=arguments.volume or ["*"],
        note=arguments.note,
        now_ns=now,
        expires_ns=expires_ns,
    )
    with open_house(arguments, terminal) as house:
        with token_stores(house) as stores:
            stores[0].add(token)
            told = note_of_makers(stores[0])
        address = read_address(house)
    join = format_join(_join(address, text)) if address is not None else None
    value = {**_token_value(token), "token": text, "join": join}
    lines = [text, *([join] if join else [])]
    terminal.result(value, lines)
    terminal.note("this is shown only once: anyone who has it can use its rights")
    if told:
        terminal.note(told)
    if address is None:
        terminal.note("no server has run over this pool yet: `dal serve` says how to join it")
    return EXIT_DONE


def _token_list(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house, token_stores(house) as stores:
        tokens = [(token, store.problem(token)) for store in stores for token in store.all()]
    now = now_ns()
    rows = []
    for token, problem in tokens:
        ends = f"expires {show_time(token.expires_ns)}" if token.expires_ns else ""
        rows.append(
            [
                token.id,
                ",".join(token.rights),
                ",".join(token.volumes),
                f"used {show_time(token.used_ns)}" if token.used_ns else "never used",
                f"OPENS NOTHING HERE: {problem}" if problem else "expired" if token.is_expired(now_ns=now) else ends,
                token.note,
            ]
        )
    values = [{**_token_value(token), "problem": problem or None} for token, problem in tokens]
    terminal.result(values, terminal.table(rows))
    return EXIT_DONE


def _token_revoke(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house, token_stores(house) as stores:
        revoked = [(store_of(stores, token_id) or stores[-1]).revoke(token_id) for token_id in arguments.ids]
    terminal.result([_token_value(token) for token in revoked], [f"revoked {token.id}" for token in revoked])
    return EXIT_DONE
