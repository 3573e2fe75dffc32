"""Parquet files: read by batches, written by row groups. `pyarrow` is an extra of its own."""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shoal.errors import InvalidJob, SettingsError
from shoal.files import Row

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise SettingsError(f"Parquet needs {error.name}: pip install 'shoal[files]'") from None

# Arrow's own allocators keep what they once had: 40 MB more for a million lines.
pa.set_memory_pool(pa.system_memory_pool())

_BATCH_ROWS = 256
_GROUP_BATCHES = 40
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}


def row_count(path: Path) -> int:
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def rows(path: Path, needed: Callable[[list[str]], list[str]]) -> Iterator[tuple[int, Row]]:
    """Each row's number, from 1, and its values but the nulls. `needed` chooses among the columns.

    Raises `InvalidJob`.
    """
    with _opened(path) as file:
        columns = needed(file.schema_arrow.names)
        batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
        for number, row in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1):
            yield number, {name: value for name, value in row.items() if value is not None}


def _opened(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)  # else whole row groups are in memory
    except pa.ArrowInvalid:
        raise InvalidJob(f"{path.name}: not a Parquet file, or one that was cut") from None


def write(path: Path, columns: dict[str, type], source: Iterator[Row]) -> None:
    """Write rows of plain values; `columns` gives their types."""
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(_batches(source, schema), _GROUP_BATCHES)):
            writer.write_table(pa.Table.from_batches(group, schema))


def _batches(source: Iterator[Row], schema: Any) -> Iterator[Any]:
    while some := list(islice(source, _BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(some, schema)
