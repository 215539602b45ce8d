"""Random trees with ignore files, and what git makes of them."""

import os
import subprocess
from pathlib import Path
from random import Random

LETTERS = [b"a", b"b", b"c", b"ab", b"ba", b"aab", b"A", b"a.o", b"b.o", b"a b", b"a ", b" a", b"-", b"]", b"[", b"!a"]
LETTERS += [b"#a", b"\\", b"a\\", b"*", b"?", b"a*b", b"\xff", b"\xc3\xa4", b"a\xe4", b"a\rb", b"a\r", b"\ta", b"foo"]
LETTERS += [b"foobar", b"barfoo", b"a-b", b"^", b"{a}", b"a\nb", b"~", b"\x7f", b"1", b"aaaa", b"abab", b"..a"]
WILD = [b"*", b"?", b"**", b"**/", b"/**", b"/**/", b"/", b"//", b"*a", b"a*", b"\\a", b"\\*", b"\\?", b"\\[", b"\\\\"]
WILD += [b"[a]", b"[!a]", b"[^a]", b"[a-c]", b"[]a]", b"[!]a]", b"[a-]", b"[-a]", b"[[:alpha:]]", b"[[:space:]]", b"[a"]
WILD += [
    b"[[:nothing:]]",
    b"[[:digit:]a-]",
    b"[\\]]",
    b"[a\\-c]",
    b"[\\a-\\c]",
    b"[c-a]",
    b"[a-c-z]",
    b"[[:a]",
    b"[:alpha:]",
]
WILD += [
    b"[/]",
    b"[!/]",
    b"[a/b]",
    b"***",
    b"*?",
    b"[[]",
    b"[]",
    b"[]]",
    b"[!]",
    b"[]-a]",
    b"[[:punct:]]",
    b"\\/",
    b"[\xff]",
]
WILD += [
    b"[!-z]",
    b"[\x80-\xff]",
    b"[[:upper:][:digit:]]",
    b"[[:alpha:]-z]",
    b"[a-[:digit:]]",
    b"[,--]",
    b"[--a]",
    b"\x00",
]
ENDS = [
    b"",
    b"",
    b"",
    b"",
    b"/",
    b" ",
    b"  ",
    b"\\ ",
    b"\\",
    b"\r",
    b"/ ",
    b" \r",
    b"\t",
    b"/**",
    b"\\  ",
    b" /",
    b"/\r",
]
STARTS = [b"", b"", b"", b"", b"", b"!", b"/", b"!/", b"\\!", b"\\#", b"#", b"**/", b"!**/", b"*/", b" ", b"./", b"!!"]


def pattern_line(random: Random) -> bytes:
    """Return one line of an ignore file, most often one that could match something."""
    middle = b"".join(random.choice(random.choice((LETTERS, WILD))) for _ in range(random.randrange(4)))
    if random.random() < 0.4:
        middle = random.choice(LETTERS) + random.choice((b"/", b"/**/", b"*/", b"**/", b"/*", b"")) + middle
    return random.choice(STARTS) + middle + random.choice(ENDS)


def ignore_file(random: Random) -> bytes:
    """Return the bytes of an ignore file: with or without BOM, LF or CRLF, with or without an end of the last line."""
    end = b"\r\n" if random.random() < 0.2 else b"\n"
    lines = [pattern_line(random) for _ in range(random.randrange(1, 6))]
    if random.random() < 0.1:
        lines.insert(0, b"*")  # then what is negated shows
    text = end.join(lines) + (end if random.random() < 0.7 else b"")
    return (b"\xef\xbb\xbf" if random.random() < 0.15 else b"") + text


def grow_tree(random: Random, root: bytes, *, name: bytes, depth: int = 0) -> None:
    """Make a directory of files, directories and symbolic links, with ignore files called `name`."""
    os.mkdir(root)
    if random.random() < (1.0 if depth == 0 else 0.35):
        with open(root + b"/" + name, "wb") as file:
            file.write(ignore_file(random))
    for entry in random.sample(LETTERS, random.randrange(2, 7)):
        place = root + b"/" + entry
        kind = random.random()
        if depth < 3 and kind < 0.5:
            grow_tree(random, place, name=name, depth=depth + 1)
        elif kind < 0.9:
            open(place, "wb").close()
        else:
            os.symlink(b"a", place)


def git_keeps(root: Path, name: str) -> set[bytes]:
    """Return the files and links below `root` that git would not ignore by files called `name`."""
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "LC_ALL": "C", **settings}
    subprocess.run(["git", "init", "-q", "."], cwd=root, env=environment, check=True)
    words = ["git", "ls-files", "-z", "--others", f"--exclude-per-directory={name}"]
    done = subprocess.run(words, cwd=root, env=environment, check=True, capture_output=True)
    return set(done.stdout.split(b"\0")) - {b""}
