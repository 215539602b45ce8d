"""The server's certificate: the administrator's own, or one that the server makes for itself and others pin.

The server's own key lies in the pool under `server/tls`, sealed under the server's key, which nobody's token opens
(replicas/server_key.py); it is never in the open on a disk.
"""

import os
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.pool import Pool
from dalsegno.replicas.connections import certificate_fingerprint
from dalsegno.replicas.server_key import open_server_values
from dalsegno.terms.errors import BadInput, Damaged, NoAccess, NotFound
from dalsegno.world.files import file_errors

VALUE: Final = "tls"
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
YEARS: Final = 30
"""A pinned certificate is trusted for being that one, not for its date."""


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its key, both as PEM."""

    certificate: bytes
    key: bytes


def own_certificate(pool: Pool, *, name: str, host: str, now_ns: int) -> Own:
    """Return the certificate of this pool's server, made at first."""
    values = open_server_values(pool)

    def made_unless(data: bytes | None) -> bytes:
        return data or msgspec.msgpack.encode(make_certificate(name=name, host=host, now_ns=now_ns))

    data = values.update(VALUE, made_unless, what="the server's own certificate")
    assert data is not None
    values.settle_seen(VALUE)  # clients pin it for good
    try:
        return msgspec.msgpack.decode(data, type=Own)
    except UNREADABLE as error:
        raise Damaged(f"the server's own certificate: {error}") from None


def make_certificate(*, name: str, host: str, now_ns: int) -> Own:
    """Return a new certificate that signs itself (ECDSA on P-256), for `host` and this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "dalsegno")])
    start = datetime.fromtimestamp(now_ns / 1e9, UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(place) for place in dict.fromkeys((host, *LOOPBACK))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Own(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)


def own_context(own: Own) -> tuple[ssl.SSLContext, str]:
    """Return a server's context with its own certificate, and the fingerprint."""
    # Python loads certificates from files only: this one is in memory, and nobody else can open it.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, own.key + own.certificate)
        context = _context()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context, _fingerprint(own.certificate)


def file_context(certificate: Path, key: Path) -> tuple[ssl.SSLContext, str]:
    """Return a server's context with a certificate and a key from files, and the fingerprint."""
    context = _context()
    for path in (certificate, key):
        with file_errors(path):
            if not path.is_file():
                raise NotFound(f"{path}: no such file")
            if not os.access(path, os.R_OK):
                raise NoAccess(f"{path}: cannot be read")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        data = certificate.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BadInput(f"{certificate}, {key}: not a certificate and its key, as PEM ({reason})") from None
    return context, _fingerprint(data)


def reload_files(context: ssl.SSLContext, certificate: Path, key: Path) -> str:
    """Let a context that is in use show what the files hold now, and return the fingerprint; errors change nothing."""
    _, fingerprint = file_context(certificate, key)
    context.load_cert_chain(certificate, key, password=_no_password)
    return fingerprint


def _no_password() -> str:
    raise ValueError("the key asks for a passphrase: give one without")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _fingerprint(pem: bytes) -> str:
    found = x509.load_pem_x509_certificate(pem)
    return certificate_fingerprint(found.public_bytes(serialization.Encoding.DER))
