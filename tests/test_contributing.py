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
from collections.abc import Sequence
from typing import Annotated
import torch
from pydantic import Field
from torch import Tensor
from sr_nas.build import bound
from sr_nas.options.load import load_options
from sr_nas.options.search import SearchOptions
from sr_nas.registry import REGULARIZERS
{code}
options = load_options(SearchOptions, "options/sac_imdn.yml", ["search:regularizer={section}"])
print(bound(REGULARIZERS, options.search.regularizer)([torch.zeros(4), torch.zeros(4)]).item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout) - 1.3862943) < 1e-6  # log 4, the entropy of an even draw among four
