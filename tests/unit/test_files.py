"""Files of jobs, as they are read."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import InvalidJob, parquet
from shoal.files import CustomIds, Form, Line, Source, form_of


def read(path: Path, text_column: str | None = None) -> list[Line]:
    return list(Source(path, form_of(path, None, "--input-format"), text_column).lines())


def a_file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", Form("csv")),
        ("a.TSV", Form("tsv")),
        ("a.jsonl.gz", Form("jsonl", gzipped=True)),
        ("a.ndjson", Form("jsonl")),
        ("a.b.parquet", Form("parquet")),
    ],
)
def test_the_suffix_says_the_form(name: str, form: Form) -> None:
    assert form_of(Path(name), None, "--format") == form


def test_a_form_can_be_named_and_what_says_none_is_refused() -> None:
    assert form_of(Path("a.txt.gz"), "csv", "--format") == Form("csv", gzipped=True)
    with pytest.raises(InvalidJob, match=r"a\.txt: the suffix says no format.*--format"):
        form_of(Path("a.txt"), None, "--format")
    with pytest.raises(InvalidJob, match=r"leave \.gz out"):
        form_of(Path("a.parquet.gz"), None, "--format")


ROWS = [{"custom_id": "a", "text": "Zeile 1\nZeile „2“"}, {"custom_id": "b", "text": 'x,\t"y"'}]


def packed(rows: list[dict[str, Any]], name: str, folder: Path) -> Path:
    """The rows in the form that the name says."""
    path = folder / name
    form = form_of(path, None, "")
    if form.name == "parquet":
        parquet.write(path, dict.fromkeys(rows[0], str), iter(rows))
        return path
    text = io.StringIO(newline="")
    if form.name == "jsonl":
        text.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if form.name == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    content = text.getvalue().encode()
    return a_file(folder, name, gzip.compress(content) if form.gzipped else content)


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.csv.gz", "in.jsonl", "in.jsonl.gz", "in.parquet"])
@pytest.mark.parametrize("text_column", [None, "text"])
def test_every_form_gives_the_same_lines(name: str, text_column: str | None, tmp_path: Path) -> None:
    lines = read(packed(ROWS, name, tmp_path), text_column)
    assert [(line.custom_id, line.values, line.fault) for line in lines] == [
        (row["custom_id"], {"text": row["text"]}, None) for row in ROWS
    ]
    numbers = [line.number for line in lines]
    assert numbers == ([3, 4] if "sv" in name else [1, 2])


def test_a_line_of_an_openai_batch_holds_its_arguments_in_its_body(tmp_path: Path) -> None:
    row = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"text": "t", "labels": ["a"]}}
    [line] = read(a_file(tmp_path, "in.jsonl", json.dumps(row)))
    assert line == Line(1, {"text": "t", "labels": ["a"]}, "r-1")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not JSON: EOF"),
        ('{"text": NaN}', "not JSON"),
        ("17", "not an object"),
        (b'{"text": "\xff"}', "not JSON"),
        ('{"custom_id": "a", "body": {"messages": []}}', r'messages: chat is no kind of job.*"body": \{"text"'),
        ('{"custom_id": [1], "text": "x"}', "custom_id: a string is needed"),
    ],
)
def test_a_line_that_is_no_job_says_why_and_the_next_ones_are_read(
    text: str | bytes, fault: str, tmp_path: Path
) -> None:
    content = text.encode() if isinstance(text, str) else text
    first, second = read(a_file(tmp_path, "in.jsonl", content + b'\n\n{"text": "good"}'))
    assert first.number == 1
    with pytest.raises(InvalidJob, match=fault):
        raise InvalidJob(first.fault)
    assert second == Line(3, {"text": "good"})


def test_a_row_of_a_table_that_does_not_fit_its_columns_is_a_fault(tmp_path: Path) -> None:
    lines = read(a_file(tmp_path, "in.csv", "id,body\n1,a,b\n2\n\n3,good\n"), "body")
    assert [line.fault for line in lines] == ["no row: 3 cells under 2 columns", "body: missing", None]
    assert [line.number for line in lines] == [2, 3, 5]


def test_a_long_text_fits_a_cell(tmp_path: Path) -> None:
    [line] = read(a_file(tmp_path, "in.csv", "text\n" + "x" * 1_000_000))
    assert len(line.values["text"]) == 1_000_000


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_a_whole_table_without_the_column_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"no column 'body'; there are: custom_id, text"):
        read(packed(ROWS, name, tmp_path), "body")


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_a_name_that_two_lines_share_is_a_fault_that_names_both(name: str, tmp_path: Path) -> None:
    lines = read(packed([*ROWS, {"custom_id": "a", "text": "again"}], name, tmp_path))
    assert [line.fault for line in lines] == [None, None, f"custom_id: line {lines[0].number} has the same one"]
    assert lines[2].number > lines[1].number


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)))
def test_the_first_line_of_each_name_is_known(names: list[str]) -> None:
    with CustomIds() as ids:
        assert [ids.first_line(name, line) for line, name in enumerate(names)] == [names.index(name) for name in names]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("in.csv", "text\na\nb", 2),
        ("in.jsonl", '{"text": "a"}\n', 1),
        ("in.jsonl", "", 0),
        ("in.csv.gz", gzip.compress(b"text\na\n", mtime=0), 1),
    ],
)
def test_a_file_is_measured_by_its_bytes(name: str, content: str | bytes, lines: int, tmp_path: Path) -> None:
    path = a_file(tmp_path, name, content)
    measure = Source(path, form_of(path, None, "")).measure()
    assert measure is not None
    assert measure.lines == lines


def test_a_change_of_a_byte_makes_another_file(tmp_path: Path) -> None:
    one, other = a_file(tmp_path, "1.csv", "text\na\n"), a_file(tmp_path, "2.csv", "text\nb\n")
    assert Source(one, Form("csv")).measure() != Source(other, Form("csv")).measure()
    assert Source(packed(ROWS, "in.parquet", tmp_path), Form("parquet")).measure().lines == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.parquet"])
def test_a_file_that_was_cut_is_refused(name: str, tmp_path: Path) -> None:
    whole = packed(ROWS, name, tmp_path).read_bytes()
    path = a_file(tmp_path, name, whole[:-10])
    with pytest.raises(InvalidJob, match="or one that was cut"):
        Source(path, form_of(path, None, "")).measure()
