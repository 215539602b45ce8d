"""What a mount is soaked with: random system calls, builds and git, each done alike on a plain directory beside it."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCES = 6
COMMITS_MAX = 60
"""After so many a repository is thrown away and begun anew."""
MAKEFILE = """
SOURCES := $(wildcard *.c)
all: program
program: $(SOURCES:.c=.o)
\tar rcD all.a $^
\tcc -o $@ all.a
%.o: %.c all.h
\tcc -pipe -O1 -c -o $@ $<
clean:
\trm -f *.o *.a program
"""


class Work:
    """The same random operations on a mount and on a plain directory."""

    def __init__(self, roots: tuple[Path, Path], chance: random.Random, *, names_max: int) -> None:
        self.roots = roots
        self.chance = chance
        self.names_max = names_max
        self.files: list[str] = []
        self.directories = ["."]
        self.number = 0
        self.operations: list[Callable[[], None]] = [
            *[self.write] * 4,
            *[self.change] * 3,
            *[self.rename] * 2,
            *[self.unlink] * 3,
            *[self.look] * 2,
            self.link,
            self.symlink,
            self.attributes,
            self.make_directory,
            self.remove_directory,
            self.move_directory,
        ]

    def step(self) -> None:
        """Do one operation at both places."""
        self.chance.choice(self.operations)()

    def both(self, do: Callable[[Path], object]) -> None:
        """Do the same at both places; what one refuses the other refuses alike."""
        answers = []
        for root in self.roots:
            try:
                answers.append((0, do(root)))
            except OSError as error:
                answers.append((error.errno or -1, None))
        assert answers[0] == answers[1], (self.number, answers)

    def new_name(self, word: str) -> str:
        self.number += 1
        return os.path.normpath(f"{self.chance.choice(self.directories)}/{word}{self.number}")

    def pop(self, names: list[str]) -> str:
        position = self.chance.randrange(len(names))
        names[position], names[-1] = names[-1], names[position]
        return names.pop()

    def write(self) -> None:
        if len(self.files) > self.names_max:
            return self.unlink()
        name, data = self.new_name("f"), self.chance.randbytes(self.chance.choice((0, 10, 3_000)))
        self.both(lambda root: (root / name).write_bytes(data))
        self.files.append(name)
        return None

    def change(self) -> None:
        if self.files:
            name, data = self.chance.choice(self.files), self.chance.randbytes(50)
            size = self.chance.randrange(4_000)

            def edit(root: Path) -> None:
                descriptor = os.open(root / name, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    os.pwrite(descriptor, data, size)
                    if size % 3 == 0:
                        os.ftruncate(descriptor, size // 2)
                finally:
                    os.close(descriptor)

            self.both(edit)

    def link(self) -> None:
        if self.files and len(self.files) < self.names_max:
            name, new = self.chance.choice(self.files), self.new_name("l")
            self.both(lambda root: os.link(root / name, root / new, follow_symlinks=False))
            self.files.append(new)

    def symlink(self) -> None:
        if len(self.files) < self.names_max:
            name = self.new_name("s")
            self.both(lambda root: os.symlink("somewhere", root / name))
            self.files.append(name)

    def rename(self) -> None:
        if self.files:
            name = self.pop(self.files)
            new = self.chance.choice(self.files) if self.files and self.chance.random() < 0.2 else self.new_name("r")
            self.both(lambda root: os.rename(root / name, root / new))
            if new not in self.files:
                self.files.append(new)
            if all(os.path.lexists(root / name) for root in self.roots):
                self.files.append(name)  # two names of one file: rename does nothing

    def unlink(self) -> None:
        if self.files:
            name = self.pop(self.files)
            self.both(lambda root: (root / name).unlink())

    def attributes(self) -> None:
        if self.files:
            name, mode = self.chance.choice(self.files), self.chance.choice((0o600, 0o644, 0o755))
            if not (self.roots[1] / name).is_symlink():
                self.both(lambda root: os.chmod(root / name, mode))
                self.both(lambda root: os.utime(root / name, ns=(1, 1_000_000_000 + mode)))

    def look(self) -> None:
        if self.files:
            name = self.chance.choice(self.files)

            def see(root: Path) -> object:
                status = os.lstat(root / name)
                content = os.readlink(root / name) if (root / name).is_symlink() else (root / name).read_bytes()
                return status.st_mode, status.st_nlink, status.st_size, content

            self.both(see)
        directory = self.chance.choice(self.directories)
        self.both(lambda root: sorted(os.listdir(root / directory)))

    def make_directory(self) -> None:
        if len(self.directories) < 200:
            name = self.new_name("d")
            self.both(lambda root: (root / name).mkdir())
            self.directories.append(name)

    def remove_directory(self) -> None:
        if len(self.directories) > 100:
            name = self.chance.choice(self.directories[1:])
            self.both(lambda root: (root / name).rmdir())
            if not (self.roots[1] / name).exists():
                self.directories.remove(name)

    def move_directory(self) -> None:
        if len(self.directories) > 2:
            name, new = self.chance.choice(self.directories[1:]), self.new_name("m")
            if f"{new}/".startswith(f"{name}/"):
                return
            self.both(lambda root: os.rename(root / name, root / new))
            for names in (self.files, self.directories):
                names[:] = [new + each[len(name) :] if f"{each}/".startswith(f"{name}/") else each for each in names]


class Trades:
    """What people do on a file system, done by their programs on a mount and on a plain directory."""

    def __init__(self, roots: tuple[Path, Path], chance: random.Random, *, home: Path) -> None:
        self.roots = roots
        self.chance = chance
        self.number = 0
        self.commit_count = 0
        when = "2026-11-30T12:00:00+0000"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{
                f"GIT_{who}_{what}": word
                for who in ("AUTHOR", "COMMITTER")
                for what, word in (("NAME", "A"), ("EMAIL", "a@b.c"), ("DATE", when))
            },
        }
        can_compile = shutil.which("cc") and shutil.which("make") and shutil.which("ar")
        self.build = self.make if can_compile else self.compile_python
        for root in roots:
            (root / "build").mkdir()
            (root / "git").mkdir()

    def step(self) -> None:
        """Do one person's bit of work at both places."""
        self.number += 1
        self.build()
        if shutil.which("git"):
            self.git()

    def run(self, where: str, *words: str) -> bytes:
        """Run a program at both places; what it says must be the same."""
        outs = [
            subprocess.run(words, cwd=root / where, env=self.environment, check=True, stdout=subprocess.PIPE).stdout
            for root in self.roots
        ]
        assert outs[0] == outs[1], (words, outs)
        return outs[0]

    def write(self, name: str, text: str) -> None:
        for root in self.roots:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def make(self) -> None:
        """Change a source and compile what that makes old, or all."""
        if self.number == 1:
            calls = " + ".join(f"f{number}()" for number in range(SOURCES))
            self.write("build/Makefile", MAKEFILE)
            self.write("build/all.h", "\n".join(f"int f{number}(void);" for number in range(SOURCES)))
            self.write(
                "build/main.c", f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ printf("%d\\n", {calls}); }}'
            )
        if self.number % 10 == 0:
            self.run("build", "make", "-s", "clean")
        for number in range(SOURCES) if self.number == 1 else [self.chance.randrange(SOURCES)]:
            value = self.chance.randrange(1_000)
            self.write(f"build/f{number}.c", f'#include "all.h"\nint f{number}(void) {{ return {value}; }}\n')
        self.run("build", "make", "-s")
        self.run("build", "./program")

    def compile_python(self) -> None:
        """Where no compiler is: change a module and compile it."""
        self.write(f"build/m{self.chance.randrange(SOURCES)}.py", f"x = {self.chance.randrange(1_000)}\n" * 100)
        mode = ("--invalidation-mode", "checked-hash")
        self.run("build", sys.executable, "-I", "-S", "-m", "compileall", "-q", *mode, ".")

    def git(self) -> None:
        """Commit, and now and then pack all, change branches, clone, and begin anew."""
        if self.commit_count == 0:
            self.run("git", "git", "init", "-q", "-b", "main", "one")
            for name, value in (("gc.auto", "0"), ("maintenance.auto", "false")):
                self.run("git/one", "git", "config", name, value)
        self.commit_count += 1
        for _ in range(5):
            name = f"git/one/d{self.chance.randrange(8)}/f{self.chance.randrange(20)}"
            self.write(name, f"{self.chance.random()}\n" * self.chance.randrange(1, 400))
        self.run("git/one", "git", "add", "-A")
        self.run("git/one", "git", "commit", "-q", "-m", f"change {self.number}")
        if self.commit_count % 5 == 0:
            self.run("git/one", "git", "checkout", "-q", "-B", "other", "HEAD~3")
            self.run("git/one", "git", "checkout", "-q", "main")
        if self.commit_count % 8 == 0:
            self.remove("git/two")
            self.run("git", "git", "clone", "-q", "one", "two")
        if self.commit_count % 12 == 0:
            self.run("git/one", "git", "gc", "-q", "--prune=now")
        self.run("git/one", "git", "status", "--porcelain")
        self.run("git/one", "git", "rev-parse", "HEAD")
        if self.commit_count == COMMITS_MAX:
            self.remove("git/one")
            self.commit_count = 0

    def remove(self, name: str) -> None:
        for root in self.roots:
            shutil.rmtree(root / name, ignore_errors=not (root / name).exists())

    def repositories(self, root: Path) -> list[Path]:
        return [path.parent for path in (root / "git").glob("*/.git")]

    def check(self, root: Path) -> None:
        """Let git check every object of its repositories below `root`."""
        for path in self.repositories(root):
            subprocess.run(["git", "fsck", "--strict", "--no-progress"], cwd=path, env=self.environment, check=True)


def shape(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, names and content of everything below `root`: times are those of two different moments."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, 0 if path.is_dir() else status.st_nlink, data)
    return found


def worked_on(found: dict[str, tuple[int, int, bytes]]) -> dict[str, tuple[int, int, bytes]]:
    """Return what does not differ between two places: git's own files name inodes, and times of their own."""
    return {name: what for name, what in found.items() if "/.git/" not in name}
