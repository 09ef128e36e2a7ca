"""The real adb client and its server, and devices of the tests' own for it; see adb_daemon.py."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ssh_server import free_port

from edgewright.devices.boards import Board


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
