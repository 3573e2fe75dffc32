import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.autoscale import Demand, wanted_slots
from shoal_worker.process import Throughput
from shoal_worker.slots import BULK, Load, Slots

counts = st.integers(0, 10_000)
demands = st.builds(Demand, held=counts, waiting=counts, workers=st.integers(0, 20), bound=st.none() | counts)


@pytest.mark.parametrize(
    ("current", "demand", "expected"),
    [
        (10, Demand(held=10, waiting=5_000, workers=1, bound=None), 300),
        (10, Demand(held=20, waiting=100, workers=4, bound=None), 45),
        (10, Demand(held=10, waiting=5_000, workers=1, bound=64), 64),
        (300, Demand(held=0, waiting=0, workers=1, bound=None), 270),
        (11, Demand(held=0, waiting=0, workers=1, bound=None), 10),
        (10, Demand(held=0, waiting=0, workers=1, bound=None), 10),
        (300, Demand(held=290, waiting=0, workers=1, bound=None), 290),
        (50, Demand(held=50, waiting=0, workers=0, bound=5), 45),
    ],
)
def test_it_grows_in_one_step_and_shrinks_by_a_tenth(current: int, demand: Demand, expected: int) -> None:
    assert wanted_slots(current, demand, lowest=10, highest=300) == expected


@given(st.integers(1, 500), demands, st.integers(1, 50), st.integers(50, 500))
def test_it_stays_within_its_bounds(current: int, demand: Demand, lowest: int, highest: int) -> None:
    wanted = wanted_slots(current, demand, lowest, highest)
    assert min(current, lowest) <= wanted <= max(current, highest)
    if wanted > current:
        assert demand.bound is None or wanted <= max(lowest, demand.bound)
        assert wanted <= max(lowest, demand.held + demand.waiting)


def test_the_capacity_is_what_all_slots_would_do() -> None:
    slots = Slots(100)
    throughput = Throughput(0.0, slots)
    assert throughput.measure(1.0) == (0.0, 100.0)
    load = Load(BULK, "", 1_000, 1.0, is_pack=True)
    slots.announce(load)
    for second in range(2, 30):
        slots.begun = 10
        slots.end(load, 30)
        done, capacity = throughput.measure(float(second))
    assert done == 30
    assert capacity == pytest.approx(300, rel=0.01)
