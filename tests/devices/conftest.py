"""Boards that answer: this machine, a real sshd on loopback, and a device of the tests' own behind the real adb client."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ssh_server import SSHD, SshServer, free_port

from edgewright.devices.boards import Board


@pytest.fixture
def local_board(tmp_path):
    """This machine, with a folder of the test's own."""
    return Board("here", "This machine", "", "local", python=sys.executable, folder=str(tmp_path / "board"))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    """An OpenSSH server on loopback that lives as long as the tests."""
    server = make_sshd(tmp_path_factory.mktemp("sshd") / "server")
    yield server
    server.stop()


@pytest.fixture
def new_sshd(tmp_path):
    """Makes OpenSSH servers that a test may harm."""
    servers = []

    def make(settings=""):
        servers.append(make_sshd(tmp_path / f"sshd{len(servers)}", settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def make_sshd(folder, settings=""):
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssh-server is not installed (apt install openssh-server openssh-client)")
    pytest.importorskip("asyncssh")
    return SshServer(folder, settings).start()


def ssh_board_of(server, folder="~/.edgewright", **options):
    known = {"identity_file": str(server.key), "known_hosts": str(server.known_hosts), **options}
    return Board("pi", "Pi", "", "ssh", address=server.address, python=sys.executable, folder=folder, options=known)


@pytest.fixture
def ssh_board(sshd, tmp_path):
    """A board behind the real sshd on loopback, with a folder of the test's own."""
    return ssh_board_of(sshd, str(tmp_path / "board"))


@dataclass
class AdbServer:
    """The real adb server, on a port of its own."""

    port: int

    def client(self, *arguments):
        return subprocess.run(
            ["adb", "-P", str(self.port), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )


class AdbDevice:
    """A device daemon of the tests' own, that the adb server can connect to; see adb_daemon.py."""

    def __init__(self, server, home, *behaviour):
        self.server = server
        self.home = Path(home)
        self.behaviour = behaviour
        self.port = free_port()
        self.process = None
        self.start()

    @property
    def serial(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, Path(__file__).with_name("adb_daemon.py"), str(self.port), *self.behaviour]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.process.stdout.readline() == b"ready\n"

    def board(self, **options):
        known = {"server_port": str(self.server.port), "home": str(self.home), **options}
        return Board("phone", "Phone", "", "adb", address=self.serial, python=sys.executable, options=known)

    def stop(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()
        self.server.client("disconnect", self.serial)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory):
    """The real adb client's server, with a home and a port of its own."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed (apt install adb)")
    home = tmp_path_factory.mktemp("adb")
    server = AdbServer(free_port())
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    subprocess.run(
        ["adb", "-P", str(server.port), "start-server"], env=environment, check=True, capture_output=True, timeout=60, cwd=home
    )
    yield server
    server.client("kill-server")


@pytest.fixture
def new_adb(adb_server, tmp_path):
    """Makes devices for adb, which a test may harm or which behave badly; see adb_daemon.py."""
    devices = []

    def make(*behaviour):
        home = tmp_path / f"device{len(devices)}"
        home.mkdir()
        devices.append(AdbDevice(adb_server, home, *behaviour))
        return devices[-1]

    yield make
    for device in devices:
        try:
            os.kill(device.process.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
        device.stop()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def adb_board(new_adb):
    """A board behind the real adb client, with a home of the test's own."""
    return new_adb().board()
