"""How tests look at a page in Chromium; the browser itself is a fixture of conftest.py."""

from typing import Any


def emulate(browser: Any, width: int, scheme: str = "light") -> None:
    """Let the page think that it is shown on a screen of this width, in this colour scheme."""
    size = {"width": width, "height": 844 if width < 600 else 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
