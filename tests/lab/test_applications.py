r"""Programs as people use them, against real servers, through the tunnel and through the SOCKS proxy.

          .- r1 -- r2 -.      .- x1 ~.
caller --+     \/       +----+        ~ web         servers.py says what runs on web
          '- r3 -- r4 -'      '- x2 ~'
"""

from __future__ import annotations

import base64
import email
import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from anonnet.lab.content import content, content_sha256
from anonnet.lab.place import CALLER
from tests.lab.live import SLOW, WEB4, LiveLab, live, until
from tests.lab.servers import ALICE, application_servers

pytestmark = pytest.mark.root

PORT = 1080
SOCKS = ("--proxy", f"socks5h://127.0.0.1:{PORT}")  # names go to the proxy as names
REFUSED, PORT_FAILED = 97, 30  # of curl: by the proxy; active FTP
_numbers = count(1)


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("apps", exits=2) as up, application_servers(up):
        yield up


@contextmanager
def socks(lab: LiveLab, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`anonnet-tun socks` on the caller, ended with ^C if it has not ended before."""
    with lab.running(CALLER, "anonnet-tun", "socks", *options, stderr=subprocess.PIPE) as process:
        until(lambda: proxy_listens(lab) or process.poll() is not None, 70, "the proxy")
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(SLOW) == 130


def proxy_listens(lab: LiveLab) -> bool:
    return bool(lab.out(CALLER, "ss", "-Hltn", f"sport = :{PORT}"))


def curl(lab: LiveLab, *argv: str) -> str:
    certificate = ("--cacert", str(lab.place.certificate))
    return lab.out(CALLER, "curl", "-sS", "--fail", "-m", "40", *certificate, *argv)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fresh(size: str) -> str:
    """Name a file that nobody has asked for yet."""
    return f"{size}-{next(_numbers)}.bin"


def web(lab: LiveLab, here: Path, *proxy: str) -> None:
    for scheme in ("http", "https"):
        name = fresh("300kB")
        curl(lab, *proxy, "-o", str(here / name), f"{scheme}://web.lab/{name}")
        assert sha256(here / name) == content_sha256(name)
        seen = json.loads(curl(lab, *proxy, "-T", str(here / name), f"{scheme}://web.lab/up"))
        assert seen == {"bytes": 300_000, "sha256": content_sha256(name)}


def files(lab: LiveLab, here: Path, *proxy: str) -> None:
    """FTP, the server listening for each transfer (passive)."""
    name, served = fresh("200kB"), lab.place.of("web") / "ftp"
    (served / name).write_bytes(b"".join(content(name)))
    curl(lab, *proxy, "-o", str(here / name), f"ftp://web.lab/{name}")
    assert sha256(here / name) == content_sha256(name)
    curl(lab, *proxy, "-T", str(here / name), f"ftp://web.lab/in/{name}")
    assert sha256(served / "in" / name) == content_sha256(name)


def mail(lab: LiveLab, here: Path, *proxy: str) -> None:
    """Submitted with a password over TLS, fetched with POP3 and IMAP."""
    name, maildir = fresh("30kB"), lab.place.of("web") / "mail" / "new"
    number = 1 + sum(1 for _ in maildir.iterdir()) + sum(1 for _ in (maildir.parent / "cur").iterdir())
    letter = here / f"{name}.eml"
    attachment = base64.encodebytes(b"".join(content(name))).decode()
    letter.write_text(
        "From: bob@web.lab\nTo: alice@web.lab\nSubject: a file\nMIME-Version: 1.0\n"
        f"Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n{attachment}"
    )
    submit = ("--ssl-reqd", "--user", ALICE, "--mail-from", "bob@web.lab", "--mail-rcpt", "alice@web.lab")
    curl(lab, *proxy, *submit, "--crlf", "-T", str(letter), "smtp://web.lab:587")
    for url in (f"pop3://web.lab/{number}", f"imap://web.lab/INBOX;MAILINDEX={number}"):
        letter_back = email.message_from_string(curl(lab, *proxy, "--user", ALICE, url))
        got = letter_back.get_payload(decode=True)
        assert isinstance(got, bytes)
        assert hashlib.sha256(got).hexdigest() == content_sha256(name), url


def exit_of(lab: LiveLab, *options: str) -> str:
    """Fetch something, and return from which exit the Internet saw it fetched."""
    name = fresh("1kB")
    curl(lab, "-o", "/dev/null", *options, f"http://{WEB4}/{name}")
    lines = [json.loads(line) for line in lab.access_log().splitlines()]
    (client,) = {line["client"] for line in lines if line.get("path") == f"/{name}"}
    return next(host.name for host in lab.topology.nodes if client == str(host.ipv4))


def users_have_circuits_of_their_own(lab: LiveLab) -> None:
    one, other = (
        {exit_of(lab, *SOCKS, "--proxy-user", f"{user}:x") for _ in range(3)} for user in ("ann", "bill")
    )
    assert len(one) == len(other) == 1
    assert one | other == {"x1", "x2"}


def test_through_socks_on_a_host_that_is_not_up(lab: LiveLab, tmp_path: Path) -> None:
    before = lab.host_state()
    asked = len(lab.access_log().splitlines())
    with socks(lab, "--circuits", "2"):
        for use in (web, files, mail):
            use(lab, tmp_path, *SOCKS)
        users_have_circuits_of_their_own(lab)

        chains = tmp_path / "proxychains.conf"
        chains.write_text(f"strict_chain\nproxy_dns\n[ProxyList]\nsocks5 127.0.0.1 {PORT}\n")
        for wrapper in (("proxychains4", "-q", "-f", str(chains)), ("torsocks", "-P", str(PORT))):
            name = fresh("100kB")
            lab.out(CALLER, *wrapper, "curl", "-sS", "-o", str(tmp_path / name), f"http://web.lab/{name}")
            assert sha256(tmp_path / name) == content_sha256(name), wrapper
        said = lab.out(CALLER, "python", "-m", "tests.lab.socks_client", "web.lab")
        assert said.split() == [WEB4, WEB4]  # who answered, and what

        status = lab.run(CALLER, "anonnet-tun", "status").stdout
        assert status.startswith("down: ")  # of the host as a whole
        assert f"socks       127.0.0.1:{PORT}" in status
        for bad in ("http://127.0.0.1/", "http://nobody.lab/", "http://web.lab:81/"):
            assert lab.run(CALLER, "curl", "-sS", "-m", "20", *SOCKS, bad).returncode == REFUSED
    log = [json.loads(line) for line in lab.access_log().splitlines()[asked:]]
    exits = {str(host.ipv4) for host in lab.topology.nodes if host.name in ("x1", "x2")}
    assert {line["client"] for line in log if "client" in line} <= exits  # names included
    assert any(line["service"] == "dns" for line in log)
    after = lab.host_state()
    assert after == before


def test_through_the_tunnel_and_through_socks_in_it(lab: LiveLab, tmp_path: Path) -> None:
    lab.up("--circuits", "2", "--isolate", "user", "--distinct-exits", "true")
    try:
        for use in (web, files, mail):
            use(lab, tmp_path)
        # The server would have to open a connection to the caller, whose address it cannot know.
        active = lab.run(CALLER, "curl", "-sS", "-m", "20", "--ftp-port", "-", "ftp://web.lab/")
        assert active.returncode == PORT_FAILED
        with socks(lab):
            for use in (web, files, mail):
                use(lab, tmp_path, *SOCKS)
            users_have_circuits_of_their_own(lab)
    finally:
        lab.down()


def test_up_and_down_end_the_proxy_and_kill_leaves_nothing_for_long(lab: LiveLab) -> None:
    before = lab.host_state()
    with socks(lab) as proxy:
        lab.up()  # takes over the circuit
        assert proxy.wait(SLOW) == 1
        curl(lab, "-o", "/dev/null", f"http://web.lab/{fresh('1kB')}")
    with socks(lab) as proxy:
        lab.down()
        assert proxy.wait(SLOW) == 1
    with socks(lab) as proxy:
        proxy.kill()
        proxy.wait()
        until(lambda: not proxy_listens(lab), SLOW, "the end of the proxy's child")
    with socks(lab) as proxy:  # puts right what the other has left
        curl(lab, *SOCKS, "-o", "/dev/null", f"http://web.lab/{fresh('1kB')}")
        proxy.kill()
        proxy.wait()
        lab.down()
    until(lambda: lab.host_state() == before, SLOW, "the host as it was")


def test_when_the_daemon_dies_connections_fail(lab: LiveLab) -> None:
    with socks(lab) as proxy:
        url = f"http://web.lab/{fresh('50MB')}"
        with lab.running(CALLER, "curl", "-sS", *SOCKS, "-o", "/dev/null", url) as download:
            log = lab.access_log
            until(lambda: url.rpartition("/")[2] in log(), SLOW, "the download's begin")
            lab.kill(CALLER)
            assert download.wait(SLOW) != 0
            assert proxy.wait(SLOW) == 1
            assert proxy.stderr is not None
            assert b"the tunnel has gone" in proxy.stderr.read()
    assert lab.run(CALLER, "curl", "-sS", "-m", "5", *SOCKS, url).returncode == 7  # nobody listens
    assert "anonsocks0" not in lab.out(CALLER, "ip", "rule") + lab.out(CALLER, "nft", "list", "ruleset")
    lab.start(CALLER)
    until(lab.links_up, SLOW, "links of the caller")
