"""Which clones a server keeps."""

import pytest

from dalsegno.replicas.clones import Drop, Keep, mirror_clones, plan_clones
from dalsegno.replicas.histories import Pattern, kept, parse_patterns
from dalsegno.terms.errors import BadInput
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, VolumeState


def clones(*names: str, held: str = "") -> dict[str, Clone]:
    return {
        name: Clone(revision=name.encode().ljust(32, b"."), created_ns=number, held=name == held)
        for number, name in enumerate(names)
    }


def state(**fields: object) -> VolumeState:
    return VolumeState(id=bytes(16), name="v", kind=NATIVE, source=b"", created_ns=0, **fields)  # type: ignore[arg-type]


WEEK = clones("daily-1", "daily-2", "weekly-1", "daily-3", "backup", held="daily-1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, set(WEEK)),
        ("", set(WEEK)),
        ("*", set(WEEK)),
        ("weekly-*", {"weekly-1"}),
        ("daily-*@last1", {"daily-3", "daily-1"}),
        ("daily-*@last2,weekly-*", {"daily-1", "daily-2", "daily-3", "weekly-1"}),
        ("back?p", {"backup"}),
        ("monthly-*@last12", set()),
    ],
)
def test_patterns_name_what_is_kept(text: str | None, names: set[str]) -> None:
    assert kept(text, WEEK) == names


def test_patterns_are_read() -> None:
    assert parse_patterns("daily-*@last7, weekly-*") == [Pattern("daily-*", 7), Pattern("weekly-*")]


@pytest.mark.parametrize("text", ["@last7", "daily-*@", "daily-*@7", "daily-*@last0", "daily-*@last-1", "a,,b", " "])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="daily-\\*@last7"):
        parse_patterns(text)


def test_a_server_that_keeps_some_clones_says_nothing_about_the_others() -> None:
    own, thin = state(clones=WEEK), state(clones=clones("x"))
    plan = plan_clones({"s1": own, "s2": thin}, patterns={"s2": "daily-*@last1"})
    assert plan.clones.keys() == {*WEEK, "x"}
    assert plan.steps["s1"] == [Keep("x", thin.clones["x"])]
    assert plan.steps["s2"] == [
        Keep("daily-1", WEEK["daily-1"]),
        Keep("daily-3", WEEK["daily-3"]),
        Drop("x", thin.clones["x"], here_only=True),
    ]


def test_a_clone_that_is_held_somewhere_is_not_uncloned_by_a_server_that_did_not_know() -> None:
    clone = Clone(revision=b"r" * 32, created_ns=5)
    holding = state(clones={"monday": Clone(revision=b"r" * 32, created_ns=5, held=True)})
    without = state(uncloned={"monday": [clone]})
    plan = plan_clones({"s1": holding, "s2": without})
    assert plan.clones == {"monday": Clone(revision=b"r" * 32, created_ns=6, held=True)}
    assert plan.steps["s1"] == [Drop("monday", holding.clones["monday"]), Keep("monday", plan.clones["monday"])]
    assert plan.steps["s2"] == [Keep("monday", plan.clones["monday"])]


def test_a_clone_gets_its_new_name_before_it_loses_the_old_one() -> None:
    older, later = Clone(revision=b"a" * 32, created_ns=1), Clone(revision=b"b" * 32, created_ns=2, held=True)
    plan = plan_clones({"s1": state(clones={"monday": older}), "s2": state(clones={"monday": later})})
    name = f"monday-{(b'b' * 4).hex()}"
    assert plan.renamed == [("monday", name, later)]
    assert plan.steps["s2"] == [Keep(name, later), Drop("monday", later), Keep("monday", older)]
    assert plan.steps["s1"][0] == Keep(name, later)


def test_a_mirror_has_nothing_of_its_own() -> None:
    of, here = (
        state(clones=clones("a", "b")),
        state(clones={**clones("x"), "b": Clone(revision=b"b" * 32, created_ns=9)}),
    )
    steps = mirror_clones(here, of)
    assert steps == [
        Drop("b", here.clones["b"], here_only=True),
        Drop("x", here.clones["x"], here_only=True),
        Keep("a", of.clones["a"]),
        Keep("b", of.clones["b"]),
    ]
