"""The second factor: set up by a password and a code, asked for at each login, and each code counts once."""

from __future__ import annotations

import re
import time

import httpx2 as httpx
import numpy as np
import pyotp
import pytest

from comic_upscale.server.services import Services
from tests.server.conftest import client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import PASSWORD, add_person, log_in


def code_of(secret: str, steps: int = 0) -> str:
    """A code of the present step, or of one nearby. Never on the edge between two."""
    left = 30 - time.time() % 30
    if left < 5:
        time.sleep(left + 0.1)
    return pyotp.TOTP(secret).at(int(time.time()) + steps * 30)


def login(client: httpx.Client, code: str | None = None) -> httpx.Response:
    body = {"username": "ann", "password": PASSWORD, **({} if code is None else {"code": code})}
    return client.post("/api/v1/auth/login", json=body)


@pytest.fixture
def secret(services: Services) -> str:
    """Of the user ann, who has a second factor."""
    add_person(services, "ann", "admin")
    with client_of(services) as client:
        log_in(client, "ann")
        assert client.post("/api/v1/auth/totp", json={"current_password": "wrong"}).status_code == 401
        answer = client.post("/api/v1/auth/totp", json={"current_password": PASSWORD})
        assert answer.status_code == 200, answer.text
        begun = answer.json()
        assert begun["uri"].startswith("otpauth://totp/comic-upscale:ann?")
        # Until the first code, a login needs none: nobody is locked out by a mistake.
        with client_of(services) as other:
            assert login(other).status_code == 200
        assert client.post("/api/v1/auth/totp/confirm", json={"code": "000000"}).status_code == 401
        first = code_of(begun["secret"], -1)
        assert client.post("/api/v1/auth/totp/confirm", json={"code": first}).status_code == 204
        again = client.post("/api/v1/auth/totp", json={"current_password": PASSWORD})
        assert (again.status_code, again.json()["error"]["code"]) == (400, "active")
    found: str = begun["secret"]
    return found


def test_a_login_needs_a_code_and_each_code_counts_once(services: Services, secret: str) -> None:
    with client_of(services) as client:
        missing = login(client)
        assert (missing.status_code, missing.json()["error"]["code"]) == (401, "code_required")
        assert "set-cookie" not in missing.headers
        assert login(client, "123").json()["error"]["code"] == "wrong_code"
        code = code_of(secret)
        assert login(client, f"{code[:3]} {code[3:]}").status_code == 200
        repeated = login(client, code)
        assert (repeated.status_code, repeated.json()["error"]["code"]) == (401, "wrong_code")
        assert "set-cookie" not in repeated.headers
        wrong = client.post("/api/v1/auth/login", json={"username": "ann", "password": "no", "code": code})
        # Without the password, nothing is said about codes.
        assert wrong.json()["error"]["code"] == "wrong_login"


def test_the_second_factor_ends_by_a_code_or_by_an_administrator(services: Services, secret: str) -> None:
    with client_of(services) as client:
        client.headers["X-CSRF-Token"] = login(client, code_of(secret)).json()["csrf_token"]
        assert client.request("DELETE", "/api/v1/auth/totp", json={"code": "1"}).status_code == 401
        assert (
            client.request("DELETE", "/api/v1/auth/totp", json={"code": code_of(secret, 1)}).status_code
            == 204
        )
        del client.headers["X-CSRF-Token"]
        client.cookies.clear()
        assert login(client).status_code == 200


def test_an_administrator_helps_a_user_who_lost_the_app(services: Services, secret: str) -> None:
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        users = {user["name"]: user for user in boss.get("/api/v1/admin/users").json()["users"]}
        assert users["ann"]["has_totp"] and secret not in str(users)
        assert boss.patch("/api/v1/admin/users/ann", json={"reset_totp": True}).json()["has_totp"] is False
    with client_of(services) as client:
        assert login(client).status_code == 200


def test_the_page_for_signing_in_asks_for_the_code(services: Services, secret: str) -> None:
    with pages_of(services) as browser:
        form = {"username": "ann", "password": PASSWORD}
        asked = browser.post("/sign-in", data=form)
        assert asked.status_code == 401 and 'name="code"' in asked.text
        assert 'name="code"' not in browser.get("/sign-in").text
        assert browser.post("/sign-in", data=form | {"code": code_of(secret)}).status_code == 303


def scanned(html: str) -> str:
    """What an app reads from the QR code of a page. Its lines are steps to the side, and lengths of black."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed: pip install opencv-python-headless")
    steps = re.findall(r"([Mmh])(-?[\d.]+)(?: (-?[\d.]+))?", html.split('class="qrline"')[1].split('"')[3])
    picture, x, y = np.full((100, 100), 255, np.uint8), 0, 0.0
    for kind, across, down in steps:
        if kind == "h":
            picture[int(y), x : x + int(across)] = 0
        else:
            y = float(down) + (y if kind == "m" else 0)
        x = int(across) + (0 if kind == "M" else x)
    # The other detector of OpenCV does not find about every fortieth code.
    return str(cv2.QRCodeDetectorAruco().detectAndDecode(picture.repeat(6, 0).repeat(6, 1))[0])


def test_the_second_factor_is_set_up_and_removed_on_the_account_page(services: Services) -> None:
    add_person(services, "ann")
    with pages_of(services) as browser:
        token = {"csrf_token": csrf_of(sign_in(browser, "ann").get("/account"))}
        wrong = browser.post("/account/totp", data=token | {"current_password": "wrong"})
        assert wrong.status_code == 401 and "The current password is wrong." in wrong.text
        begun = browser.post("/account/totp", data=token | {"current_password": PASSWORD}).text
        shown = begun.split("shown only now.")[1].split("<code>")[1].split("</code>")[0]
        secret = shown.replace(" ", "")
        assert f'href="otpauth://totp/comic-upscale:ann?secret={secret}&amp;' in begun
        assert scanned(begun).startswith(f"otpauth://totp/comic-upscale:ann?secret={secret}&")
        # The page tells nobody the secret a second time.
        again = browser.get("/account").text
        assert secret not in again and shown not in again and "Begin again with a new key" in again
        refused = browser.post("/account/totp/confirm", data=token | {"code": "000000"})
        assert refused.status_code == 401 and "The code is wrong" in refused.text
        confirmed = browser.post("/account/totp/confirm", data=token | {"code": code_of(secret, -1)})
        assert confirmed.headers["location"] == "/account?notice=factor"
        text = browser.get("/account?notice=factor").text
        assert (
            "The second factor is on." in text and "data-confirm" in text.split("/account/totp/end")[1][:200]
        )
        with pages_of(services) as other:
            assert other.post("/sign-in", data={"username": "ann", "password": PASSWORD}).status_code == 401
        assert browser.post("/account/totp/end", data=token | {"code": "1"}).status_code == 401
        ended = browser.post("/account/totp/end", data=token | {"code": code_of(secret)})
        assert ended.headers["location"] == "/account?notice=factor-ended"
        with pages_of(services) as other:
            sign_in(other, "ann")
