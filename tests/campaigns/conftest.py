"""The fixture that campaigns count with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.campaigns.machinery import Campaign, import_all


@pytest.fixture
def campaign(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Campaign]:
    """Counts of this test, checked and shown at its end."""
    import_all()
    name = f"{request.path.stem}::{request.node.name}".replace("test_", "")
    made = Campaign(name, request.config.getoption("campaign_seed"), request.config.getoption("campaign_size"))
    yield made
    record_property("campaign", made.row())
    made.check()
