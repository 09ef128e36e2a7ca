"""The real OpenSSH server on loopback: own host keys, port, authorized keys and home, in a folder of the test's own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from edgewright.devices.boards import Board

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

_SETTINGS = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PermitUserEnvironment no
MaxStartups 100
MaxSessions 30
SetEnv HOME={home} EDGEWRIGHT_BOARD=sshd
Subsystem sftp internal-sftp
"""


def free_port():
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def new_key(path, passphrase="", kind="ed25519"):
    """A new key pair at `path` and `path`.pub."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return Path(path)


class SshServer:
    """One sshd; `start` it, `kill` it, and `stop` it at the end.

    Args:
        folder: where its files are made; `folder/home` is the home of who logs in.
        settings: more lines for its configuration.
    """

    def __init__(self, folder, settings=""):
        self.folder = Path(folder)
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        self.port = free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        new_key(self.folder / "host_key")
        self.key = new_key(self.folder / "user_key")
        shutil.copy(f"{self.key}.pub", self.folder / "authorized_keys")
        self.known_hosts = self.folder / "known_hosts"
        self.remember()
        text = _SETTINGS.format(port=self.port, folder=self.folder, home=self.home)
        (self.folder / "sshd_config").write_text(text + settings)
        self.process = None

    @property
    def address(self):
        return f"{self.user}@127.0.0.1:{self.port}"

    def board(self, folder="~/.edgewright", **options):
        """A board behind this server; `options` go before those that let the test in."""
        known = {"identity_file": str(self.key), "known_hosts": str(self.known_hosts), **options}
        return Board("pi", "Pi", "", "ssh", address=self.address, python=sys.executable, folder=folder, options=known)

    def host_key(self):
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def remember(self):
        """Write the server's host key into the file of known hosts."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key()}\n")

    def start(self):
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd separates its privileges there
        log = (self.folder / "log").open("ab")
        with log:
            command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    if probe.recv(4) == b"SSH-":
                        return self
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"sshd does not serve: {(self.folder / 'log').read_text()[-2000:]}")

    def connections(self):
        """The processes that serve one connection each, with those below them that are sshd too."""
        return [pid for pid in _below(self.process.pid) if "sshd" in _name(pid)]

    def signal(self, number):
        """Send a signal to the server and to all that serve connections."""
        for pid in [self.process.pid, *self.connections()]:
            os.kill(pid, number)

    def hang_up(self):
        """Cut all connections at once, in the middle of whatever goes on; the server lives."""
        for pid in self.connections():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def stop(self):
        if self.process is not None:
            for pid in [*self.connections(), self.process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait(10)
            self.process = None


def _below(pid):
    """All descendants of a process."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for one in found:
        found.extend(children.get(one, []))
    return found


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
