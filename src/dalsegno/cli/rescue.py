"""`dal restore --site`: an empty machine, the media and the key; pool, volumes and catalog come back."""

import argparse
from pathlib import Path

from dalsegno.actions.policy import default_state_dir, load_policy
from dalsegno.actions.session import House
from dalsegno.actions.site import policy_of_media, restore_site, with_media
from dalsegno.assembly.installation import open_installation
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.backup.policy import Policy
from dalsegno.cli.choice import key_path, pool_path
from dalsegno.cli.door import when_it_differs
from dalsegno.cli.site import asker, policy_if_any, policy_pool
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import is_passphrase_given, read_passphrase
from dalsegno.pool.settings import is_pool
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, Damaged, Refused
from dalsegno.terms.times import show_time


def _policy(arguments: argparse.Namespace, terminal: Terminal) -> Policy:
    media = [Path(path) for path in arguments.media]
    place = policy_if_any(arguments)
    if place is not None:
        policy = load_policy(place)
        return with_media(policy, media, report=terminal.report) if media else policy
    if not media:
        raise BadInput("without a policy, say where the media are: --media DIR for each, or --policy FILE")
    state_dir = (arguments.state or default_state_dir()).absolute()
    catalog_url = f"sqlite:///{state_dir / 'catalog.sqlite'}"
    return policy_of_media(media, state_dir=state_dir, catalog_url=catalog_url, report=terminal.report)


def _house(arguments: argparse.Namespace, terminal: Terminal, place: Path) -> House:
    key = key_path(arguments)
    if is_pool(place):
        return open_pool(
            place,
            passphrase=read_passphrase,
            key_path=key,
            is_sealed=is_passphrase_given(),
            differs=when_it_differs(arguments, terminal),
            report=terminal.report,
        )
    if key is None:
        raise BadInput(f"{place}: no pool yet: give the key that `dal key export` wrote, with --key FILE, to make one")
    terminal.note(f"making a pool in {place} with key {key}")
    return create_pool(place, encryption="keyfile", key_path=key, join=key, report=terminal.report)


def restore_whole_site(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Run `dal restore --site`."""
    policy = _policy(arguments, terminal)
    if policy.server_volumes:
        raise Refused(
            f"{policy.path}: its volumes are on servers ({policy.server_volumes[0]}): `dal catalog rebuild`, then for "
            "each `dal retrieve VOLUME -o DIR` and `dal restore DUMPS --volume VOLUME --server s1,s2`"
        )
    place = policy_pool(arguments, policy) if policy.pool is not None else pool_path(arguments)
    with _house(arguments, terminal, place) as house, open_installation(policy, ask=asker(terminal)) as site:
        names = [medium.label for target in site.targets.values() for medium in target.present()]
        terminal.note(f"media here: {', '.join(names) or 'none'}")
        result = restore_site(house, site)
    rows = []
    for each in result.volumes:
        if each.error:
            terminal.fail(f"volume {each.volume}: {each.error}")
        elif each.was_there:
            rows.append([each.volume, "was there already", "", count_of(each.clone_count, "clone"), ""])
        else:
            state = f"state of {show_time(each.state_at_ns)}"
            rows.append(
                [
                    each.volume,
                    state,
                    f"from {count_of(each.dump_count, 'dump')}",
                    count_of(each.clone_count, "clone"),
                    each.source,
                ]
            )
    failed = sum(bool(each.error) for each in result.volumes)
    known = f"{count_of(result.catalog.dump_count, 'dump')} on {', '.join(result.catalog.media) or 'no media'}"
    back = len(result.volumes) - failed
    lines = [f"pool {place}: {count_of(back, 'volume')} came back", *terminal.table(rows)]
    lines.append(f"the catalog knows {known}: older states come back with `dal restore VOLUME@DATE`")
    lines += [f"  left out: {text}" for text in result.catalog.unreadable]
    lines += [f"  incomplete: {text}" for text in result.catalog.incomplete]
    lines += [f"  NOT LOOKED AT: {text}" for text in result.catalog.bad_labels]
    terminal.result(result, lines)
    if result.catalog.bad_labels or terminal.met_damage:
        return Damaged.exit_code
    trouble = failed or result.catalog.unreadable or result.catalog.incomplete
    return EXIT_PARTIAL if trouble else EXIT_DONE
