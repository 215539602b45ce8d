"""Accept the pool that is at a place now, as it is, whatever was seen there before."""

from dataclasses import dataclass

from dalsegno.actions.session import House
from dalsegno.pool.known import KnownPool, known_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered of a pool's place."""

    place: str
    pools: list[KnownPool]
    """The pools that may be there."""
    volume_count: int
    """Of how many volumes of the pool that is there now a head is remembered."""
    absent: list[bytes]
    """Volumes that were seen in it and are not there: removed by somebody else, or older refs were put back."""


def memory(house: House) -> Memory:
    """Return what is remembered of the place of an open pool."""
    assert house.known is not None
    heads = house.known.heads(house.pool.pool_id)
    there = {state.id for state in house.volumes.list()}
    return Memory(
        place=house.known.place,
        pools=list(house.known.pools),
        volume_count=len(heads.volumes()),
        absent=[each for each in heads.volumes() if each not in there],
    )


def trust(house: House) -> None:
    """Remember this pool, and its volumes as they are, as ones that may be here, beside those that were."""
    assert house.known is not None and house.volumes.seen is not None
    pool = house.pool
    house.known.remember(known_pool(pool), pool.backend)
    states = house.volumes.list()
    for state in states:
        house.volumes.seen.accept(state)
    there = {state.id for state in states}
    for volume_id in house.volumes.seen.heads.volumes():
        if volume_id not in there:
            house.volumes.seen.heads.forget(volume_id, removed=False)
