"""What tests of the whole share: small trained models, and a cache of their own."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright import cli


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folder of small trained models and their data; see small_models.py."""
    folder = tmp_path_factory.mktemp("trained")
    script = Path(__file__).with_name("small_models.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a window."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = binary
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"),
        *("disable-sync", "no-first-run", "window-size=1440,900", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache and history."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, no settings of the user's own, no EDGEWRIGHT_* variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("EDGEWRIGHT_") and name != "EDGEWRIGHT_CACHE"]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def here(place, monkeypatch, capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgewright", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ending:
            cli.main()
        signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return ending.value.code, out, err

    return call
