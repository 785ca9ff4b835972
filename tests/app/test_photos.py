"""Photos of the page without a browser: results, views, order, limits, what is removed, and who may ask for what."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from sr_nas.cli import main
from sr_nas.errors import UserError
from sr_nas.images.files import decode, read_image, write_image
from sr_nas.images.resize import upscale_bicubic
from sr_nas.runs.files import cache_folder, lock

uvicorn = pytest.importorskip("uvicorn", reason="needs pip install 'sr_nas[app]'")
pytest.importorskip("starlette", reason="needs pip install 'sr_nas[app]'")

from sr_nas.app import photos as module  # noqa: E402
from sr_nas.app.photos import Photo, PhotoQueue  # noqa: E402
from sr_nas.app.server import HEADERS, LOOPBACK, Page  # noqa: E402
from tests.jobs.processes import run  # noqa: E402

Ask = Callable[..., tuple[int, bytes, dict[str, str]]]


@pytest.fixture
def queue(model: Path, tmp_path: Path) -> Iterator[PhotoQueue]:
    shutil.copy(model, tmp_path / "net.safetensors")
    queue = PhotoQueue({"net": tmp_path / "net.safetensors"}, 5000, torch.device("cpu"))
    yield queue
    queue.close()


def finished(queue: PhotoQueue, *files: Path, name: str = "") -> list[Photo]:
    sent = []
    for file in files:
        _, photo = queue.new("me", name or file.name, "net")
        shutil.copy(file, photo.source)
        queue.enqueue(photo)
        sent.append(photo)
    for photo in sent:
        photo.job.result(60)
    return sent


def test_results_are_those_of_inference(queue: PhotoQueue, photos: Path, model: Path, tmp_path: Path) -> None:
    files = [Path(shutil.copy(file, tmp_path)) for file in sorted(photos.iterdir())]
    if features.check("avif"):
        Image.new("RGB", (17, 21), "teal").save(tmp_path / "phone.avif")
        files.append(tmp_path / "phone.avif")
    assert main(["inference", "-i", *map(str, files), "-o", str(tmp_path / "out"), "--model", str(model), "--num_gpu", "0"]) == 0
    for file, photo in zip(files, finished(queue, *files), strict=True):
        assert photo.state == "done", photo.message
        assert photo.size == (21, 17) and photo.scale == 2
        suffix = ".jpg" if file.suffix == ".avif" else file.suffix
        assert photo.result.read_bytes() == (tmp_path / "out" / f"{file.stem}{suffix}").read_bytes()
        assert photo.result_name == f"{file.stem}_x2{suffix}"


@pytest.mark.parametrize("window", [16, 1200])
def test_views_are_the_result_and_bicubic_at_one_place(
    queue: PhotoQueue, tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", window)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upright = np.random.default_rng(0).integers(0, 256, (21, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its left side
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", icc_profile=profile, exif=exif)
    [photo] = finished(queue, tmp_path / "a.png")
    assert photo.size == (21, 40)
    sr, bicubic = read_image(photo.result), upscale_bicubic(upright, 2)
    rows, columns = {16: (slice(26, 42), slice(0, 16)), 1200: (slice(0, 42), slice(0, 80))}[window]
    before, after = (queue.view(photo, side, x=0, y=1) for side in ("before", "after"))
    assert np.array_equal(decode(after), sr[rows, columns])
    # At the edges of a part bicubic mirrors the part, and not the photo.
    inner = (slice(4, -4), slice(4, -4))
    assert np.array_equal(decode(before)[inner], bicubic[rows, columns][inner])
    assert decode(before).shape == decode(after).shape
    assert {Image.open(io.BytesIO(png)).info["icc_profile"] for png in (before, after)} == {profile}
    assert np.array_equal(decode(queue.view(photo, "overview")), upright)


def test_failures_are_sentences(queue: PhotoQueue, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    write_image(tmp_path / "large.png", np.zeros((70, 80, 3), np.uint8))
    write_image(tmp_path / "good.png", np.zeros((7, 8, 3), np.uint8))
    [broken] = finished(queue, tmp_path / "broken.jpg", name="Uncle <b>.jpg")
    assert broken.state == "failed" and broken.message.startswith("cannot read the image Uncle <b>.jpg: it is damaged")
    [large] = finished(queue, tmp_path / "large.png")
    assert large.message.startswith("large.png: 0.0 megapixels are more than the 0.005 of --max_megapixels")
    [strange] = finished(queue, tmp_path / "good.png", name="../../film.mp4")
    assert "images are written as .jpg" in strange.message and strange.source.parent.parent == queue.folder
    _, nameless = queue.new("me", "good.png", "")
    shutil.copy(tmp_path / "good.png", nameless.source)
    queue.enqueue(nameless)
    nameless.job.result(60)
    assert nameless.message == "no network here is called ''."
    Path(queue.models["net"]).write_bytes(b"damaged")
    [unloaded] = finished(queue, tmp_path / "good.png")
    assert unloaded.state == "failed" and "net.safetensors is text, which begins with" in unloaded.message
    assert not any(str(queue.folder) in photo.message for photo in queue.photos.values())
    assert not capsys.readouterr().err
    _, photo = queue.new("me", "a.png", "net")
    photo.fail(UserError(f"{photo.source.parent / 'result' / 'photo.jpg'} cannot be written: no."))
    assert photo.message == "a.png cannot be written: no."
    photo.fail(ZeroDivisionError("by zero"))
    assert "ZeroDivisionError" in photo.message and "Traceback" not in photo.message


def test_one_at_a_time_and_removed_at_any_moment(queue: PhotoQueue, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, reached = threading.Semaphore(0), threading.Semaphore(0)

    def upscale(*args: object, progress: Callable[[float], None], **how: object) -> Iterator[object]:
        for share in (0.25, 0.5, 0.75):
            progress(share)
            reached.release()
            step.acquire(timeout=20)
        raise AssertionError("not removed")

    monkeypatch.setattr(module, "upscale_files", upscale)
    keys = []
    for _ in range(3):
        key, photo = queue.new("me", "plain.bmp", "net")
        shutil.copy(photos / "plain.bmp", photo.source)
        queue.enqueue(photo)
        keys.append(key)
    running, waiting, last = (queue.photos[key] for key in keys)
    assert reached.acquire(timeout=20)
    assert [running.state, waiting.state, last.state] == ["running", "waiting", "waiting"] and running.share == 0.25
    queue.remove(keys[1])
    assert not waiting.source.parent.exists() and waiting.job.cancelled()
    queue.remove(keys[0])
    step.release()
    assert reached.acquire(timeout=20) and last.state == "running"
    assert not running.source.parent.exists() and running.share == 0.25
    threading.Timer(0.1, step.release).start()
    queue.close()
    assert list(cache_folder("app").iterdir()) == []


def test_what_a_killed_app_left_is_removed_and_not_what_another_uses(queue: PhotoQueue) -> None:
    root = cache_folder("app")
    (root / "killed" / "key").mkdir(parents=True)
    (root / "killed" / "key" / "photo.jpg").write_bytes(b"private")
    with (root / "killed.lock").open("w") as stream:
        lock(stream)
        PhotoQueue({}, 1, torch.device("cpu")).close()
        assert (root / "killed" / "key" / "photo.jpg").exists()  # its process lives
    PhotoQueue({}, 1, torch.device("cpu")).close()
    assert sorted(path.name for path in root.iterdir()) == sorted([queue.folder.name, queue.folder.name + ".lock"])


@pytest.fixture
def ask(queue: PhotoQueue, tmp_path: Path) -> Iterator[Ask]:
    """A function (method, path, body, headers) -> status, body and headers of a server that runs."""
    (tmp_path / "report.html").write_text("<script>1</script>")
    page = Page(queue, 2000, tmp_path, "").application(LOOPBACK)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(page, log_level="error", headers=HEADERS))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=20)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.status, answer.read(), dict(answer.getheaders())
        connection.close()
        return content

    while not server.started:
        time.sleep(0.01)
    yield ask
    server.should_exit = True
    thread.join()
    assert not queue.folder.exists()


def test_the_server_keeps_sessions_apart_and_files_to_itself(ask: Ask, photos: Path) -> None:
    def state(session: str) -> dict[str, dict[str, object]]:
        return json.loads(ask("GET", f"/state?session={session}")[1])["photos"]

    saved = 'ä "quoted"; x_x2.bmp'
    name = '../ä "quoted"; x.bmp'
    for _ in range(2):
        assert ask("PUT", f"/photos?session=a&model=net&name={quote(name)}", (photos / "plain.bmp").read_bytes())[0] == 200
    assert ask("PUT", "/photos?session=a&model=net&name=large.png", bytes(2001))[0] == 200
    assert ask("PUT", "/photos?session=a&model=/etc/passwd&name=a.png", (photos / "grey.png").read_bytes())[0] == 200
    while any(photo["state"] in ("waiting", "running") for photo in state("a").values()):
        time.sleep(0.02)
    assert [photo["state"] for photo in state("a").values()] == ["done", "done", "failed", "failed"]
    assert [*state("a").values()][2]["message"] == "large.png is larger than the 0.002 MB of --max_mb."
    assert state("b") == {} and "photos" not in ask("GET", "/upscaled.zip?session=b")[1].decode("latin-1")
    key, other, *_ = state("a")
    status, content, headers = ask("GET", f"/photos/{key}/result")
    assert status == 200 and decode(content).shape == (42, 34, 3)
    assert headers["cache-control"] == "no-store"
    assert headers["content-disposition"] == f"attachment; filename*=utf-8''{quote(saved)}"
    statuses = {"before": 200, "after?x=-1&y=2": 200, "other": 400, "before?x=nan": 400, "before?x=a": 400, "before?y=inf": 400}
    assert {view: ask("GET", f"/photos/{key}/{view}")[0] for view in statuses} == statuses
    failed = [*state("a")][2]
    assert ask("GET", f"/photos/{failed}/result")[0] == ask("GET", f"/photos/{failed}/before")[0] == 404
    archive = zipfile.ZipFile(io.BytesIO(ask("GET", "/upscaled.zip?session=a")[1]))
    assert archive.namelist() == [saved, f"{other}_{saved}"]
    assert archive.read(archive.namelist()[1]) == content
    assert ask("DELETE", f"/photos/{key}")[0] == 200 and ask("GET", f"/photos/{key}/result")[0] == 404
    assert ask("DELETE", f"/photos/{key}")[0] == 404 and len(state("a")) == 3

    suffixes = json.loads(ask("GET", "/state")[1])["suffixes"]
    assert {".jpg", ".png", ".heic", ".avif"} <= set(suffixes) and len(set(suffixes)) == len(suffixes)
    assert ask("GET", "/")[0] == 200
    for path in ("/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/photos/..%2f..%2fx/result", "/server.py"):
        assert ask("GET", path)[0] == 404
    assert ask("GET", "/state", None, Host="elsewhere.example")[0] == 400
    assert ask("OPTIONS", "/photos", None, Origin="http://elsewhere.example")[0] == 405  # so that no browser sends a PUT
    assert "sandbox" in ask("GET", "/report")[2]["content-security-policy"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--run", "nowhere"], "--run: nowhere does not exist."),
        (["--run", __file__], f"--run: {__file__} is no folder of a run."),
        (["--port", "99999"], "--port 99999: bind(): port must be 0-65535. --port 0 takes"),
    ],
)
def test_what_does_not_begin_says_why(words: list[str], expected: str, model: Path) -> None:
    assert expected in run("app", "--model", model, *words, code=1)
