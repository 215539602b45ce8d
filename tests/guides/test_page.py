"""A page is read as a person reads it: what is typed, what it prints, what a file holds."""

import pytest
from guide_page import Block, Command, fill_gap, learn, missing_line, parse_page

PAGE = """\
Text.

```sh
# a remark
dal backup ~/documents      # again
for n in 1 2; do
    echo $n
done
cat <<END
dal
END
```

```
$ dal ls home:/nothing
dal: error: no such thing
$ dal ls home
doc/
```

```sh
$ dal merge a.dump c.dump
```

is refused (exit 4), since b is missing. After that exit 9 means nothing.

`/etc/x.conf`; each on a line:

```
a = 1
```

```yaml
seen: only
```
"""


def test_a_page_is_commands_with_what_they_print_and_files() -> None:
    found = list(parse_page(PAGE))
    assert [(each.text, each.code, each.prints) for each in found if isinstance(each, Command)] == [
        ("# a remark\n", 0, ()),
        ("dal backup ~/documents      # again\n", 0, ()),
        ("for n in 1 2; do\n    echo $n\ndone\n", 0, ()),
        ("cat <<END\ndal\nEND\n", 0, ()),
        ("dal ls home:/nothing\n", None, ("dal: error: no such thing",)),
        ("dal ls home\n", 0, ("doc/",)),
        ("dal merge a.dump c.dump\n", 4, ()),
    ][1:]
    assert [(each.path, each.language) for each in found if isinstance(each, Block)] == [
        ("/etc/x.conf", ""),
        ("", "yaml"),
    ]
    assert found[0].line == 5


def test_a_comment_says_how_a_command_ends() -> None:
    (found,) = parse_page("```sh\ndal status --check   # exit code 1 when something is critical\n```\n")
    assert isinstance(found, Command) and found.code == 1


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        (["made volume home on s1, s2"], ["notice", "made volume home on s1, s2, rule any"], None),
        (["run 1: 5 done, in 0.0 s", "..."], ["run 7: 5 done, in 12.1 s"], None),
        (["level 0 from s3; dump 06d1ac237b3a, 2.9 MiB"], ["  level 0 from s1; dump 77aa, 3.1 KiB"], None),
        (["b", "a"], ["a", "b"], "a"),
        (["all alike"], ["s3 differs"], "all alike"),
    ],
)
def test_what_is_printed_resembles_the_page_in_words(shown: list[str], printed: list[str], missing: str | None) -> None:
    assert missing_line(shown, printed) == missing


def test_ids_of_the_page_become_those_that_were_printed() -> None:
    assert learn(["-rw  root  7 B  5ea861a3f95c"], ["-rw  root  9 B  9a0b6f0b7d1e"]) == {"5ea861a3f95c": "9a0b6f0b7d1e"}


def test_a_gap_is_filled_with_what_was_printed_last() -> None:
    printed = ["dal://h:1/?name=s1&token=old", "see dal://h:1/?name=s1&token=new"]
    assert fill_gap("dal realm join 'dal://h:1/?name=s1&…'", printed) == "dal realm join 'dal://h:1/?name=s1&token=new'"
    assert fill_gap("dal realm join 'dal://…'", printed) == "dal realm join 'dal://h:1/?name=s1&token=new'"
