"""A disk that fails once, at any call of any command: the command says so, nothing acknowledged is lost, the next command works.

The kind of fault: what cannot be read is taken for what is not there.
"""

from pathlib import Path

import pytest
from commands import COMMANDS, MADE, READERS, backup
from explorer import SEED, STATES, Explorer, shown
from faults import explore_faults
from machine import Machine
from site_world import SITE_COMMANDS, SITE_MADE, SITE_READERS, SiteExplorer


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_a_disk_that_fails_once_loses_nothing_whatever_fails(machine: Machine) -> None:
    print(f"seed {SEED}")
    explorer = Explorer(machine, seed=SEED)
    faults = explore_faults(explorer, MADE, (*COMMANDS, *READERS), states_min=STATES // 2)
    print(faults.summary())
    assert not explorer.failures, shown(explorer.failures)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_a_disk_of_a_site_that_fails_once_loses_nothing_whatever_fails(machine: Machine) -> None:
    print(f"seed {SEED}")
    site = SiteExplorer(machine, seed=SEED)
    faults = explore_faults(site, SITE_MADE, (*SITE_COMMANDS, *SITE_READERS), states_min=STATES // 16, on=site.empty())
    print(faults.summary())
    assert not site.failures, shown(site.failures)


def test_a_source_whose_disk_cannot_be_read_is_not_said_to_be_gone(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, _ = explorer.prepared(backup("one"))
    for words in (("backup", str(explorer.doc)), ("backup", "doc"), ("import", "native", str(explorer.doc))):
        machine.put(base)
        ran = machine.run(words, record=True, fault=("stat", str(explorer.doc)), codes=range(256))
        assert ran.codes == [9]
        assert ran.done[0][1].endswith(f"dal: error: {explorer.doc}: Input/output error\n")
    machine.put(base)
    text = machine.run(("doctor",), record=True, fault=("stat", str(explorer.doc)), codes=range(256)).done[0][1]
    assert f"volume doc: its source {explorer.doc}: Input/output error" in text


def test_a_policy_whose_disk_cannot_be_read_is_not_passed_over(machine: Machine) -> None:
    policy = Path(machine.home, ".config/dalsegno/dalsegno.toml")
    policy.parent.mkdir(parents=True)
    policy.write_text(f'pool = "{machine.home}/pool"\n')
    doc = Explorer(machine, seed=SEED).doc
    ran = machine.run(("backup", str(doc)), record=True, fault=("stat", str(policy)), codes=range(256))
    assert ran.done[0][:2] == (9, f"dal: error: {policy}: Input/output error\n")
    assert not Path(machine.home, ".local").exists()


def test_a_dump_whose_disk_cannot_be_read_is_not_said_to_be_gone(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    explorer.prepared(*MADE[:2])
    dump = f"{machine.home}/0.dump"
    ran = machine.run(("ls", dump), record=True, fault=("stat", dump), codes=range(256))
    assert ran.done[0][:2] == (9, f"dal: error: {dump}: Input/output error\n")


def test_a_pack_whose_disk_cannot_be_asked_is_named_and_said_to_be_unreachable(machine: Machine) -> None:
    Explorer(machine, seed=SEED).prepared(*MADE[:1])
    pack = str(next(machine.home.rglob("*.pack")))
    ran = machine.run(("gc",), record=True, fault=("stat", pack), codes=range(256))
    assert ran.done[0][:2] == (9, f"dal: error: {pack}: Input/output error\n")


@pytest.mark.parametrize(("word", "number"), [("rebuild", 1), ("rebuild", 2), ("check", 1), ("check", 3)])
@pytest.mark.parametrize("place", ["disk", "b"])
def test_a_medium_whose_label_cannot_be_read_once_is_not_taken_for_empty(
    machine: Machine, place: str, word: str, number: int
) -> None:
    site = SiteExplorer(machine, seed=SEED)
    base, _ = site.prepared(*SITE_MADE[:2], on=site.empty())
    label = f"{machine.home}/{place}/DALSEGNO-LABEL"
    machine.put(base)
    ran = machine.run(("catalog", word), record=True, fault=("stat", label, number), codes=range(256))
    assert ran.codes == [9], ran.done
    assert machine.run(("catalog", "check")).codes == [0], ran.done


def test_a_label_that_cannot_be_read_back_is_no_internal_error(machine: Machine) -> None:
    site = SiteExplorer(machine, seed=SEED)
    base, _ = site.prepared(*SITE_MADE[:1], on=site.empty())
    label = f"{machine.home}/new/DALSEGNO-LABEL"
    words = ("media", "label", f"{machine.home}/new", "new", "--target", "disks")
    for number in range(1, 5):
        machine.put(base)
        ran = machine.run(words, record=True, fault=("stat", label, number), codes=range(256))
        assert ran.codes[0] in (0, 9) and "internal" not in ran.done[0][1]
