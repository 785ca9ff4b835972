"""How many files a reader opens to follow a search, one of its steps, a training and a photo (``tools/walk.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest
from walk import walks

# Two of a search's and of a training's are what every run does since it has a report: its page and the drawing in it.
MOST = {"search": 42, "step": 12, "training": 32, "photo": 16}


@pytest.mark.long
def test_walks_stay_short(tmp_path: Path) -> None:
    entered = {name: set(files) for name, files in walks(tmp_path).items()}
    assert {name: len(files) for name, files in entered.items() if len(files) > MOST[name]} == {}
    # What each cannot do without: else the walk was not followed.
    assert {"jobs/search.py", "search/searcher.py", "spaces/imdn.py"} <= entered["search"]
    assert {"search/bilevel.py", "search/objective.py", "networks/imdn.py"} <= entered["step"] < entered["search"]
    assert {"trainer.py", "metrics.py", "jobs/train.py"} <= entered["training"]
    assert {"inference/tiles.py", "images/files.py"} <= entered["photo"]
