"""Child processes: every way in which one can end is one named error, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from edgewright.errors import (
    EdgewrightError,
    ModelError,
    WorkerCrashError,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from edgewright.worker import ENVIRONMENT, Limits, Worker, progress, run

FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def jobs_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))


@pytest.fixture
def worker():
    with Worker(Limits(timeout_s=60)) as child:
        yield child


def call(worker, name, what="reading model.x", **arguments):
    return worker.call(f"worker_jobs:{name}", what=what, **arguments)


def alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_result_and_reuse(worker):
    first = call(worker, "pid")
    assert call(worker, "add", a=1, b=2.5) == 3.5
    assert call(worker, "pid") == first != os.getpid()


def test_run_uses_a_child_of_its_own():
    pids = {run("worker_jobs:pid", what="x") for _ in range(2)}
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("job", "arguments", "error", "text"),
    [
        ("segfault", {}, WorkerCrashError, "reading model.x crashed (SIGSEGV in a library underneath)"),
        ("abort", {}, WorkerCrashError, "reading model.x crashed (SIGABRT in a library underneath)"),
        ("leave", {"code": 3}, WorkerCrashError, "reading model.x ended without an answer (exit code 3"),
        ("leave", {"code": 0}, WorkerCrashError, "reading model.x ended without an answer (exit code 0"),
        ("bad_alloc", {}, WorkerMemoryError, "reading model.x was killed, most likely because memory ran out"),
        ("closes_channel", {}, WorkerCrashError, "reading model.x stopped answering"),
    ],
)
def test_death(worker, job, arguments, error, text):
    with pytest.raises(error) as caught:
        call(worker, job, **arguments)
    assert str(caught.value).startswith(text)
    assert caught.value.hint
    with pytest.raises(WorkerError, match=r"^writing y was not done, its process had ended: reading model.x"):
        call(worker, "pid", what="writing y")


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        ("raises", WorkerError, "reading model.x failed: KeyError: 'a missing thing\\nsecond line'"),
        ("exits", WorkerError, "reading model.x failed: SystemExit: converter gave up"),
        ("memory_error", WorkerMemoryError, "reading model.x ran out of memory"),
        ("not_json", WorkerError, "reading model.x failed: TypeError"),
        ("no_such_job", WorkerError, "reading model.x failed: AttributeError"),
    ],
)
def test_exceptions_leave_the_child_usable(worker, job, error, text):
    with pytest.raises(error) as caught:
        call(worker, job)
    assert type(caught.value) is error
    assert caught.value.message.startswith(text)
    assert "Traceback" not in str(caught.value)
    assert call(worker, "add", a=1, b=1) == 2


def test_own_errors_come_back_as_they_were(worker):
    with pytest.raises(ModelError) as caught:
        call(worker, "refuses")
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == ("m.tflite is corrupt", "copy it again", 1)


@pytest.mark.parametrize("job", ["sleeps", "floods"])
def test_time_limit(job):
    with Worker(Limits(timeout_s=1)) as child:
        with pytest.raises(WorkerTimeoutError, match=r"reading model.x took longer than the limit of 1 s"):
            call(child, job, seconds=60)
        assert child._process.poll() == -signal.SIGKILL
        with pytest.raises(WorkerError, match="was not done, its process had ended: reading model"):
            call(child, "pid")


def test_the_time_of_queued_jobs_is_their_own():
    with Worker(Limits(timeout_s=2)) as child:
        jobs = [child.submit("worker_jobs:sleeps", what=f"job {i}", seconds=0.9) for i in range(4)]
        assert jobs[-1].result() == 0.9


def test_memory_limit():
    with Worker(Limits(timeout_s=60, memory_bytes=150 << 20)) as child:
        assert call(child, "allocates", mebibytes=20, seconds=0) == 20 << 20
        with pytest.raises(WorkerMemoryError, match=r"reading model.x needed more than 150 MiB of memory and was stopped"):
            call(child, "allocates", mebibytes=400, seconds=30)
        assert child.peak_bytes > 150 << 20


def test_peak_is_measured(worker):
    call(worker, "allocates", mebibytes=120, seconds=0)
    assert worker.peak_bytes > 120 << 20


def test_killed_from_outside(worker):
    job = worker.submit("worker_jobs:sleeps", what="reading model.x", seconds=60)
    threading.Timer(0.3, os.kill, (call_pid := worker._process.pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerMemoryError, match=r"reading model.x was killed, most likely because memory ran out"):
        job.result()
    assert not Path(f"/proc/{call_pid}").exists()


def test_progress_is_that_of_the_job_itself(worker):
    seen, other = [], []
    first = worker.submit("worker_jobs:counts", what="a", on_progress=lambda *p: other.append(p), to=2)
    assert worker.call("worker_jobs:counts", what="b", on_progress=lambda *p: seen.append(p), to=3) == 3
    assert seen == [(1 / 3, "step 1"), (2 / 3, "step 2"), (1.0, "step 3")]
    assert first.result() == 2
    progress(0.5, "outside of a worker this does nothing")


def test_queued_jobs_may_be_awaited_in_any_order(worker):
    jobs = [worker.submit("worker_jobs:add", what="x", a=i, b=i) for i in range(5)]
    failing = worker.submit("worker_jobs:refuses", what="x")
    assert [job.result() for job in reversed(jobs)] == [8, 6, 4, 2, 0]
    with pytest.raises(ModelError):
        failing.result()


def test_jobs_queued_before_a_crash_are_answered_and_later_ones_refused(worker):
    jobs = [worker.submit(f"worker_jobs:{name}", what=name) for name in ("pid", "segfault", "pid")]
    assert jobs[0].result() == worker._process.pid
    with pytest.raises(WorkerCrashError, match="segfault crashed"):
        jobs[1].result()
    with pytest.raises(WorkerError, match="pid was not done"):
        jobs[2].result()


def test_noise_of_libraries_does_not_reach_the_protocol(worker):
    assert call(worker, "noisy") == ""
    assert call(worker, "add", a=1, b=1) == 2


def test_closing_ends_the_childs_own_children(worker):
    grandchild = call(worker, "starts_child")
    assert alive(grandchild)
    worker.close()
    worker.close()
    assert wait_for(lambda: not alive(grandchild))


def test_a_crash_ends_the_childs_own_children(worker, tmp_path):
    with pytest.raises(WorkerCrashError):
        call(worker, "starts_child_and_crashes", pid_file=str(tmp_path / "pid"))
    assert wait_for(lambda: not alive((tmp_path / "pid").read_text()))


PARENT = """
import sys
from edgewright.worker import Worker
child = Worker()
job = child.submit(sys.argv[1], what="x", **eval(sys.argv[2]))
print(child._process.pid, flush=True)
job.result()
"""


@pytest.mark.parametrize("job", ["sleeps", "hangs_without_releasing_the_lock"])
def test_the_child_dies_with_its_parent(tmp_path, job):
    pid_file = tmp_path / "pid"
    arguments = {"seconds": 600} if job == "sleeps" else {"pid_file": str(pid_file)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, f"worker_jobs:{job}", repr(arguments)], stdout=subprocess.PIPE)
    with parent:
        child = int(parent.stdout.readline())
        if job != "sleeps":
            assert wait_for(pid_file.exists)
        time.sleep(0.3)
        assert alive(child)
        parent.kill()
    assert wait_for(lambda: not alive(child))


def test_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    threads = threading.active_count()
    for job in ("pid", "segfault", "raises", "leaves_files"):
        with Worker() as child:
            pid = child._process.pid
            try:
                call(child, job)
            except EdgewrightError as error:
                assert job != "pid", error
        assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() == threads


def test_two_workers_at_once_do_not_hold_each_others_pipes(worker):
    with Worker() as second:
        pid = call(second, "pid")
        worker.close()
        assert call(second, "pid") == pid


def test_environment(worker, monkeypatch):
    found = call(worker, "environment")
    assert {name: found[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert found["PYTHONPATH"] == str(FOLDER)


def test_libraries_write_nothing_at_home_and_reach_for_no_address(tmp_path, monkeypatch):
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(scratch))
    for name in list(os.environ):
        if name.startswith("XDG_"):
            monkeypatch.delenv(name)
    with Worker(Limits(timeout_s=200)) as child:
        found = call(child, "imports", names=["openvino", "nncf", "tensorflow", "keras", "tf_keras"])
    assert found == {"events": [], "warned": []}
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["home", "scratch"]
