"""Tests of a metric measure no more than they look at: see MEASURED in each file."""

from collections.abc import Iterator

import pytest
from few_metrics import measure_only


@pytest.fixture(scope="module", autouse=True)
def measured_metrics(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure the metrics whose modules a file names as MEASURED."""
    with pytest.MonkeyPatch.context() as patch:
        measure_only(patch, *request.module.MEASURED)
        yield
