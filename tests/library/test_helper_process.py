"""A child process that is asked things: answers, limits, deaths, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from comic_upscale.library.helper_process import Helper, HelperLostError, Limits
from tests.conftest import REPOSITORY

FREE = Limits(60, 60, 1 << 40)


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper("tests.odd_child")
    yield helper
    helper.close()


def pid_of(helper: Helper) -> int:
    return int(helper.ask({"do": "answer"}, FREE)[0]["pid"])


def test_one_child_answers_many_requests_of_any_size(helper: Helper) -> None:
    assert not helper.runs
    first = pid_of(helper)
    for size in (0, 1, 1 << 16, (1 << 22) + 1):
        words, data = helper.ask({"do": "answer", "say": "ü\udcff\n", "size": size}, FREE)
        assert words == {"pid": first, "said": "ü\udcff\n"}
        assert data == b"x" * size
    assert helper.runs
    helper.close()
    assert not psutil.pid_exists(first)
    assert pid_of(helper) != first


def test_each_of_many_threads_gets_its_own_answer(helper: Helper) -> None:
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        answers[number] = helper.ask({"do": "answer", "say": number, "size": number * 1000}, FREE)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        answers[number][0]["said"] == number and len(answers[number][1]) == number * 1000
        for number in answers
    )  # type: ignore[index]
    assert len(answers) == 20


@pytest.mark.parametrize(
    ("request_", "limits", "reason"),
    [
        ({"do": "spin"}, Limits(0.5, 60, 1 << 40), "took more than 0.5 s"),
        ({"do": "sleep", "seconds": 60}, Limits(60, 0.5, 1 << 40), "took more than 0.5 s"),
        ({"do": "eat", "megabytes": 300}, Limits(60, 60, 200 << 20), "209,715,200 bytes of memory"),
        ({"do": "end", "code": 3}, FREE, "ended with code 3"),
        ({"do": "talk"}, FREE, "ended with code 0"),
    ],
)
def test_a_child_that_goes_too_far_or_dies_is_replaced(
    helper: Helper, request_: dict[str, object], limits: Limits, reason: str
) -> None:
    first = pid_of(helper)
    with pytest.raises(HelperLostError) as caught:
        helper.ask(request_, limits)
    assert reason in caught.value.reason
    assert not psutil.pid_exists(first)
    assert pid_of(helper) != first


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_that_breaks_a_request_off_does_not_leave_its_answer_to_the_next(helper: Helper) -> None:
    class BrokenOffError(Exception):
        pass

    def broken_off(*_: object) -> None:
        raise BrokenOffError

    first = pid_of(helper)
    before = signal.signal(signal.SIGALRM, broken_off)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(BrokenOffError):
            helper.ask({"do": "sleep", "seconds": 2, "say": "late"}, FREE)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not psutil.pid_exists(first)
    assert helper.ask({"do": "answer", "say": "mine"}, FREE)[0]["said"] == "mine"


def test_who_waits_does_not_hold_up_the_end(helper: Helper) -> None:
    first = pid_of(helper)
    reasons: list[str] = []

    def wait() -> None:
        try:
            helper.ask({"do": "sleep", "seconds": 600}, FREE)
        except HelperLostError as error:
            reasons.append(error.reason)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    helper.close()
    thread.join(30)
    assert len(reasons) == 1
    assert not psutil.pid_exists(first)


STARTS = """
import sys, time
from comic_upscale.library.helper_process import Helper, Limits
helper = Helper("tests.odd_child")
print(helper.ask({"do": "answer"}, Limits(60, 60, 1 << 40))[0]["pid"], flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["end", "wait"])
def test_a_child_does_not_outlive_who_asked_it(how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS, how], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    if how == "wait":
        parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(30)
    assert not child.is_running()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_after_a_fork_each_has_a_child_of_its_own(helper: Helper) -> None:
    first = pid_of(helper)
    code = (
        "import os\n"
        "from comic_upscale.library.helper_process import Helper, Limits\n"
        "helper = Helper('tests.odd_child')\n"
        "ask = lambda: helper.ask({'do': 'answer'}, Limits(60, 60, 1 << 40))[0]['pid']\n"
        "mine = ask()\n"
        "forked = os.fork()\n"
        "if forked == 0:\n"
        "    other = ask()\n"
        "    helper.close()\n"
        "    os._exit(0 if other != mine else 1)\n"
        "_, status = os.waitpid(forked, 0)\n"
        "assert status == 0, status\n"
        "assert ask() == mine\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120)
    assert pid_of(helper) == first


def test_a_program_without_python_beside_it_is_not_started_again(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(OSError, match="no Python"):
        helper.ask({"do": "answer"}, FREE)
