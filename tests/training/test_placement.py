import hypothesis.strategies as st
from hypothesis import given

from jaxage.training.placement import DISK_RATE, HOST_RATE, Costs, decide

GIB = 2**30
PLENTY = {"device": 100.0 * GIB, "disk": 100.0 * GIB, "host": 100.0 * GIB}


def costs(**changes: float) -> Costs:
    """A thousand images of a MiB each, looked at ten times, at 10 ms each."""
    return Costs(**({"nbytes": GIB, "images": 1024, "seen": 10240, "seconds": 0.01} | PLENTY | changes))


def test_slow_prefixes_are_kept_in_a_file_and_fast_ones_on_the_device() -> None:
    assert decide(costs()).place == "disk"
    assert decide(costs(seconds=1e-5)).place == "device"
    assert "1.00 GiB" in decide(costs()).why


def test_what_does_not_fit_goes_elsewhere() -> None:
    assert decide(costs(disk=0.0)).place == "device"
    assert decide(costs(disk=0.0, device=0.0)).place == "host"
    none = decide(costs(disk=0.0, device=0.0, host=0.0))
    assert (none.place, "do not fit" in none.why) == ("off", True)


def test_reading_that_takes_longer_than_computing_is_not_done() -> None:
    slow = 1024 * 1024 / DISK_RATE
    assert decide(costs(device=0.0, host=0.0, seconds=slow)).place == "off"
    assert decide(costs(device=0.0, host=0.0, seconds=10 * slow)).place == "disk"
    assert decide(costs(device=0.0, disk=0.0, seconds=0.9 * 1024 * 1024 / HOST_RATE)).place == "off"


def test_more_views_than_looks_are_not_kept() -> None:
    assert decide(costs(images=20480)).place == "off"


@given(
    seconds=st.floats(1e-7, 10), images=st.integers(1, 10**6), seen=st.integers(1, 10**7), nbytes=st.integers(1, 2**40)
)
def test_nothing_is_kept_that_costs_more_than_it_saves(seconds: float, images: int, seen: int, nbytes: int) -> None:
    asked = costs(seconds=seconds, images=images, seen=seen, nbytes=nbytes)
    place, _ = decide(asked)
    room = PLENTY | {"off": nbytes}
    assert nbytes <= room[place] or place == "disk"
    if place != "off":
        assert (seen - images) * seconds > 0
