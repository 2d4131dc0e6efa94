"""What all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden files change by this flag alone, and are read before they are committed."""
    parser.addoption("--write-golden", action="store_true", help="write tests/parsers/golden anew")
