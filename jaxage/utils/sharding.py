"""Devices and sharding: the only file that knows about more than one device."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxage.types import UserError

_INFERENCE_BATCH = 512


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """These devices (default: all) along one axis, `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def mesh_for(batch_size: int) -> Mesh:
    """All devices; of a CPU's cores, the most among which a batch divides.

    Raises UserError unless a batch divides evenly among other devices.
    """
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return make_mesh(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size {batch_size} does not divide among {len(devices)} devices: use a multiple of {len(devices)}"
        )
    return make_mesh(devices)


def inference_batch(mesh: Mesh, batch_size: int) -> int:
    """Images per call of a program without gradients: at least 512 for each device that is not a CPU, which needs many
    to be busy and has the memory; a multiple of the devices.
    """
    cpu = mesh.devices.flat[0].platform == "cpu"
    return -(-max(batch_size, 0 if cpu else _INFERENCE_BATCH * mesh.size) // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of each leaf on every device; the copies may be donated without touching the originals."""
    # by way of NumPy: from one device to several, device_put aliases the first copy whatever may_alias says
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), replicated(mesh), may_alias=False), tree)


Output = TypeVar("Output")


def block_if_multi_cpu(output: Output) -> Output:
    """The output of a program, waited for if it lies on several CPU devices: there two programs in flight can deadlock
    in their collectives, which XLA ends by aborting the process.
    """
    cpus = [device for device in jax.tree.leaves(output)[0].devices() if device.platform == "cpu"]
    return jax.block_until_ready(output) if len(cpus) > 1 else output
