"""Which wheel of a folder is taken for a board."""

import zipfile

import pytest

from edgewright.devices.packages import choose_wheels

BOARD = {"python": [3, 11, 2], "machine": "aarch64", "libc": ["glibc", "2.36"]}


@pytest.mark.parametrize(
    "versions",
    [
        ["1.9", "1.10"],
        ["1.0rc9", "1.0rc10"],
        ["1.0.dev3", "1.0a2", "1.0b1", "1.0rc1", "1.0", "1.0.post9", "1.0.post10", "1.0.1rc1"],
    ],
)
def test_the_newest_release_is_taken(tmp_path, versions):
    for count, version in enumerate(versions, 1):
        with zipfile.ZipFile(tmp_path / f"numpy-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("numpy.py", "")
        (chosen,) = choose_wheels(tmp_path, BOARD)
        assert chosen.version == versions[count - 1]
