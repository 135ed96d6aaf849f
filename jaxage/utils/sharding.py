"""Devices and sharding: the only file that knows about more than one device.

A mesh has the axes `host` and `device`. A batch is split along both. What a loader keeps on the devices is split along
`device`, so that each host has all of it, and a batch is gathered within the host.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped
from jaxtyping import Array, Int

from jaxage.types import Items, UserError
from jaxage.utils import cluster

_HOST, _DEVICE = "host", "device"
_INFERENCE_BATCH = 512


def make_mesh(devices: Sequence[jax.Device] | None = None, hosts: int = 1) -> Mesh:
    """These devices, the same number on each of the hosts, one host after the other. By default all devices.

    Raises UserError if hosts or processes have different numbers of devices.
    """
    if devices is None:
        names = cluster.host_names()
        devices = sorted(jax.devices(), key=lambda device: names.index(names[device.process_index]))
        hosts = len(set(names))
        per_host = Counter(names[device.process_index] for device in devices)
        if len(set(per_host.values())) > 1:
            raise UserError(f"hosts have different numbers of devices: {dict(per_host)}")
    return Mesh(np.array(devices).reshape(hosts, -1), (_HOST, _DEVICE), axis_types=(AxisType.Auto,) * 2)


def mesh_for(batch_size: int) -> Mesh:
    """All devices; of the cores of one process, the most among which a batch divides.

    Raises UserError unless a batch divides evenly among other devices.
    """
    devices = jax.devices()
    if devices[0].platform == "cpu" and cluster.count() == 1:
        return make_mesh(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size {batch_size} does not divide among {len(devices)} devices: use a multiple of {len(devices)}"
        )
    return make_mesh()


def inference_batch(mesh: Mesh, batch_size: int) -> int:
    """Images per call of a program without gradients: at least 512 for each device that is not a CPU, which needs many
    to be busy and has the memory; a multiple of the devices.
    """
    cpu = mesh.devices.flat[0].platform == "cpu"
    return -(-max(batch_size, 0 if cpu else _INFERENCE_BATCH * mesh.size) // mesh.size) * mesh.size


def hosts_of(mesh: Mesh) -> int:
    """How many hosts the devices of the mesh belong to."""
    return mesh.shape[_HOST]


def devices_per_host(mesh: Mesh) -> int:
    """Among how many devices items are split."""
    return mesh.shape[_DEVICE]


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec((_HOST, _DEVICE)))


def along_items(mesh: Mesh) -> NamedSharding:
    """Each device of a host holds its part of the first axis; every host holds all of it."""
    return NamedSharding(mesh, PartitionSpec(_DEVICE))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of each leaf on every device; the copies may be donated without touching the originals."""

    def copy(leaf: Any) -> Array:
        whole = np.asarray(leaf)
        return _assemble(whole.shape, replicated(mesh), lambda _: whole)

    return jax.tree.map(copy, tree)


def split_items(items: Items, mesh: Mesh) -> Array:
    """The items along the devices of each host, filled up with zeros to a multiple of them."""
    each = -(-len(items) // devices_per_host(mesh))

    def part(rows: slice) -> Any:
        found = items[rows]
        missing = len(range(*rows.indices(devices_per_host(mesh) * each))) - len(found)
        return np.concatenate([found, np.zeros((missing, *items.shape[1:]), items.dtype)]) if missing else found

    return _assemble((devices_per_host(mesh) * each, *items.shape[1:]), along_items(mesh), part)


def split_batch(items: Items, rows: Int[np.ndarray, " batch"], mesh: Mesh) -> Array:
    """`items[rows]` along the batch. Only the rows of this process's devices are read."""
    return _assemble((len(rows), *items.shape[1:]), along_batch(mesh), lambda index: items[rows[index]])


def _assemble(shape: tuple[int, ...], sharding: NamedSharding, part: Any) -> Array:
    """An array of the parts that this process's devices hold; `part` makes one, as NumPy, from its slice of the rows.

    Unlike `jax.device_put` to devices of several processes, it compares nothing, and it copies always.
    """
    places = sharding.addressable_devices_indices_map(shape)
    parts = [
        jax.device_put(np.asarray(part(index[0] if index else slice(None))), device, may_alias=False)
        for device, index in places.items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def take(items: Items, rows: Int[Array, " batch"], mesh: Mesh) -> Array:
    """`items[rows]` along the batch, where the items lie as `split_items` puts them.

    Each device reads those rows of its host that it has, zeros for the others, and a reduce-scatter within the host
    adds them up: the sum has one term that is not zero. The set itself is never moved.

    Args:
        items: (n, ...), n a multiple of the devices of a host.
        rows: Which of them, a multiple of all devices, known to every device.
        mesh: The devices.
    """
    if mesh.size == 1:
        return jnp.asarray(items)[rows]

    def gather(part: Array, rows: Int[Array, " batch"]) -> Array:
        first = lax.axis_index(_DEVICE) * len(part)
        here = (rows >= first) & (rows < first + len(part))
        found = part[jnp.where(here, rows - first, 0)]
        mask = here.reshape(-1, *(1,) * (part.ndim - 1))
        return lax.psum_scatter(jnp.where(mask, found, 0), _DEVICE, scatter_dimension=0, tiled=True)

    specs = PartitionSpec(_DEVICE), PartitionSpec(_HOST)
    gathered = jax.shard_map(gather, mesh=mesh, in_specs=specs, out_specs=along_batch(mesh).spec)
    batch: Array = gathered(jnp.asarray(items), rows)
    return batch


def to_host(array: Array) -> np.ndarray:
    """The whole array as NumPy, wherever its parts lie. All processes must call it."""
    if not (array.is_fully_addressable or array.is_fully_replicated):
        mesh = array.sharding.mesh  # type: ignore[attr-defined]
        array = jax.jit(lambda x: x, out_shardings=replicated(mesh))(array)
    return np.asarray(array)


def any_process(flag: bool, mesh: Mesh) -> bool | Array:
    """Whether it is true in any process: for several of them a device array, so that nobody waits for it."""
    if cluster.count() == 1:
        return flag
    flags = _assemble((mesh.size,), along_batch(mesh), lambda _: np.array([flag]))
    return block_if_multi_cpu(_any(mesh)(flags))


@cache
def _any(mesh: Mesh) -> Wrapped:
    return jax.jit(jnp.any, out_shardings=replicated(mesh))


Output = TypeVar("Output")


def block_if_multi_cpu(output: Output) -> Output:
    """The output of a program, waited for if it lies on several CPU devices: there two programs in flight can deadlock
    in their collectives, which XLA ends by aborting the process.
    """
    cpus = [device for device in jax.tree.leaves(output)[0].sharding.device_set if device.platform == "cpu"]
    return jax.block_until_ready(output) if len(cpus) > 1 else output
