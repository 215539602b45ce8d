"""The commands that write a pool, and what each promises."""

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from explorer import Command, Explorer, Promise

from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.chunks.signatures import public_text

NATIVE = frozenset({"native"})


def backup(name: str, *, changes: bool = True) -> Command:
    """Back the source up, after a change or as it is: then what an earlier command stored is all that there is."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        now = frozenset({explorer.now()})
        return replace(promise, clones={**promise.clones, f"doc@{name}": now}, head=now)

    title = f"backup {name}" if changes else f"backup {name} unchanged"
    return Command(title, ("backup", "{doc}", "--name", name), keeps, changes=changes, makes_head=True)


def take_in(*, changes: bool = True) -> Command:
    """Import the source into a native volume."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, clones={**promise.clones, "native": frozenset({explorer.now()})})

    title = "import" if changes else "import unchanged"
    return Command(title, ("import", "native", "{doc}"), keeps, takes=NATIVE, changes=changes)


def clone(name: str) -> Command:
    """Name the head."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, clones={**promise.clones, f"doc@{name}": promise.head})

    return Command(f"clone {name}", ("clone", "doc", name, "--no-scan"), keeps)


def unclone(name: str) -> Command:
    """Remove a clone."""
    address = f"doc@{name}"

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        clones = {each: wanted for each, wanted in promise.clones.items() if each != address}
        return replace(promise, clones=clones, gone=promise.gone | {address})

    return Command(
        f"unclone {name}", ("unclone", address), keeps, takes=frozenset({address}), needs=frozenset({address})
    )


def dump(file: str, *options: str, chain: str = "") -> Command:
    """Dump the head into a file of the home; `chain`: the dumps that it builds on."""
    name = chain + file

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, dumps={**promise.dumps, name: promise.head})

    words = ("dump", "doc", *options, "-o", "{home}/" + file)
    return Command(f"dump {file}", words, keeps, takes=frozenset({name}))


def mark(file: str) -> Command:
    """Record a dump that was made before."""

    return Command(f"mark {file}", ("mark", "{home}/" + file))


def merge() -> Command:
    """Merge dumps 0 and 1."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, dumps={**promise.dumps, "merged.dump": promise.dumps["0.dump+1.dump"]})

    return Command("merge", ("merge", "-o", "{home}/merged.dump", "{home}/0.dump", "{home}/1.dump"), keeps)


def restore_volume() -> Command:
    """Make a volume of a dump."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, clones={**promise.clones, "again": promise.dumps["0.dump"]})

    return Command("restore --volume", ("restore", "{home}/0.dump", "--volume", "again"), keeps)


def export_key() -> Command:
    """Export the key into a directory that is there."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, keys=promise.keys | {"usb/realm.key"})

    return Command("key export", ("key", "export", "{home}/usb/realm.key"), keeps)


def add_holder(name: str = "anna") -> Command:
    """Let a private key open the pool."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, holders={**promise.holders, name: True})

    public = age_recipient(age_identity(f"the identity of {name}".encode().ljust(32, b".")))
    return Command(
        f"key add {name}", ("key", "add", "--recipient", public, "--name", name), keeps, takes=frozenset({name})
    )


def remove_holder(name: str = "anna") -> Command:
    """Let it open the pool no more."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, holders={**promise.holders, name: False})

    takes = frozenset({name})
    return Command(f"key remove {name}", ("key", "remove", name), keeps, takes=takes, needs=takes)


def rotate_key() -> Command:
    """Change the pool's key."""
    return Command("key rotate", ("key", "rotate"))


def trust_signer(name: str) -> Command:
    """Know a signer."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, signers={**promise.signers, name: True})

    seed = name.encode().ljust(32, b".")
    key = public_text(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
    return Command(f"trust-signer {name}", ("key", "trust-signer", name, key), keeps, takes=frozenset({name}))


def remove_signer(name: str) -> Command:
    """Know a signer no more."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, signers={**promise.signers, name: False})

    takes = frozenset({name})
    return Command(f"remove-signer {name}", ("key", "remove-signer", name), keeps, takes=takes, needs=takes)


def rename_volume() -> Command:
    """Give the native volume another name."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        clones = {name: wanted for name, wanted in promise.clones.items() if name != "native"}
        renamed = {"renamed": promise.clones["native"]} if "native" in promise.clones else {}
        return replace(promise, clones=clones | renamed, gone=promise.gone | {"native"})

    return Command("volume rename", ("volume", "rename", "native", "renamed"), keeps, takes=NATIVE, needs=NATIVE)


def remove_volume() -> Command:
    """Remove the native volume."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        clones = {name: wanted for name, wanted in promise.clones.items() if name != "native"}
        return replace(promise, clones=clones, gone=promise.gone | {"native"})

    return Command("volume remove", ("volume", "remove", "native", "--yes"), keeps, takes=NATIVE, needs=NATIVE)


def hold() -> Command:
    """Hold a clone."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, held=promise.held | {"doc@one"})

    return Command("hold", ("hold", "doc@one"), keeps, needs=frozenset({"doc@one"}))


def init() -> Command:
    """Make the pool."""
    return Command("init", ("init",))


def gc() -> Command:
    """Collect at once."""
    return Command("gc", ("gc", "--grace", "0s"))


def verify() -> Command:
    """Check the pool: what an earlier command left is no damage."""
    return Command("verify", ("verify", "--pool"))


MADE = (
    backup("one"),
    dump("0.dump", "--level", "0"),
    backup("two"),
    dump("1.dump", "--level", "1", chain="0.dump+"),
    dump("plain.dump", "--level", "0", "--no-record"),
    take_in(),
    unclone("two"),
    add_holder("bert"),
    trust_signer("clara"),
)
"""What is on the disk before."""


def reader(*words: str) -> Command:
    """Read, and promise nothing."""
    return Command(" ".join(words), words)


READERS = (
    reader("verify", "--pool"),
    reader("cat", "doc@one:/same"),
    reader("find", "plan", "doc"),
    reader("clones"),
    reader("versions", "doc:/plan"),
    reader("diff", "doc@one", "doc"),
    reader("doctor"),
    reader("stats"),
    reader("status"),
)
"""What is run beside commands that write."""

COMMANDS = (
    backup("three"),
    backup("same", changes=False),
    take_in(),
    take_in(changes=False),
    clone("named"),
    unclone("one"),
    dump("full.dump", "--level", "0"),
    dump("2.dump", "--level", "2", chain="0.dump+1.dump+"),
    mark("plain.dump"),
    merge(),
    restore_volume(),
    export_key(),
    rename_volume(),
    remove_volume(),
    hold(),
    gc(),
    rotate_key(),
    add_holder("anna"),
    remove_holder("bert"),
    trust_signer("dora"),
    remove_signer("clara"),
)
