"""Policy files: what is read, and that every mistake is named with its line and a remedy."""

from pathlib import Path

import pytest

from dalsegno.actions.policy import examine_policy, load_policy
from dalsegno.backup.members import Known, find_members
from dalsegno.backup.policy import Keep, Policy, Program
from dalsegno.backup.policy_file import parse_policy
from dalsegno.backup.toml_tables import key_lines
from dalsegno.terms.errors import BadInput, NotFound

GOOD = """\
timezone = "Europe/Berlin"
pool = "/srv/pool"
state = "/var/lib/dal"

[spool]
path = "/srv/spool"
max = "200G"

[limits]
volumes_at_once = 2
bandwidth = "20M"

[notify]
mail_to = "root"
webhook = "https://example.org/hook"

[targets.disks]
kind = "directory"
paths = ["/mnt/disk1", "/mnt/disk2"]
copies = 2

[targets.shares]
kind = "shares"
k = 3
n = 5
paths = [
    "/net/a", "/net/b",
    "/net/c", "/net/d", "/net/e",
]

[targets.cloud]
kind = "command"
store = "rclone copyto {file} remote:{name}"
fetch = "rclone copyto remote:{name} {file}"

[sets.homes]
sources = ["/home/*"]
exclude = ["*.tmp"]
cycle_days = 28
targets = ["disks", "shares"]
copies = 1
keep.clones = { last = 3, daily = 7, within = "2w" }

[sets.homes.keep.archive]
monthly = 12

[sets.homes.hooks]
before = "systemctl stop db"
finally = ["systemctl start db"]

[sets.projects]
volumes = ["projects.*"]
program = { sunday = 0, monday = 1, thursday = 2 }

[sets.mail]
volumes = "mail"
cycle_days = 4
program = [0, 2, -1, 1]
"""


def read(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "dalsegno.toml").write_text(text)
    return load_policy(tmp_path / "dalsegno.toml")


def test_every_key_is_read(tmp_path: Path) -> None:
    policy = read(tmp_path, GOOD)
    assert policy.timezone == "Europe/Berlin" and policy.pool == Path("/srv/pool")
    assert policy.spool.max_bytes == 200 << 30 and policy.limits.bandwidth_bytes == 20 << 20
    assert policy.catalog_url == "sqlite:////var/lib/dal/catalog.sqlite"
    assert (policy.targets["shares"].k, policy.targets["shares"].n) == (3, 5)
    homes = policy.sets["homes"]
    assert homes.copies_wanted == 1 and homes.program == Program(kind="planned")
    assert homes.keep.clones == Keep(last=3, daily=7, within_seconds=14 * 86400)
    assert homes.keep.archive == Keep(monthly=12) and homes.keep.spool.everything
    assert homes.hooks.before == ("systemctl stop db",) and homes.hooks.always == ("systemctl start db",)
    assert policy.sets["projects"].program.levels == (1, None, None, 2, None, None, 0)
    assert policy.sets["mail"].program.levels == (0, 2, None, 1)


# What is replaced in GOOD by what; the line that the complaint names; words that it must have.
MISTAKES = [
    ("cycle_days = 28", "cycle_day = 28", 39, ["sets.homes.cycle_day: unknown key", "did you mean 'cycle_days'"]),
    ("[targets.cloud]", "[target.cloud]", 31, ["target: unknown key", "did you mean 'targets'"]),
    ("daily = 7,", "dayly = 7,", 42, ["sets.homes.keep.clones.dayly", "did you mean 'daily'"]),
    ("monthly = 12", "monthly = 0", 44, ["keeps nothing"]),
    ('targets = ["disks", "shares"]', 'targets = ["disk"]', 40, ["no target 'disk'", "did you mean 'disks'"]),
    ("[0, 2, -1, 1]", "[1, 2, -1, 1]", 58, ["has no full", "level 0"]),
    ("[0, 2, -1, 1]", "[0, 2, 1]", 58, ["3 levels for a cycle of 4 days"]),
    ("[0, 2, -1, 1]", "[0, 2, 10, 1]", 58, ["level 10", "0 to 9"]),
    ("sunday = 0, monday", "sunday = 3, monday", 53, ["has no full"]),
    ("sunday = 0", "sonday = 0", 53, ["unknown key", "did you mean"]),
    ('"mail"', '"projects.sky"', 56, ["'projects.sky' is covered by 'projects.*' of set 'projects'"]),
    ('volumes = "mail"', 'sources = "/home/ann"', 56, ["'/home/ann' is covered by '/home/*' of set 'homes'"]),
    ('"/mnt/disk1"', '"/home/ann/disk"', 19, ["/home/ann/disk is inside source /home/*", "choose a place outside"]),
    ('"/srv/spool"', '"/home/ann/spool"', 6, ["inside source /home/*"]),
    ('"/mnt/disk1"', '"/net/c"', 26, ["/net/c is used twice"]),
    ('"/mnt/disk1"', '"disk1"', 19, ["write the whole path"]),
    ("k = 3", "k = 6", 24, ["6: expected 1 to 5"]),
    ("n = 5", "n = 4", 25, ["4 shares need 4 paths", "there are 5"]),
    ("copies = 2", "copies = 3", 20, ["3 copies need as many disks"]),
    ('max = "200G"', 'max = "200 potatoes"', 7, ["expected a number with K, M, G or T"]),
    ('max = "200G"', "max = true", 7, ["expected a size"]),
    ('bandwidth = "20M"', 'bandwidth = "20"', 11, ["would never end"]),
    ("{file} remote:{name}", "remote:{name}", 33, ["{file}"]),
    ("https://example", "example", 15, ["https://"]),
    ('mail_to = "root"', 'mail_to = "root\\nBcc: eve"', 14, ["mail_to", "'root\\nBcc: eve'", "in one line"]),
    ('"Europe/Berlin"', '"Europe/Berlim"', 1, ["no such time zone"]),
    ('kind = "shares"', 'kind = "share"', 23, ["'share': expected directory or command or shares", "did you mean"]),
    ('volumes = "mail"', "", 55, ["holds nothing"]),
    ('volumes = "mail"', 'volumes = "//s1/mail"', 2, ["'//s1/mail' is on a server", "leave `pool` away"]),
    ('volumes = "mail"', 'volumes = "//s1/mail"', 37, ["follows no directory of this host", "dal import"]),
    ('volumes = "mail"', 'volumes = "//s1/mail"', 52, ["write //SERVER/projects.*, or a policy for each"]),
    ('volumes = "mail"', 'volumes = "//s1"', 56, ["'//s1': expected //SERVER/VOLUME"]),
    ("[spool]", "[spool", 5, ["column"]),
    ("volumes_at_once = 2", "volumes_at_once = " + "9" * 5000, 0, ["not TOML"]),
    ("volumes_at_once = 2", "volumes_at_once = " + "[" * 5000, 0, ["not TOML"]),
    ('timezone = "Europe/Berlin"', "timezone = 7", 1, ["expected a text in quotes, not 7"]),
    ('kind = "shares"', "", 22, ["kind is missing: expected directory or command or shares"]),
    ('kind = "shares"', "kind = 7", 23, ["targets.shares.kind: expected a text in quotes, not 7"]),
    ("k = 3", "k = 3\ncopies = 2", 25, ["targets.shares.copies: unknown key", "expected one of paths, k, n"]),
    ("copies = 2", 'copies = 2\nstore = "x"', 21, ["targets.disks.store: unknown key"]),
    ("k = 3", "k = true", 24, ["targets.shares.k: expected a number, not True"]),
    ("volumes_at_once = 2", "volumes_at_once = 65", 10, ["65: expected 1 to 64"]),
    ("volumes_at_once = 2", 'lease = "2h"', 10, ["7200 s: expected 1s to 1h"]),
    ("volumes_at_once = 2", "turn = -1", 10, ["limits.turn: -1: expected 0 or more"]),
    ("volumes_at_once = 2", 'gc = "soon"', 10, ["limits.gc", "expected a number with s, m, h, d or w"]),
    ('within = "2w"', "within = 1.5", 42, ['expected a duration, for example "30s" or "2h", not 1.5']),
    ("copies = 1", "copies = 3", 41, ["3: expected 1 to 2"]),
    ('exclude = ["*.tmp"]', "exclude = [7]", 38, ["expected texts in quotes, none of them empty"]),
    ('exclude = ["*.tmp"]', "exclude = 7", 38, ["expected a text or a list of texts, not 7"]),
    ("{ sunday = 0, monday = 1, thursday = 2 }", "7", 53, ["expected a word, a list or a table", "not 7"]),
    ("{ sunday = 0, monday = 1, thursday = 2 }", '"daily"', 53, ['\'daily\': expected "planned", "hanoi"']),
    ("[spool]", "spool = 7\n[limit]", 5, ["expected a table [spool], not 7"]),
    ("[sets.mail]", "[sets.'e mail']", 55, ["use letters, digits and . _ + - in the name"]),
]


@pytest.mark.parametrize(("right", "wrong", "line", "words"), MISTAKES)
def test_mistake_is_named_with_line_and_remedy(
    tmp_path: Path, right: str, wrong: str, line: int, words: list[str]
) -> None:
    assert GOOD.count(right) >= 1
    path = tmp_path / "dalsegno.toml"
    path.write_text(GOOD.replace(right, wrong, 1))
    policy, problems = examine_policy(path)
    wrong_lines = path.read_text().count("\n") + 1  # where the parser does not say it
    assert policy is None
    text = "\n".join(map(str, problems))
    assert f"{path}:{line or wrong_lines}: " in text, text
    assert all(word in text for word in words), text


def test_all_mistakes_are_found_at_once_and_the_first_is_raised(tmp_path: Path) -> None:
    wrong = GOOD.replace("cycle_days = 28", "cycle_days = 0").replace("k = 3", "k = 9").replace("[spool]", "[spol]")
    with pytest.raises(BadInput) as caught:
        read(tmp_path, wrong)
    assert ":5: spol: unknown key; did you mean 'spool'?" in str(caught.value)
    assert "(2 more" in str(caught.value) and "\n" not in str(caught.value)


def test_empty_texts_are_as_if_they_were_not_written(tmp_path: Path) -> None:
    empty = 'timezone = ""\npool = ""\nstate = "/s"\n[spool]\npath = ""\n[sets.a]\nvolumes = "*"\nprogram = ""\n'
    policy = read(tmp_path, empty)
    assert policy.pool is None and policy.spool.path == Path("/s/spool") and policy.timezone
    assert policy.sets["a"].program == Program(kind="planned")


def test_home_is_asked_for_only_when_the_file_does_not_say_where_its_state_is(tmp_path: Path) -> None:
    """Kind: a default is computed, and fails, although nobody needs it."""

    def nobody_knows() -> Path:
        raise BadInput("no home")

    def parse(text: str) -> Policy | None:
        return parse_policy(text.encode(), path=tmp_path, state_dir=nobody_knows, timezone=lambda: "UTC")[0]

    policy = parse('state = "/s//x/"\n[sets.a]\nvolumes = "*"\n')
    assert policy is not None and policy.catalog_url == "sqlite:////s/x/catalog.sqlite"
    with pytest.raises(BadInput, match="no home"):
        parse('[sets.a]\nvolumes = "*"\n')


def test_volumes_of_servers_are_chosen_by_name_and_server(tmp_path: Path) -> None:
    policy = read(
        tmp_path, '[sets.a]\nvolumes = ["//s1/*"]\n[sets.b]\nvolumes = ["//site/home", "//s2/mail", "//s2/x"]\n'
    )
    known = [
        Known(name="home", servers=("s2", "s3")),
        Known(name="mail", servers=("s2",)),
        Known(name="plain", servers=("s1",)),
        Known(name="own"),  # of which only its server knows where it is
    ]
    found = find_members(policy, known, [])
    chosen = [(member.set_name, member.volume) for member in found.members]
    assert chosen == [("a", "own"), ("a", "plain"), ("b", "home"), ("b", "mail")]
    assert found.empty == ("b: //s2/x",)


def test_empty_policy_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no set: write a table \[sets.NAME\]"):
        read(tmp_path, "")


def test_absent_policy_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such policy file"):
        load_policy(tmp_path / "nothing.toml")


def test_key_lines_see_through_strings_and_lists() -> None:
    text = '''a = """
b = 1
"""
c = [
  "x", # [no]
  "d = 2",
]
[t."u.v"]
e.f = { g = 1 }
'''
    assert key_lines(text) == {
        ("a",): 1,
        ("c",): 4,
        ("t",): 8,
        ("t", "u.v"): 8,
        ("t", "u.v", "e"): 9,
        ("t", "u.v", "e", "f"): 9,
    }


def test_command_line_of_a_shell_finds_the_file_in_its_environment(tmp_path: Path) -> None:
    """Kind: a checker refuses what a guide says."""
    path = tmp_path / "site.toml"
    path.write_text(
        '[targets.tar]\nkind = "command"\n'
        'store = "sh -c \'tar -cPf \\"/mnt/$DAL_NAME.tar\\" \\"$DAL_FILE\\"\'"\n'
        "fetch = \"sh -c 'tar -xOf /mnt/$DAL_NAME.tar > $DAL_FILE'\"\n"
        '[sets.all]\nvolumes = ["*"]\ntargets = ["tar"]\n'
    )
    assert examine_policy(path)[1] == []
    path.write_text(path.read_text().replace("$DAL_FILE", "/tmp/x"))
    assert [problem.key for problem in examine_policy(path)[1]] == ["targets.tar.store", "targets.tar.fetch"]
