"""One replicated volume, seen through those of its servers that answer.

A client sends its commits to all writers (pushing.py), brings those that were away to the others' head (catchup.py),
and clones all of them at once (freezing.py). Nothing is remembered between calls but to save questions: who dies at any
point leaves replicas that are behind, or a lease that ends by itself, and whoever comes next goes on.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import replace

import msgspec

from dalsegno.replicas.catchup import CaughtUp, catch_up
from dalsegno.replicas.clones import identity
from dalsegno.replicas.contract import Site
from dalsegno.replicas.freezing import Cloned, freeze_and_clone
from dalsegno.replicas.histories import parse_patterns
from dalsegno.replicas.pushing import Pushed, Pusher
from dalsegno.replicas.replica_sets import writers_needed
from dalsegno.replicas.sources import SitesSource
from dalsegno.replicas.transfer import Transferred
from dalsegno.replicas.writers import WriterPoll, Writers, empty_state, list_errors, shared_kind
from dalsegno.terms.errors import AlreadyThere, DalError, NotFound, Refused, Unavailable
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import STANDBY, WRITER, ReplicaSet, VolumeState


class Group:
    """One volume on several servers."""

    def __init__(self, writers: Writers) -> None:
        self.writers = writers
        self._pusher = Pusher(writers)

    def poll(self, *, changes: bool = True) -> WriterPoll:
        """Ask all writers for their state. Without `arrange` nothing is changed anywhere."""
        return self.writers.poll(changes=changes)

    def source(self, names: Iterable[str]) -> SitesSource:
        """Return a Source that reads from whichever of these servers has an object."""
        return self.writers.source(names)

    def catch_up(self, *, head: bytes = b"") -> CaughtUp:
        """Bring every writer that answers to one head and one set of clones; `head`, a revision at `local`, too."""
        return catch_up(self.writers, head=head)

    def push(self, revision: bytes) -> Pushed:
        """Bring `revision`, committed at `local`, to all writers that answer; return when the rule is met.

        Unavailable when it is not: the commit stays where it got to, and the next push or catch-up brings it on.
        """
        return self._pusher.push(revision)

    def freeze_and_clone(
        self, name: str | None = None, created_ns: int | None = None, *, automatic: bool = False
    ) -> Cloned:
        """Name one revision on all writers that answer, which are frozen meanwhile; without a name, by its time."""
        return freeze_and_clone(self.writers, name, created_ns, automatic=automatic)

    def set_replica_set(self, replicas: ReplicaSet, *, also: Iterable[str] = ()) -> dict[str, DalError]:
        """Make `replicas` the volume's replica set on all its servers; return those that did not hear it."""
        return self.writers.set_replica_set(replicas, also=also)

    def unclone(self, name: str, *, force: bool = False) -> tuple[Clone, dict[str, DalError]]:
        """Forget a clone on all writers that answer; those that do not forget it when they are caught up.

        Refused while it is held.
        """
        polled = self.poll()
        self.writers.require_some(polled, {})
        found = {
            identity(state.clones[name]): state.clones[name] for state in polled.states.values() if name in state.clones
        }
        if not found:
            raise NotFound(
                f"no clone {self.writers.volume}@{name}: `dal clones {self.writers.volume}` shows what there is"
            )
        if any(clone.held for clone in found.values()) and not force:
            raise Refused(
                f"clone {self.writers.volume}@{name} is held: `dal unhold {self.writers.volume}@{name}` first"
            )
        errors = dict(polled.errors)
        done: set[str] = set()
        for clone in found.values():

            def drop(site: Site, clone: Clone = clone) -> VolumeState:
                return site.unclone(self.writers.volume, name, msgspec.structs.replace(clone, held=force))

            results, failed = self.writers.each(sorted(polled.states), drop)
            done |= results.keys()
            errors.update(failed)
        if not done:
            raise shared_kind(errors)(f"volume {self.writers.volume!r}: {list_errors(errors)}")
        return next(iter(found.values())), errors

    def set_held(self, name: str, *, held: bool) -> tuple[Clone, dict[str, DalError]]:
        """Hold or unhold a clone on all writers that answer; return it and who did not."""
        polled = self.poll()
        self.writers.require_some(polled, {})
        found = [state.clones[name] for state in polled.states.values() if name in state.clones]
        if not found:
            raise NotFound(
                f"no clone {self.writers.volume}@{name}: `dal clones {self.writers.volume}` shows what there is"
            )
        old = min(found, key=lambda clone: (clone.created_ns, clone.revision))
        if held:
            new = msgspec.structs.replace(old, held=True)
        elif not any(clone.held for clone in found):
            return old, polled.errors
        else:
            # Of a clone that is held anywhere all copies are: one that is not is another one, told by its time.
            new = msgspec.structs.replace(old, created_ns=max(clone.created_ns for clone in found) + 1, held=False)

        def change(site: Site) -> VolumeState:
            own = polled.states[site.name].clones.get(name)
            if own is not None and identity(own) != identity(new):
                site.unclone(self.writers.volume, name, own)
            return site.clone(self.writers.volume, name, new)

        done, errors = self.writers.each(sorted(polled.states), change)
        if not done:
            raise shared_kind(errors)(f"volume {self.writers.volume!r}: {list_errors(errors)}")
        return new, {**polled.errors, **errors}

    # Which servers

    def create(self, state: VolumeState) -> dict[str, DalError]:
        """Make the empty volume `state` on all writers of its replica set; return those that could not.

        Unavailable when fewer answer than its rule asks for; the others get it when they are caught up.
        """
        replicas = state.replicas
        assert replicas is not None and not state.head
        for pattern in replicas.clones.values():
            parse_patterns(pattern)
        needed = writers_needed(replicas)
        self.writers.replicas, self.writers.volume_id = replicas, state.id
        made, errors = self.writers.each(
            replicas.writers, lambda site: site.create(msgspec.structs.replace(state, role=WRITER))
        )
        for error in errors.values():
            if not isinstance(error, Unavailable):
                raise error
        if len(made) < needed:
            raise Unavailable(
                f"volume {self.writers.volume!r}: made on {len(made)} of {len(replicas.writers)} servers, "
                f"{replicas.rule!r} asks for {needed}: {list_errors(errors)}"
            )
        return errors

    def add_replica(self, name: str, *, clones: str = "") -> CaughtUp:
        """Make one more server a writer: first it gets everything, clones too, and only then commits are sent to it.

        `clones` are the patterns of the clones that it keeps; it keeps all without. What the server has of the volume
        already, from dumps say, does not cross. Until it has all it is a standby, also when this is never finished.
        """
        if clones:
            parse_patterns(clones)
        caught = self.catch_up()
        if name in caught.replicas.writers:
            return caught
        self.join(name, caught.state)
        replicas = self.add_standby(name, caught.replicas, clones=clones)
        filled = catch_up(self.writers, joining={name: clones})
        if name in filled.missing:
            raise filled.missing[name]
        self.set_replica_set(
            msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                writers=[*replicas.writers, name],
                standbys=[each for each in replicas.standbys if each != name],
            )
        )
        last = self.catch_up()
        brought = {**filled.brought}
        for each, done in last.brought.items():
            brought[each] = brought.get(each, Transferred()) + done
        return replace(last, brought=brought)

    def join(self, name: str, state: VolumeState) -> None:
        """Have the volume, still empty, on one more server. While no replica set names that, it fetches nothing."""
        site = self.writers.site(name)
        try:
            there = site.state(self.writers.volume)
        except NotFound:
            site.create(empty_state(state, replicas=None, role=STANDBY))
            return
        if there.id != state.id:
            raise AlreadyThere(
                f"{site.name}: there is another volume called {self.writers.volume!r}: rename or remove it there"
            )

    def add_standby(self, name: str, replicas: ReplicaSet, *, clones: str = "") -> ReplicaSet:
        """Make a server that joined a standby, which its own server fills if that runs; return the new replica set."""
        patterns = {each: text for each, text in replicas.clones.items() if each != name}
        if clones:
            parse_patterns(clones)
            patterns[name] = clones
        if name not in replicas.standbys or patterns != replicas.clones:
            replicas = msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                standbys=[*(each for each in replicas.standbys if each != name), name],
                readers=[each for each in replicas.readers if each != name],
                clones=patterns,
            )
            self.set_replica_set(replicas)
        self.writers.site(name).arrange(self.writers.volume, replicas)
        return replicas

    def remove_replica(self, name: str, *, force: bool = False) -> dict[str, DalError]:
        """Take a writer or a standby out of the volume, then remove its copy; return who did not hear of it.

        What only this server has is brought to the others first. Unavailable when it does not answer, unless `force`.
        """
        caught = self.catch_up()
        replicas = caught.replicas
        if name in replicas.standbys:
            return self._remove_standby(name, replicas, force=force)
        if name not in replicas.writers:
            there = ", ".join((*replicas.writers, *replicas.standbys))
            raise NotFound(f"{name}: neither writer nor standby of volume {self.writers.volume!r}: {there}")
        if len(replicas.writers) == 1:
            raise Refused(
                f"{name} is the only writer of volume {self.writers.volume!r}: add another first, or remove the volume"
            )
        if name in caught.missing and not force:
            raise Unavailable(
                f"{name} does not answer, what only it has would be lost: {caught.missing[name]}; "
                "try again, or use --force"
            )
        others = [each for each in caught.reached if each != name]
        if not others:
            raise Unavailable(f"volume {self.writers.volume!r}: no other writer answers: {list_errors(caught.missing)}")
        deaf = self.set_replica_set(
            msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                writers=[each for each in replicas.writers if each != name],
                clones={each: text for each, text in replicas.clones.items() if each != name},
            ),
            also=[name],
        )
        if name not in deaf:
            # Commits that it took until it heard of this.
            site = self.writers.site(name)
            last = site.state(self.writers.volume)
            if last.head != caught.head and name not in caught.missing:
                with_it = copy(self.writers)
                with_it.local = site
                catch_up(with_it, head=last.head)
            site.remove(self.writers.volume)
        return deaf

    def _remove_standby(self, name: str, replicas: ReplicaSet, *, force: bool) -> dict[str, DalError]:
        """Take out a server that holds nothing of its own: the writers have all that it has."""
        try:
            self.writers.site(name).state(self.writers.volume)
        except Unavailable as error:
            if not force:
                raise Unavailable(f"{name} does not answer: {error}; try again, or use --force") from None
        except NotFound:
            pass  # it never got anything
        deaf = self.set_replica_set(
            msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                standbys=[each for each in replicas.standbys if each != name],
                clones={each: text for each, text in replicas.clones.items() if each != name},
            ),
            also=[name],
        )
        if isinstance(deaf.get(name), NotFound):
            del deaf[name]  # it has nothing of the volume
        elif name not in deaf:
            self.writers.site(name).remove(self.writers.volume)
        return deaf
