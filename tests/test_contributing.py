"""The example of CONTRIBUTING.md works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys

import yaml

from tests.conftest import REPOSITORY


def test_the_regularizer_of_the_example() -> None:
    """In a process of its own, as it enters a registry."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,), (options,) = (re.findall(rf"```{language}\n(.*?)```", text, re.S) for language in ("python", "yaml"))
    section = yaml.safe_load(options)["search"]["regularizer"]
    script = f"""
from sr_nas.search.objective import *
from sr_nas.options.load import load_options
from sr_nas.options.search import SearchOptions
from annotated_types import Gt
{code}
options = load_options(SearchOptions, "options/sac_imdn.yml", ["search:regularizer={section}"])
alpha = {{label: ChoiceLogits(("a", "b", "c", "d"), torch.zeros(4)) for label in ("one", "two")}}
print(REGULARIZERS.build(options.search.regularizer)(alpha).item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout) - 1.3862943) < 1e-6  # log 4, the entropy of an even draw among four
