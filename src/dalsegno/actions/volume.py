"""Change what a volume keeps of its own: the rules about what is left out."""

import msgspec

from dalsegno.actions.house import House
from dalsegno.actions.rules import RulesChange, changed_settings
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns


def set_rules(house: House, name: str, change: RulesChange) -> VolumeState:
    """Change a volume's own rules. BadInput and NotFound of `changed_settings`; nothing is changed then."""
    state = house.volumes.get(name)
    at_ns = now_ns()
    return house.volumes.update(
        state.id,
        lambda current: msgspec.structs.replace(
            current, settings=changed_settings(current.settings, change, now_ns=at_ns)
        ),
    )
