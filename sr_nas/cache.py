"""Where results that are costly to compute and cheap to keep lie between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return (and create) the folder for one kind of cached result.

    It lies in ``$SR_NAS_CACHE`` where that is set, else in ``$XDG_CACHE_HOME/sr_nas`` or ``~/.cache/sr_nas``. Deleting
    it loses nothing but time.
    """
    root = os.environ.get("SR_NAS_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sr_nas"
    folder = base / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
