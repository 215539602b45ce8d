"""How memory goes back to the system."""

import subprocess
import sys

THREADS = 8
WORK = f"""
import threading
from pathlib import Path
from dalsegno.world.memory import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) // 1024

keep_freed_memory()
before = resident_mib()
turn, ended = threading.Lock(), threading.Barrier({THREADS} + 1)

def work():
    with turn:
        pieces = [bytearray(1_000_000) for _ in range(30)]
        pieces.clear()
    ended.wait()
    ended.wait()

threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
ended.wait()
print(resident_mib() - before)
ended.wait()
"""


def test_threads_do_not_keep_what_each_of_them_once_needed() -> None:
    """The kind: a heap for each thread keeps its largest size, and their sum grows with the threads, not the work."""
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, f"{done.stdout.strip()} MiB kept by {THREADS} threads that used 30 MB one by one"


def test_what_was_freed_between_what_lives_on_goes_back() -> None:
    """The kind: memory that is free and never given back, because something behind it lives on."""
    work = (
        WORK.partition("turn, ended")[0]
        + """
pieces = [bytearray(100_000) for _ in range(1_000)]
del pieces[::2], pieces[::2]
kept = resident_mib() - before
give_back_freed()
print(kept, resident_mib() - before)
"""
    )
    work = work.replace("import keep_freed_memory", "import give_back_freed, keep_freed_memory")
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 80 and left < 50, (kept, left)
