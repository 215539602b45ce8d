"""Names that come from outside (of servers, dumps, media, catalogs) and are to be files' names or words of commands."""

from typing import Final

from dalsegno.terms.errors import Refused

NAME_BYTES_MAX: Final = 255
"""What file systems take."""
_SHOWN_CHARACTERS_MAX: Final = 80


def is_file_name(name: str) -> bool:
    """Tell whether a name is one part of a path, is no option and no hidden file, and fits one line."""
    # Undecodable bytes of a file name (lone surrogates) are not printable, and in nobody's way.
    plain = all(letter.isprintable() or "\udc80" <= letter <= "\udcff" for letter in name)
    fits = 0 < len(name) <= NAME_BYTES_MAX and len(name.encode(errors="surrogatepass")) <= NAME_BYTES_MAX
    return fits and plain and "/" not in name and name[0] not in ".-"


def file_name(name: str, *, of: str) -> str:
    """Return a name that may become a file's, or a word of a command; Refused for any other. `of`: what it is of."""
    if not is_file_name(name):
        raise Refused(
            f"{of}: the name {name[:_SHOWN_CHARACTERS_MAX]!r} is no file name (a slash, a dot or hyphen in front, a "
            f"control character, or more than {NAME_BYTES_MAX} bytes): it is not used"
        )
    return name
