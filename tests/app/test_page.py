"""The page in a browser, as a person uses it: Chromium without a window, driven by Selenium."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sr_nas.cli import main
from sr_nas.export.network_file import save_network
from sr_nas.images.files import decode, read_image, write_image
from sr_nas.images.resize import upscale_bicubic
from sr_nas.networks.plain import PLAIN
from tests.conftest import REPOSITORY

ActionChains = pytest.importorskip("selenium.webdriver", reason="needs Selenium: pip install 'sr_nas[test]'").ActionChains
pytest.importorskip("uvicorn", reason="needs pip install 'sr_nas[app]'")
pytestmark = pytest.mark.browser
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """A function (arguments) -> the address and the process of an app that has been started."""
    processes = []

    def start(*arguments: object) -> tuple[str, subprocess.Popen[str]]:
        command = [sys.executable, str(REPOSITORY / "tools" / "app.py"), "--num_gpu", "0", *map(str, arguments)]
        environment = os.environ | {"SR_NAS_CACHE": str(tmp_path_factory.getbasetemp() / "app_cache")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[0], process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a network x2 that is close to none, so that large photos take seconds."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("app") / "small.safetensors"
    save_network(file, PLAIN(2, nf=8, num_blocks=1).eval())
    return file


@pytest.fixture(scope="module")
def address(started: Callable[..., tuple[str, subprocess.Popen[str]]], network: Path) -> str:
    return started("--model", network, "--port", 0)[0]


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The browser on the app's page, of a new session."""
    browser.get(address)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    browser.get_log("browser")
    for file in browser.downloads.iterdir():
        file.unlink()
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def send(browser: Any, *files: Path) -> list[Any]:
    """Choose files, wait until none is pending; return the rows of the list."""
    before = len(browser.find_elements("css selector", "li"))
    one(browser, "#files").send_keys("\n".join(map(str, files)))

    def over() -> list[Any]:
        rows = browser.find_elements("css selector", "li")
        states = browser.execute_script("return [...document.querySelectorAll('li')].map(row => row.className.split(' ')[0])")
        return rows if len(rows) == before + len(files) and set(states) <= {"done", "failed"} else []

    return until(over, 500)


def pixels(browser: Any, side: str) -> np.ndarray:
    """The picture that an image element of the page shows."""
    loaded = "const image = document.getElementById(arguments[0]); return image.complete && image.naturalWidth"
    until(lambda: browser.execute_script(loaded, side))
    script = """
        const [id, finish] = arguments, reader = new FileReader();
        reader.onload = () => finish(reader.result);
        fetch(document.getElementById(id).src).then(answer => answer.blob()).then(blob => reader.readAsDataURL(blob));"""
    return decode(base64.b64decode(browser.execute_async_script(script, side).partition(",")[2]))


def downloaded(browser: Any, name: str) -> Path:
    file = browser.downloads / name
    until(file.is_file)
    return file


def upscaled(photo: Path, network: Path, folder: Path) -> bytes:
    assert main(["inference", "-i", str(photo), "-o", str(folder), "--model", str(network), "--num_gpu", "0"]) == 0
    return (folder / photo.name).read_bytes()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth JPEG of 300x200 pixels, upright only by its EXIF."""
    file = tmp_path_factory.mktemp("photo") / "Straße 1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise).resize((200, 300), Image.Resampling.BICUBIC).save(file, exif=exif)
    return file


def test_a_photo_is_compared_and_downloaded(page: Any, photo: Path, network: Path, tmp_path: Path) -> None:
    [row] = send(page, photo)
    assert "300x200 to 600x400 pixels by small.safetensors" in row.text
    lr = read_image(photo)
    expected = upscaled(photo, network, tmp_path)
    assert lr.shape == (200, 300, 3)
    assert np.array_equal(pixels(page, "after"), decode(expected))
    assert np.array_equal(pixels(page, "before"), upscale_bicubic(lr, 2))
    row.find_element("css selector", ".download").click()
    assert downloaded(page, "Straße 1_x2.jpg").read_bytes() == expected

    # 100 %: 600 pixels of the picture are 600 of the screen. The slider uncovers them.
    assert one(page, "#after").size == {"width": 600, "height": 400}
    assert page.execute_script("return document.getElementById('after').style.clipPath") == "inset(0px 0px 0px 300px)"
    action = page.execute_script("return document.getElementById('divider').getBoundingClientRect().toJSON()")
    ActionChains(page).click_and_hold(one(page, "#divider")).move_by_offset(-150, 0).release().perform()
    moved = page.execute_script("return document.getElementById('divider').getBoundingClientRect().x") - action["x"]
    assert abs(moved + 150) < 8  # a step of the slider is 6 pixels
    assert page.execute_script("return document.getElementById('slider').value") == "25"
    one(page, "#slider").send_keys("\ue014")  # the right arrow key
    assert page.execute_script("return document.getElementById('after').style.clipPath") == "inset(0px 0px 0px 156px)"
    width, height = page.execute_script("return [innerWidth, innerHeight]")
    dense = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dense)  # as on another screen
    until(lambda: one(page, "#after").size == {"width": 300, "height": 200})
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    until(lambda: one(page, "#after").size == {"width": 200, "height": 133})
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390


def test_nothing_comes_from_elsewhere_and_nothing_goes_wrong(page: Any, photo: Path, address: str) -> None:
    send(page, photo)
    used = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert used and all(name.startswith((address, "data:")) for name in used)
    assert page.get_log("browser") == []


def test_a_batch_with_broken_files(page: Any, photo: Path, photos: Path, network: Path, tmp_path: Path) -> None:
    broken = tmp_path / "<img src=x onerror=alert(1)>.png"
    broken.write_bytes(b"broken")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:-2000])
    files = [photos / "grey.png", broken, photos / "deep.tif", cut, photos / "clear.png"]
    rows = send(page, *files)
    assert [row.get_attribute("class").split()[0] for row in rows] == ["done", "failed", "done", "failed", "done"]
    assert "it is damaged" in rows[1].text and broken.name in rows[1].text
    assert "cut.jpg" in rows[3].text and "lacks a part of its picture" in rows[3].text
    assert one(page, "#count").text == "3 of 5 done"
    one(page, "#zip").click()
    archive = zipfile.ZipFile(until(lambda: (file := downloaded(page, "upscaled.zip")).stat().st_size and file))
    assert archive.namelist() == ["grey_x2.png", "deep_x2.tif", "clear_x2.png"]
    for file in (photos / "grey.png", photos / "deep.tif", photos / "clear.png"):
        assert archive.read(f"{file.stem}_x2{file.suffix}") == upscaled(file, network, tmp_path / "out")
    rows[2].find_element("css selector", ".compare").click()
    assert one(page, "#shown").text == "deep.tif"
    assert np.array_equal(pixels(page, "after"), read_image(tmp_path / "out" / "deep.tif"))
    page.execute_script(
        "const data = new DataTransfer(); data.items.add(new File([Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0))],"
        "'dropped.png')); document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}));",
        base64.b64encode((photos / "grey.png").read_bytes()).decode(),
    )
    until(lambda: len(page.find_elements("css selector", "li.done")) == 4)
    assert one(page, "li:last-child b").text == "dropped.png"
    page.refresh()  # they are still there
    until(lambda: len(page.find_elements("css selector", "li")) == 6)
    until(lambda: one(page, "#clear").is_displayed())
    one(page, "#clear").click()
    until(lambda: not page.find_elements("css selector", "li"))
    assert not one(page, "#viewer").is_displayed()


def test_20_megapixels(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    ramp = np.add.outer(np.arange(3648), np.arange(5472))
    write_image(file, np.stack([ramp // 40, ramp // 36 % 256, ramp // 50], axis=2).astype(np.uint8))
    [row] = send(page, file)
    assert "5472x3648 to 10944x7296 pixels" in row.text
    row.find_element("css selector", ".download").click()
    expected = read_image(downloaded(page, "large_x2.jpg"))
    assert np.array_equal(pixels(page, "after"), expected[3048:4248, 4872:6072])  # the middle
    source = "return document.getElementById('after').src"
    overview, shown = one(page, "#overview"), page.execute_script(source)
    ActionChains(page).move_to_element_with_offset(overview, overview.size["width"] // 2 - 1, 0).click().perform()
    until(lambda: page.execute_script(source) != shown)
    top = 2 * round(3648 * float(page.execute_script(source).partition("&y=")[2]) - 300)
    assert abs(top - 3048) < 60
    assert np.array_equal(pixels(page, "after"), expected[top : top + 1200, -1200:])  # at the right edge


def test_limits_a_run_and_an_app_that_ends(
    browser: Any, started: Callable[..., tuple[str, subprocess.Popen[str]]], network: Path, photo: Path, tmp_path: Path
) -> None:
    run = tmp_path / "my_run"
    run.mkdir()
    shutil.copy(network, run / "best.safetensors")
    report = "<p id=text>before<script>document.getElementById('text').textContent = 'the report'; fetch('/state')</script>"
    (run / "report.html").write_text(report)
    address, process = started("--run", run, "--port", 0, "--max_mb", 1, "--max_megapixels", 1)
    browser.get(address)
    large, heavy = tmp_path / "large.png", tmp_path / "heavy.png"
    write_image(large, np.zeros((1000, 1001, 3), np.uint8))
    heavy.write_bytes(bytes(3_000_000))
    rows = send(browser, large, heavy, photo)
    assert "1.0 megapixels are more than the 1 of --max_megapixels" in rows[0].text
    assert "heavy.png is larger than the 1 MB of --max_mb" in rows[1].text
    assert "by my_run (run)" in rows[2].text
    one(browser, "nav a:last-child").click()
    browser.switch_to.frame(one(browser, "iframe"))
    until(lambda: one(browser, "#text").text == "the report")
    browser.switch_to.default_content()
    one(browser, "nav a").click()
    (run / "best.safetensors").write_bytes(b"damaged")
    assert "best.safetensors is text" in send(browser, photo)[3].text
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    one(browser, ".remove").click()
    until(lambda: "does not answer" in one(browser, "#alarm").text)
