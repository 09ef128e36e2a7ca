"""The machine's facts, and the name that machines share whose latencies may be compared."""

import json
import os
import re

import pytest

from edgewright.runtime import machine as module
from edgewright.runtime.__main__ import probe
from edgewright.runtime.machine import fingerprint, machine


def test_facts() -> None:
    found = machine()
    assert list(found) == ["system", "release", "architecture", "cpu", "cores", "memory_bytes", "hostname"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["cpu"]
    assert json.loads(json.dumps(found)) == found


def test_probe_tells_the_same() -> None:
    assert probe()["machine"] == machine()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"hostname": "other"}, True),
        ({"release": "1.2.3"}, True),
        ({"memory_bytes": (8 << 30) + 4096 * 300}, True),
        ({"memory_bytes": 4 << 30}, False),
        ({"memory_bytes": None}, False),
        ({"cpu": "other"}, False),
        ({"cores": 3}, False),
        ({"architecture": "riscv64"}, False),
        ({"system": "Plan 9"}, False),
    ],
)
def test_fingerprint(change: dict[str, object], same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of one make share it; what changes latencies changes it."""
    facts = {**machine(), "memory_bytes": 8 << 30, "cores": 4}
    monkeypatch.setattr(module, "machine", lambda: facts)
    before = fingerprint()
    facts = {**facts, **change}
    assert re.fullmatch("[0-9a-f]{16}", fingerprint())
    assert (fingerprint() == before) is same


def test_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(module.Path, "read_text", gone)
    monkeypatch.setattr(module.os, "sysconf", gone)
    found = machine()
    assert found["memory_bytes"] is None
    assert found["cpu"]
    assert re.fullmatch("[0-9a-f]{16}", fingerprint())
