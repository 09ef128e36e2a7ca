"""Boards that answer: this machine, a real sshd on loopback, and a device of the tests' own behind the real adb client."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from adb_client import AdbDevice, AdbServer
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


@pytest.fixture
def ssh_board(sshd, tmp_path):
    """A board behind the real sshd on loopback, with a folder of the test's own."""
    return sshd.board(str(tmp_path / "board"))


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
