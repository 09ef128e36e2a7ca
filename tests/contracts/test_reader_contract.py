"""Every reader keeps the contract."""

import pytest

from edgewright.converters.readers import READERS
from edgewright.testing import ReaderCase, ReaderContract


class TestReaders(ReaderContract):
    @pytest.fixture(params=READERS.names())
    def case(self, request: pytest.FixtureRequest, reader_cases: dict[str, ReaderCase]) -> ReaderCase:
        return reader_cases[request.param]
