"""No fault loses a job, answers it twice or pays for it uncounted, and none needs a person to recover from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_matrix import FULL, KINDS, Row, report, run
from matrix_cell import Lengths
from matrix_faults import MENU, Fault
from matrix_stores import STORES
from rich.console import Console
from soak import soak

#: Each fault with one kind and one of its stores, in turn: the slice for every day.
SLICE = [
    (name, KINDS[number % len(KINDS)], fault.stores[number % len(fault.stores)])
    for number, (name, fault) in enumerate(MENU.items())
]
WHOLE = [(name, kind, store) for name, fault in MENU.items() for kind in KINDS for store in fault.stores]


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """The table of all cells that were run, at the end."""
    shown: list[Row] = []
    yield shown
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        report(shown, Console(width=120))


def hold(fault: Fault, kind: str, store: str, lengths: Lengths, folder: Path, rows: list[Row]) -> None:
    if missing := fault.missing():
        pytest.skip(missing)
    row = run(fault, kind, store, lengths, folder)
    rows.append(row)
    assert not row.faults, row


@pytest.mark.parametrize(("fault", "kind", "store"), SLICE)
def test_a_fault_loses_nothing(fault: str, kind: str, store: str, tmp_path: Path, rows: list[Row]) -> None:
    hold(MENU[fault], kind, store, Lengths(), tmp_path, rows)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("fault", "kind", "store"), WHOLE)
def test_every_fault_at_its_full_length(fault: str, kind: str, store: str, tmp_path: Path, rows: list[Row]) -> None:
    hold(MENU[fault], kind, store, FULL, tmp_path, rows)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", STORES)
def test_a_soak_with_a_random_fault_every_so_often_loses_nothing(store: str, tmp_path: Path) -> None:
    result = soak(store, jobs=10_000, every_seconds=15.0, seconds=240.0, folder=tmp_path)
    print(result)  # noqa: T201 the line of the soak
    assert not result.wrong, result
