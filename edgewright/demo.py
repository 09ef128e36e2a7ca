"""The shipped example: a wearable-IMU classifier, compressed by two recipes for two targets, tested on held-out people."""

from __future__ import annotations

from pathlib import Path

from edgewright.compression import compress
from edgewright.planning import Watch
from edgewright.report import CompressReport
from edgewright.summary import save_report

__all__ = ["FILES", "RECIPES", "run_demo"]

FILES = Path(__file__).with_name("demo_data")

RECIPES = ("float16", "int8")


def run_demo(out: Path, *, cache: Path | None = None, watch: Watch | None = None) -> tuple[CompressReport, list[Path]]:
    """Compress the shipped model by the recipes float16 and int8 for TFLite and OpenVINO; evaluate and measure each file.

    Args:
        out: folder for files and report.
        cache: folder of the cache; None takes the default.
        watch: follows the run.

    Returns:
        The report, and the files that it was written to.
    """
    report = compress(
        FILES / "watch.keras",
        out,
        recipe=RECIPES,
        samples=FILES / "watch_calib.npz",
        evaluation=FILES / "watch_test.npz",
        cache=cache,
        watch=watch,
    )
    return report, save_report(report, out, cache)
