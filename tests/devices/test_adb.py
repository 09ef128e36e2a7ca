"""The real adb client against a device of the tests' own: states with their way out, and what happens when it goes away."""

import dataclasses
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from adb_client import AdbServer
from ssh_server import free_port

from edgewright.devices.boards import Board
from edgewright.devices.transport import open_transport
from edgewright.devices.transports import adb
from edgewright.errors import DeviceError


def refused(board, match):
    """The error of a board that does not open; it comes in bounded time and names a way out."""
    began = time.monotonic()
    with pytest.raises(DeviceError, match=match) as caught:
        open_transport(board).open()
    assert board.name in caught.value.message and caught.value.hint
    assert time.monotonic() - began < 30
    return caught.value


# ---- who is there ----------------------------------------------------------------------------------------------------


def test_without_the_program(adb_board):
    board = dataclasses.replace(adb_board, options={**adb_board.options, "adb": "no-such-adb"})
    assert "apt install adb" in refused(board, "'no-such-adb' that reaches board 'phone' .*is not installed").hint


def test_the_home_of_android_is_where_its_shell_may_write(new_adb):
    device = new_adb()
    with open_transport(dataclasses.replace(device.board(), options={"server_port": str(device.server.port)})) as transport:
        assert transport.home() == "/data/local/tmp" and transport.expand("~/.edgewright") == "/data/local/tmp/.edgewright"


def test_the_only_device_needs_no_address(new_adb):
    first = new_adb()
    board = dataclasses.replace(first.board(), address="")
    assert "USB debugging" in refused(board, "no Android device for board 'phone'").hint
    first.server.client("connect", first.serial)
    with open_transport(board) as transport:
        assert transport.run(["echo", "x"]).stdout == "x\n" and first.serial in transport.where
    second = new_adb()
    second.server.client("connect", second.serial)
    error = refused(board, "more than one Android device for board 'phone'")
    assert first.serial in error.message and second.serial in error.message
    assert f'address = "{min(first.serial, second.serial)}"' in error.hint
    with open_transport(second.board()) as transport:
        assert transport.home() == str(second.home)
    error = refused(dataclasses.replace(board, address="R58M"), "'phone' .* is not plugged in: adb knows no device 'R58M'")
    assert first.serial in error.hint


def test_the_server_is_started_if_it_does_not_run(new_adb, tmp_path, monkeypatch):
    """On the port of ANDROID_ADB_SERVER_PORT, as with the client itself."""
    device, server = new_adb(), AdbServer(free_port())
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    try:
        with open_transport(Board("phone", "Phone", "", "adb", address=device.serial)) as transport:
            assert transport.run(["echo", "x"]).stdout == "x\n"
        assert device.serial in server.client("devices").stdout
    finally:
        server.client("kill-server")


def test_unauthorized(new_adb):
    device = new_adb("unauthorized")
    board = device.board()
    error = refused(board, "'phone' .*(has not allowed|is being asked to allow) this computer")
    assert "unlock it and accept" in error.hint


def test_offline(new_adb, monkeypatch):
    error = refused(new_adb("silent").board(), "'phone' .*(is offline|cannot be reached)")
    assert "see that it is on" in error.hint


def test_states_of_usb_devices(adb_board, monkeypatch):
    """States that no device over the network has, as the client prints them."""
    for state, match, way in (
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "may not be opened by this user", "plugdev"),
        ("recovery", "is in state 'recovery'", "adb reboot"),
        ("offline", "is offline", "plug it in again"),
        ("unauthorized", "has not allowed this computer", "unlock it"),
    ):
        monkeypatch.setattr(adb.AdbTransport, "_states", lambda self, state=state: {"R58M": state})
        for address in ("R58M", ""):
            error = refused(dataclasses.replace(adb_board, address=address), f"'phone'.* {match}")
            assert way in error.hint and "R58M" in error.message


def test_nobody_listens(new_adb):
    device = new_adb()
    board = device.board()
    device.stop()
    assert "network" in refused(board, "'phone' .* cannot be reached: .*(refused|failed)").hint


def test_an_old_android(new_adb):
    assert "Android 7" in refused(new_adb("no_shell_v2").board(), "no exit codes").hint


def test_something_else_at_the_servers_port(adb_board, monkeypatch):
    monkeypatch.setattr(adb, "_SERVER_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {**adb_board.options, "server_port": str(silent.getsockname()[1])}
        refused(dataclasses.replace(adb_board, options=options), "'adb start-server' for board 'phone' .*(did not answer|failed)")
    refused(dataclasses.replace(adb_board, options={**adb_board.options, "server_port": "many"}), "'many', no port number")


# ---- a device that goes away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("doing", ["waiting", "reading", "writing"])
def test_gone_in_mid_command(new_adb, doing):
    """The client exits with 0 then, so its code alone would pass for success."""
    device = new_adb()
    transport = open_transport(device.board())
    with transport:
        running = transport.start(["sh", "-c", "echo up; exec cat"])
        assert running.readline(30) == "up"
        device.process.kill()
        began = time.monotonic()
        with pytest.raises(DeviceError, match=f"connection to board 'phone' .*{device.serial}.* was lost"):
            if doing == "waiting":
                running.wait(60)
            elif doing == "reading":
                running.readline(60)
            else:
                while True:
                    running.write(bytes(1 << 16))
                    time.sleep(0.01)
        for call in (lambda: transport.run(["true"]), lambda: transport.sha256("/x"), lambda: transport.push(device.home, "/x")):
            with pytest.raises(DeviceError, match=r"'phone' .*127"):
                call()
        running.kill()
        assert time.monotonic() - began < 20
    device.process.wait()
    device.process.stdout.close()
    device.start()
    with transport:
        assert transport.run(["echo", "again"]).stdout == "again\n"


def test_frozen_in_mid_command(new_adb):
    """A device that hangs is met by the command's limit, and by a short one for the attempt to end it."""
    device = new_adb()
    with open_transport(device.board()) as transport:
        running = transport.start(["sh", "-c", "echo up; exec sleep 60"])
        assert running.readline(30) == "up"
        os.kill(device.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"limit of 0.5 s and could not be ended there"):
            running.wait(0.5)
        with pytest.raises(DeviceError, match=r"limit of 0.5 s and could not be ended there"):
            transport.run(["true"], timeout_s=0.5)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("behaviour", ["hang_up", "freeze"])
def test_cut_in_the_middle_of_a_push(new_adb, tmp_path, behaviour):
    device = new_adb(f"{behaviour}={10 << 20}")
    source, target = tmp_path / "source", device.home / "folder" / "file"
    source.write_bytes(b"of the time before")
    transport = open_transport(device.board(stall_s="1"))
    shares = []
    with transport:
        transport.push(source, str(target))
        source.write_bytes(os.urandom(20 << 20))
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"board 'phone' .*127"):
            transport.push(source, str(target), progress=shares.append)
        assert time.monotonic() - began < 60 and max(shares) < 1
    assert target.read_bytes() == b"of the time before"
    device.process.kill()
    device.process.wait()
    device.process.stdout.close()
    device.behaviour = ()
    device.start()
    with transport:
        transport.push(source, str(target))
    assert target.read_bytes() == source.read_bytes() and [file.name for file in target.parent.iterdir()] == ["file"]


def test_corrupted_on_the_way(new_adb, tmp_path):
    """One bit of what the device stores is another: the client says that all went well, the checksum does not."""
    device = new_adb("corrupt")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    with open_transport(device.board()) as transport:
        with pytest.raises(DeviceError, match="source arrived changed on board 'phone'"):
            transport.push(source, "~/file")
    assert list(device.home.iterdir()) == []


# ---- what the exit code's way must not harm --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "err"),
    [
        ("printf 'no newline' >&2; exit 7", 7, "no newline"),
        (r"printf '\036' >&2; exit 8", 8, "\x1e"),
        (r"printf '\036edgewright-exi' >&2; exit 9", 9, "\x1eedgewright-exi"),
        ("exec 2>&-; exit 10", 10, ""),
        ("exec >&- 2>&- <&-; exit 11", 11, ""),
        ("trap '' TERM HUP; exit 12", 12, ""),
        ("kill -15 $$", 143, "Terminated\n"),
    ],
)
def test_codes_and_error_output(adb_board, script, code, err):
    with open_transport(adb_board) as transport:
        done = transport.run(["sh", "-c", script])
        assert (done.code, done.stderr) == (code, err)


def test_a_client_that_is_gone_leaves_nothing_open(new_adb, tmp_path):
    client, source = tmp_path / "adb", tmp_path / "source"
    client.symlink_to(shutil.which("adb"))
    source.write_bytes(b"x")
    with open_transport(new_adb().board(adb=str(client))) as transport:
        client.unlink()
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(DeviceError, match="the adb client cannot be started for board 'phone'"):
            transport._send(source, "/data/local/tmp/source", lambda sent: None)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
