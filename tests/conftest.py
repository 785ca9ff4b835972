"""Fixtures every test may use."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Tests run in a process per core: more threads than one each would wait for one another. Read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
import torch

import sr_nas.registry
from sr_nas.bridge.basicsr import import_basicsr
from sr_nas.errors import UserError
from sr_nas.export.network_file import save_network
from sr_nas.images.files import write_image
from sr_nas.networks.imdn import IMDN, IMDN_CANDIDATES
from sr_nas.options.strict import section_model
from sr_nas.registry import PLUGINS, Registry
from sr_nas.report.page import LiveReport

REPOSITORY = Path(__file__).resolve().parents[1]
collect_ignore = ["campaigns"] if sys.platform == "win32" else []  # it has no fork


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("campaigns")
    group.addoption("--campaign_size", type=float, default=1.0, metavar="X", help="factor on the size of campaigns (default: 1)")
    group.addoption("--campaign_seed", type=int, default=0, metavar="N", help="seed of campaigns (default: 0)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what campaigns have counted, as rows of a Markdown table."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports if hasattr(report, "user_properties")]
    rows = {row[0]: row for report in reports for name, row in report.user_properties if name == "campaign"}
    if rows:
        terminalreporter.section("campaigns")
        for row in [("campaign", "seed", "size", "outcomes", "minutes"), ("---",) * 5, *rows.values()]:
            terminalreporter.write_line(f"| {' | '.join(row)} |")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with benchmark images and released weights, which lies beside the repository where there is one."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the benchmark images and released weights in {folder}")
    return folder


@pytest.fixture(scope="session")
def basicsr() -> ModuleType:
    """The package basicsr, with its import mended for current torchvision."""
    try:
        return import_basicsr()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The system's Chromium without a window, driven by Selenium, which fetches nothing; it saves to ``downloads``."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: pip install 'sr_nas[test]'")
    program, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.downloads = tmp_path_factory.mktemp("downloads")
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(opened.downloads)})
    yield opened
    opened.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    """Chromium at an empty page and with an empty log: the page of an earlier test still asks for a server that is gone."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture(autouse=True, scope="session")
def usual_allocator() -> Iterator[None]:
    """Leave this process's memory to glibc: some tests watch how it grows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sr_nas.cli.keep_freed_memory", lambda: False)
        yield


WRITE_REPORT = LiveReport.write


@pytest.fixture(autouse=True, scope="session")
def no_reports() -> Iterator[None]:
    """Spare runs of tests their plots and pages, which take a second each; the fixture ``reports`` lets them be written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveReport, "write", lambda self: None)
        yield


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a test write their plots and pages."""
    monkeypatch.setattr(LiveReport, "write", WRITE_REPORT)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests cache out of the user's cache folder."""
    monkeypatch.setenv("SR_NAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Take out at the end what plug-ins of the test have registered; a call does it at once, as a new process would begin."""
    registries = [IMDN_CANDIDATES, *(entry for entry in vars(sr_nas.registry).values() if isinstance(entry, Registry))]
    before = [(registry, registry.names() and registry._entries) for registry in registries]

    def forget() -> None:
        PLUGINS.clear()
        section_model.cache_clear()
        for registry, entries in before:
            monkeypatch.setattr(registry, "_entries", dict(entries))

    forget()
    yield forget
    PLUGINS.clear()
    section_model.cache_clear()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a small IMDN x2 of random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "net.safetensors"
    save_network(file, IMDN(2, nf=16, num_blocks=1).eval())
    return file


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small images: grey, 16-bit, with alpha, and plain."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, channels, dtype in (
        ("grey.png", 1, np.uint8),
        ("deep.tif", 3, np.uint16),
        ("clear.png", 4, np.uint8),
        ("plain.bmp", 3, np.uint8),
    ):
        write_image(folder / name, random.integers(0, np.iinfo(dtype).max, (21, 17, channels), dtype, endpoint=True))
    return folder
