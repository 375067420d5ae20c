"""Hooks of ``run``: programs, webhooks and library scans, with real programs and real HTTP."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.execution.events import JobFinished, JobStarted
from comic_upscale.execution.stop import StopRequest
from comic_upscale.hooks import http
from comic_upscale.hooks import runner as runners
from comic_upscale.hooks.http import HookError, send
from comic_upscale.hooks.libraries import scan_kavita, scan_komga
from comic_upscale.hooks.runner import HookRunner
from comic_upscale.hooks.webhook import Webhook, sign
from comic_upscale.ledger.records import VolumeDone
from comic_upscale.retries import RetryPolicy
from comic_upscale.settings.hooks import HookSettings
from comic_upscale.settings.paths import replace_folder
from tests.archives import make_zip, pictures
from tests.conftest import REPOSITORY, draw
from tests.hooks.servers import KEY, LIBRARIES, Answer, Request, kavita, komga, serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(attempts=4, first_pause=0.01)

WRITE = (
    "import json, os, sys; hooks = {name: text for name, text in os.environ.items() if 'HOOK' in name}; "
    "print(json.dumps(hooks), file=open(sys.argv[1], 'a'))"
)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("KOMGA_KEY", "KAVITA_KEY", "WEBHOOK_SECRET"):
        monkeypatch.delenv(f"COMIC_UPSCALE_{name}", raising=False)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    make_zip(tmp_path / "in" / "vol 1.cbz", pictures(1))
    draw(tmp_path / "in" / "a.png", 1)
    return tmp_path / "in"


def run(inputs: Path, weights: Path, *more: object) -> tuple[int, str, str]:
    words = [
        "run",
        "--input",
        inputs,
        "--output",
        inputs.parent / "out",
        "--model",
        weights,
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def python(program: str, *words: object) -> str:
    return shlex.join([sys.executable, "-c", program, *map(str, words)])


def test_programs_are_told_what_is_done(inputs: Path, tiny_weights: Path, tmp_path: Path) -> None:
    told = tmp_path / "told $HOME.jsonl"
    code, out, err = run(
        inputs, tiny_weights, "--on-volume-done", python(WRITE, told), "--on-job-done", python(WRITE, told)
    )
    assert (code, err) == (0, "")
    assert "hook" not in out
    volume, job = (json.loads(line) for line in told.read_text(encoding="utf-8").splitlines())
    prefix = "COMIC_UPSCALE_HOOK_"
    assert volume[f"{prefix}EVENT"] == "volume.done"
    assert volume[f"{prefix}SOURCE"] == "vol 1.cbz"
    assert Path(volume[f"{prefix}FILE"]) == tmp_path / "out" / "vol 1.cbz"
    assert Path(volume[f"{prefix}FILE"]).is_file()
    assert (volume[f"{prefix}PAGES"], volume[f"{prefix}NOTES"]) == ("1", "")
    assert job[f"{prefix}EVENT"] == "job.finished"
    assert (job[f"{prefix}DONE"], job[f"{prefix}FAILED"], job[f"{prefix}TOTAL"]) == ("2", "0", "2")
    assert (job[f"{prefix}VOLUMES_DONE"], job[f"{prefix}VOLUMES_CUT"]) == ("1", "0")
    assert job[f"{prefix}OUTPUT"] == str(tmp_path / "out")
    text = (REPOSITORY / "docs" / "hooks.md").read_text(encoding="utf-8")
    named = {name for name in {*volume, *job} if f"`{name.removeprefix(prefix)}`" in text}
    assert {*volume, *job} - named == set()


def test_a_hook_that_fails_is_said_and_counted_and_fails_no_run(inputs: Path, tiny_weights: Path) -> None:
    fails = python("import sys; sys.exit('the disk of the hook is full')")
    hooks = (
        "--on-job-done",
        fails,
        "--on-volume-done",
        "no-such-program --flag",
        "--webhook",
        "http://127.0.0.1:9/x",
    )
    code, out, err = run(inputs, tiny_weights, *hooks, "--hook-timeout", 0.2)
    assert (code, err) == (0, "")
    assert "2 of 2 pages done" in out
    assert "4 of 4 hooks failed; the pages are not affected" in out
    assert "the disk of the hook is full" in out
    assert "no-such-program cannot be started" in out
    assert "http://127.0.0.1:9 cannot be reached" in out
    code, out, _ = run(inputs, tiny_weights, "--on-job-done", fails, "--json")
    (event,) = [json.loads(line) for line in out.splitlines() if '"hooks_finished"' in line]
    assert (code, event["ran"], len(event["failures"])) == (0, 1, 1)
    # --quiet prints errors only, and this is one.
    assert "1 of 1 hook failed" in run(inputs, tiny_weights, "--on-job-done", fails, "--quiet")[2]


def test_a_program_that_hangs_is_ended(inputs: Path, tiny_weights: Path) -> None:
    code, out, _ = run(
        inputs, tiny_weights, "--on-job-done", python("import time; time.sleep(600)"), "--hook-timeout", 0.3
    )
    assert code == 0
    assert "did not end within 0.3 seconds: raise --hook-timeout" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--on-job-done", ""), "--on-job-done is empty"),
        (("--on-job-done", "say 'hello"), "--on-job-done cannot be read as a command"),
        (("--webhook", "example.org"), "--webhook must be an address"),
        (("--webhook", "https://user:pass@example.org/"), "--webhook must be an address"),
        (("--komga", "http://localhost:25600"), "put it into the variable COMIC_UPSCALE_KOMGA_KEY"),
        (("--kavita-library", "Manga"), "add --kavita URL"),
        (("--hook-timeout", "0"), "--hook-timeout must be above 0"),
    ],
)
def test_hooks_that_cannot_work_are_refused_before_the_run(
    inputs: Path, tiny_weights: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = run(inputs, tiny_weights, *words)
    assert code == 2
    assert said in " ".join(err.split())
    assert not (inputs.parent / "out").exists()


def test_webhooks_are_signed_as_in_standard_webhooks(
    inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_WEBHOOK_SECRET", SECRET)
    with serving(lambda _: (204, None)) as (url, requests):
        code, out, _ = run(inputs, tiny_weights, "--webhook", f"{url}/hook?a=b")
    assert (code, "hooks failed" in out) == (0, False)
    kinds = []
    for request in requests:
        content = json.loads(request.body)
        kinds.append(content["type"])
        assert content["timestamp"]
        assert request.query == {"a": "b"}
        assert request.headers["content-type"] == "application/json"
        webhooks = pytest.importorskip("standardwebhooks.webhooks", reason="pip install standardwebhooks")
        assert webhooks.Webhook(SECRET).verify(request.body.decode(), request.headers) == content
    assert kinds == ["volume.done", "job.finished"]
    assert json.loads(requests[1].body)["data"]["done"] == 2


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of https://github.com/standard-webhooks/standard-webhooks, libraries/python.
    import base64

    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_is_repeated_with_its_id_while_the_receiver_is_busy() -> None:
    answers = iter([503, 429, 200])
    with serving(lambda _: (next(answers), None)) as (url, requests):
        Webhook(url, SECRET).send("job.finished", {"name": "ü"}, QUICK)
    assert len(requests) == 3
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert json.loads(requests[0].body)["data"] == {"name": "ü"}


def test_a_webhook_that_is_refused_is_not_repeated_and_follows_no_redirect() -> None:
    for status in (302, 400, 410):
        with serving(lambda _, status=status: (status, None)) as (url, requests):
            with pytest.raises(HookError, match=f"status {status}"):
                Webhook(url, None).send("job.finished", {}, QUICK)
            assert len(requests) == 1
            assert "webhook-signature" not in requests[0].headers


def test_komga_scans_libraries(inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_KOMGA_KEY", KEY)
    with serving(komga) as (url, requests):
        assert run(inputs, tiny_weights, "--komga", f"{url}/")[0] == 0
        posted = [request.path for request in requests if request.method == "POST"]
        every = [f"/api/v1/libraries/{identity}/scan" for identity in LIBRARIES.values()]
        # When the volume was complete, and at the end.
        assert posted in (every, every * 2)
        requests.clear()
        # Nothing is new.
        assert run(inputs, tiny_weights, "--komga", url)[0] == 0
        assert not requests
        scan_komga(url, KEY, ("comics",), ONCE)
        assert [request.path for request in requests][1:] == every[1:]
        with pytest.raises(HookError, match="no library 'Novels'; it has Manga"):
            scan_komga(url, KEY, ("Novels",), ONCE)
        with pytest.raises(HookError, match="administrator") as failed:
            scan_komga(url, "a wrong one", (), ONCE)
        assert "a wrong one" not in str(failed.value)


def test_kavita_scans_libraries() -> None:
    with serving(kavita) as (url, requests):
        scan_kavita(url, KEY, (), ONCE)
        assert [request.query["libraryId"] for request in requests if request.path.endswith("scan")] == [
            "1",
            "2",
        ]
        requests.clear()
        scan_kavita(f"{url}/", KEY, ("Comics", "2"), ONCE)
        assert [request.query["libraryId"] for request in requests if request.path.endswith("scan")] == ["2"]
        with pytest.raises(HookError, match="status 401") as failed:
            scan_kavita(url, "a wrong one", (), ONCE)
        assert "a wrong one" not in str(failed.value)


def test_answers_of_another_server_are_failures() -> None:
    for content in ({"no": "list"}, "text", None):
        with serving(lambda _, content=content: (200, content)) as (url, _):
            with pytest.raises(HookError, match="check the address"):
                scan_komga(url, KEY, (), ONCE)
            with pytest.raises(HookError, match="check the"):
                scan_kavita(url, KEY, (), ONCE)
    with pytest.raises(HookError, match="cannot be reached"):
        send("GET", "http://127.0.0.1:9/", ONCE)


def volume(number: int) -> VolumeDone:
    return VolumeDone(
        row_id=number, source=f"{number}.cbz", output=f"{number}.cbz", pages=1, output_size=1,
        output_sha256="0", source_sha256="0",
    )  # fmt: skip


def test_libraries_are_not_scanned_for_every_volume() -> None:
    def count(request: Request) -> Answer:
        return komga(request)

    with serving(count) as (url, requests):
        runner = HookRunner(HookSettings(komga=url, komga_key=KEY, komga_library=("Manga",)), {})
        for number in range(20):
            runner(volume(number))
        runner.finish()
        assert len([request for request in requests if request.method == "POST"]) == 1
        runner(_ended())
        assert runner.finish().failures == ()
        assert len([request for request in requests if request.method == "POST"]) == 2
        runner.close()


def test_libraries_are_scanned_after_originals_were_replaced(tmp_path: Path) -> None:
    with serving(komga) as (url, requests):
        runner = HookRunner(HookSettings(komga=url, komga_key=KEY, komga_library=("Manga",)), {})
        runner(
            JobStarted(
                input=str(tmp_path),
                output=str(replace_folder(tmp_path)),
                ledger="ledger",
                total=1,
                todo=1,
                done=0,
                failed=0,
                skipped=0,
                scale=2.0,
                model="m",
                native_scale=4,
                device="cpu",
                precision="fp32",
                batch="auto",
                workers=1,
            )
        )
        runner(volume(1))
        assert runner.finish().ran == 0
        runner(replace(_ended(), replaced_now=1))
        assert runner.finish().failures == ()
        # As when an earlier run was stopped before it could replace what it had done.
        runner(replace(_ended(), replaced_now=1))
        assert runner.finish().ran == 1
        assert len([request for request in requests if request.method == "POST"]) == 2
        runner.close()


def _ended() -> JobFinished:
    return JobFinished(
        state="finished", reason=None, total=1, done=1, done_now=0, failed=0, skipped=0, pending=0, seconds=1.0,
        pages_per_second=None, output="out", ledger="ledger",
    )  # fmt: skip


def test_no_secret_is_recorded(inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMIC_UPSCALE_WEBHOOK_SECRET", SECRET)
    with serving(lambda _: (204, None)) as (url, _):
        assert run(inputs, tiny_weights, "--webhook", url)[0] == 0
    ledger = (inputs.parent / "out" / ".comic-upscale" / "ledger.sqlite3").read_bytes()
    assert SECRET.encode() not in ledger
    assert url.encode() not in ledger


def test_a_program_gets_no_key_and_its_last_words_have_none(
    inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hidden = {
        "VAST_API_KEY": "vast-0123456789",
        "AWS_SECRET_ACCESS_KEY": "aws-0123456789",
        "COMIC_UPSCALE_WEBHOOK_SECRET": SECRET,
        "COMIC_UPSCALE_KOMGA_KEY": "komga-0123456789",
        "COMIC_UPSCALE_OTHER_TOKEN": "other-0123456789",
    }
    for name, value in {**hidden, "NTFY_TOPIC": "comics"}.items():
        monkeypatch.setenv(name, value)
    told = tmp_path / "told.json"
    # As a program that finds a key elsewhere, in a file for example, and fails with it on its lips.
    words = " ".join(hidden.values())
    program = (
        "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w')); sys.exit(sys.argv[2])"
    )
    code, out, _ = run(inputs, tiny_weights, "--on-job-done", python(program, told, f"key {words} is wrong"))
    seen = json.loads(told.read_text(encoding="utf-8"))
    assert hidden.keys() & seen.keys() == set()
    assert seen["NTFY_TOPIC"] == "comics"
    assert code == 0
    assert "key *** *** *** *** *** is wrong" in " ".join(out.split())
    assert not [value for value in hidden.values() if value in out]


def test_no_message_has_the_path_of_a_webhook_or_a_password(inputs: Path, tiny_weights: Path) -> None:
    for url in ("http://127.0.0.1:9/hooks/s3cret?token=s3cret", "https://user:s3cret@example.org/"):
        _, out, err = run(inputs, tiny_weights, "--webhook", url, "--hook-timeout", 0.1)
        assert "webhook" in out + err
        assert "s3cret" not in out + err
    with serving(lambda _: (404, None)) as (url, _), pytest.raises(HookError, match="status 404") as failed:
        Webhook(f"{url}/hooks/s3cret?token=s3cret", None).send("job.finished", {}, ONCE)
    assert "s3cret" not in str(failed.value)


def test_settings_are_shown_without_their_secrets() -> None:
    settings = HookSettings(
        webhook="https://example.org/s3cret", webhook_secret="s3cret", komga="http://nas", komga_key="s3cret",
        kavita="http://nas", kavita_key="s3cret",
    )  # fmt: skip
    assert "s3cret" not in repr(settings)
    assert "http://nas" in repr(settings)


def test_a_dead_webhook_is_retried_for_one_volume_only() -> None:
    with serving(lambda _: (503, None)) as (url, requests):
        runner = HookRunner(HookSettings(webhook=url, hook_timeout=1.5), {})
        for number in range(5):
            runner(volume(number))
        ended = runner.finish()
        runner.close()
    assert (ended.ran, len(ended.failures)) == (5, 5)
    identities = [request.headers["webhook-id"] for request in requests]
    assert len(set(identities)) == 5
    assert len(identities) > 5
    assert all(identities.count(identity) == 1 for identity in identities[-4:])


def test_all_hooks_together_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "MORE_SECONDS", 0.1)
    hangs = python("import time; time.sleep(600)")
    runner = HookRunner(HookSettings(on_volume_done=hangs, hook_timeout=0.4), {})
    for number in range(50):
        runner(volume(number))
    ended = runner.finish()
    runner.close()
    assert (ended.ran, len(ended.failures)) == (50, 50)
    assert "together took longer than --hook-timeout" in ended.failures[-1][1]


def test_a_stop_ends_the_wait_for_hooks_and_the_next_run_calls_them_again(tmp_path: Path) -> None:
    stop = StopRequest()
    begun = tmp_path / "begun"
    program = (
        f"import pathlib, time; p = pathlib.Path({str(begun)!r}); p.exists() or (p.touch(), time.sleep(600))"
    )
    runner = HookRunner(HookSettings(on_volume_done=python(program), hook_timeout=500), {}, stop)
    runner(volume(1))
    runner(volume(2))
    ended = []
    thread = threading.Thread(target=lambda: ended.append(runner.finish()), daemon=True)
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    stop.request("SIGINT")
    thread.join(60)
    assert len(ended) == 1
    assert len(ended[0].failures) == 2
    assert ended[0].failures[1][1] == "it had not ended when the run was stopped"
    runner(volume(3))
    assert runner.finish().failures == ()
    runner.close()


def test_an_answer_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_ANSWER", 100_000)
    with serving(lambda _: (200, ["x" * 200_000])) as (url, _):
        with pytest.raises(HookError, match="sent more than"):
            scan_komga(url, KEY, (), ONCE)
        # Nobody needs the answer to a webhook.
        Webhook(url, None).send("job.finished", {}, ONCE)
