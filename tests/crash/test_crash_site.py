"""Power cuts, kills and failing syncs in the commands of a site with a policy: what a run acknowledged comes back from media.

The kind of fault: what a killed command left in spool or media is taken for durable because it is there and whole.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from explorer import SEED, STATES, Promise, explore, shown
from machine import Machine, cut_state
from recorder import Op
from site_world import SITE_COMMANDS, SITE_MADE, SiteExplorer, night, retrieve, site_command


def names_in(directory: str, suffix: str) -> Callable[[Op], bool]:
    """Return what tells whether an operation gives a file in a directory a name that ends like this."""
    return lambda op: op[0] == "move" and op[3] == directory and str(op[4]).endswith(suffix)


@pytest.fixture
def site(machine: Machine) -> SiteExplorer:
    return SiteExplorer(machine, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_what_a_site_acknowledged_comes_back_from_media_whatever_fails(site: SiteExplorer) -> None:
    print(f"seed {site.seed}")
    explore(site, SITE_MADE, SITE_COMMANDS, states_min=STATES // 6, on=site.empty())
    assert not site.failures, shown(site.failures)


@pytest.mark.parametrize("place", ["part/dumps/.s001", "c/dumps/.share002", "disk/dumps/.dump", "disk/dumps/.note"])
def test_what_a_killed_run_left_on_media_is_synced_by_the_run_that_adopts_it(site: SiteExplorer, place: str) -> None:
    directory, _, suffix = place.rpartition("/")
    base, promise = site.prepared(*SITE_MADE, on=site.empty())
    site.killed_where(base, promise, night(3), night(3), names_in(directory, suffix))
    assert not site.failures, shown(site.failures)


def test_a_dump_that_a_killed_run_left_in_the_spool_is_synced_by_the_run_that_records_it(site: SiteExplorer) -> None:
    site.spooled = True
    base, promise = site.prepared(*SITE_MADE, on=site.empty())
    site.killed_where(base, promise, night(3), night(3), names_in("state/spool", ".dump"))
    assert not site.failures, shown(site.failures)


def test_a_catalog_is_rebuilt_from_what_is_durable(site: SiteExplorer) -> None:
    base, promise = site.prepared(*SITE_MADE, on=site.empty())
    site.change()
    log = site.record(base, night(3)).log
    last = names_in("part/dumps", ".s001")
    killed = max(position for position, op in enumerate(log) if last(op)) + 1
    promise = replace(promise, head=frozenset({site.now()}))
    both, _, _ = site.then(base, log[:killed], promise, site_command("catalog", "rebuild", day=3), "rebuild")
    all_three, made, _ = site.then(base, both, promise, night(3), "the run after")
    site.machine.put(cut_state(base, all_three, (len(all_three), 0.0, 0)))
    site.check(made, "killed, rebuilt, finished; power cut")
    assert not site.failures, shown(site.failures)


def test_a_catalog_that_is_new_is_recorded_from_its_first_row(site: SiteExplorer) -> None:
    """A database is only looked at when the command has ended."""
    base, _ = site.prepared(SITE_MADE[0], on=site.empty())
    site.change()
    log = site.record(base, night(0)).log
    written = [position for position, op in enumerate(log) if op[0] == "databases"]
    copied = next(position for position, op in enumerate(log) if names_in("disk/dumps", ".dump")(op))
    assert len([position for position in written if position < copied]) > 1
    assert "state/catalog.sqlite" in dict(log[written[0]][1])


def test_a_label_that_was_not_synced_is_synced_by_who_writes_to_the_medium(site: SiteExplorer) -> None:
    base, _ = site.prepared(*SITE_MADE, on=site.empty())
    del base.names["disk"]["DALSEGNO-LABEL"]
    label = site_command("media", "label", "{home}/disk", "other", "--target", "disks", day=3)
    for alone in ("disks", "grid"):
        site.alone = alone
        site.killed_where(base, Promise(), label, night(3), names_in("disk", "LABEL"))
    assert not site.failures, shown(site.failures)


def test_what_was_retrieved_before_is_synced_by_who_finds_it(site: SiteExplorer) -> None:
    base, promise = site.prepared(*SITE_MADE, on=site.empty())
    again = retrieve(1)
    site.killed_where(base, promise, again, again, names_in("back", ".dump"))
    assert not site.failures, shown(site.failures)
