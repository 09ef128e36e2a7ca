"""What contract suites share whose jobs run in a child process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewright.worker import Worker

__all__ = ["InChild"]


class InChild:
    """Gives the tests of a class one child process for all their jobs."""

    @pytest.fixture(scope="class")
    @classmethod
    def child(cls) -> Iterator[Worker]:
        """The child process."""
        with Worker() as worker:
            yield worker
