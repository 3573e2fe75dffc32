"""`shoal submit FILE`, as a person types it, stops it and types it again."""

import csv
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import Sandbox, Workers, eventually, interruptible
from shoal import parquet

SHOAL = [sys.executable, "-c", "from shoal.cli import main; main()"]
ASK = ("submit", "classify", "--labels", "billing,bug")


def run(workers: Workers, *words: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SHOAL, *ASK, *words],
        env=workers.environ,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def reviews(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["custom_id", "body"])
        writer.writerows((f"review-{number}", text) for number, text in enumerate(texts))
    return path


def batch(path: Path, bodies: list[Any]) -> Path:
    rows = ({"custom_id": f"r-{n}", "method": "POST", "url": "/v1/classify", "body": b} for n, b in enumerate(bodies))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def holds(path: Path, size_bytes: int) -> bool:
    return path.exists() and path.stat().st_size > size_bytes


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return [row for _, row in parquet.rows(path, list)]
    with path.open(newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("name", "options"),
    [("answers.csv", ()), ("answers.jsonl", ("--ordered", "--window", "30")), ("answers.parquet", ("--window", "50"))],
)
def test_killed_in_the_middle_it_goes_on_and_no_line_is_asked_or_answered_twice(
    name: str, options: tuple[str, ...], workers: Workers, sandbox: Sandbox, tmp_path: Path
) -> None:
    workers.start(concurrency=20)
    sandbox.scenario(latency_seconds=0.2)
    texts = [f"charged twice,\ncase {number}" for number in range(200)]
    texts[3] += " [[fault:upstream_429:2*1]]"  # all others overtake it
    source = reviews(tmp_path / "reviews.csv", texts)
    output = tmp_path / name
    words = (str(source), "--text", "body", "-o", str(output), *options)
    record = output if output.suffix != ".parquet" else tmp_path / "answers.parquet.partial"
    for size_bytes in (1, 20_000):
        killed = subprocess.Popen([*SHOAL, *ASK, *words], env=workers.environ, stderr=subprocess.DEVNULL)
        eventually(partial(holds, record, size_bytes), what="answers")
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    with record.open("r+b") as file:
        file.truncate(record.stat().st_size - 7)  # as a power cut may tear it
    done = run(workers, *words)
    assert done.returncode == 0, done.stderr
    assert "200 lines, 200 answered, 0 failed" in done.stderr
    ids = [row["custom_id"] for row in rows(output)]
    expected = [f"review-{number}" for number in range(200)]
    assert ids == expected if "--ordered" in options else sorted(ids) == sorted(expected)
    assert sandbox.bill()["billed_calls"] == 200
    assert "200 answered, 0 failed; 0 of them now" in run(workers, *words).stderr


def test_stopped_by_hand_it_says_that_it_goes_on(workers: Workers, sandbox: Sandbox, tmp_path: Path) -> None:
    workers.start(concurrency=2)
    sandbox.scenario(latency_seconds=0.3)
    source = reviews(tmp_path / "reviews.csv", [f"case {number}" for number in range(100)])
    output = tmp_path / "answers.jsonl"
    words = (str(source), "--text", "body", "-o", str(output))
    command = [*SHOAL, *ASK, *words]
    stopped = subprocess.Popen(
        command,
        env=workers.environ,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,  # noqa: PLW1509 no thread of ours holds a lock
    )
    eventually(partial(holds, output, 0), what="an answer")
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=30)[1]
    assert stopped.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said


def test_lines_that_are_no_jobs_fail_by_themselves(workers: Workers, tmp_path: Path) -> None:
    workers.start()
    source = tmp_path / "reviews.jsonl"
    source.write_text('{"text": "a bug"}\n{"text": \n{"texts": "a bug"}\n{"messages": []}\n{"text": "charged twice"}\n')
    output = tmp_path / "answers.csv"
    done = run(workers, str(source), "-o", str(output))
    assert done.returncode == 1
    assert "5 lines, 2 answered, 3 failed" in done.stderr
    found = {row["line"]: row for row in rows(output)}
    assert {line for line, row in found.items() if row["status"] == "completed"} == {"1", "5"}
    assert found["2"]["error_reason"].startswith("line 2: not JSON")
    assert "line 3: text: Field required; texts: Extra inputs" in found["3"]["error_reason"]
    assert "line 4: messages: chat is no kind of job" in found["4"]["error_reason"]


def test_a_batch_comes_back_as_a_batch_and_what_failed_can_be_asked_again(
    workers: Workers, sandbox: Sandbox, tmp_path: Path
) -> None:
    workers.start()
    texts = ["charged twice", "a bug [[fault:bad_request*1]]"]
    source = batch(tmp_path / "batch.jsonl", [{"text": text} for text in texts])
    output = tmp_path / "answers.jsonl"
    words = (str(source), "-o", str(output), "--format", "openai-batch")
    assert run(workers, *words).returncode == 1
    found = {row["custom_id"]: row for row in rows(output)}
    assert found["r-0"]["response"]["body"]["result"]["labels"]
    assert (found["r-1"]["response"], found["r-1"]["error"]["code"]) == (None, "request_refused")
    assert run(workers, *words).returncode == 1
    assert sandbox.bill()["requests"] == 2
    assert run(workers, *words, "--retry-failed").returncode == 0
    found = {row["custom_id"]: row for row in rows(output)}
    assert [found[name]["error"] for name in ("r-0", "r-1")] == [None, None]
    assert sandbox.bill()["requests"] == 3


def test_standard_input_is_jsonl_and_goes_to_standard_output(workers: Workers) -> None:
    workers.start()
    done = run(workers, "-", "--ordered", "--format", "tsv", given='{"text": "a bug"}\n{"text": "charged twice"}\n')
    assert done.returncode == 0, done.stderr
    table = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))
    assert [(row["line"], bool(row["label"])) for row in table] == [("1", True), ("2", True)]
    assert "standard input: 2 lines, 2 answered, 0 failed" in done.stderr


MISTAKES: list[tuple[str, str]] = [
    ("in.csv --labels a,b -o out.csv", "out.csv has answers to other arguments"),
    ("other.csv -o out.csv", "out.csv has the answers of another input"),
    ("- -o out.csv", "out.csv has rows already, and the input can be read once only"),
    ("in.csv -o theirs.jsonl --restart", "theirs.jsonl is there, and no output of `shoal submit`"),
    ("in.csv -o out.txt", "out.txt: the suffix says no format"),
    ("in.csv -o no/where.csv", "where.csv.state: No such file"),
    ("in.csv --text nothing -o new.csv", "in.csv: no column 'nothing'; there are: text"),
    ("in.csv --format parquet", "need --output"),
    ("in.csv -o out.csv --ordered --retry-failed", "cannot keep --ordered"),
    ("in.parquet", "not a Parquet file"),
]


def test_a_mistake_is_one_clear_line_and_harms_no_output(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n\n \n")
    (tmp_path / "other.csv").write_text("text\n \n")
    (tmp_path / "in.parquet").write_text("PAR1")
    (tmp_path / "theirs.jsonl").write_text("{}\n")
    assert run(workers, "in.csv", "-o", "out.csv").returncode == 1
    before = (tmp_path / "out.csv").read_bytes()
    for words, said in MISTAKES:
        done = run(workers, *words.split())
        assert done.returncode in {1, 2}, words
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / "out.csv").read_bytes() == before
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize("words", ["in.parquet", "in.csv -o out.parquet"])
def test_where_parquet_cannot_be_read_it_says_what_to_install(words: str, workers: Workers, tmp_path: Path) -> None:
    for name in ("in.parquet", "in.csv"):
        (tmp_path / name).touch()
    without = [sys.executable, "-c", "import sys; sys.modules['pyarrow'] = None; from shoal.cli import main; main()"]
    command = [*without, *ASK, *words.split()]
    done = subprocess.run(command, env=workers.environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: Parquet needs pyarrow: pip install 'shoal[files]'\n"
