"""Mail and file servers on the lab's web host: Debian's own, each with a configuration of a few lines.

    21    vsftpd                 anonymous; passive ports 30000-30099
    587   dovecot-submissiond    STARTTLS, user and password; hands over to 2525
    2525  aiosmtpd               on the loopback: what it takes lies in alice's Maildir
    110   dovecot, POP3
    143   dovecot, IMAP

They live in the lab's namespace and directory; services of the machine that runs the lab are not touched.
"""

from __future__ import annotations

import pwd
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from anonnet.lab import services
from anonnet.lab.place import WEB
from tests.lab.live import SLOW, LiveLab, until

USER: Final = "nobody"  # owns the mail; there on every system
FTP_USER: Final = "ftp"  # owns the files; Debian's vsftpd makes it
ALICE: Final = "alice:wonderland"
PORTS: Final = (21, 110, 143, 587, 2525)
TOOLS: Final = {"vsftpd": "vsftpd", "dovecot": "dovecot-imapd dovecot-pop3d dovecot-submissiond"}

_VSFTPD: Final = """\
listen=YES
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
no_anon_password=YES
anon_root={files}
ftp_username={user}
chown_uploads=NO
secure_chroot_dir={empty}
connect_from_port_20=YES
pasv_min_port=30000
pasv_max_port=30099
seccomp_sandbox=NO
"""

_DOVECOT: Final = """\
protocols = imap pop3 submission
base_dir = {base}
state_dir = {base}
log_path = /dev/stderr
listen = *, ::
hostname = web.lab
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
submission_relay_host = 127.0.0.1
submission_relay_port = 2525
mail_location = maildir:{mail}
passdb {{
  driver = static
  args = user={login} password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={mail}
}}
"""

# It gives up root before it needs this codec, and may then not read root's Python any more.
_AIOSMTPD: Final = "import encodings.idna; from aiosmtpd.main import main; main()"


@contextmanager
def application_servers(lab: LiveLab) -> Iterator[Path]:
    """Run all servers while the block does; yields the directory that FTP serves, `in` is for uploads."""
    for tool, packages in TOOLS.items():
        assert shutil.which(tool), f"{tool} is not installed: apt-get install {packages}"
    directory = lab.place.of(WEB)
    files, mail, empty = (directory / name for name in ("ftp", "mail", "empty"))
    for made in (files, empty, files / "in", mail, mail / "tmp", mail / "new", mail / "cur"):
        made.mkdir()
    shutil.chown(files / "in", FTP_USER)
    for theirs in (mail, *mail.iterdir()):
        shutil.chown(theirs, USER)
    login, _, password = ALICE.partition(":")
    group = pwd.getpwnam(USER).pw_gid
    vsftpd, dovecot = directory / "vsftpd.conf", directory / "dovecot.conf"
    vsftpd.write_text(_VSFTPD.format(files=files, empty=empty, user=FTP_USER))
    dovecot.write_text(_DOVECOT.format(
        base=directory / "dovecot", certificate=lab.place.certificate,
        key=lab.place.certificate.with_suffix(".key"), mail=mail, login=login, password=password, user=USER,
        group=group,
    ))  # fmt: skip
    mailbox = ["-c", "aiosmtpd.handlers.Mailbox", str(mail)]
    commands = {
        "vsftpd": ["vsftpd", str(vsftpd)],
        "dovecot": ["dovecot", "-F", "-c", str(dovecot)],
        "smtp": [sys.executable, "-c", _AIOSMTPD, "-l", "127.0.0.1:2525", *mailbox],
    }
    with ExitStack() as stack:
        for name, command in commands.items():
            services.start(lab.place, WEB, name, command)
            stack.callback(services.stop, lab.place, WEB, name, signal.SIGTERM)
        until(lambda: listening(lab) >= set(PORTS), SLOW, f"servers at {PORTS}; see {directory}")
        yield files


def listening(lab: LiveLab) -> set[int]:
    """The TCP ports at which somebody listens on the web host."""
    lines = lab.out(WEB, "ss", "-Hltn").splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in lines}
