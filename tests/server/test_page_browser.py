"""The pages in a real browser, over a real server and worker: from the first start to a downloaded volume."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.conftest import LONG, draw, pairs
from tests.server.running import RunningServer, wait_for
from tests.server.test_access import OTHER, PASSWORD

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = os.environ.get("COMIC_UPSCALE_TEST_AXE")
"""The path of axe.min.js, from the package axe-core of the npm registry: then every page is checked with it."""
SIZES = (390, 1280, 2560)


class Browser:
    """A browser that remembers what pages said on its console."""

    def __init__(self, driver: Any, server: RunningServer, downloads: Path) -> None:
        self.driver, self.server, self.downloads = driver, server, downloads

    def open(self, path: str) -> None:
        address = path if path.startswith("http") else f"{self.server.pages}{path}"
        before = self.driver.current_url
        self.driver.get(address)
        if self.driver.current_url == before != address:
            # The page before was just loading itself again.
            self.driver.get(address)

    def find(self, selector: str) -> Any:
        return wait_for(lambda: self.driver.find_elements("css selector", selector))[0]

    def fill(self, **fields: str) -> None:
        """Type into fields by their ids, and send their form."""
        for name, text in fields.items():
            field = self.find(f"#{name}")
            field.clear()
            field.send_keys(text)
        field.submit()

    def text(self, selector: str = "main") -> str:
        return str(
            self.driver.execute_script(
                "return document.querySelector(arguments[0])?.innerText || ''", selector
            )
        )

    def wait_for_text(self, text: str, selector: str = "main") -> None:
        wait_for(lambda: text in self.text(selector))

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def press(self, keys: str, selector: str = "body") -> None:
        self.find(selector).send_keys(keys)

    @property
    def path(self) -> str:
        return str(self.driver.current_url).removeprefix(self.server.pages)

    def complaints(self) -> list[str]:
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def resize(self, width: int, *, dark: bool, ratio: int = 1) -> None:
        mode = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": mode})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": ratio, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    home = tmp_path_factory.mktemp("pages")
    draw(home / "library" / "Series" / "Book 1" / "1.png", 1, size=(40, 60))
    roots = "--root", home / "library"
    server = RunningServer(
        home / "data", home, "--verbose", "--device", "cpu", "--worker-idle-timeout", "60", *roots
    )
    server.start()
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # As root, which CI is, chromium has no sandbox; and /dev/shm may be small. No other host is found.
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={home / 'profile'}",
        "--window-size=1280,900",
    ):  # fmt: skip
        options.add_argument(argument)
    downloads = home / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield Browser(driver, server, downloads)
    driver.quit()
    server.kill()


@pytest.fixture(scope="module")
def admin(browser: Browser) -> Browser:
    """The first administrator, by the link that the server printed."""
    assert browser.server.process is not None and browser.server.process.stdout is not None
    line = browser.server.process.stdout.readline()
    assert line.startswith("Setup:")
    browser.open(line.split()[1])
    browser.fill(username="root", password=PASSWORD, repeated=PASSWORD)
    wait_for(lambda: browser.path == "/")
    return browser


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volume")
    with zipfile.ZipFile(folder / "Book 01.cbz", "w") as archive:
        for number in range(1, 4):
            archive.write(draw(folder / f"{number}.png", 50 + number, size=(64, 96)), f"{number}.png")
    return folder / "Book 01.cbz"


@pytest.fixture(scope="module")
def job(admin: Browser, volume: Path) -> str:
    """The path of a finished job, uploaded by hand."""
    admin.open("/")
    admin.find("#files").send_keys(str(volume))
    admin.wait_for_text("1 file", "#count")
    admin.find('input[name="factor"][value="2"]').click()
    admin.find("#send").click()
    wait_for(lambda: admin.path.startswith("/jobs/"))
    # Nobody loads the page again: events tell it that the job is done.
    admin.wait_for_text("completed", "#state")
    admin.wait_for_text("3 of 3 pages", "#state")
    return admin.path


def test_a_volume_is_uploaded_followed_and_downloaded(admin: Browser, job: str, volume: Path) -> None:
    admin.open(job)
    assert len(admin.driver.find_elements("css selector", ".grid img")) == 3
    loaded = "return [...document.querySelectorAll('.grid img')].every(i => i.complete && i.naturalWidth > 0)"
    wait_for(lambda: admin.run(loaded))
    admin.find("details.menu summary").click()
    admin.find('a[href$="/result"]').click()
    found = wait_for(lambda: list(admin.downloads.glob("*.cbz")))
    with zipfile.ZipFile(found[0]) as archive:
        assert archive.namelist()[:3] == ["1.png", "2.png", "3.png"]
    assert admin.complaints() == []


def test_an_upload_in_parts_continues_when_the_connection_is_back(
    admin: Browser, job: str, volume: Path
) -> None:
    def connected(is_on: bool) -> None:
        limits = {"offline": not is_on, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        admin.driver.execute_cdp_cmd("Network.emulateNetworkConditions", limits)

    admin.open("/")
    admin.driver.execute_cdp_cmd("Network.enable", {})
    admin.run("document.getElementById('upload').dataset.inPartsFrom = 1")
    admin.find("#files").send_keys(str(volume))
    admin.wait_for_text("1 file", "#count")
    connected(False)
    try:
        admin.find("#send").click()
        admin.wait_for_text("No connection", "#sent")
    finally:
        connected(True)
    wait_for(lambda: admin.path.startswith("/jobs/"))
    assert volume.name in admin.text("h1")
    # The browser itself reports each request that found no connection.
    assert all("ERR_INTERNET_DISCONNECTED" in each for each in admin.complaints())


def tab_to(browser: Browser, selector: str) -> None:
    """Press Tab until an element has the focus."""
    from selenium.webdriver.common.keys import Keys

    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        if browser.run("return document.activeElement.matches(arguments[0])", selector):
            return
    raise AssertionError(f"no key leads to {selector}")


def test_keys_alone_lead_from_an_upload_to_the_comparison(admin: Browser, job: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(keys: str) -> None:
        admin.driver.switch_to.active_element.send_keys(keys)

    admin.resize(1280, dark=False)
    admin.open("/")
    tab_to(admin, "#pick-files")
    # The browser's own dialog cannot be used here. It puts the file where this does.
    admin.driver.find_element("css selector", "#files").send_keys(
        str(draw(tmp_path / "keys.png", 8, size=(20, 30)))
    )
    wait_for(admin.find("#send").is_enabled)
    tab_to(admin, 'input[name="factor"]')
    press(Keys.ARROW_RIGHT)
    factor = admin.run("return document.querySelector('input[name=factor]:checked').value")
    assert admin.run("return document.activeElement.value") == factor
    tab_to(admin, "#send")
    press(Keys.ENTER)
    wait_for(lambda: admin.path.startswith("/jobs/"))
    admin.wait_for_text("completed", "#state")
    assert f"{factor}\N{MULTIPLICATION SIGN}" in admin.text()
    wait_for(lambda: admin.driver.find_elements("css selector", ".grid a"))
    tab_to(admin, ".grid a")
    press(Keys.ENTER)
    wait_for(lambda: admin.path.endswith("/pages/0"))
    wait_for(lambda: admin.run("return document.querySelector('#compare.ready') !== null"))
    tab_to(admin, "#handle")
    before = admin.run(STATE)["border"]
    press(Keys.ARROW_LEFT)
    assert admin.run(STATE)["border"] < before
    # And back to the job.
    tab_to(admin, "main .top p a")
    press(Keys.ENTER)
    wait_for(lambda: "/pages/" not in admin.path)
    assert admin.complaints() == []


STATE = """
const box = document.getElementById("compare"), images = [...box.querySelectorAll("img")];
const place = (image) => {
  const box = image.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height].map(Math.round);
};
return {
  places: images.map(place), clip: document.getElementById("after").style.clipPath,
  border: Number(document.getElementById("handle").getAttribute("aria-valuenow")),
  zoom: document.getElementById("zoom").textContent,
};
"""


def test_before_and_after_lie_over_each_other_at_every_zoom(admin: Browser, job: str) -> None:
    from selenium.webdriver.common.keys import Keys

    admin.resize(1280, dark=False)
    admin.open(f"{job}/pages/1")
    wait_for(lambda: admin.run("return document.querySelector('#compare.ready') !== null"))
    for key, zoom in (("1", "100 %"), ("2", "200 %"), ("4", "400 %"), ("0", None)):
        admin.press(key)
        state = admin.run(STATE)
        assert state["places"][0] == state["places"][1]
        assert zoom is None or state["zoom"] == zoom
    admin.press("4")
    handle = admin.find("#handle")
    for _ in range(3):
        handle.send_keys(Keys.ARROW_RIGHT)
    state = admin.run(STATE)
    assert state["border"] == 65 and "65%" in state["clip"]
    handle.send_keys(Keys.HOME)
    assert admin.run(STATE)["border"] == 0
    admin.press("j")
    wait_for(lambda: admin.path == f"{job}/pages/2")
    assert admin.complaints() == []


@pytest.mark.parametrize(("width", "ratio"), [(1280, 1), (1281, 1), (1281, 2)])
def test_at_100_percent_each_pixel_of_a_result_is_one_of_the_screen(
    admin: Browser, job: str, width: int, ratio: int
) -> None:
    """Also where the middle of the view is between two of them, and where the screen has more of them than CSS."""
    from selenium.webdriver.common.keys import Keys

    admin.resize(width, dark=False, ratio=ratio)
    admin.open(f"{job}/pages/1")
    wait_for(lambda: admin.run("return document.querySelector('#compare.ready #after img').complete"))
    admin.press("1")
    admin.find("#handle").send_keys(Keys.HOME)
    assert admin.text("#zoom") == "100 %"
    place = admin.run(
        "const { left, top } = document.querySelector('#after img').getBoundingClientRect(); return [left, top];"
    )
    shown = screenshot(admin)
    result = picture(admin, "#after img")
    left, top = (round(each * ratio) for each in place)
    # The handle covers the left edge of the view, and this page is in its middle.
    for near in ((0, 0), (0, -1)):
        box = left, top + near[1], left + result.width, top + near[1] + result.height
        if not ImageChops.difference(shown.crop(box), result).getbbox():
            return
    raise AssertionError("the pixels of the result are not those of the screen")


def screenshot(browser: Browser) -> Image.Image:
    data = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def picture(browser: Browser, selector: str) -> Image.Image:
    data = browser.driver.execute_async_script(
        "const [selector, done] = arguments, reader = new FileReader();"
        "reader.onload = () => done(reader.result.split(',')[1]);"
        "fetch(document.querySelector(selector).src).then((answer) => answer.blob())"
        ".then((blob) => reader.readAsDataURL(blob));",
        selector,
    )
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_the_reader_turns_pages_and_shows_the_original_by_one_key(admin: Browser, job: str) -> None:
    from selenium.webdriver.common.keys import Keys

    admin.open(f"{job}/read")
    admin.press(Keys.ARROW_RIGHT)
    wait_for(lambda: "page=2" in admin.path)
    shown = "return document.querySelector('#reader img').getAttribute('src').split('/').pop()"
    assert wait_for(lambda: admin.run(shown)) == "after"
    admin.press("b")
    assert admin.run(shown) == "before"
    # It stays so while pages are turned.
    admin.press(Keys.ARROW_RIGHT)
    wait_for(lambda: "page=3" in admin.path and admin.run(shown) == "before")
    admin.press("b")
    assert admin.run(shown) == "after"
    # Right to left, the left arrow leads on.
    admin.open(f"{job}/read?rtl=true")
    admin.press(Keys.ARROW_LEFT)
    wait_for(lambda: "page=2" in admin.path)
    assert admin.complaints() == []


def test_limits_are_said_before_they_are_hit(admin: Browser, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no page")
    (tmp_path / "empty.png").write_bytes(b"")
    admin.open("/")
    admin.find("#files").send_keys(str(tmp_path / "notes.txt"))
    admin.wait_for_text("neither an image nor a comic", "#problem")
    admin.find("#files").send_keys(str(tmp_path / "empty.png"))
    admin.wait_for_text("empty.png is empty", "#problem")
    assert not admin.find("#send").is_enabled()


ESTIMATES = """
return performance.getEntriesByType("resource").map((each) => each.name)
  .filter((each) => each.includes("/upload/estimate")).pop() || "";
"""


def test_an_estimate_is_asked_for_again_when_the_options_change(admin: Browser, volume: Path) -> None:
    from selenium.webdriver.support.select import Select

    admin.open("/")
    admin.find("#files").send_keys(str(volume))
    wait_for(lambda: "factor=2.5" in admin.run(ESTIMATES))
    admin.find('input[name="factor"][value="3"]').click()
    wait_for(lambda: "factor=3" in admin.run(ESTIMATES))
    Select(admin.find("#preset")).select_by_value("photo")
    wait_for(lambda: "preset=photo" in admin.run(ESTIMATES))
    # No job has used the model of this preset.
    admin.wait_for_text("No estimate yet", "#estimate")


KEYS = """
window.keys = [];
const original = XMLHttpRequest.prototype.setRequestHeader;
XMLHttpRequest.prototype.setRequestHeader = function (name, value) {
  if (name === "Idempotency-Key") window.keys.push(value);
  original.call(this, name, value);
};
"""


def test_an_upload_after_the_session_has_ended_leads_to_signing_in_and_back(
    admin: Browser, tmp_path: Path
) -> None:
    admin.open("/?factor=3")
    admin.find("#files").send_keys(str(draw(tmp_path / "1.png", 5, size=(20, 30))))
    wait_for(admin.find("#send").is_enabled)
    admin.driver.delete_all_cookies()
    admin.find("#send").click()
    admin.wait_for_text("Your session has ended. Sign in again.")
    admin.fill(username="root", password=PASSWORD)
    wait_for(lambda: admin.path == "/?factor=3")
    assert all("401" in each for each in admin.complaints())


def test_a_preset_with_a_size_selects_it_and_a_screen_takes_the_place_of_the_factor(
    admin: Browser, tmp_path: Path
) -> None:
    from selenium.webdriver.support.select import Select

    factor = "return document.querySelector('[name=factor]:checked').value"
    admin.open("/?factor=3")
    preset = Select(admin.find("#preset"))
    for name, chosen in (("webtoon", "2"), ("standard", "3")):
        preset.select_by_value(name)
        assert admin.run(factor) == chosen
    preset.select_by_value("e-reader")
    Select(admin.find("#fit_device")).select_by_value("kobo-libra-2")
    assert not admin.find('[name="factor"]').is_enabled()
    admin.find("#files").send_keys(str(draw(tmp_path / "1.png", 6, size=(100, 150))))
    admin.wait_for_text("→ 1120", "#chosen")


def test_an_upload_that_broke_is_sent_again_with_its_key(admin: Browser, tmp_path: Path) -> None:
    """So the server makes one job of it, also if the answer alone was lost."""

    def set_offline(is_offline: bool) -> None:
        conditions = {"offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        admin.driver.execute_cdp_cmd("Network.enable", {})
        admin.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    def send() -> None:
        admin.run("document.getElementById('problem').textContent = ''")
        admin.find("#send").click()
        admin.wait_for_text("The connection broke. Send again: nothing is queued twice.", "#problem")

    admin.open("/")
    admin.find("#files").send_keys(str(draw(tmp_path / "page.png", 7, size=(20, 30))))
    wait_for(admin.find("#send").is_enabled)
    admin.run(KEYS)
    set_offline(True)
    try:
        send()
        send()
        admin.find('input[name="factor"][value="2"]').click()
        send()
        first, same, other = admin.run("return window.keys")
        assert first == same != other and len(first) == len(other) == 32
    finally:
        set_offline(False)
    admin.find("#send").click()
    wait_for(lambda: admin.path.startswith("/jobs/"))
    admin.wait_for_text("completed", "#state")
    # The lost connections count as errors on the console.
    admin.complaints()


def test_a_theme_is_chosen_and_kept(admin: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    admin.resize(1280, dark=False)
    admin.open("/jobs")
    light = admin.run(background)
    admin.resize(1280, dark=True)
    dark = admin.run(background)
    assert light != dark
    admin.find("#theme").click()
    assert admin.run(background) == light
    admin.open("/account")
    assert admin.run(background) == light
    admin.find("#theme").click()
    admin.find("#theme").click()
    assert admin.run("return document.documentElement.dataset.theme || 'auto'") == "auto"


@pytest.fixture
def without_scripts(admin: Browser) -> Iterator[Browser]:
    """The browser of the administrator, with JavaScript off."""
    admin.resize(1280, dark=False)
    admin.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield admin
    admin.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_reads_works_without_javascript(without_scripts: Browser, job: str, volume: Path) -> None:
    browser, name = without_scripts, volume.name
    shown = (
        ("/", "Uploading needs JavaScript"), ("/jobs", name), (job, "3 of 3 pages"), (f"{job}/pages/0", "1.png"),
        (f"{job}/read", "1 of 3"), (f"{job}/read?mode=webtoon", name), ("/library?path=Series", "Book 1"),
        ("/library/watched", "No folder is watched."), ("/account", "root"), ("/admin", "Overview"),
        ("/admin/jobs", name), ("/admin/users", "root"), ("/admin/models", "comic-best"),
        ("/admin/audit", "user.create"), ("/admin/settings", "Save"), ("/admin/system", "System"),
    )  # fmt: skip
    for path, text in shown:
        browser.open(path)
        assert text in browser.text("body"), path
        assert browser.run(
            "return [...document.querySelectorAll('main img')].every(i => i.loading == 'lazy' || i.naturalWidth)"
        )
    # Before and after are side by side where no script lays them over each other.
    browser.open(f"{job}/pages/0")
    left, right = browser.driver.find_elements("css selector", "#compare img")
    assert left.rect["x"] + left.rect["width"] <= right.rect["x"]


def test_forms_that_need_no_files_work_without_javascript(without_scripts: Browser, job: str) -> None:
    browser = without_scripts
    browser.open("/jobs")
    field = browser.find('input[name="q"]')
    field.send_keys("no such job")
    field.submit()
    browser.wait_for_text("No job has")
    browser.open("/admin")
    browser.find('button[value="pause"]').click()
    browser.wait_for_text("The queue is paused")
    browser.find('button[value="resume"]').click()
    browser.find('button[value="pause"]')
    browser.open("/library?path=Series")
    browser.find('button[formaction$="/library/watched"]').click()
    browser.wait_for_text("The folder is watched.")
    assert "Series" in browser.text("#watched")
    for action, text in (
        ("pause", "is paused"),
        ("resume", "watched again"),
        ("remove", "no longer watched"),
    ):
        browser.find(f'#watched form[action$="/{action}"] button').click()
        browser.wait_for_text(text)
    browser.open(job)
    browser.find("details.menu summary").click()
    assert browser.find('a[href$="/result"]').is_displayed()


def test_a_failed_job_is_explained_and_run_with_another_model(admin: Browser, tmp_path: Path) -> None:
    """The task of a newcomer: find out why a job failed, and run it with another model."""
    from selenium.webdriver.support.select import Select

    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with admin.server.client() as client:
        # Keys belong to another user, so the administrator finds the job among those of all users.
        failed = admin.server.wait(client, admin.server.upload(client, tmp_path / "broken.png"))["job_id"]
    admin.open("/admin/jobs?status=failed")
    admin.find(f'a[href="/jobs/{failed}"]').click()
    admin.wait_for_text("The job failed.")
    assert "broken.png" in admin.text("#state table")
    admin.find("details.menu summary").click()
    Select(admin.find("#model")).select_by_value("comic-compact-x3")
    admin.find('form[action$="/again"] button').click()
    wait_for(lambda: admin.path.endswith("?notice=queued"))
    admin.wait_for_text("comic-compact-x3", "#state")
    admin.wait_for_text("The job failed.")


def test_a_first_password_is_changed_and_a_job_canceled(admin: Browser, volume: Path) -> None:
    admin.open("/admin/users")
    admin.fill(username="ann", password=PASSWORD, pages="50")
    wait_for(lambda: admin.path.startswith("/admin/users/ann"))
    admin.open("/admin")
    admin.find('button[value="pause"]').click()
    admin.wait_for_text("The queue is paused")
    admin.find('form[action$="/sign-out"] button').click()
    wait_for(lambda: admin.path.startswith("/sign-in"))
    admin.fill(username="ann", password=PASSWORD)
    wait_for(lambda: admin.path == "/password")
    admin.fill(current=PASSWORD, new=OTHER, repeated=OTHER)
    admin.wait_for_text("The password is changed.")
    admin.find("#files").send_keys(str(volume))
    wait_for(admin.find("#send").is_enabled)
    admin.find("#send").click()
    admin.wait_for_text("number 1 in the queue", "#state")
    admin.find('form[action$="/cancel"] button').click()
    admin.wait_for_text("canceled", "#state")
    admin.open("/admin")
    admin.wait_for_text("This page is for administrators.")
    admin.find('form[action$="/sign-out"] button').click()
    admin.fill(username="root", password=PASSWORD)
    wait_for(lambda: admin.path == "/")
    admin.open("/admin")
    admin.find('button[value="resume"]').click()
    wait_for(lambda: "The queue is paused" not in admin.text())
    # The refused page counts as an error on the console.
    admin.complaints()


def test_the_page_of_a_job_says_when_it_was_deleted_elsewhere(admin: Browser, volume: Path) -> None:
    admin.open("/admin")
    admin.find('button[value="pause"]').click()
    admin.wait_for_text("The queue is paused")
    with admin.server.client() as client:
        job_id = admin.server.upload(client, volume)
        admin.open(f"/jobs/{job_id}")
        admin.wait_for_text("in the queue", "#state")
        assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    wait_for(lambda: "in the queue" not in admin.text() and "There is no such job" in admin.text())
    admin.open("/admin")
    admin.find('button[value="resume"]').click()
    wait_for(lambda: "The queue is paused" not in admin.text())
    # The page of a deleted job counts as an error on the console.
    admin.complaints()


KEEP_STREAMS = """
const Real = EventSource;
window.streams = [];
window.EventSource = class extends Real { constructor(url) { super(url); window.streams.push(this); } };
"""


def test_the_page_of_a_job_says_when_the_connection_is_lost(admin: Browser, volume: Path) -> None:
    admin.open("/admin")
    admin.find('button[value="pause"]').click()
    admin.wait_for_text("The queue is paused")
    admin.open("/")
    admin.find("#files").send_keys(str(volume))
    wait_for(admin.find("#send").is_enabled)
    kept = admin.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": KEEP_STREAMS})
    admin.find("#send").click()
    admin.wait_for_text("An administrator has paused the queue.", "#state")
    wait_for(lambda: admin.run("return streams[0].readyState") == 1)
    # What a browser tells the page while the server is away, and when it is back.
    admin.run("streams[0].dispatchEvent(new Event('error'))")
    admin.wait_for_text("Connection lost, trying again", "#state")
    admin.run("streams[0].dispatchEvent(new Event('open'))")
    wait_for(lambda: "Connection lost" not in admin.text("#state"))
    admin.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", kept)
    admin.find('form[action$="/cancel"] button').click()
    admin.wait_for_text("canceled", "#state")
    admin.open("/admin")
    admin.find('button[value="resume"]').click()
    admin.wait_for_text("Pause the queue")
    assert admin.complaints() == []


def test_a_second_click_sends_a_form_once(admin: Browser) -> None:
    admin.open("/admin/users")
    admin.find("#username").send_keys("twice")
    admin.run(
        "const button = document.querySelector('form[action$=\"/admin/users\"] button');"
        "button.click(); button.click();"
    )
    admin.wait_for_text("The user is created.")
    # A page that comes back from the memory of the browser can be sent again.
    admin.driver.back()
    admin.fill(username="thrice")
    admin.wait_for_text("The user is created.")
    assert admin.path.startswith("/admin/users/thrice")


def test_going_back_shows_the_values_in_force(admin: Browser) -> None:
    admin.open("/admin/settings")
    admin.fill(max_files="66")
    admin.wait_for_text("The change is saved.")
    admin.driver.back()
    field = "return [...document.querySelectorAll('[name$=max_files]')].map((each) => each.value)"
    wait_for(lambda: admin.run(field) == ["66", "66"])
    admin.fill(max_files="2000")
    admin.wait_for_text("The change is saved.")
    admin.open("/admin/settings")
    assert admin.run(field) == ["2000", "2000"]


def test_a_refused_form_leads_back_to_what_was_typed(admin: Browser) -> None:
    admin.open("/admin/models")
    admin.run("document.querySelector('#bad')?.remove()")
    admin.find("details.more summary").click()
    admin.find("#preset-name").send_keys("mine")
    # As a page that is older than the session.
    admin.run(
        "document.querySelectorAll('input[name=csrf_token]').forEach((each) => { each.value = 'old'; })"
    )
    admin.find("#preset-name").submit()
    admin.wait_for_text("This form is too old")
    admin.find("[data-back]").click()
    admin.wait_for_text("Presets")
    assert admin.run("return document.querySelector('#preset-name').value") == "mine"
    assert any("403" in line for line in admin.complaints())


def test_a_model_is_withdrawn_after_a_question_and_offered_again(admin: Browser) -> None:
    withdraw = 'button[formaction="/admin/models/comic-best-x2/demote"]'
    offer = 'button[formaction="/admin/models/comic-best-x2/promote"]'
    admin.open("/admin/models")
    admin.find(withdraw).click()
    question = admin.driver.switch_to.alert
    assert "comic-best-x2" in question.text
    question.dismiss()
    admin.find(withdraw).click()
    admin.driver.switch_to.alert.accept()
    admin.find(offer)
    admin.open("/")
    offered = admin.run("return [...document.querySelectorAll('#model option')].map((each) => each.value)")
    assert "comic-best-x2" not in offered and "comic-best-x3" in offered
    admin.open("/admin/models")
    admin.find(offer).click()
    admin.find(withdraw)


def test_the_log_shows_new_lines_at_once_the_latest_first(admin: Browser) -> None:
    admin.open("/admin/log")
    # With --verbose, each request is a line.
    for word in ("lantern", "umbrella"):
        with admin.server.client() as client:
            client.get(f"/api/v1/jobs/{word}")
        admin.wait_for_text(word, "#server-log tbody tr:first-child")
    text = admin.text("#server-log")
    assert text.count("lantern") == text.count("umbrella") == 1


@pytest.mark.parametrize(("width", "dark"), pairs(SIZES, [False, True]))
def test_every_page_fits_and_says_nothing_on_the_console(
    admin: Browser, job: str, width: int, dark: bool
) -> None:
    admin.resize(width, dark=dark)
    admin.complaints()
    admin_pages = (
        "",
        "/jobs",
        "/workers",
        "/models",
        "/users",
        "/users/root",
        "/keys",
        "/audit",
        "/log",
        "/settings",
        "/system",
    )
    pages = [
        "/", "/try", "/library", "/library?path=Series", "/library/watched",
        "/jobs", "/account", "/password", job, f"{job}/pages/0", f"{job}/read", f"{job}/read?mode=webtoon",
        *(f"/admin{each}" for each in admin_pages),
    ]  # fmt: skip
    # The narrow size shows every page. By default, each wider one shows every other page.
    wide = SIZES.index(width)
    for page in pages if LONG or not wide else pages[wide - 1 :: 2]:
        admin.open(page)
        assert admin.run("return document.documentElement.scrollWidth") <= width, page
        assert admin.complaints() == [], page
        assert admin.run("return document.querySelectorAll('h1').length") == 1, page
        check_by_axe(admin, page)


def check_by_axe(browser: Browser, page: str) -> None:
    if AXE is None:
        return
    browser.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.run(Path(AXE).read_text(encoding="utf-8"))
    found = browser.driver.execute_async_script(
        "axe.run(document, { resultTypes: ['violations'] }).then((result) => arguments[0](JSON.stringify("
        "result.violations.filter((each) => ['serious', 'critical'].includes(each.impact)).map((each) => [each.id, "
        "each.nodes[0].html]))));"
    )
    browser.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    assert json.loads(found) == [], page
