"""A command in a child: its end, its signals and its word are those of the parent, whatever hangs in it."""

import os
import signal
import subprocess
import sys

import pytest

HEAD = """
import os, signal, sys, threading
from dalsegno.world.watch import watched
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # whatever the tests were started with
"""


def run(work: str, *, leaves: str = "lambda: False") -> "subprocess.Popen[bytes]":
    text = f"{HEAD}def work():\n    {work}\nsys.exit(watched(work, {leaves}))\n"
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_exit_code_and_output_are_the_childs() -> None:
    process = run("print(os.getppid(), flush=True); return 3")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and int(out) == process.pid and not err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_child_is_a_killed_command(number: signal.Signals) -> None:
    process = run(f"signal.signal({int(number)}, 0) if {int(number)} != 9 else 0; os.kill(os.getpid(), {int(number)})")
    process.communicate(timeout=60)
    assert process.returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_asks_the_command_to_end_asks_its_child(number: signal.Signals) -> None:
    """Kind: a wrapper that is ended and leaves what it wraps at work."""
    process = run(
        "try:\n        print(1, flush=True); threading.Event().wait()\n    except KeyboardInterrupt:\n        return 130"
    )
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_killed_command_takes_its_child_along() -> None:
    process = run("print(os.getpid(), flush=True); threading.Event().wait()")
    assert process.stdout is not None
    child = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    process.wait()
    assert process.stdout.read() == b"", "its end of the pipe is closed once it is dead"
    os.close(child)
