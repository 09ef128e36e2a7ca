"""Every transport does what the contract says, and passes any argument on unchanged."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewright.devices.boards import Board
from edgewright.devices.transport import TRANSPORTS, open_transport
from edgewright.testing_transports import TransportCase, TransportContract


class TestLocal(TransportContract):
    @pytest.fixture
    def case(self, local_board, tmp_path):
        return TransportCase(local_board, str(tmp_path / "there"))


class TestSsh(TransportContract):
    @pytest.fixture
    def case(self, ssh_board, tmp_path):
        return TransportCase(ssh_board, str(tmp_path / "there"))


class TestAdb(TransportContract):
    @pytest.fixture
    def case(self, adb_board, tmp_path):
        return TransportCase(adb_board, str(tmp_path / "there"))


class TestFake(TransportContract):
    @pytest.fixture
    def case(self):
        return TransportCase(Board("none", "None", "", "fake"), "/there", shell=False)


def test_all_are_tested():
    assert set(TRANSPORTS.names()) >= {"local", "ssh", "adb", "fake"}
