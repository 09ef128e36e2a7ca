"""A device daemon for the real adb client, over TCP: shell_v2 with exit codes and input, sync version 1.

Written from the protocol as its documents in Android's sources state it (protocol.txt, SYNC.TXT, SERVICES.TXT). Runs as
`python adb_daemon.py PORT [behaviour ...]`; a behaviour is `unauthorized`, `silent` (accepts and says nothing), `no_shell_v2`,
`corrupt` (flips one bit of every file that it is sent), `hang_up=BYTES` (cuts the connection after so many bytes of files) or
`freeze=BYTES` (stops reading then).
"""

import os
import queue
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

A_CNXN, A_AUTH, A_OPEN, A_OKAY, A_CLSE, A_WRTE = (int.from_bytes(name, "little") for name in (
    b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE"
))  # fmt: skip
VERSION, MAX_DATA = 0x01000000, 256 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


class Cut(Exception):
    """The connection or the stream is gone."""


class Connection:
    """One adb server that has connected."""

    def __init__(self, sock, behaviour):
        self.sock = sock
        self.behaviour = behaviour
        self.sending = threading.Lock()
        self.streams = {}
        self.next = 1
        self.received = 0

    def send(self, command, arg0, arg1, data=b""):
        header = struct.pack("<6I", command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.sending:
            try:
                self.sock.sendall(header + data)
            except OSError as error:
                raise Cut from error

    def exactly(self, size):
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self.sock.recv(size - len(data))
            except OSError as error:
                raise Cut from error
            if not chunk:
                raise Cut
            data += chunk
        return bytes(data)

    def serve(self):
        try:
            while True:
                command, arg0, arg1, size, _, magic = struct.unpack("<6I", self.exactly(24))
                if magic != command ^ 0xFFFFFFFF:
                    raise Cut
                self.handle(command, arg0, arg1, self.exactly(size))
        except Cut:
            self.hang_up()

    def hang_up(self):
        for stream in list(self.streams.values()):
            stream.cut()
        self.sock.close()

    def handle(self, command, arg0, arg1, data):
        if command == A_CNXN:
            if "silent" in self.behaviour:
                return
            if "unauthorized" in self.behaviour:
                self.send(A_AUTH, 1, 0, os.urandom(20))
                return
            features = "cmd" if "no_shell_v2" in self.behaviour else "shell_v2,cmd"
            banner = f"device::ro.product.name=board;ro.product.model=Board;ro.product.device=board;features={features}"
            self.send(A_CNXN, VERSION, MAX_DATA, banner.encode())
        elif command == A_OPEN:
            self.open(arg0, data.rstrip(b"\0"))
        elif stream := self.streams.get(arg1):
            if command == A_WRTE:
                stream.arrived.put(data)
            elif command == A_OKAY:
                stream.credit.release()
            elif command == A_CLSE:
                stream.cut()
        elif command == A_WRTE:
            self.send(A_CLSE, 0, arg0)

    def open(self, remote, service):
        name, _, rest = service.partition(b":")
        kind = {b"shell": shell, b"sync": sync}.get(name.split(b",")[0])
        if kind is None:
            self.send(A_CLSE, 0, remote)
            return
        stream = Stream(self, self.next, remote)
        self.streams[self.next] = stream
        self.next += 1
        self.send(A_OKAY, stream.local, remote)
        threading.Thread(target=stream.run, args=(kind, rest), daemon=True).start()


class Stream:
    """One service's two-way stream; one WRTE is on its way at a time, as the protocol asks."""

    def __init__(self, connection, local, remote):
        self.connection = connection
        self.local = local
        self.remote = remote
        self.arrived = queue.Queue()
        self.credit = threading.Semaphore(1)
        self.gone = False
        self.buffer = b""

    def run(self, kind, rest):
        try:
            kind(self, rest)
        except Cut:
            pass
        finally:
            self.connection.streams.pop(self.local, None)
            try:
                self.connection.send(A_CLSE, self.local, self.remote)
            except Cut:
                pass

    def cut(self):
        self.gone = True
        self.arrived.put(None)
        self.credit.release()

    def write(self, data):
        for begin in range(0, len(data), MAX_DATA):
            self.credit.acquire()
            if self.gone:
                raise Cut
            self.connection.send(A_WRTE, self.local, self.remote, data[begin : begin + MAX_DATA])

    def exactly(self, size):
        while len(self.buffer) < size:
            data = self.arrived.get()
            if data is None:
                raise Cut
            self.connection.send(A_OKAY, self.local, self.remote)
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data


def shell(stream, command):
    """`shell,v2,raw:COMMAND`: both outputs and the exit code in packets of their own, input likewise."""
    child = subprocess.Popen(
        [b"/bin/sh", b"-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": "/", "ANDROID_ROOT": "/system", "LANG": "C.UTF-8"},
    )
    writing = threading.Lock()

    def relay(pipe, number):
        try:
            while data := pipe.read(65536):
                with writing:
                    stream.write(struct.pack("<BI", number, len(data)) + data)
        except Cut:
            pass
        pipe.close()

    def feed():
        try:
            while True:
                number, size = struct.unpack("<BI", stream.exactly(5))
                data = stream.exactly(size)
                if number == STDIN:
                    while data:
                        data = data[child.stdin.write(data) :]
                elif number == CLOSE_STDIN:
                    child.stdin.close()
        except (Cut, OSError, ValueError):
            pass
        try:
            child.stdin.close()
        except OSError:
            pass

    threads = [
        threading.Thread(target=relay, args=pair, daemon=True) for pair in ((child.stdout, STDOUT), (child.stderr, STDERR))
    ]
    threading.Thread(target=feed, daemon=True).start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = child.wait()
    stream.write(struct.pack("<BIB", EXIT, 1, (128 - code if code < 0 else code) & 255))
    time.sleep(0.01)


def sync(stream, _):
    """The file service: requests of four letters, a number and that many bytes."""
    while True:
        name, size = struct.unpack("<4sI", stream.exactly(8))
        if name == b"QUIT":
            return
        path = os.fsdecode(stream.exactly(size))
        if name == b"STAT":
            stream.write(b"STAT" + status(path))
        elif name == b"SEND":
            receive(stream, *path.rsplit(",", 1))
        elif name == b"RECV":
            transmit(stream, path)
        else:
            fail(stream, f"unknown request {name!r}")


def status(path):
    try:
        found = os.lstat(path)
    except OSError:
        return struct.pack("<3I", 0, 0, 0)
    return struct.pack("<3I", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def receive(stream, path, mode):
    """Take a file; what goes wrong is told at its end, as adbd does."""
    connection, why, handle = stream.connection, "", None
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = Path(path).open("wb", buffering=0)
    except OSError as error:
        why = f"couldn't create file: {error.strerror}"
    while True:
        name, size = struct.unpack("<4sI", stream.exactly(8))
        if name == b"DONE":
            break
        data = stream.exactly(size)
        connection.received += size
        misbehave(connection)
        if "corrupt" in connection.behaviour:
            data = bytes([data[0] ^ 1]) + data[1:]
        try:
            while handle and not why and data:
                data = data[handle.write(data) :]
        except OSError as error:
            why = f"couldn't write to file: {error.strerror}"
            Path(path).unlink()
    if handle:
        handle.close()
    if why:
        fail(stream, why)
    else:
        Path(path).chmod(stat.S_IMODE(int(mode)))
        stream.write(struct.pack("<4sI", b"OKAY", 0))


def misbehave(connection):
    limits = dict(one.split("=") for one in connection.behaviour if "=" in one)
    if connection.received >= int(limits.get("hang_up", 1 << 60)):
        connection.hang_up()
        raise Cut
    if connection.received >= int(limits.get("freeze", 1 << 60)):
        os.kill(os.getpid(), signal.SIGSTOP)


def transmit(stream, path):
    try:
        with Path(path).open("rb") as handle:
            while data := handle.read(65536):
                stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        stream.write(struct.pack("<4sI", b"DONE", 0))
    except OSError as error:
        fail(stream, f"open failed: {error.strerror}")


def fail(stream, why):
    stream.write(struct.pack("<4sI", b"FAIL", len(why.encode())) + why.encode())


def main():
    """Serve connections until killed; prints "ready" when it listens."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    os.write(1, b"ready\n")
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(sock, sys.argv[2:]).serve, daemon=True).start()


if __name__ == "__main__":
    main()
