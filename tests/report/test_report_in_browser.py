"""Pages in a real browser: on a phone and a desk, with and without its script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest

from sr_nas.report.page import Section, write_page
from sr_nas.report.plots import comparison_figure, curves_figure, save

pytestmark = pytest.mark.browser
ATTACK = "<script>document.title = 'broken into'</script><img src=x onerror=\"document.title = 'broken into'\">"


@pytest.fixture
def page(tmp_path: Path) -> str:
    images = [np.full((64, 64, 3), level, np.uint8) for level in (40, 200, 220)]
    picture = tmp_path / "comparison.png"
    save(comparison_figure(list(zip(["bicubic", ATTACK, "HR"], images, strict=True)), (0, 0, 64, 64)), picture)
    figure = curves_figure("epoch", [0, 1], {"loss": {"of alpha": [1.0, 2.0], "of the weights": [0.0, 1.0]}})
    rows = [{f"column {number}": "0.123456789" for number in range(20)}]
    write_page(
        tmp_path / "report.html",
        "a" * 80,
        [ATTACK],
        [
            Section("Before", pictures=[picture]),
            Section("Curves", figures=[figure]),
            Section(ATTACK, rows=rows, code=["b" * 200]),
        ],
    )
    return (tmp_path / "report.html").as_uri()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_one_column_that_does_not_scroll_sideways(browser: Any, page: str, width: int) -> None:
    # A window of the headless browser is no narrower than 500 pixels; what a phone shows is told by its device metrics.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": width < 500}
    )
    browser.get(page)
    wide, shown = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= shown == width
    panels = browser.execute_script("return [...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect().width)")
    assert panels and all(100 < panel <= width for panel in panels)
    assert browser.title == "a" * 80
    assert not browser.get_log("browser")


def test_the_slider_uncovers_the_first_image(browser: Any, page: str) -> None:
    browser.get(page)
    assert browser.execute_script("return document.querySelector('.crops input').checkVisibility()")
    clip = "return getComputedStyle(document.querySelectorAll('.two img')[1]).clipPath"
    assert browser.execute_script(clip) == "inset(0px 0px 0px 50%)"
    move = "var s = document.querySelector('.crops input'); s.value = 80; s.dispatchEvent(new Event('input'));"
    browser.execute_script(move)
    assert browser.execute_script(clip) == "inset(0px 0px 0px 80%)"


def test_without_its_script_all_images_are_visible(browser: Any, page: str) -> None:
    # The browser's own switch for scripts sometimes comes too late for the first script of a new process.
    file = Path(url2pathname(urlparse(page).path))
    text, scripts = re.subn(r"<script>\ndocument.+?</script>", "", file.read_text(), flags=re.DOTALL)
    assert scripts == 1
    file.write_text(text)
    browser.get(page)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.crops img')].map(e => JSON.stringify(e.getBoundingClientRect()))"
    )
    assert len(set(boxes)) == 3
    assert not browser.execute_script("return document.querySelector('.crops input').checkVisibility()")


def test_dark_pages_have_light_ink(browser: Any, page: str) -> None:
    ink = "return getComputedStyle(document.querySelector('svg text')).fill"
    for scheme, expected in (("light", "rgb(34, 34, 34)"), ("dark", "rgb(228, 228, 228)")):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.get(page)
        assert browser.execute_script(ink) == expected
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
