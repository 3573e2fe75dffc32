"""The `shoal` command, as a person types it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from celery.utils.sysinfo import cpu_budget

from conftest import Workers, eventually
from shoal_worker import services

SHOAL = [sys.executable, "-c", "from shoal.cli import main; main()"]


def run(workers: Workers, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SHOAL, *words], env=workers.environ, capture_output=True, text=True, check=False, timeout=90
    )


def test_one_job_is_submitted_and_answered(workers: Workers) -> None:
    workers.start()
    done = run(workers, "submit", "classify", "--text", "I was charged twice", "--labels", "billing,bug")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["result"]["labels"][0]["name"] in {"billing", "bug"}
    assert run(workers, "status", outcome["job_id"]).stdout == "completed\n"
    assert json.loads(run(workers, "result", outcome["job_id"]).stdout) == outcome


def test_a_file_is_answered_line_by_line(workers: Workers, tmp_path: Path) -> None:
    workers.start()
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("id,body\n" + "".join(f'{n},"charged twice, case {n}"\n' for n in range(300)))
    answers = tmp_path / "answers.jsonl"
    options = ("--text", "body", "--labels", "billing,bug", "-o", str(answers))
    done = run(workers, "submit", "classify", str(reviews), *options)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert sorted(row["line"] for row in rows) == list(range(2, 302))
    assert all(row["result"]["kind"] == "classify" for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit", "classify", "--text", "x", "--labels", "a,a"), "labels repeat a name"),
        (("submit", "classify", "--text", " ", "--labels", "a,b"), "text: Value error, is blank"),
        (("submit", "summarize", "--text", "x", "--set", "length_words=3"), "length_words: Input should be"),
        (("submit", "summarize", "--text", "x", "--set", "colour=1"), "colour: Extra inputs are not permitted"),
        (("status", "nobody"), "no job nobody"),
    ],
)
def test_a_mistake_is_one_clear_line(workers: Workers, words: tuple[str, ...], said: str) -> None:
    done = run(workers, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_row_that_is_no_job_fails_by_itself(workers: Workers, tmp_path: Path) -> None:
    workers.start()
    reviews = tmp_path / "reviews.jsonl"
    rows = [{"text": "charged twice"}, {"text": " "}, {"text": "a bug"}]
    reviews.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(workers, "submit", "classify", str(reviews), "--labels", "billing,bug")
    assert done.returncode == 1
    answers = {row["line"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(answers) == {1, 2, 3}
    assert answers[2]["error"] == {"cause": "invalid_arguments", "reason": answers[2]["error"]["reason"]}
    assert "text: Value error, is blank" in answers[2]["error"]["reason"]
    assert all(answers[line]["result"]["labels"] for line in (1, 3))


def test_up_with_a_key_that_is_refused_says_so(workers: Workers) -> None:
    workers.environ["SHOAL_OPENROUTER_API_KEY"] = ""
    done = run(workers, "up")
    assert done.returncode == 1
    assert "the provider refuses the key" in done.stderr


def test_up_without_a_key_says_what_to_set(workers: Workers) -> None:
    del workers.environ["SHOAL_OPENROUTER_API_KEY"], workers.environ["SHOAL_OPENROUTER_BASE_URL"]
    done = run(workers, "up")
    assert done.returncode == 1
    assert "set SHOAL_OPENROUTER_API_KEY" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_up_starts_everything_and_leaves_nothing_behind(workers: Workers, tmp_path: Path, how: int) -> None:
    environ = {name: value for name, value in workers.environ.items() if not name.startswith("SHOAL_")}
    log = tmp_path / "up.log"
    flower_port = services.free_port()
    with log.open("wb") as output:
        command = [*SHOAL, "up", "--sandbox", "--flower-port", str(flower_port)]
        up = subprocess.Popen(command, env=environ, stdout=output, stderr=output, cwd=tmp_path)
    try:
        eventually(lambda: b"ready; Ctrl-C" in log.read_bytes() or up.poll() is not None, 60, "a running tree")
        children = psutil.Process(up.pid).children(recursive=True)
        started = [child for child in children if child.cmdline()[1:4] == ["-m", "shoal_worker", "-n"]]
        assert len(started) == cpu_budget().count, log.read_text()
        assert not services.port_is_free(flower_port)
        up.send_signal(how)
        assert up.wait(60) == 0, log.read_text()
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    finally:
        if up.poll() is None:
            os.kill(up.pid, signal.SIGKILL)
            up.wait()
