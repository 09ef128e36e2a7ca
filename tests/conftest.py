"""What tests of the whole share: small trained models, and a cache of their own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folder of small trained models and their data; see small_models.py."""
    folder = tmp_path_factory.mktemp("trained")
    script = Path(__file__).with_name("small_models.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
