"""Whether the output of the frozen prefix is kept, and where: a cost model that says why."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxage.types import CacheFeatures

DISK_RATE, HOST_RATE = 1e9, 4e9
"""Bytes a second to and from a disk, and from memory to a device."""


@dataclass(frozen=True)
class Costs:
    """What the decision rests on.

    nbytes: of all features. images: how many, further views included. seen: how many the epochs and tests look at.
    seconds: of the prefix for one image. device, disk, host: bytes that may be used there.
    """

    nbytes: int
    images: int
    seen: int
    seconds: float
    device: float
    disk: float
    host: float


class Placement(NamedTuple):
    """Where, and why, in words."""

    place: CacheFeatures
    why: str


def decide(costs: Costs) -> Placement:
    """Keep the features if that takes less time than computing them at every look.

    Saved are (seen - images) x seconds. A file on the disk, which later runs find again, costs nbytes / `DISK_RATE`,
    and is kept if it fits and computing takes longer; features that do not fit on the device are read at every look,
    at `DISK_RATE` or `HOST_RATE`.
    """
    saved = (costs.seen - costs.images) * costs.seconds
    resident = costs.nbytes <= costs.device
    read = 0.0 if resident else costs.nbytes / costs.images * costs.seen
    size = f"{costs.nbytes / 2**30:.2f} GiB"
    if saved <= 0:
        return Placement("off", f"the run looks at {costs.seen:,} images, there would be {costs.images:,} to keep")
    places: list[tuple[CacheFeatures, bool, float]] = [
        (
            "disk",
            costs.nbytes <= costs.disk and costs.nbytes / DISK_RATE <= costs.images * costs.seconds,
            (costs.nbytes + read) / DISK_RATE,
        ),
        ("device", resident, 0.0),
        ("host", costs.nbytes <= costs.host, read / HOST_RATE),
    ]
    for place, fits, lost in places:
        if fits and lost < saved:
            return Placement(place, f"{size} that save about {saved - lost:.3g} s of computing")
    return Placement("off", f"{size} do not fit, or take longer to read than to compute ({saved:.3g} s)")
