"""What stands beside a mounted tree: the clones of its volume, the volumes of its pool, where mount points lead."""

from collections.abc import Mapping
from typing import cast

from dalsegno.actions import mount as actions
from dalsegno.actions.restore import is_own
from dalsegno.actions.session import House
from dalsegno.actions.view import View, require_signed_view
from dalsegno.formats import objects
from dalsegno.mount.listing import Kept, KindSource, Listings
from dalsegno.mount.readonly import Picture, Shelf
from dalsegno.pool.checked import CheckedSource
from dalsegno.terms.errors import BadInput
from dalsegno.trees.read import resolve_path
from dalsegno.volumes.state import VolumeState


def make_picture(view: View, listings: Listings) -> Picture:
    """Return a view as a picture; what it shows must be a directory."""
    entry = resolve_path(listings.source, view.revision, view.path)
    if entry.kind != objects.ENTRY_DIRECTORY:
        raise BadInput(f"{view.label}: {view.path.decode(errors='replace')} is a file: mount a directory, or `dal cat`")
    return Picture(
        listings=listings,
        root=entry,
        tree=view.revision.root.content,
        links=view.revision.links,
        identity=view.revision_id,
        volume_id=view.state.id if view.state is not None and not view.path else b"",
        label=view.label,
        total_bytes=view.revision.total_bytes,
        entry_count=view.revision.entry_count,
    )


def dumps_picture(view: View) -> Picture:
    """Return what dumps show."""
    return make_picture(view, Listings(Kept(cast(KindSource, view.source))))


class HouseGallery:
    """The volumes of an open house."""

    def __init__(self, house: House, *, takes_unsigned: bool = False) -> None:
        """`takes_unsigned`: show also what does not count as signed, of volumes that require it."""
        self.house = house
        self._takes_unsigned = takes_unsigned
        self.listings = Listings(Kept(CheckedSource(house.pool, house.pool.realm)))
        self._pins = actions.Pins(house)

    def top(self, text: str) -> Picture:
        """Return what an address or a chain of dumps shows."""
        return self.top_and_whether_own(text)[0]

    def top_and_whether_own(self, text: str) -> tuple[Picture, bool]:
        """Return the same, and whether it is this house's own (`is_own`): any other dump may be a stranger's."""
        view = actions.open_shown(self.house, text)
        if view.chain is not None:
            self._check(view)
            return dumps_picture(view), is_own(self.house, view)
        return self.picture(view), True

    def head(self, state: VolumeState) -> Picture:
        """Return a volume's newest state, which the caller keeps."""
        view = actions.open_clone(self.house, state.id, "latest")
        self._check(view)
        return make_picture(view, self.listings)

    def _check(self, view: View) -> None:
        if not self._takes_unsigned:
            require_signed_view(self.house, view)

    def picture(self, view: View) -> Picture:
        """Return what one state of a volume shows; it is kept as long as this mount lives."""
        assert view.state is not None
        self._check(view)
        self._pins.add(view.state.id, view.revision_id)
        return make_picture(view, self.listings)

    def keep(self) -> None:
        """Go on keeping what is shown; to be called now and then."""
        self._pins.renew()

    def close(self) -> None:
        """Let go of what was shown."""
        self._pins.drop()

    def clones(self, volume_id: bytes) -> Shelf:
        """Return a volume's clones."""
        return Clones(self, volume_id, latest=False)

    def follow(self, point: bytes) -> Picture:
        """Return the picture that a mount point names."""
        return self.picture(actions.open_point(self.house, point))

    def volumes(self) -> Shelf:
        """Return all volumes."""
        return AllVolumes(self)


class Clones:
    """The clones of one volume by name, and where `latest` is wanted its newest state."""

    def __init__(self, gallery: HouseGallery, volume_id: bytes, *, latest: bool) -> None:
        self._gallery = gallery
        self._volume_id = volume_id
        self._latest = latest

    @property
    def listings(self) -> Listings:
        """Through what they are read."""
        return self._gallery.listings

    def _state(self) -> VolumeState:
        return actions.volume_by_id(self._gallery.house, self._volume_id)

    def names(self) -> Mapping[bytes, int]:
        """Return the clones and when each was made."""
        state = self._state()
        found = {name.encode(): clone.created_ns for name, clone in state.clones.items()}
        if self._latest and state.head:
            found[b"latest"] = max(found.values(), default=state.created_ns)
        return found

    def open(self, name: bytes, /) -> Picture:
        """Return one clone."""
        return self._gallery.picture(
            actions.open_clone(self._gallery.house, self._volume_id, name.decode(errors="replace"))
        )


class AllVolumes:
    """The volumes of a pool by name; each leads to its clones."""

    def __init__(self, gallery: HouseGallery) -> None:
        self._gallery = gallery

    @property
    def listings(self) -> Listings:
        """Through what they are read."""
        return self._gallery.listings

    def names(self) -> Mapping[bytes, int]:
        """Return the volumes and when each was made."""
        return {state.name.encode(): state.created_ns for state in self._gallery.house.volumes.list()}

    def open(self, name: bytes, /) -> Shelf:
        """Return a volume's clones and its newest state."""
        state = self._gallery.house.volumes.get(name.decode(errors="replace"))
        return Clones(self._gallery, state.id, latest=True)
