"""The lab's Internet host: HTTP and HTTPS files of any size, DNS for web.lab; one process, one log.

    GET /                  a small page
    GET /20MB.bin          20,000,000 bytes that follow from the name (lab.content)
    GET /sha256/20MB.bin   their checksum
    POST, PUT anything     the length and checksum of what arrived

Run as `python -m anonnet.lab.web DIRECTORY IPV4 IPV6`. access.log holds one JSON object a line; `client` is
the address that the Internet sees.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from anonnet.lab import dns
from anonnet.lab.content import content, content_sha256, size_of

NAME: Final = "web.lab"
PAGE: Final = b"<!doctype html><title>web.lab</title><p>This page came from the lab's Internet host.\n"
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and stop for a Range header (RFC 9110 14.2), None for the whole file; ValueError."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match.group(1, 2) == ("", ""):
        return None
    if not match[1]:
        return max(size - int(match[2]), 0), size
    start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise ValueError("range not satisfiable")
    return start, stop


class Handler(BaseHTTPRequestHandler):
    """Serves files made from their names."""

    protocol_version = "HTTP/1.1"
    server_version = "anonnet-lab"
    sys_version = ""
    timeout = 120
    disable_nagle_algorithm = True  # or a small body waits a round trip for its head to be acknowledged
    log: Callable[[Mapping[str, object]], None]
    scheme = "http"

    def do_GET(self) -> None:
        """Answer with the page, a file or a range of it, or a checksum."""
        path = self.path.split("?")[0].removeprefix("/")
        if not path:
            self._send(PAGE, "text/html; charset=utf-8")
        elif (wanted := path.removeprefix("sha256/")) != path and size_of(wanted) is not None:
            self._send(content_sha256(wanted).encode() + b"\n", "text/plain")
        elif (size := size_of(path)) is not None:
            self._file(path, size)
        else:
            self._send(b"no such file\n", "text/plain", HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815  the standard library's naming

    def do_POST(self) -> None:
        """Swallow the body and say how long it was and what its checksum is."""
        length, digest = int(self.headers.get("Content-Length", 0)), hashlib.sha256()
        left = length
        while left and (data := self.rfile.read(min(left, 1 << 16))):
            digest.update(data)
            left -= len(data)
        seen = {"bytes": length - left, "sha256": digest.hexdigest()}
        self._send(json.dumps(seen).encode(), "application/json")

    do_PUT = do_POST  # noqa: N815

    def _file(self, name: str, size: int) -> None:
        try:
            part = byte_range(self.headers.get("Range"), size)
        except ValueError:
            self._send(b"", "text/plain", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        start, stop = part or (0, size)
        headers = {"Accept-Ranges": "bytes"}
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
        self._head(status, "application/octet-stream", stop - start, headers)
        if self.command != "HEAD":
            for chunk in content(name, start, stop):
                self.wfile.write(chunk)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._head(status, kind, len(body), {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int, headers: Mapping[str, str]) -> None:
        # Logged before the body, so that the line is there as soon as the client has the answer.
        client = str(self.client_address[0]).removeprefix("::ffff:")
        line = {"service": self.scheme, "client": client, "method": self.command, "path": self.path}
        type(self).log({**line, "status": int(status), "bytes": length})
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr: `_head` writes the log."""


class Server(ThreadingHTTPServer):
    """HTTP for IPv4 and IPv6 on one socket; HTTPS when given a context."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[Handler], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("::", port), handler)
        if tls:
            # The handshake happens at the first read, in the connection's own thread.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def write_certificate(path: Path, ipv4: str, ipv6: str) -> Path:
    """Write a self-signed certificate for web.lab and its key beside it; return the key's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in (ipv4, ipv6)]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = path.with_suffix(".key")
    secret.touch(mode=0o600)
    pem = serialization.Encoding.PEM
    secret.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.write_bytes(certificate.public_bytes(pem))
    return secret


def main(directory: Path, ipv4: str, ipv6: str) -> None:
    """Bind every service, say so by creating the file `ready`, and serve until killed."""
    with (directory / "access.log").open("ab", buffering=0) as file:

        def log(line: Mapping[str, object]) -> None:
            # One unbuffered append a line: lines of different threads do not mix.
            file.write(json.dumps({"time": round(time.time(), 3), **line}).encode() + b"\n")

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = directory / "web.pem"
        tls.load_cert_chain(certificate, write_certificate(certificate, ipv4, ipv6))
        plain = type("Plain", (Handler,), {"log": staticmethod(log)})
        secure = type("Secure", (Handler,), {"log": staticmethod(log), "scheme": "https"})
        services = [Server(80, plain), Server(443, secure, tls), *dns.servers({NAME: (ipv4, ipv6)}, log)]
        threads = [threading.Thread(target=service.serve_forever, daemon=True) for service in services]
        for thread in threads:
            thread.start()
        (directory / "ready").touch()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
