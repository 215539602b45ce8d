"""Run the targets: under atheris for some minutes, shortly without it, or one with the inputs in given files.

run.py --minutes 10 [TARGET...]    coverage-guided; the corpora grow in build/fuzz, what is found lies there, too
run.py --short SEED [TARGET...]    every input of the corpora, and mutations of them by a seeded random
run.py TARGET FILE...              again, what was found
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path.extend([str(HERE), str(HERE.parent)])

CORPUS: Final = HERE / "corpus"
FOUND: Final = HERE.parents[1] / "build" / "fuzz"
MIB: Final = 1 << 20
SECONDS_MAX: Final = 5
MEMORY_MIB_MAX: Final = 300
"""Beyond what the program has when it starts."""
BASE_MIB: Final = 350
"""What the program, atheris and its tables have."""
INPUT_BYTES_MAX: Final = 8192
MUTATIONS: Final = 300
SHORT_SECONDS: Final = 0.5
"""Of CPU for the mutations of one target in a short run."""
ODD: Final = (0, 1, 2, 0x7F, 0x80, 0x91, 0xC1, 0xD9, 0xDC, 0xFE, 0xFF, 0x22, 0x5B, 0x7B, 0x2D, 0x39)


def corpus(name: str) -> list[tuple[str, bytes]]:
    """Return the names and the inputs of a target's corpus."""
    return [(each.name, each.read_bytes()) for each in sorted((CORPUS / name).iterdir())]


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Return an input with a few changes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 16, 100))
        what = chance.randrange(6)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif what == 1 and at < len(changed):
            changed[at] = chance.choice(ODD)
        elif what == 2:
            del changed[at : at + length]
        elif what == 3:
            changed[at:at] = chance.randbytes(length)
        elif what == 4:
            changed[at:at] = changed[at : at + length] * chance.choice((1, 1, 3, 100))
        else:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            changed[at : at + length] = other[start : start + length]
    return bytes(changed[:INPUT_BYTES_MAX])


class Fault(Exception):
    """A target that ended with an error which is none of the program's, or took too long."""


def once(name: str, data: bytes) -> None:
    """Give one input to a target; Fault when it breaks the rules."""
    from fuzz_targets import TARGETS

    from dalsegno.terms.errors import DalError

    started = time.process_time()
    try:
        TARGETS[name](data)
    except DalError:
        pass
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    if time.process_time() - started > SECONDS_MAX:
        raise Fault(f"took more than {SECONDS_MAX} s of CPU")


def limit_memory() -> None:
    """Let this process have so much more than it has; beyond that it gets MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_MIB_MAX * MIB
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _short_inputs(name: str, seed: int) -> Iterator[tuple[str, bytes]]:
    inputs = corpus(name)
    yield from inputs
    chance = random.Random(f"{seed} {name}")
    others = [data for _, data in inputs]
    until = time.process_time() + SHORT_SECONDS
    for number in range(MUTATIONS):
        if time.process_time() > until:
            return
        source, data = chance.choice(inputs)
        yield f"mutation {number} of {source}", mutated(data, chance, others)


def short(names: Sequence[str], seed: int) -> int:
    """Run every input of the corpora and mutations of them; return the number of faults, which are printed."""
    import fuzz_targets

    assert fuzz_targets.TARGETS
    limit_memory()
    print(f"seed {seed}")
    faults: set[str] = set()
    for name in names:
        started, count = time.process_time(), 0
        for where, data in _short_inputs(name, seed):
            count += 1
            try:
                once(name, data)
            except Fault as fault:
                kind = f"{name} {_place_of(fault)}"
                if kind not in faults:
                    print(f"{name}: {where}: {fault} ({_place_of(fault)}): {_kept(name, data)}")
                faults.add(kind)
        print(f"{name}: {count} inputs, {count / max(time.process_time() - started, 1e-6):.0f} per s of CPU")
    return len(faults)


def _place_of(fault: Fault) -> str:
    """Return the line at which it went wrong."""
    error: BaseException = fault.__cause__ or fault
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _kept(name: str, data: bytes) -> Path:
    place = FOUND / name
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"crash-{random.Random(data).getrandbits(64):016x}"
    path.write_bytes(data)
    return path


def again(name: str, paths: Sequence[str]) -> None:
    """Run a target with the inputs in files; what is wrong is raised."""
    for path in paths:
        try:
            once(name, Path(path).read_bytes())
        except Fault as fault:
            raise fault.__cause__ or fault from None


# Under atheris


def guided(name: str, seconds: int, runs: int) -> None:
    """Run one target under atheris; does not return."""
    import atheris

    with atheris.instrument_imports(include=["dalsegno"]):
        import fuzz_targets

        from dalsegno.terms.errors import DalError
    target = fuzz_targets.TARGETS[name]

    def one(data: bytes) -> None:
        try:
            target(data)
        except DalError:
            pass

    grown = FOUND / name / "corpus"
    grown.mkdir(parents=True, exist_ok=True)
    words = [
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={SECONDS_MAX}",
        f"-rss_limit_mb={BASE_MIB + MEMORY_MIB_MAX}",
        f"-malloc_limit_mb={MEMORY_MIB_MAX}",
        f"-artifact_prefix={FOUND / name}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    words += [f"-max_total_time={seconds}"] if seconds else []
    words += [f"-runs={runs}"] if runs else []
    atheris.Setup([name, *words, str(grown), str(CORPUS / name)], one)
    atheris.Fuzz()


def all_guided(names: Sequence[str], minutes: float, runs: int) -> int:
    """Run targets under atheris, two at a time; return how many found something."""
    started = time.monotonic()
    at_once = min(len(os.sched_getaffinity(0)), len(names))
    seconds = max(1, int(minutes * 60 * at_once / len(names)))
    print(f"{len(names)} targets, {at_once} at a time, {seconds} s each" if not runs else f"{runs} runs of each target")

    counts: list[int] = []

    def one(name: str) -> bool:
        words = ["--guided", name, "--seconds", str(0 if runs else seconds), "--runs", str(runs)]
        with tempfile.TemporaryDirectory(prefix="dal-fuzz-") as place:  # atheris leaves no time to clean up
            done = subprocess.run(
                [sys.executable, __file__, *words],
                env={**os.environ, "TMPDIR": place},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        said = dict(line[6:].split(":", 1) for line in done.stdout.splitlines() if line.startswith("stat::"))
        count, rate = (said.get(each, "?").strip() for each in ("number_of_executed_units", "average_exec_per_sec"))
        counts.append(int(count) if count.isdecimal() else 0)
        print(
            f"{name}: {count} executions, {rate} per s{'' if not done.returncode else ': FOUND SOMETHING'}", flush=True
        )
        if done.returncode:
            print("\n".join(done.stdout.splitlines()[-40:]), flush=True)
            print(f"again: {sys.executable} {__file__} {name} {FOUND / name}/crash-...", flush=True)
        return bool(done.returncode)

    with ThreadPoolExecutor(at_once) as crew:
        found = sum(crew.map(one, names))
    print(f"{sum(counts)} executions in {time.monotonic() - started:.0f} s; {found} targets found something")
    return found


def main() -> int:
    """Do what the words say; return the exit code."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=0)
    words.add_argument("--runs", type=int, default=0, help="of each target, instead of minutes")
    words.add_argument("--short", type=int, metavar="SEED")
    words.add_argument("--guided", metavar="TARGET", help=argparse.SUPPRESS)
    words.add_argument("--seconds", type=int, default=0, help=argparse.SUPPRESS)
    words.add_argument("names", nargs="*", metavar="TARGET|FILE")
    given = words.parse_args()
    known = sorted(each.name for each in CORPUS.iterdir())
    if given.guided:
        guided(given.guided, given.seconds, given.runs)
    elif given.short is not None:
        return min(1, short(given.names or known, given.short))
    elif given.minutes or given.runs:
        return min(1, all_guided(given.names or known, given.minutes, given.runs))
    elif len(given.names) > 1:
        again(given.names[0], given.names[1:])
    else:
        words.error("give --minutes, --short, or a target and files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
