"""SSH against the real OpenSSH server: who is let in, who is believed, and what happens when the line breaks."""

import dataclasses
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from ssh_server import free_port, new_key

from edgewright.devices.boards import Board
from edgewright.devices.transport import open_transport
from edgewright.devices.transports.ssh import Address
from edgewright.errors import DeviceError, MissingPackageError


def refused(board, match):
    """The error of a board that does not open; it comes in bounded time."""
    began = time.monotonic()
    with pytest.raises(DeviceError, match=match) as caught:
        open_transport(board).open()
    assert board.name in caught.value.message and caught.value.hint
    assert time.monotonic() - began < 30
    return caught.value


def do(hint):
    """Run the command line that a hint ends with."""
    line = hint.rpartition("run: ")[2]
    subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)


def works(board):
    with open_transport(board) as transport:
        return transport.run(["echo", "hello"]).stdout == "hello\n"


# ---- host keys -------------------------------------------------------------------------------------------------------


def test_an_unknown_host_key_is_refused_and_the_hint_makes_it_known(sshd, tmp_path):
    board = sshd.board(known_hosts=str(tmp_path / "known hosts"))
    error = refused(board, "host key of board 'pi' .* is unknown")
    found = subprocess.run(["ssh-keygen", "-lf", sshd.folder / "host_key.pub"], check=True, capture_output=True, text=True)
    assert found.stdout.split()[1] in error.message and "ssh-keyscan" in error.hint
    do(error.hint)
    assert works(board)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_changed_host_key_is_named_as_such_and_the_hint_takes_the_new_one(sshd, tmp_path, kind):
    known = tmp_path / "known_hosts"
    other = new_key(tmp_path / "other", kind=kind).with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other)}\n")
    board = sshd.board(known_hosts=str(known))
    error = refused(board, "host key of board 'pi' .* has changed")
    assert "somebody" in error.hint
    do(error.hint)
    assert works(board)


def test_no_setting_of_ssh_switches_the_check_off(sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    board = dataclasses.replace(sshd.board(), options={"identity_file": str(sshd.key)})
    refused(board, "host key .* unknown")
    (tmp_path / ".ssh/known_hosts").write_text(sshd.known_hosts.read_text())
    assert works(board)


def test_a_revoked_host_key_is_refused(sshd, tmp_path):
    known = tmp_path / "known_hosts"
    known.write_text(f"@revoked {sshd.known_hosts.read_text()}{sshd.known_hosts.read_text()}")
    refused(sshd.board(known_hosts=str(known)), "revoked")


def test_hashed_names_are_found(sshd, tmp_path):
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert "127.0.0.1" not in known.read_text()
    assert works(sshd.board(known_hosts=str(known)))


# ---- the user's keys and settings ------------------------------------------------------------------------------------


def test_the_users_config_and_default_files(sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    shutil.copy(sshd.key, ssh / "id_ed25519")
    (ssh / "known_hosts").write_text(f"pi.of.mine {sshd.host_key()}\n")
    (ssh / "config").write_text(
        f"Host pi\n  HostName 127.0.0.1\n  HostKeyAlias pi.of.mine\n  Port {sshd.port}\n  User {sshd.user}\n"
    )
    assert works(Board("pi", "Pi", "", "ssh", address="pi"))


def test_keys_of_the_agent(sshd, tmp_path, monkeypatch):
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed (apt install openssh-client)")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = f"/tmp/edgewright-agent-{os.getpid()}"  # a socket's path may have 107 bytes at most
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not os.path.exists(place) and time.monotonic() < deadline:  # noqa: PTH110
            time.sleep(0.05)
        monkeypatch.setenv("SSH_AUTH_SOCK", place)
        board = dataclasses.replace(sshd.board(), options={"known_hosts": str(sshd.known_hosts)})
        refused(board, "accepts none of this user's keys")
        subprocess.run(["ssh-add", "-q", sshd.key], check=True, capture_output=True)
        assert works(board)
    finally:
        agent.terminate()
        agent.wait(10)


def test_keys_that_do_not_fit(sshd, tmp_path):
    other, locked, broken = new_key(tmp_path / "other"), new_key(tmp_path / "locked", "secret"), tmp_path / "broken"
    broken.write_text("no key\n")
    error = refused(sshd.board(identity_file=str(other)), f"accepts none of this user's keys for '{sshd.user}'")
    assert f"ssh-copy-id -p {sshd.port} {sshd.user}@127.0.0.1" in error.hint
    assert "ssh-add" in refused(sshd.board(identity_file=str(locked)), "passphrase").hint
    refused(sshd.board(identity_file=str(broken)), "cannot be read")
    assert "identity_file" in refused(sshd.board(identity_file=str(tmp_path / "absent")), "is not there: .*absent").hint


def test_a_config_that_cannot_be_read(sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Port many\n")
    refused(dataclasses.replace(sshd.board(), address="127.0.0.1"), "cannot be read")


def test_without_the_package(ssh_board, monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(MissingPackageError, match="asyncssh") as caught:
        open_transport(ssh_board).open()
    assert "edgewright[ssh]" in caught.value.hint


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_addresses():
    assert Address.of("pi@10.0.0.7:2222", "it") == Address("10.0.0.7", "pi", 2222)
    assert Address.of("board", "it") == Address("board")
    assert Address.of("a@[fe80::1%eth0]:22", "it") == Address("fe80::1%eth0", "a", 22)
    for text in ("", "a b", "host:", "host:x", "host:99999", "host:0", "a@b@c", "[::1", "fe80::1"):
        with pytest.raises(DeviceError, match="it is no SSH address"):
            Address.of(text, "it")


def test_nobody_there(sshd):
    board = sshd.board()
    refused(dataclasses.replace(board, address=f"root@127.0.0.1:{free_port()}"), "refuses SSH connections at 127.0.0.1:")
    refused(dataclasses.replace(board, address="root@no-such-host.invalid"), "not known: 'no-such-host.invalid'")
    refused(dataclasses.replace(board, options={**board.options, "connect_timeout_s": "soon"}), "'soon', no number")
    refused(dataclasses.replace(board, options={**board.options, "keepalive_s": "0"}), "'0', no number above 0")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-odd\r\n" + bytes(200), None])
def test_something_else_there(sshd, greeting):
    """A server that says nothing, something else, rubbish, or hangs up at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, clients = server.getsockname()[1], []

        def serve():
            client, _ = server.accept()
            if greeting is None:
                client.close()
                return
            client.sendall(greeting)
            clients.append(client)

        thread = threading.Thread(target=serve)
        thread.start()
        board = sshd.board(connect_timeout_s="1")
        quiet = greeting is not None and not greeting.startswith(b"SSH")  # lines before SSH's own are allowed
        match = "did not answer within 1 s" if quiet else "broke off while connecting|connection (reset|lost)"
        refused(dataclasses.replace(board, address=f"root@127.0.0.1:{port}"), match)
        thread.join()
        for client in clients:
            client.close()


# ---- jump hosts ------------------------------------------------------------------------------------------------------


def test_jump_hosts(sshd, new_sshd):
    first, second = new_sshd(), new_sshd("PermitOpen none\n")
    known = sshd.folder / "known_of_all"
    known.write_text(sshd.known_hosts.read_text() + first.known_hosts.read_text() + second.known_hosts.read_text())
    for server in (first, second):
        shutil.copy(sshd.folder / "authorized_keys", server.folder / "authorized_keys")
    board = sshd.board(known_hosts=str(known), jump=first.address)
    with open_transport(board) as transport:
        assert transport.run(["sh", "-c", "echo $HOME"]).stdout.strip() == str(sshd.home)
        assert first.connections()
        first.hang_up()
        with pytest.raises(DeviceError, match=r"connection to board 'pi' .* was lost"):
            transport.run(["sleep", "20"])
    refused(sshd.board(known_hosts=str(known), jump=second.address), "board 'pi' .*cannot be reached|broke off")
    first.stop()
    refused(board, f"the jump host 127.0.0.1 of board 'pi' refuses SSH connections at 127.0.0.1:{first.port}")


def test_the_jump_hosts_key_is_checked_as_well(sshd, new_sshd):
    jump = new_sshd()
    shutil.copy(sshd.folder / "authorized_keys", jump.folder / "authorized_keys")
    error = refused(sshd.board(jump=jump.address), "host key of the jump host 127.0.0.1 of board 'pi' is unknown")
    assert f"ssh-keyscan -p {jump.port}" in error.hint
    error = refused(sshd.board(jump=jump.address, known_hosts=str(jump.known_hosts)), r"host key of board 'pi' .*is unknown")
    assert f"-J {jump.address}" in error.hint


def test_two_jumps_and_those_of_the_users_config(sshd, new_sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    jumps = [new_sshd(), new_sshd()]
    for jump in jumps:
        shutil.copy(sshd.folder / "authorized_keys", jump.folder / "authorized_keys")
    known = "".join(server.known_hosts.read_text() for server in (sshd, *jumps))
    (tmp_path / ".ssh/known_hosts").write_text(known)
    options = {"identity_file": str(sshd.key), "jump": ",".join(jump.address for jump in jumps)}
    with open_transport(dataclasses.replace(sshd.board(), options=options)) as transport:
        assert transport.run(["echo", "x"]).stdout == "x\n" and all(jump.connections() for jump in jumps)
    shutil.copy(sshd.key, tmp_path / ".ssh/id_ed25519")
    (tmp_path / ".ssh/config").write_text(f"Match host 127.0.0.1 port {sshd.port}\n  ProxyJump {jumps[0].address}\n")
    (tmp_path / ".ssh/config").write_text(
        f"Host pi\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  ProxyJump {jumps[0].address}\n"
    )
    with open_transport(Board("pi", "Pi", "", "ssh", address="pi")) as transport:
        assert transport.run(["echo", "x"]).stdout == "x\n" and jumps[0].connections() and not jumps[1].connections()


# ---- a line that breaks ----------------------------------------------------------------------------------------------


def test_killed_in_mid_command(new_sshd):
    server = new_sshd()
    board = server.board()
    transport = open_transport(board)
    with transport:
        running = [transport.start(["sh", "-c", "echo up; exec sleep 60"]) for _ in range(2)]
        assert [one.readline(30) for one in running] == ["up", "up"]
        server.signal(signal.SIGKILL)
        began = time.monotonic()
        for one in running:
            with pytest.raises(DeviceError, match=f"connection to board 'pi' .*{server.port}.* was lost"):
                one.wait(60)
            with pytest.raises(DeviceError, match="lost"):
                one.write(b"x")
            with pytest.raises(DeviceError, match="lost"):
                one.readline(1)
            one.kill()
            one.close_stdin()
        for call in (
            lambda: transport.run(["true"]),
            lambda: transport.sha256("/x"),
            lambda: transport.push(server.key, "/tmp/x"),
        ):
            with pytest.raises(DeviceError, match=f"connection to board 'pi' .*{server.port}.* was lost"):
                call()
        assert time.monotonic() - began < 20
    refused(board, "refuses SSH connections")
    server.stop()
    server.start()
    with transport:
        assert transport.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.parametrize("doing", ["waiting", "writing", "starting"])
def test_stopped_in_mid_command(new_sshd, doing):
    """A server that does not answer any more is noticed by keep-alive, whatever the limit of the command."""
    server = new_sshd()
    with open_transport(server.board(keepalive_s="0.5")) as transport:
        running = transport.start(["sh", "-c", "echo up; exec cat > /dev/null"])
        assert running.readline(30) == "up"
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"connection to board 'pi' .* was lost: .*keepalive"):
            if doing == "waiting":
                running.wait(300)
            elif doing == "writing":
                for _ in range(1000):
                    running.write(bytes(1 << 20))
            else:
                transport.run(["true"], timeout_s=300)
        assert time.monotonic() - began < 20
        began = time.monotonic()
    assert time.monotonic() - began < 10


def test_stopped_and_a_shorter_limit(new_sshd):
    server = new_sshd()
    with open_transport(server.board()) as transport:
        running = transport.start(["sh", "-c", "echo up; exec sleep 60"])
        assert running.readline(30) == "up"
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"limit of 0.5 s and could not be ended there"):
            running.wait(0.5)
        assert time.monotonic() - began < 12


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_cut_in_the_middle_of_a_push(new_sshd, tmp_path, number):
    server = new_sshd()
    source, target = tmp_path / "source", tmp_path / "there" / "file"
    source.write_bytes(b"of the time before")
    transport = open_transport(server.board(keepalive_s="0.5"))
    with transport:
        transport.push(source, str(target))
        source.write_bytes(os.urandom(40 << 20))
        done = []

        def cut(share):
            if share > 0.3 and not done:
                done.append(share)
                server.signal(number)

        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"connection to board 'pi' .* was lost"):
            transport.push(source, str(target), progress=cut)
        assert done and time.monotonic() - began < 20
    assert target.read_bytes() == b"of the time before"
    server.stop()
    server.start()
    with transport:
        transport.push(source, str(target))
    assert target.read_bytes() == source.read_bytes()
    assert [file.name for file in target.parent.iterdir()] == ["file"]


def test_cut_in_the_middle_of_a_pull(new_sshd, tmp_path, monkeypatch):
    server = new_sshd()
    source, target = tmp_path / "source", tmp_path / "back" / "file"
    source.write_bytes(os.urandom(40 << 20))
    with open_transport(server.board()) as transport:
        begin = transport._begin

        def begin_and_cut(argv, env=None, sink=None):
            def once(data):
                server.hang_up()
                return sink(data)

            return begin(argv, env, sink and once)

        monkeypatch.setattr(transport, "_begin", begin_and_cut)
        with pytest.raises(DeviceError, match="lost"):
            transport.pull(str(source), target)
    assert list(target.parent.iterdir()) == []


def test_a_file_size_limit_there_is_told_in_its_words(new_sshd, tmp_path):
    server = new_sshd()
    (server.home / ".bashrc").write_text("ulimit -f 1024\n")
    if pwd.getpwuid(os.getuid()).pw_shell != "/bin/bash":
        pytest.skip("only bash reads a file at the beginning of commands over SSH")
    source = tmp_path / "source"
    source.write_bytes(bytes(8 << 20))
    with open_transport(server.board()) as transport:
        with pytest.raises(DeviceError, match=r"writing .*file.part failed on board 'pi'"):
            transport.push(source, str(tmp_path / "there" / "file"))
    assert list((tmp_path / "there").iterdir()) == []


# ---- boards that are odd ---------------------------------------------------------------------------------------------


def test_a_login_script_that_talks(new_sshd):
    if pwd.getpwuid(os.getuid()).pw_shell != "/bin/bash":
        pytest.skip("only bash reads a file at the beginning of commands over SSH")
    server = new_sshd()
    (server.home / ".bashrc").write_text("echo welcome; printf 'no newline'; echo warning >&2\n")
    with open_transport(server.board()) as transport:
        done = transport.run(["sh", "-c", "echo out; exit 2"])
        assert (done.code, done.stdout) == (2, "out\n")
        assert transport.home() == str(server.home)
        transport.push(server.key, "~/copy")
        assert (server.home / "copy").read_bytes() == server.key.read_bytes()


def test_a_board_without_sha256sum(new_sshd, tmp_path):
    """The board's own Python makes the checksum then; it may be a command of several words."""
    if pwd.getpwuid(os.getuid()).pw_shell != "/bin/bash":
        pytest.skip("only bash reads a file at the beginning of commands over SSH")
    server, programs = new_sshd(), tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "cat", "mkdir", "mv", "rm", "env"):
        (programs / name).symlink_to(shutil.which(name))
    (server.home / ".bashrc").write_text(f"PATH={shlex.quote(str(programs))}\n")
    board = dataclasses.replace(server.board(), python=f"{shutil.which('env')} PYTHONUTF8=1 {sys.executable}")
    with open_transport(board) as transport:
        assert transport.run(["sha256sum"]).code == 127
        transport.push(server.key, "~/it's here")
        found = subprocess.run(["sha256sum", server.key], check=True, capture_output=True, text=True).stdout.split()[0]
        assert transport.sha256("~/it's here") == found and transport.sha256("~/absent") is None
    with open_transport(dataclasses.replace(board, python="python3")) as transport:
        with pytest.raises(DeviceError, match=r"sha256 .* failed on board 'pi'"):
            transport.push(server.key, "~/other")
    assert sorted(file.name for file in server.home.iterdir()) == [".bashrc", "it's here"]


def test_no_thread_or_file_stays_open(ssh_board):
    def count():
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    works(ssh_board)
    before = count()
    for _ in range(5):
        works(ssh_board)
    deadline = time.monotonic() + 10
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert count() <= before
