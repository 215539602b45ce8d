"""The join string: all that a client must know of a server, in one line that can be handed over. Pure.

    dal://HOST:PORT/?name=s1&fp=sha256:HEX&token=TOKEN

`fp` is the SHA-256 of the public key in the server's certificate: whoever has it needs no authority to vouch for the
server. Without it the certificate must be one that the system trusts. `tls=no` says that the server speaks without TLS.
"""

from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from dalsegno.terms.errors import BadInput

SCHEME: Final = "dal"
PORT: Final = 8420
FINGERPRINT_PREFIX: Final = "sha256:"
FINGERPRINT_DIGITS: Final = 64
JOIN_BYTES_MAX: Final = 2048
URL_BYTES_MAX: Final = 2048
_PARTS: Final = ("name", "fp", "token", "tls")


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, how to know it, and what it asks for."""

    host: str
    port: int = PORT
    name: str = ""
    """The server's name in its realm."""
    fingerprint: str = ""
    """`sha256:` and 64 hexadecimal digits, or empty."""
    token: str = ""
    tls: bool = True

    @property
    def url(self) -> str:
        """The server's address as a URL."""
        return format_url(self.host, self.port, tls=self.tls)


def format_url(host: str, port: int, *, tls: bool) -> str:
    """Return a server's address as a URL."""
    return f"{'https' if tls else 'http'}://{_format_host(host)}:{port}"


def _format_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def check_url(url: str) -> str:
    """Return a server's address as `format_url` writes it, or BadInput."""
    host, port, tls = split_url(url)
    return format_url(host, port, tls=tls)


def split_url(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether there is TLS of `https://HOST:PORT`; BadInput for what is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= URL_BYTES_MAX
    rest = parts.query or parts.fragment or "@" in parts.netloc or parts.path not in ("", "/")
    if not host or not plain or rest or port == 0 or parts.scheme not in ("https", "http"):
        raise BadInput(f"server {url[:80]!r}: expected https://HOST:PORT")
    return host, PORT if port is None else port, parts.scheme == "https"


def format_join(join: Join) -> str:
    """Return the join string."""
    words = [("name", join.name), ("fp", join.fingerprint), ("token", join.token), ("tls", "" if join.tls else "no")]
    query = "&".join(f"{key}={quote(value, safe=':')}" for key, value in words if value)
    return f"{SCHEME}://{_format_host(join.host)}:{join.port}/" + (f"?{query}" if query else "")


def parse_join(text: str) -> Join:
    """Return what a join string says. BadInput never repeats the token."""
    text = text.strip()
    if len(text) > JOIN_BYTES_MAX or not text.startswith(f"{SCHEME}://") or not text.isprintable():
        raise BadInput("join string: expected dal://HOST:PORT/?name=...&fp=sha256:...&token=...")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=16)
    except ValueError:
        raise BadInput("join string: not an address: expected dal://HOST:PORT/?...") from None
    words = dict(pairs)
    if not host or parts.path not in ("", "/") or parts.fragment or "@" in parts.netloc or port == 0:
        raise BadInput("join string: expected dal://HOST:PORT/ before the question mark")
    unknown = words.keys() - set(_PARTS)
    if unknown or len(words) != len(pairs):
        wrong = min(unknown) if unknown else "a part stands twice"
        raise BadInput(f"join string: {wrong[:32]!r}: expected name, fp, token and tls, each once")
    if words.get("tls", "no") != "no":
        raise BadInput("join string: tls: expected no, or leave it away")
    tls = "tls" not in words
    if not tls and words.get("fp"):
        raise BadInput("join string: a server without TLS has no fingerprint")
    return Join(
        host=host,
        port=PORT if port is None else port,
        name=words.get("name", ""),
        fingerprint=check_fingerprint(words.get("fp", "")),
        token=words.get("token", ""),
        tls=tls,
    )


def check_fingerprint(text: str) -> str:
    """Return a fingerprint in its one spelling, empty for empty; BadInput when it is none."""
    if not text:
        return ""
    digits = text.removeprefix(FINGERPRINT_PREFIX).replace(":", "").lower()
    if len(digits) != FINGERPRINT_DIGITS or digits.strip("0123456789abcdef"):
        raise BadInput(f"fingerprint {text[:80]!r}: expected sha256: and {FINGERPRINT_DIGITS} hexadecimal digits")
    return FINGERPRINT_PREFIX + digits
