"""docs/formats/http.md has the table of calls as the program has it.

DAL_TEST_RECORD=1 writes that part of the page anew.
"""

import os
from pathlib import Path
from typing import Any

from dalsegno.replicas.calls import ANY_RIGHT, CALLS, NO_TOKEN, Call

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats" / "http.md"
BEGIN, END = " with DAL_TEST_RECORD=1 -->\n", "<!-- end of calls -->"
NAMED = {"str": "text", "dict": "JSON"}
HEAD = ("call", "method, path", "right", "query", "body", "answer", "repeats")


def row(call: Call[Any]) -> tuple[str, ...]:
    rights = {NO_TOKEN: "none", ANY_RIGHT: "any"}.get(call.right, call.right)
    if call.also:
        rights += f" or {call.also}"
    if call.peers:
        rights += ", or a server of the realm"
    words = ", ".join(f"`{one.name}`" if one.required else f"[`{one.name}`]" for one in call.query)
    body, answer = (
        "" if kind is None else NAMED.get(kind.__name__, kind.__name__) for kind in (call.body, call.answer)
    )
    repeats = "yes" if call.is_repeatable else "**no**"
    return f"`{call.name}`", f"{call.method} `{call.path}`", rights, words, body, answer, repeats


def test_the_page_has_the_table_of_calls() -> None:
    """Kind of fault: a page about calls that were changed since."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(call) for call in CALLS)]
    table = "".join(f"| {' | '.join(each)} |\n" for each in rows).replace("|  |", "| |").replace("|  |", "| |")
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    found, _, after = rest.partition(END)
    if os.environ.get("DAL_TEST_RECORD"):
        PAGE.write_text(before + BEGIN + table + END + after)
        found = table
    assert found == table
