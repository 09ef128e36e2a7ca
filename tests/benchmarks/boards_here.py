"""The boards of tests/devices for tests of benchmarks: this machine, the real sshd, the real adb client, an arm64 root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

from tests.devices.conftest import adb_board, adb_server, local_board, new_adb, new_sshd, ssh_board, sshd

__all__ = ["adb_board", "adb_server", "local_board", "new_adb", "new_sshd", "ssh_board", "sshd"]
