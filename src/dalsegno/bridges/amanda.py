"""What Amanda says to an application and what it wants to hear (docs/guides/amanda.md); bytes and words only.

Amanda calls `APPLICATION COMMAND --option value...`. Properties of the application-tool come as further options, in
lower case. Answers are lines: on the output, and while a dump goes to the output, on descriptors 3 and 4.
"""

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dalsegno.dumps.plan import LEVEL_MAX
from dalsegno.terms.errors import BadInput
from dalsegno.terms.times import parse_duration_seconds

NAME: Final = "amdalsegno"
KIB: Final = 1024
CLONE_AGE_SECONDS: Final = 4 * 3600
CLONE_NAME: Final = "amanda"
RETRY_SECONDS: Final = 60
DISCOVER_CODE: Final = "3100005"

SUPPORT: Final = (
    ("CONFIG", "YES"),
    ("HOST", "YES"),
    ("DISK", "YES"),
    ("MAX-LEVEL", str(LEVEL_MAX)),
    ("INDEX-LINE", "YES"),
    ("INDEX-XML", "NO"),
    ("MESSAGE-LINE", "YES"),
    ("MESSAGE-XML", "NO"),
    ("RECORD", "YES"),
    ("TIMESTAMP", "YES"),
    ("INCLUDE-FILE", "NO"),
    ("INCLUDE-LIST", "NO"),
    ("EXCLUDE-FILE", "NO"),
    ("EXCLUDE-LIST", "NO"),
    ("COLLECTION", "NO"),
    ("CALCSIZE", "NO"),
    ("CLIENT-ESTIMATE", "YES"),
    ("MULTI-ESTIMATE", "YES"),
    ("DISCOVER", "YES"),
    ("DATA-PATH", "AMANDA"),
    ("RECOVER-PATH", "CWD"),
)
COMMANDS: Final = ("support", "selfcheck", "estimate", "backup", "restore", "validate", "index", "discover")

# Options without a value; all others have one.
FLAGS: Final = frozenset(("record", "calcsize"))
# Options that Amanda itself gives; what is neither here nor a property is a mistake in the configuration.
AMANDAS: Final = frozenset(
    (
        *("config", "host", "disk", "device", "timestamp", "level", "message", "index", "target", "data-path"),
        *("state-stream", "amfeatures", "dar", "recover-mode", "recover-dump-state-file", "dumpuser", "auth"),
        *("include-file", "include-list", "include-optional", "exclude-file", "exclude-list", "exclude-optional"),
    )
)
PROPERTIES: Final = frozenset(("pool", "server", "key-file", "volumes", "clone", "clone-age", "compression", "record"))
_DENSE: Final = {"fast": False, "best": True}
_YES: Final = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call by Amanda, taken apart."""

    command: str
    config: str = ""
    host: str = ""
    disk: str = ""
    device: str = ""
    timestamp: str = ""
    levels: tuple[int, ...] = ()
    record: bool = False
    index: bool = False
    target: str = ""
    paths: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    """Options that nobody knows: told by selfcheck, else passed over, since a typing error must not stop a restore."""

    @property
    def volume(self) -> str:
        """The volume: the device of the disklist, or the diskname when that is all there is."""
        return self.device or self.disk

    @property
    def server(self) -> str:
        """The realm, or server of one, that has the volumes; empty: they are in a pool. Property SERVER."""
        return self.properties.get("server", "")

    @property
    def level(self) -> int:
        """The one level of a backup or restore."""
        return self.levels[0] if self.levels else 0

    @property
    def clone_name(self) -> str:
        """The clone that is dumped; property CLONE."""
        return self.properties.get("clone", CLONE_NAME)

    @property
    def clone_age_seconds(self) -> int:
        """How old a clone may be to be used again; property CLONE-AGE. BadInput when it is no duration."""
        text = self.properties.get("clone-age")
        return CLONE_AGE_SECONDS if text is None else parse_duration_seconds(text)

    @property
    def records(self) -> bool:
        """Whether a dump becomes a base: Amanda says record, and property RECORD does not say no."""
        text = self.properties.get("record", "yes").lower()
        if text not in _YES:
            raise BadInput(f"property RECORD {text!r}: expected yes or no")
        return self.record and _YES[text]

    @property
    def dense(self) -> bool:
        """Whether blocks are compressed anew, not sent as the pool has them; property COMPRESSION."""
        text = self.properties.get("compression", "fast").lower()
        if text not in _DENSE:
            raise BadInput(f"property COMPRESSION {text!r}: expected fast (as the pool stores it) or best (anew)")
        return _DENSE[text]

    @property
    def recorder(self) -> str:
        """Whose increments these are: a dump builds only on what the same DLE of the same configuration recorded."""
        return f"amanda:{self.config}:{self.host}:{self.disk}"


def parse_call(words: Sequence[str]) -> Call:
    """Return the parts of a call. BadInput only for what cannot be understood at all."""
    if not words or words[0] not in COMMANDS:
        raise BadInput(f"unknown command {words[0] if words else ''!r}: expected one of {', '.join(COMMANDS)}")
    values: dict[str, str] = {}
    flags: set[str] = set()
    levels: list[int] = []
    paths: list[str] = []
    unknown: list[str] = []
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--")
        if name == word:
            paths.append(word)
        elif name in FLAGS and not (name == "record" and rest and rest[0].lower() in _YES):
            flags.add(name)
        elif not rest:
            raise BadInput(f"option {word}: has no value")
        elif name == "level":
            levels.append(_level(rest.pop(0)))
        else:
            values[name] = rest.pop(0)
            if name not in AMANDAS and name not in PROPERTIES:
                unknown.append(name)
    return Call(
        command=words[0],
        config=values.get("config", ""),
        host=values.get("host", ""),
        disk=values.get("disk", ""),
        device=values.get("device", ""),
        timestamp=values.get("timestamp", ""),
        levels=tuple(levels),
        record="record" in flags,
        index=values.get("index") == "line",
        target=values.get("target", ""),
        paths=tuple(paths),
        properties={name: value for name, value in values.items() if name in PROPERTIES},
        unknown=tuple(unknown),
    )


def _level(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise BadInput(f"level {text!r}: expected 0 to {LEVEL_MAX}")
    return int(text)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the volume names that a shell pattern means."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def check_volume(call: Call) -> str:
    """Return the address of the volume that a call is about.

    BadInput when it is a pattern, or not one that this tool may back up, or when properties contradict each other.
    """
    volume = call.volume
    if not volume:
        raise BadInput("no volume: the disklist names it as diskname or diskdevice")
    if re.search(r"[*?\[]", volume):
        raise BadInput(f"{volume}: a pattern; `dal amanda disklist '{volume}'` prints a line for each volume it means")
    allowed = call.properties.get("volumes")
    if allowed is not None and not matching([volume], allowed):
        raise BadInput(f"volume {volume!r} is not among those of property VOLUMES {allowed!r}")
    if call.server and "pool" in call.properties:
        raise BadInput("properties POOL and SERVER: the volumes are in one or on the other, so leave one away")
    if call.server and call.dense:
        raise BadInput("property COMPRESSION best: a server sends what it stores as it is: leave it away with SERVER")
    return volume_address(call)


def volume_address(call: Call) -> str:
    """Return the address of a call's volume, whatever that is."""
    return f"//{call.server}/{call.volume}" if call.server else call.volume


# Lines. A line has no line end in it, whatever the text was.


def one_line(text: object) -> str:
    """Return a text as one line."""
    return " ".join(str(text).split())


def support_lines() -> list[str]:
    """Return the answer to `support`."""
    return [f"{name} {value}" for name, value in SUPPORT]


def size_kib(size_bytes: int) -> int:
    """Return a size as Amanda counts; never 0, which would mean that there is none."""
    return max(1, -(-size_bytes // KIB))


def estimate_line(level: int, size_bytes: int | None) -> str:
    """Return the answer about one level; None: it cannot be dumped now."""
    return f"{level} -1 -1" if size_bytes is None else f"{level} {size_kib(size_bytes)} 1"


def check_line(ok: bool, text: object) -> str:
    """Return a finding of selfcheck or estimate."""
    return f"{'OK' if ok else 'ERROR'} {one_line(text)}"


def chatter_line(text: object) -> str:
    """Return what only who reads the whole log wants to know."""
    return f"| {one_line(text)}"


def strange_line(text: object) -> str:
    """Return what a person should know although the dump is good. Only after all data: docs/guides/amanda.md."""
    return f"? {one_line(text)}"


def size_line(size_bytes: int) -> str:
    """Return the line without which a dump has failed."""
    return f"sendbackup: size {size_kib(size_bytes)}"


def error_line(text: object) -> str:
    """Return the line that makes a dump a failed one."""
    return f"sendbackup: error [{one_line(text)}]"


def retry_line(text: object, *, delay_seconds: int, level: int | None = None) -> str:
    """Return the line that makes Amanda try again, at another level if one is given."""
    message = one_line(text).replace("\\", "/").replace('"', "'")
    at = "" if level is None else f" level {level}"
    return f'sendbackup: retry delay {delay_seconds}{at} message "{message}"'


# Index: one path a line from "/", directories end in "/". Amanda sorts and compresses.


def encode_index(path: bytes, *, directory: bool) -> bytes:
    """Return the index line of a path within a volume; backslash and line end as GNU tar writes them."""
    quoted = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    return b"/" + quoted + (b"/" if directory and path else b"") + b"\n"


def level_line(level: int) -> bytes:
    """Return an index line that no other level has: the root once more, as "/./", "/././" and so on.

    For `add .` amrecover takes of each path the newest level alone, and a level without a path of its own not at all;
    but a dump builds on the one below it.
    """
    return b"/" + b"./" * (level + 1) + b"\n"


def decode_path(word: str) -> bytes:
    """Return the path within a volume that a word of `restore` means: `./a/b` of the index; `.` is b"", the whole."""
    data = word.encode(errors="surrogateescape")
    parts = [part for part in data.split(b"/") if part not in (b"", b".")]
    joined = b"/".join(parts)
    return re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], joined, flags=re.DOTALL)


def with_parents(paths: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Yield (path, directory) with every directory above each, each once, the root always: a dump carries them too."""
    yield b"", True
    seen: set[bytes] = {b""}
    for path, directory in paths:
        parts = path.split(b"/")
        for count in range(len(parts)):
            parent = b"/".join(parts[:count])
            if parent not in seen:
                seen.add(parent)
                yield parent, True
        if path not in seen:
            if directory:
                seen.add(path)
            yield path, directory


def discover_text(pattern: str, names: Sequence[str]) -> str:
    """Return the answer to `discover`: JSON objects with commas between, one for each volume, as senddiscover reads."""
    fixed = {
        "source_filename": NAME,
        "source_line": "0",
        "severity": "info",
        "process": NAME,
        "running_on": "amanda-client",
        "component": "application",
        "module": NAME,
        "code": DISCOVER_CODE,
        "file_type": "dir",
    }
    found = [{**fixed, "full_path": name, "diskname": pattern, "dle_name": name} for name in names]
    return ",\n".join(json.dumps({**each, "message": "senddiscover result"}, indent=2) for each in found)
