"""Photos that a page has sent: each in a folder of its own, upscaled one after the other, gone with the app."""

from __future__ import annotations

import math
import re
import secrets
import shutil
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock

import torch

from sr_nas.errors import UserError, reason
from sr_nas.export.model import load_model
from sr_nas.images.encode import FORMATS, encode, holds_profile
from sr_nas.images.files import CONVERTED, image_size, read_with_metadata
from sr_nas.images.resize import upscale_bicubic
from sr_nas.inference.images import upscale_files
from sr_nas.inference.optimize import for_inference
from sr_nas.runs.files import cache_folder, lock

SUFFIXES = (*FORMATS, *CONVERTED)
SIDES = ("before", "after", "overview")
"""What :meth:`PhotoQueue.view` shows."""
WINDOW = 1200
"""Side, in pixels of the result, of what a page shows at once: a browser does not hold the whole of a large picture."""


@dataclass
class Photo:
    """An uploaded file, ``name`` as the user calls it, and what has become of it; ``session`` is the browser that sent it."""

    session: str
    name: str
    model: str
    source: Path
    state: str = "waiting"  # running, done, failed
    share: float = 0.0
    message: str = ""
    size: tuple[int, int] = (0, 0)  # height and width of the upload
    result: Path = Path()
    scale: int = 1
    removed: bool = False
    job: Future[None] = field(default_factory=Future)

    @property
    def result_name(self) -> str:
        """Name under which a browser saves the result."""
        return f"{PurePosixPath(self.name).stem}_x{self.scale}{self.result.suffix}"

    def fail(self, error: Exception) -> None:
        """Keep an error as a sentence with the user's name of the file; a bug's traceback goes to the terminal."""
        text = reason(error) if isinstance(error, OSError) else str(error)
        if not isinstance(error, UserError | OSError):
            traceback.print_exception(error)
            text = f"an error of this program, {type(error).__name__}: its terminal shows more."
        text = re.sub(re.escape(str(self.source.parent)) + r"[\w/.]*\w", lambda _: self.name, text)
        self.state, self.message = "failed", text


class PhotoQueue:
    """Photos by their keys, which cannot be guessed, and the one thread that upscales them.

    They lie in a folder of the cache that is locked while the app lives. Folders that killed apps have left are removed first.
    ``models`` are names on the page -> what :func:`~sr_nas.export.model.load_model` takes, anew for every photo.
    """

    def __init__(self, models: Mapping[str, str | Path], most_pixels: float, device: torch.device) -> None:
        self.models, self.most_pixels, self.device = models, most_pixels, device
        self.photos: dict[str, Photo] = {}
        root = cache_folder("app")
        for folder in filter(Path.is_dir, root.iterdir()):
            with suppress(OSError), folder.with_suffix(".lock").open("a") as stream:
                lock(stream)  # that of an app which runs is locked
                shutil.rmtree(folder)
                folder.with_suffix(".lock").unlink()
        self.folder = root / secrets.token_hex(8)
        self._lock = self.folder.with_suffix(".lock").open("w")
        lock(self._lock)
        self.folder.mkdir(mode=0o700)
        self._worker, self._viewing = ThreadPoolExecutor(1), Lock()
        self._read = lru_cache(maxsize=2)(read_with_metadata)

    def new(self, session: str, name: str, model: str) -> tuple[str, Photo]:
        """Make the folder of an upload; return its key and the photo, whose ``source`` is to be written."""
        suffix, key = PurePosixPath(name).suffix.lower(), secrets.token_urlsafe(12)
        source = self.folder / key / f"photo{suffix if suffix in SUFFIXES else ''}"
        source.parent.mkdir()
        self.photos[key] = Photo(session, name[-200:], model, source)
        return key, self.photos[key]

    def enqueue(self, photo: Photo) -> None:
        """Let a photo that is written wait for its turn; if it fails, its ``message`` says why."""
        photo.job = self._worker.submit(self._upscale, photo)

    def remove(self, key: str) -> None:
        """Forget a photo and delete its files, at once or, while it is computed, after the tile at hand."""
        photo = self.photos.pop(key)
        photo.removed = True
        photo.job.cancel()
        photo.job.add_done_callback(lambda _: shutil.rmtree(photo.source.parent, ignore_errors=True))
        self._read.cache_clear()

    def close(self) -> None:
        """Stop, and delete everything."""
        for key in list(self.photos):
            self.remove(key)
        self._worker.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".lock").unlink(missing_ok=True)
        self._lock.close()

    def _upscale(self, photo: Photo) -> None:
        def progress(share: float) -> None:
            if photo.removed:
                raise UserError("removed")
            photo.share = share

        photo.state, started = "running", time.monotonic()
        try:
            photo.size = image_size(photo.source)
            if (pixels := math.prod(photo.size)) > self.most_pixels:
                most = f"{self.most_pixels / 1e6:g} of --max_megapixels; sr-nas inference takes any size."
                raise UserError(f"{photo.name}: {pixels / 1e6:.1f} megapixels are more than the {most}")
            if photo.model not in self.models:
                raise UserError(f"no network here is called '{photo.model}'.")
            network = load_model(self.models[photo.model])
            executed, engine = for_inference(network, "auto", self.device, pixels=pixels)
            folder, photo.scale = photo.source.parent / "result", network.scale
            [outcome] = upscale_files(executed, [photo.source], folder, device=self.device, progress=progress)
            if outcome.status == "failed":
                raise UserError(outcome.message)
            dropped = f"not in the output: {', '.join(outcome.dropped)}" if outcome.dropped else ""
            taken = f"{time.monotonic() - started:.1f} s by {engine} on {self.device}"
            photo.message = "; ".join(filter(None, (taken, outcome.message, dropped)))
            photo.result, photo.state = outcome.output, "done"
        except Exception as error:  # the page lives on, whatever happens to one photo
            photo.fail(error)

    def view(self, photo: Photo, side: str, x: float = 0.5, y: float = 0.5) -> bytes:
        """Return a part of a photo that is done, as PNG with its colour profile; x and y in 0..1 are its middle.

        ``side`` is ``"after"``, the result; ``"before"``, the bicubic enlargement of the same part; or ``"overview"``, the whole
        upload with at most 200 pixels a side.
        """
        with self._viewing:  # both sides are asked for together: decode once
            (lr, metadata), (sr, _) = self._read(photo.source), self._read(photo.result)
        side_lr, s, step = WINDOW // photo.scale, photo.scale, -(-max(lr.shape) // 200)
        top, left = (max(0, min(round(at * n - side_lr / 2), n - side_lr)) for at, n in zip((y, x), lr.shape, strict=False))
        lr_part = lr[::step, ::step] if side == "overview" else lr[top : top + side_lr, left : left + side_lr]
        sr_part = sr[top * s : (top + side_lr) * s, left * s : (left + side_lr) * s]
        part = {"overview": lr_part, "after": sr_part}.get(side)
        part = upscale_bicubic(lr_part, s) if part is None else part
        profile = metadata.icc_profile
        fits = profile and holds_profile(".png", part.shape[2], 8 * part.dtype.itemsize, profile)
        return encode(part, ".png", icc_profile=profile if fits else None)
