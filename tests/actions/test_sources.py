"""Which volume a word means: a volume's name wins, a directory finds who follows it, and nothing is doubled silently."""

import pytest

from dalsegno.actions.sources import Choice, Known, choose_volume, stem_of
from dalsegno.terms.errors import NotFound

DOC = Known(name="doc", source=b"/a/doc")
OTHER = Known(name="other", source=b"/a/doc")
NATIVE = Known(name="doc")
CAME = Known(name="restored", came_from="/a/doc")
SERVED = Known(name="doc", on_servers=True)


@pytest.mark.parametrize(
    ("word", "directory", "known", "expected"),
    [
        ("doc", b"/a/doc", [], Choice()),
        ("/a/doc", b"/a/doc", [], Choice()),
        ("doc", None, [DOC], Choice(volume="doc")),
        ("doc", b"/a/doc", [DOC], Choice(volume="doc")),
        ("doc", b"/b/doc", [DOC], Choice(volume="doc", beside=True)),
        ("./doc", b"/b/doc", [DOC], Choice()),
        ("./doc", b"/a/doc", [DOC], Choice(volume="doc")),
        ("x", b"/a/doc", [DOC], Choice(volume="doc")),
        ("./doc", b"/a/doc", [DOC, OTHER], Choice(several=("doc", "other"))),
        ("doc", b"/a/doc", [DOC, OTHER], Choice(volume="doc")),
        ("other", None, [DOC, OTHER], Choice(volume="other")),
        ("/a/doc", b"/a/doc", [NATIVE], Choice(before=("doc",))),
        ("doc", b"/a/doc", [NATIVE], Choice(before=("doc",))),
        ("doc", None, [NATIVE], Choice(volume="doc")),
        ("/a/doc", b"/a/doc", [NATIVE, CAME], Choice(before=("restored",))),
        ("/a/doc", b"/a/doc", [CAME, DOC], Choice(volume="doc")),
        ("/b/doc", b"/b/doc", [CAME], Choice()),
        ("/a/doc", b"/a/doc", [SERVED], Choice()),
    ],
)
def test_a_word_means_one_volume(word: str, directory: bytes | None, known: list[Known], expected: Choice) -> None:
    """Kind of fault: which volume is meant depends on the current directory, or on the alphabet."""
    assert choose_volume(word, directory, known) == expected


@pytest.mark.parametrize("word", ["nothing", "./nothing", "/nothing/at/all"])
def test_what_is_neither_is_not_found(word: str) -> None:
    with pytest.raises(NotFound, match="no such directory" if "/" in word else "neither a directory nor a volume"):
        choose_volume(word, None, [DOC])


@pytest.mark.parametrize(
    ("directory", "stem"),
    [(b"/a/doc", "doc"), (b"/", "root"), (b"/x/a..b", "a__b"), (b"/x/old.dump", "old_dump"), (b"/x/.hid", "hid")],
)
def test_a_volume_is_named_after_its_directory(directory: bytes, stem: str) -> None:
    assert stem_of(directory) == stem
