"""The table of targets: what is fuzzed. A target takes bytes; DalError is an answer, any other error a fault."""

from collections.abc import Callable
from typing import Final

import fuzz_packs
import fuzz_text
import fuzz_values

Target = Callable[[bytes], None]

TARGETS: Final[dict[str, Target]] = {
    "pack": fuzz_packs.opened,
    "pack-stream": fuzz_packs.streamed,
    "pack-adopt": fuzz_packs.adopted,
    "pack-part": fuzz_packs.part,
    "object": fuzz_values.entries,
    "tree": fuzz_values.tree,
    "state": fuzz_values.state,
    "clone-table": fuzz_values.table,
    "message": fuzz_values.message,
    "answer": fuzz_values.answer,
    "records": fuzz_values.records,
    "words": fuzz_text.words,
    "query": fuzz_text.queries,
    "join": fuzz_text.join,
    "settings": fuzz_text.settings,
    "key": fuzz_text.key,
    "identity": fuzz_text.identity,
    "policy": fuzz_text.policy,
    "ignore": fuzz_text.ignore,
    "label": fuzz_text.label,
    "part": fuzz_text.part,
    "kernel": fuzz_text.kernel,
    "time": fuzz_text.times,
    "name": fuzz_text.names,
}
