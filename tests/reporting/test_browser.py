"""The report in a real browser: it can be worked, says nothing on the console, and fits a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install selenium"
    )
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    # As root, which CI is, chromium has no sandbox; and /dev/shm may be small.
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--window-size=1200,900",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, html: Path) -> Any:
    browser.set_window_size(1200, 900)
    browser.get(html.as_uri())
    return browser


STATE = """
var viewer = document.querySelectorAll(".viewer")[arguments[0]];
var box = function (name) { return viewer.querySelector(name).getBoundingClientRect(); };
return {
  stage: box(".stage").width, before: box(".before").width, after: box(".after").width,
  left: viewer.querySelector(".divider").offsetLeft, seen: viewer.clientWidth,
  clip: viewer.querySelector(".after").style.clipPath, width: Number(viewer.dataset.width),
  scroll: viewer.querySelector(".scroller").scrollLeft,
};
"""
SLIDE = """
var slider = document.querySelectorAll(".slider")[arguments[0]];
slider.value = arguments[1];
slider.dispatchEvent(new Event("input", { bubbles: true }));
"""


def state(page: Any, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = page.execute_script(STATE, number)
    return found


def press(page: Any, key: str) -> None:
    page.find_element("css selector", "body").send_keys(key)


def clip_of(found: dict[str, Any]) -> float:
    # The browser writes it its own way: "inset(0px 0px 0px 80px)", or "inset(0px)" for four that are equal.
    return float(re.findall(r"[\d.]+", found["clip"])[-1])


def test_the_slider_divides_before_from_after(page: Any) -> None:
    for percent in (0, 25, 50, 100):
        page.execute_script(SLIDE, 0, percent)
        found = state(page)
        assert found["left"] == pytest.approx(found["seen"] * percent / 100, abs=3)
        assert clip_of(found) == pytest.approx(found["seen"] * percent / 100, abs=3)


def test_zoom_is_the_same_for_both_pictures_and_for_all_pages(page: Any) -> None:
    for zoom in (1, 2, 4):
        page.find_element("css selector", f'[data-zoom="{zoom}"]').click()
        for number in (0, 3, 6):
            found = state(page, number)
            assert found["before"] == found["after"] == found["stage"]
            assert found["stage"] == pytest.approx(found["width"] * zoom, abs=1)
        pressed = page.find_elements("css selector", '[data-zoom][aria-pressed="true"]')
        assert [button.get_attribute("data-zoom") for button in pressed] == [f"{zoom}"]
    page.find_element("css selector", '[data-zoom="fit"]').click()
    assert state(page)["stage"] <= state(page)["seen"] + 1


def test_the_divider_stays_where_it_is_seen_while_the_picture_is_moved(page: Any) -> None:
    widest = page.execute_script(
        "var w = [...document.querySelectorAll('.viewer')].map(v => Number(v.dataset.width));"
        "return w.indexOf(Math.max(...w));"
    )
    press(page, "4")
    page.execute_script("document.querySelectorAll('.scroller')[arguments[0]].scrollLeft = 120;", widest)
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]));")
    page.execute_script(SLIDE, widest, 50)
    found = state(page, widest)
    assert found["scroll"] == 120
    assert clip_of(found) == pytest.approx(120 + found["seen"] / 2, abs=3)


def test_keys_work(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(page, "2")
    assert state(page)["stage"] == pytest.approx(2 * state(page)["width"], abs=1)
    press(page, "0")
    press(page, "j")
    active = "return [...document.querySelectorAll('.page')].indexOf(document.activeElement);"
    assert page.execute_script(active) == 0
    page.switch_to.active_element.send_keys("j")
    assert page.execute_script(active) == 1
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert state(page, 1)["left"] == pytest.approx(state(page, 1)["seen"] * 0.55, abs=3)
    page.switch_to.active_element.send_keys("k")
    assert page.execute_script(active) == 0
    press(page, "b")
    assert clip_of(state(page, 4)) == pytest.approx(state(page, 4)["seen"], abs=2)
    press(page, "b")
    assert clip_of(state(page, 4)) == pytest.approx(0, abs=2)
    press(page, "p")
    rendering = "return getComputedStyle(document.querySelector('.after')).imageRendering;"
    assert page.execute_script(rendering) == "pixelated"


def test_dark_and_light(page: Any) -> None:
    color = "return getComputedStyle(document.body).backgroundColor;"
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        page.refresh()
        shade = page.execute_script(color)
        level = int(shade.removeprefix("rgb(").split(",")[0])
        assert (level > 200) if scheme == "light" else (level < 60)
        press(page, "d")
        turned = int(page.execute_script(color).removeprefix("rgb(").split(",")[0])
        assert (turned < 60) if scheme == "light" else (turned > 200)
        press(page, "d")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_fits_a_phone(page: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.refresh()
        assert page.execute_script("return document.documentElement.scrollWidth;") <= 390
        assert page.execute_script("return window.innerWidth;") == 390
        size = page.execute_script("return parseFloat(getComputedStyle(document.body).fontSize);")
        assert size >= 14
        assert state(page)["stage"] <= 390
        # Letters of a chart are as large as its scale makes them.
        letters = page.execute_script(
            "return [...document.querySelectorAll('.chart svg text')].map(text =>"
            " parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width"
            " / text.ownerSVGElement.viewBox.baseVal.width);"
        )
        assert letters and min(letters) >= 10
        # Charts are not cut: all of each, its letters too, is inside its frame.
        outside = page.execute_script(
            "return [...document.querySelectorAll('.chart svg, .chart svg text')].filter(part => {"
            " const box = part.getBoundingClientRect(), frame = part.closest('.chart').getBoundingClientRect();"
            " return box.left < frame.left || box.right > frame.right || box.top < frame.top"
            " || box.bottom > frame.bottom; }).length;"
        )
        assert outside == 0
        # Pictures come before their figures, and before charts and failures.
        tops = page.execute_script(
            "return ['.viewer', '.page .figures', '.chart', '#failed'].map(name =>"
            " document.querySelector(name).getBoundingClientRect().top);"
        )
        assert tops[0] < min(tops[1:])
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_said_on_the_console_and_every_picture_decodes(page: Any) -> None:
    loaded = page.execute_async_script(
        "var done = arguments[0]; Promise.all([...document.images].map(i => i.decode()))"
        ".then(() => done(document.images.length), error => done(String(error)));"
    )
    assert loaded == 10 * 2 + len(page.find_elements("css selector", ".map"))
    press(page, "1")
    press(page, "0")
    assert [line for line in page.get_log("browser") if line["level"] != "INFO"] == []
