"""Jobs that misbehave, for the tests of the worker."""

import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from edgewright.errors import ModelError
from edgewright.worker import progress


def add(a, b):
    return a + b


def pid():
    return os.getpid()


def environment(*names):
    return {name: os.environ.get(name) for name in names or os.environ}


def segfault():
    ctypes.string_at(0)


def abort():
    os.abort()


def leave(code):
    os._exit(code)


def exits():
    sys.exit("converter gave up")


def raises():
    raise KeyError("a missing thing\nsecond line")


def refuses():
    raise ModelError("m.tflite is corrupt", hint="copy it again")


def memory_error():
    raise MemoryError


def bad_alloc():
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def sleeps(seconds):
    time.sleep(seconds)
    return seconds


def floods(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        progress(0.5, "busy")


def allocates(mebibytes, seconds):
    held = mmap.mmap(-1, mebibytes << 20)
    for at in range(0, mebibytes << 20, 4096):
        held[at] = 1
    time.sleep(seconds)
    return len(held)


def leaves_files():
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    Path(tempfile.mkdtemp(), "inner").write_text("x")
    os.kill(os.getpid(), signal.SIGSEGV)
    return name


def not_json():
    return {1, 2}


def counts(to):
    for number in range(to):
        progress((number + 1) / to, f"step {number + 1}")
    return to


def noisy():
    """Text on every channel that a library or its child process may write to, and a read of standard input."""
    sys.stdout.write('{"id": 1, "result": "forged"}\n')
    sys.stdout.flush()
    os.write(1, b"\xff\xfe not even text\n")
    ctypes.CDLL(None).puts(b"from C")
    subprocess.run(["cat"], timeout=5, check=True)
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    return sys.stdin.read()


def closes_channel():
    os.closerange(3, 100)
    time.sleep(60)


def starts_child():
    return subprocess.Popen(["sleep", "600"]).pid


def starts_child_and_crashes(pid_file):
    Path(pid_file).write_text(str(starts_child()))
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs_without_releasing_the_lock(pid_file):
    """A regular expression that backtracks for ages: no other Python thread runs meanwhile."""
    Path(pid_file).write_text(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 64 + "b")


def imports(names):
    """Import packages and report every address that was looked up, connected or sent to, and warnings about Keras' folder."""
    events = []
    watched = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}

    def hook(event, arguments):
        if event in watched:
            events.append(f"{event} {arguments[1:]}")

    sys.addaudithook(hook)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in names:
            __import__(name)
    time.sleep(1)  # telemetry is sent from threads
    return {"events": events, "warned": [str(w.message) for w in caught if os.environ["KERAS_HOME"] in str(w.message)]}
