"""A short run of what is fuzzed, without atheris: every input that is kept, and mutations of them.

`make fuzz` runs the same targets for as long as it is told, led by coverage (docs/fuzzing.md).
"""

import subprocess
import sys
from pathlib import Path

from fuzz_targets import TARGETS
from fuzz_values import NAMES

from dalsegno.replicas.calls import CALLS

HERE = Path(__file__).parent
SEED = 20261130
NOT_ASKED = {"health", "metrics", "openapi"}


def test_every_target_has_inputs_and_every_corpus_a_target() -> None:
    """A decoder that is fuzzed from nothing, or inputs that nobody runs."""
    assert {each.name for each in (HERE / "corpus").iterdir()} == set(TARGETS)
    assert all(any((HERE / "corpus" / name).iterdir()) for name in TARGETS)


def test_every_call_of_the_table_is_answered_by_the_fuzzer() -> None:
    """A call whose answers are not fuzzed."""
    assert set(NAMES) | NOT_ASKED == {call.name for call in CALLS}
    kept = {each.read_bytes().partition(b" ")[0].decode() for each in (HERE / "corpus" / "answer").glob("seed-*")}
    assert kept == set(NAMES)


def test_the_inputs_that_are_kept_and_mutations_of_them_end_with_errors_of_the_program_alone() -> None:
    """Another error than the program's own, more than 5 s or 300 MiB, for bytes that come from outside."""
    words = [sys.executable, str(HERE / "run.py"), "--short", str(SEED)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runner_tells_what_breaks_the_rules() -> None:
    """A fuzzer that finds nothing because it does not look."""
    program = (
        f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "import run, fuzz_targets\n"
        "run.SECONDS_MAX = 0.05\n"
        "run.limit_memory()\n"
        "for wrong in (lambda data: data.index(b'y'), lambda data: bytes(400 << 20), lambda data: sum(range(10**7))):\n"
        "    fuzz_targets.TARGETS['time'] = wrong\n"
        "    try:\n"
        "        run.once('time', b'x')\n"
        "    except run.Fault as fault:\n"
        "        print(str(fault).split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.split() == ["ValueError:", "MemoryError:", "took"], done.stdout + done.stderr
