"""`dal realm init|join|status|trust|leave|remove-server`, and the servers of a realm for other commands."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from dalsegno import __version__
from dalsegno.actions.remote import RemoteHouse, list_unsent, split_place
from dalsegno.assembly.realm import (
    client_servers,
    member_servers,
    open_cache_pool,
    open_member,
    open_nearness,
    open_realm,
)
from dalsegno.cli.choice import joined_realms, pool_path
from dalsegno.cli.door import open_house, volume_of, when_it_differs
from dalsegno.cli.known import ask_to_accept
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.formats.join import JOIN_BYTES_MAX, parse_join
from dalsegno.pool.keys import read_key
from dalsegno.pool.settings import is_pool
from dalsegno.replicas.followed import Directories
from dalsegno.replicas.makers import own_key
from dalsegno.replicas.pins import believed, with_server
from dalsegno.replicas.profile import (
    CACHE_BYTES_MAX_DEFAULT,
    Profile,
    cache_directory,
    list_profiles,
    read_profile,
    read_profile_realm,
    remove_profile,
    write_profile,
)
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.server_key import open_server_values
from dalsegno.replicas.servers import Servers
from dalsegno.replicas.view import RealmView, Server, check_realm_name
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    AlreadyThere,
    BadInput,
    DalError,
    NotFound,
    Refused,
    Unavailable,
)
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size, parse_size
from dalsegno.terms.times import format_time
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns, ticks_ns


def add_realm(parser: Parser) -> None:
    """Define the arguments of `dal realm`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="init|join|status|trust|leave|remove-server")
    init = verbs.add_parser("init", help="create a realm with this pool's server as the first", epilog=_INIT_EXAMPLE)
    init.add_argument("--db", required=True, metavar="URL", help="sqlite:////PATH, or postgresql://USER@HOST/NAME")
    init.add_argument("--name", required=True, metavar="REALM", help="what clients call it")
    init.set_defaults(run=_init)
    join = verbs.add_parser("join", help="become a client of a realm", epilog="example: dal realm join 'dal://...'")
    join.add_argument("join", metavar="JOINSTRING", help="from `dal token add` on a server; - reads standard input")
    join.add_argument("--name", metavar="REALM", help="its name here (default: its own name)")
    size = format_size(CACHE_BYTES_MAX_DEFAULT)
    join.add_argument("--cache", metavar="SIZE", help=f"what may be kept here of what servers have (default: {size})")
    join.set_defaults(run=_join)
    status = verbs.add_parser("status", help="show servers and volumes", epilog="example: dal realm status")
    status.add_argument("name", nargs="?", metavar="REALM", help="(default: DAL_REALM, or the only one)")
    status.set_defaults(run=_status)
    words = "accept what the servers show although it is older than, or other than, what was seen of them"
    trust = verbs.add_parser("trust", help=words, epilog="example: dal realm trust site --yes")
    trust.add_argument("name", nargs="?", metavar="REALM", help="(default: DAL_REALM, or the only one)")
    trust.add_argument("--yes", action="store_true", help="do not ask")
    trust.set_defaults(run=_trust)
    leave = verbs.add_parser("leave", help="forget a realm here", epilog="example: dal realm leave site")
    leave.add_argument("name", metavar="REALM")
    leave.add_argument("--force", action="store_true", help="even if commits wait here that no server has")
    leave.set_defaults(run=_leave)
    remove = verbs.add_parser(
        "remove-server", help="remove a server from the directory", epilog="example: dal realm remove-server s3"
    )
    remove.add_argument("server", metavar="SERVER")
    remove.set_defaults(run=_remove_server)


_INIT_EXAMPLE = "example: dal realm init --db postgresql://dal@db/dal --name site"


# Which realm


def realm_of_addresses(words: list[str]) -> str:
    """Return the joined realm that has the servers of these `//SERVER/VOLUME`."""
    known: dict[str, set[str]] = {}
    for realm in list_profiles():
        for name in {realm, *(server.name for server in read_profile(realm).view.servers)}:
            known.setdefault(name, set()).add(realm)
    names = [split_place(volume_of(word))[0] for word in words]
    for name in names:
        if name not in known:
            refreshed = [realm for realm in list_profiles() if name in _server_names(realm)]
            if not refreshed:
                joined = ", ".join(list_profiles()) or "none"
                raise NotFound(f"//{name}: no server of a realm that was joined here (joined: {joined})")
            known[name] = set(refreshed)
    fitting = set.intersection(*(known[name] for name in names))
    given = os.environ.get("DAL_REALM")
    if given in fitting:
        return str(given)
    if len(fitting) == 1:
        return fitting.pop()
    if fitting:
        raise BadInput(f"//{names[0]}: {', '.join(sorted(fitting))} all have one of this name: say which by DAL_REALM")
    raise BadInput(f"{' '.join(words)}: these servers are not of one realm")


def _server_names(realm: str) -> set[str]:
    """Return the servers of a realm as they are now: there may be new ones."""
    with client_servers(read_profile(realm), open_nearness(realm)) as servers:
        return set(servers.names())


def volumes_of_realm(realm: str) -> set[str]:
    """Return the names of the volumes of a realm, without asking it."""
    return {placed.name for placed in read_profile(realm).view.volumes}


def realms_with_id(realm_id: bytes) -> list[str]:
    """Return the realms with this id that were joined here."""
    return [name for name in list_profiles() if read_profile(name).view.realm == realm_id]


def chosen_realm(given: str | None = None) -> str:
    """Return the realm that is meant: the one given, that of DAL_REALM, or the only one."""
    name = given or os.environ.get("DAL_REALM")
    if name:
        return check_realm_name(name)
    known = joined_realms()
    if len(known) == 1:
        return known[0]
    if not known:
        raise NotFound("no realm was joined here: `dal realm join JOINSTRING` (`dal token add` on a server gives it)")
    raise BadInput(f"{', '.join(known)} were joined: say which by DAL_REALM")


def open_volume(arguments: argparse.Namespace, terminal: Terminal, address: str) -> tuple[RemoteHouse, str]:
    """Open the realm's house in which a replicated volume is, and return it with the volume's name."""
    server, name = split_place(address)
    realm = realm_of_addresses([address]) if server else chosen_realm()
    return open_realm(realm, differs=when_it_differs(arguments, terminal), report=terminal.report), name


@contextmanager
def open_servers(arguments: argparse.Namespace, terminal: Terminal, *, realm: str | None = None) -> Iterator[Servers]:
    """Open the servers of the realm that is meant: one that was joined, or that of the server over this pool."""
    with ExitStack() as stack:
        given = realm or os.environ.get("DAL_REALM")
        joined = joined_realms()
        has_pool = is_pool(pool_path(arguments))
        if has_pool and (arguments.pool_path or (not given and len(joined) != 1)):
            house = stack.enter_context(open_house(arguments, terminal))
            member = open_member(house)
            if member is not None:
                stack.callback(member.close)
                local = import_module("dalsegno.cli.serve").open_site(house, member.name)
                yield stack.enter_context(member_servers(member, local=local))
                return
            if arguments.pool_path:
                raise Refused(
                    f"{arguments.pool_path}: its server is in no realm: leave --pool away, or `dal realm init`"
                )
        realm = chosen_realm(realm)
        nearness = open_nearness(realm)
        stack.callback(nearness.save)
        yield stack.enter_context(client_servers(read_profile(realm), nearness, report=terminal.report))


# The commands


def _init(arguments: argparse.Namespace, terminal: Terminal) -> int:
    directory_module = import_module("dalsegno.replicas.directory")
    member_module = import_module("dalsegno.replicas.member")
    with open_house(arguments, terminal) as house:
        realm = house.pool.realm
        maker = own_key(open_server_values(house.pool)).public
        with directory_module.SqlDirectory.create(
            arguments.db, name=arguments.name, realm_id=realm.realm_id, maker=maker
        ) as made:
            label = made.label
        member_module.remember_directory(house.pool, url=arguments.db)
    value = {"realm": arguments.name, "id": realm.realm_id.hex(), "directory": label}
    lines = [
        f"realm {arguments.name}: {label}",
        f"  `dal serve --realm {label.removeprefix('directory ')} --name s1` makes this pool's server a part of it;",
        "  further servers' pools begin with this one's key: `dal key export FILE`, there `dal init --join FILE`",
        "  make the realm's tokens here: those that join from now on believe this server's (`dal token makers`)",
    ]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _join(arguments: argparse.Namespace, terminal: Terminal) -> int:
    # A command's words are seen by everybody on this machine.
    text = sys.stdin.readline(JOIN_BYTES_MAX + 1) if arguments.join == "-" else arguments.join
    join = parse_join(text)
    cache_bytes_max = parse_size(arguments.cache) if arguments.cache is not None else None
    site = RemoteSite.from_join(join)
    try:
        info = site.server()
        realm = read_key(Path(arguments.key_path), info.realm) if arguments.key_path else site.key()
        if realm.realm_id != info.realm:
            raise Refused(f"{join.url}: its key is not that of its realm")
        first = Server(
            name=check_realm_name(join.name or info.name), url=join.url, fingerprint=join.fingerprint, seen_ns=now_ns()
        )
        try:
            view = site.view()
        except NotFound:
            view = RealmView(
                name=arguments.name or first.name,
                realm=realm.realm_id,
                servers=[first],
                volumes=[],
                as_of_ns=0,
                directory=False,
            )
    finally:
        site.close()
    if view.realm != realm.realm_id:
        raise Refused(f"{join.url}: its directory is of another realm than its key")
    name = check_realm_name(arguments.name or view.name)
    known = read_profile(name) if name in list_profiles() else None
    if known is not None and known.view.realm != realm.realm_id:
        raise AlreadyThere(f"another realm was joined as {name!r}: choose --name, or `dal realm leave {name}`")
    view, told = _joined_view(known.view if known is not None else None, view, first)
    for text in told:
        terminal.note(text)
    if cache_bytes_max is None:
        cache_bytes_max = known.cache_bytes_max if known is not None else CACHE_BYTES_MAX_DEFAULT
    write_profile(Profile(name=name, token=join.token, view=view, cache_bytes_max=cache_bytes_max), realm)
    value = {
        "realm": name,
        "id": realm.realm_id.hex(),
        "servers": [server.name for server in view.servers],
        "volumes": [placed.name for placed in view.volumes],
    }
    lines = [f"joined realm {name}: servers {', '.join(value['servers'])}"]
    if joined_realms() != [name]:
        lines.append(f"  several realms are known here: `export DAL_REALM={name}` makes this one the default")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _joined_view(known: RealmView | None, shown: RealmView, first: Server) -> tuple[RealmView, list[str]]:
    """Return the realm as it is known after joining it by the server `first`, and what of it is not believed.

    What a join string says of a server counts, whatever was known of it.
    """
    others = known.servers if known is not None else []
    view, told = believed(with_server(msgspec.structs.replace(shown, servers=others), first), shown)
    if view.server(first.name) is None:
        view = msgspec.structs.replace(view, servers=[*view.servers, first])
    return view, told


def _state_value(state: VolumeState, name: str) -> dict[str, Any]:
    return {
        "server": name,
        "role": state.role or None,
        "head": state.head.hex() or None,
        "clones": len(state.clones),
        "frozen": state.lease is not None,
        "released": state.released.clone if state.released is not None else None,
        "version": state.replicas.version if state.replicas is not None else None,
    }


def _status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.name is not None:
        check_realm_name(arguments.name)
    with open_servers(arguments, terminal, realm=arguments.name) as servers:
        view = servers.view()
        asked = {server.name: servers.workers.submit(_ask_server, servers, server) for server in view.servers}
        answers = {name: future.result() for name, future in asked.items()}
        realm = view.name if servers.here else chosen_realm(arguments.name)
    waiting: list[tuple[bytes, str, bytes]] = []
    if not servers.here:
        _remember(realm, {name: value for name, (value, _) in answers.items()})
        waiting = _waiting(realm)
    volumes = _by_volume(view, {name: states for name, (_, states) in answers.items() if states is not None})
    behind = any(volume["differ"] for volume in volumes)
    away = [name for name, (value, _) in answers.items() if not value["alive"]]
    value = {
        "realm": realm,
        "id": view.realm.hex(),
        "directory": view.directory,
        "as_of": format_time(view.as_of_ns) if view.as_of_ns else None,
        "servers": [answers[name][0] for name in sorted(answers)],
        "volumes": volumes,
        "unacknowledged": [{"volume": name, "revision": revision.hex()} for _, name, revision in waiting],
    }
    terminal.result(value, _status_lines(value, terminal))
    return EXIT_PARTIAL if away or behind or waiting else EXIT_DONE


def _trust(arguments: argparse.Namespace, terminal: Terminal) -> int:
    realm = chosen_realm(arguments.name)
    differences: list[str] = []
    with open_realm(realm, differs=differences.append, report=terminal.report) as house:
        house.realm_volumes.differences()
        if differences and not arguments.yes:
            ask_to_accept(terminal, f"realm {realm}", differences, show="dal realm trust")
        away = house.realm_volumes.accept()
    value = {"realm": realm, "accepted": differences, "away": away}
    lines = [f"accepted realm {realm} as its servers show it now"]
    if not differences:
        lines = [f"nothing differs: the volumes of realm {realm} are as they were seen"]
    lines += [f"{', '.join(away)}: no answer, nothing of it was looked at"] if away else []
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_PARTIAL if away else EXIT_DONE


def _ask_server(servers: Servers, server: Server) -> tuple[dict[str, Any], list[VolumeState] | None]:
    value: dict[str, Any] = {"server": server.name, "url": server.url, "alive": False}
    try:
        site = servers.site(server.name)
        more: dict[str, Any] = {"version": __version__, "clock_seconds": 0.0}
        if isinstance(site, RemoteSite):
            info = site.server()
            more = {"version": info.version, "clock_seconds": round((info.now_ns - now_ns()) / 1e9, 1)}
        began = ticks_ns()
        states = site.states()
        spent = ticks_ns() - began
    except DalError as error:
        seen = format_time(server.seen_ns) if server.seen_ns else None
        return {**value, "error": {"code": error.code, "message": str(error)}, "seen": seen}, None
    return {**value, **more, "alive": True, "latency_ms": spent / 1e6}, states


def _remember(realm: str, answers: dict[str, dict[str, Any]]) -> None:
    """Remember how near the servers were."""
    nearness = open_nearness(realm)
    for name, value in answers.items():
        if value["alive"]:
            nearness.answered(name, ticks_ns=int(value["latency_ms"] * 1e6))
        elif value["error"]["code"] == Unavailable.code:
            nearness.failed(name)
    nearness.save()


def _by_volume(view: RealmView, answers: dict[str, list[VolumeState]]) -> list[dict[str, Any]]:
    found: dict[str, list[tuple[str, VolumeState]]] = {placed.name: [] for placed in view.volumes}
    for server, listed in sorted(answers.items()):
        for each in listed:
            found.setdefault(each.name, []).append((server, each))
    values = []
    for volume, states in sorted(found.items()):
        sets = [state.replicas for _, state in states if state.replicas is not None]
        placed = view.placed(volume)
        if placed is not None:
            sets.append(placed.replicas)
        newest = max(sets, key=lambda each: each.version, default=None)
        heads = {state.head for name, state in states if newest is not None and name in newest.writers}
        values.append(
            {
                "volume": volume,
                "rule": newest.rule if newest is not None else None,
                "writers": newest.writers if newest is not None else [name for name, _ in states],
                "readers": newest.readers if newest is not None else [],
                "standbys": newest.standbys if newest is not None else [],
                "differ": len(heads) > 1,
                "replicas": [_state_value(state, name) for name, state in states],
            }
        )
    return values


def _status_lines(value: dict[str, Any], terminal: Terminal) -> list[str]:
    lines = [f"realm {value['realm']}"]
    rows = []
    for server in value["servers"]:
        if server["alive"]:
            skew = abs(server["clock_seconds"])
            told = [f"{server['latency_ms']:.1f} ms", f"dal {server['version']}"]
            rows.append([server["server"], "alive", *told, f"its clock differs by {skew:.0f} s" if skew >= 60 else ""])
        else:
            rows.append([server["server"], "AWAY", "", "", server["error"]["message"]])
    lines += [f"  {line}" for line in terminal.table(rows)]
    for volume in value["volumes"]:
        kinds = [
            f"{count_of(len(volume['writers']), 'writer')}, rule {volume['rule']}"
            if volume["rule"]
            else "not replicated"
        ]
        kinds += ["heads differ: `dal replica resolve` or any command on it brings them together"] * volume["differ"]
        lines.append(f"volume {volume['volume']}: {'; '.join(kinds)}")
        rows = [
            [
                replica["server"],
                replica["role"] or "",
                "#" + replica["head"][:12] if replica["head"] else "empty",
                count_of(replica["clones"], "clone"),
                f"shows {replica['released'] or 'a release'}" if replica["role"] == "reader" else "",
                "frozen" if replica["frozen"] else "",
            ]
            for replica in volume["replicas"]
        ]
        answered = {replica["server"] for replica in volume["replicas"]}
        silent = [
            name for name in (*volume["writers"], *volume["standbys"], *volume["readers"]) if name not in answered
        ]
        rows += [[name, "", "no answer", "", "", ""] for name in silent]
        lines += [f"  {line}" for line in terminal.table(rows, right=(3,))]
    for commit in value["unacknowledged"]:
        lines.append(
            f"a commit to {commit['volume']} waits here (#{commit['revision'][:12]}): no server has it for sure"
        )
    return lines


def _waiting(realm: str) -> list[tuple[bytes, str, bytes]]:
    """Return the commits that wait in a realm's cache house, if there is one."""
    if not is_pool(cache_directory(realm) / "pool"):
        return []
    profile = read_profile(realm)
    with open_cache_pool(profile, read_profile_realm(profile)) as pool:
        return list_unsent(pool)


def _leave(arguments: argparse.Namespace, terminal: Terminal) -> int:
    profile = read_profile(arguments.name)
    waiting = _waiting(profile.name)
    if waiting and not arguments.force:
        _, volume, revision = waiting[0]
        raise Refused(
            f"a commit to {volume} (#{hex_short(revision)}) waits here that no server has for sure: "
            f"`dal replica resolve {volume}` brings it there; --force gives it up"
        )
    shutil.rmtree(cache_directory(profile.name), ignore_errors=True)
    Directories(profile.name).remove()
    remove_profile(profile.name)
    terminal.result({"realm": profile.name}, [] if terminal.quiet else [f"realm {profile.name} is forgotten here"])
    return EXIT_DONE


def _remove_server(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_servers(arguments, terminal) as servers:
        servers.desk.remove_server(arguments.server)
    terminal.result({"server": arguments.server}, [f"server {arguments.server} is forgotten by the realm"])
    return EXIT_DONE
