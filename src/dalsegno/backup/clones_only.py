"""Sets without dumps: their volumes are judged by the clones in the pool, as if these were dumps. Pure."""

from dalsegno.backup.records import GOOD, SPOOL_TARGET, Copy, DumpEntry
from dalsegno.volumes.state import VolumeState


def clone_entries(state: VolumeState) -> tuple[list[DumpEntry], dict[bytes, list[Copy]]]:
    """Return a volume's clones as if each was a full dump with one copy: they are its backups, and lie in the pool."""
    entries = [
        DumpEntry(
            dump_id=name.encode(errors="surrogatepass"),
            volume_id=state.id,
            volume_name=state.name,
            level=0,
            revision=clone.revision,
            clone_name=name,
            cloned_at_ns=clone.created_ns,
            taken_at_ns=clone.created_ns,
            received_at_ns=clone.created_ns,
            size_bytes=0,
            digest=b"",
            entry_count=clone.entry_count or 0,
            verdict=GOOD,
        )
        for name, clone in state.clones.items()
    ]
    copies = {
        entry.dump_id: [
            Copy(
                dump_id=entry.dump_id,
                target=SPOOL_TARGET,
                medium=SPOOL_TARGET,
                place="",
                size_bytes=0,
                written_at_ns=entry.taken_at_ns,
                checked_at_ns=entry.taken_at_ns,
                verdict=GOOD,
            )
        ]
        for entry in entries
    }
    return sorted(entries, key=lambda entry: entry.taken_at_ns), copies
