"""Rows of answers: their forms, and what a stop at any byte leaves."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import InvalidJob, JobFailed, parquet
from shoal.answers import InOrder, Place, columns_of, layout_of
from shoal.files import Row, form_of
from shoal.jobs import (
    RESULTS,
    ClassifyResult,
    ExtractResult,
    Outcome,
    RankedDocument,
    RankResult,
    ScoredLabel,
    SummarizeResult,
    Usage,
)
from shoal.journal import Claim, Output, difference
from shoal.results import Answer

CLAIM = Claim("input", "asked", ordered=False)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["a\nb", "\r", '"', '",\n"', "\r\n", "\u2028"]
)
RESULT_OF = {
    "classify": ClassifyResult(labels=(ScoredLabel(name="bug", confidence=0.5),)),
    "extract": ExtractResult(data={"total": 3}, evidence=()),
    "rank": RankResult(ranking=(RankedDocument(id="a", index=0, score=3),), top_k=1),
    "summarize": SummarizeResult(summary="Kurz.\n„So“", sentences=(), parts=2),
}


def outcome(kind: str, line: int, **fields: Any) -> Outcome[Any]:
    return RESULTS[kind](
        job_id=f"job-{line}",
        kind=kind,
        result=RESULT_OF[kind].model_copy(update=fields),
        usage=Usage(cost_usd=0.25),
        model="m",
        attempts=1,
        queue_seconds=0,
        run_seconds=0,
        finished_at=1,
    )


def an_output(folder: Path, name: str, kind: str = "summarize", named: str | None = None) -> Output:
    form = form_of(folder / name, named, "--format")
    return Output(folder / name, form, layout_of(form, kind))


def write(output: Output, answers: dict[Place, Answer], *, stop: bool = False, **options: bool) -> int:
    """As a run of `shoal submit` does: a row for each line that has none. How many were written."""
    count = 0
    given_options = {"restart": False, "retry_failed": False, **options}
    try:
        with output.opened(CLAIM, **given_options) as journal:
            for place, answer in answers.items():
                if place.line not in journal.answered:
                    journal.write(output.layout.shaped(place, answer))
                    count += 1
            if stop:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return count


def rows(output: Output) -> list[Row]:
    """What is in the output, read by others' means."""
    if output.form.name == "parquet":
        return [{**dict.fromkeys(output.layout.columns), **row} for _, row in parquet.rows(output.path, list)]
    content = output.path.read_bytes()
    content = gzip.decompress(content) if output.form.gzipped else content
    if output.layout.rows.header:
        delimiter = "\t" if output.form.name == "tsv" else ","
        table = csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter=delimiter)
        return [dict(row) for row in table]
    return [json.loads(line) for line in content.splitlines()]


def test_a_row_of_jsonl_is_the_outcome_with_its_line() -> None:
    layout = layout_of(form_of(Path("a.jsonl"), None, ""), "classify")
    answer = outcome("classify", 3)
    assert layout.shaped(Place(3), answer) == {"line": 3, **answer.model_dump(mode="json")}
    assert layout.shaped(Place(3, "mine"), answer)["custom_id"] == "mine"
    failure = layout.shaped(Place(4), JobFailed("why", "job-4", "refused"))
    assert failure == {"line": 4, "job_id": "job-4", "error": {"cause": "refused", "reason": "why"}}


def test_a_row_of_a_batch_is_as_openai_gives_it() -> None:
    layout = layout_of(form_of(Path("a.jsonl"), "openai-batch", ""), "classify")
    answer = outcome("classify", 3)
    row = layout.shaped(Place(3, "mine"), answer)
    assert (row["id"], row["custom_id"], row["error"]) == ("job-3", "mine", None)
    assert row["response"]["status_code"] == 200
    assert row["response"]["body"] == answer.model_dump(mode="json")
    failure = layout.shaped(Place(4, "other"), JobFailed("why", "job-4", "refused"))
    assert (failure["response"], failure["error"]) == (None, {"code": "refused", "message": "why"})


CELLS: dict[str, Row] = {
    "classify": {"label": "bug", "confidence": 0.5, "labels": [{"name": "bug", "confidence": 0.5}], "evidence": None},
    "extract": {"data": {"total": 3}, "evidence": []},
    "rank": {"ranking": [{"id": "a", "index": 0, "score": 3.0}], "top_k": 1, "repaired": []},
    "summarize": {"summary": "Kurz.\n„So“", "sentences": [], "parts": 2},
}


@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("name", ["out.csv", "out.tsv.gz", "out.parquet"])
def test_a_table_has_a_column_for_each_field(kind: str, name: str, tmp_path: Path) -> None:
    output = an_output(tmp_path, name, kind)
    write(output, {Place(2, "mine"): outcome(kind, 2), Place(3): JobFailed("why", "job-3", "refused")})
    good, bad = rows(output)
    assert list(good) == list(columns_of(kind))
    nothing = None if name == "out.parquet" else ""
    plain = {"line": 2, "custom_id": "mine", "job_id": "job-2", "status": "completed", "cost_usd": 0.25}
    for column, value in {**plain, **CELLS[kind]}.items():
        if value is None:
            assert good[column] == nothing
        elif isinstance(value, (dict, list)):
            assert json.loads(good[column]) == value
        else:
            assert good[column] == (value if name == "out.parquet" else str(value))
    assert (bad["status"], bad["error_cause"], bad["error_reason"]) == ("failed", "refused", "why")
    assert bad["cost_usd"] == nothing


FORMS = ["out.jsonl", "out.csv", "out.tsv", "out.jsonl.gz", "out.csv.gz", "out.parquet"]


@settings(deadline=None)
@given(name=st.sampled_from(FORMS), summaries=st.lists(texts, max_size=6), data=st.data())
def test_a_stop_at_any_byte_leaves_each_line_once(name: str, summaries: list[str], data: st.DataObject) -> None:
    answers: dict[Place, Answer] = {
        Place(line, text or None): outcome("summarize", line, summary=text) if line % 3 else JobFailed(text)
        for line, text in enumerate(summaries, 2)
    }
    with tempfile.TemporaryDirectory() as folder:
        output = an_output(Path(folder), name)
        write(output, answers, stop=True)
        whole = output.journal.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        output.journal.write_bytes(whole[:cut])
        write(output, answers)
        assert sorted(int(row["line"]) for row in rows(output)) == list(range(2, len(summaries) + 2))
        said = {int(row["line"]): row for row in rows(output)}
        for place, text in zip(answers, summaries, strict=True):
            if place.line % 3:
                row = said[place.line]
                assert (row if output.layout.columns else row["result"])["summary"] == text
        assert {path.name for path in Path(folder).iterdir()} == {name, f"{name}.state"}


@pytest.mark.parametrize("name", FORMS)
def test_what_has_all_its_rows_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    answers: dict[Place, Answer] = {Place(line): outcome("summarize", line) for line in range(1, 4)}
    output = an_output(tmp_path, name)
    assert write(output, answers) == 3
    before = rows(output)
    assert write(output, answers) == 0
    assert rows(output) == before


@pytest.mark.parametrize("name", FORMS)
def test_failed_rows_are_asked_again_on_demand(name: str, tmp_path: Path) -> None:
    good: Answer = outcome("summarize", 1)
    output = an_output(tmp_path, name)
    write(output, {Place(1): good, Place(2): JobFailed("why"), Place(3): good})
    answers = {Place(line): good for line in range(1, 4)}
    assert write(output, answers) == 0
    assert write(output, answers, retry_failed=True) == 1
    assert [int(row["line"]) for row in rows(output)] == [1, 3, 2]
    assert not any(row.get("error") or row.get("error_reason") for row in rows(output))


def test_a_row_that_a_power_cut_has_spoilt_is_written_anew(tmp_path: Path) -> None:
    answers: dict[Place, Answer] = {Place(line): outcome("summarize", line) for line in range(1, 4)}
    output = an_output(tmp_path, "out.jsonl")
    write(output, answers)
    first, second, third = output.path.read_bytes().splitlines(keepends=True)
    output.path.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    assert write(output, answers) == 1
    assert [row["line"] for row in rows(output)] == [1, 3, 2]


def test_restart_throws_away_what_is_there(tmp_path: Path) -> None:
    output = an_output(tmp_path, "out.csv")
    answers: dict[Place, Answer] = {Place(1): outcome("summarize", 1)}
    write(output, answers)
    assert write(output, answers, restart=True) == 1
    assert len(rows(output)) == 1


@pytest.mark.parametrize(
    ("claim", "found", "said"),
    [
        (CLAIM, CLAIM, None),
        (CLAIM._replace(input_sha256=None), CLAIM._replace(input_sha256=None), "the input can be read once only"),
        (CLAIM, CLAIM._replace(input_sha256="other"), "another input, or of this one as it was before"),
        (CLAIM, CLAIM._replace(asked_sha256="other"), "other arguments"),
        (CLAIM, CLAIM._replace(ordered=True), "with --ordered"),
    ],
)
def test_rows_of_something_else_are_not_gone_on_with(claim: Claim, found: Claim, said: str | None) -> None:
    fault = difference(claim, found)
    assert fault == said or (said is not None and fault is not None and said in fault)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_file_of_somebody_else_is_refused_and_left_alone(name: str, restart: bool, tmp_path: Path) -> None:
    output = an_output(tmp_path, name)
    theirs = "theirs"
    output.path.write_text(theirs)
    with pytest.raises(InvalidJob, match=rf"{name} is there, and no output of"):
        write(output, {}, restart=restart)
    assert output.path.read_text() == theirs
    assert list(tmp_path.iterdir()) == [output.path]


def test_an_output_without_a_row_belongs_to_nobody(tmp_path: Path) -> None:
    output = an_output(tmp_path, "out.csv")
    write(output, {}, stop=True)
    with output.opened(CLAIM._replace(asked_sha256="other"), restart=False, retry_failed=False) as journal:
        assert journal.answered.rows == 0


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    output = an_output(tmp_path, "out.csv")
    write(output, {Place(1): outcome("summarize", 1)})
    output.path.write_bytes(b"x" + output.path.read_bytes())
    with pytest.raises(InvalidJob, match="names other columns"):
        write(output, {})


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    output = an_output(tmp_path, "out.jsonl")
    with (
        output.opened(CLAIM, restart=False, retry_failed=False),
        pytest.raises(InvalidJob, match=r"another `shoal submit` is writing out\.jsonl"),
    ):
        write(output, {})


@given(lines=st.lists(st.integers(0, 10**6), unique=True), most=st.integers(1, 5), data=st.data())
def test_rows_go_out_in_the_order_of_their_lines(lines: list[int], most: int, data: st.DataObject) -> None:
    order, source, begun, on_their_way, out = InOrder(most), iter(lines), 0, list[int](), list[Row]()
    while True:
        while not order.full and (line := next(source, None)) is not None:
            order.begin(line)
            begun += 1
            on_their_way.append(line)
        if not on_their_way:
            break
        answered = on_their_way.pop(data.draw(st.integers(0, len(on_their_way) - 1)))
        out += order.due(answered, {"line": answered})
        assert begun - len(out) <= most
        assert [row["line"] for row in out] == lines[: len(out)]
    assert [row["line"] for row in out] == lines
