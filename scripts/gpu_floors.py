"""What jaxage's programs cost on an H100, read from the programs that XLA compiles for one; no GPU is needed.

    pip install -e . "jax[cuda13]" && python scripts/gpu_floors.py

prints a line for each program: the GiB of its temporary arrays, its kernels, and its floor, which is the sum over the
kernels of the time that their bytes take at 3 TB/s or their FLOP at 790 TFLOP/s in bfloat16 and 380 in float32
(TF32), whichever is longer. The floor tells forms of the same program apart. It is no rate: that needs a GPU.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

_BYTES_PER_S, _FLOP_PER_S = 3.0e12, {"bf16": 790e12, "f32": 380e12}
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
_NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "async-done", "copy-done"}


class Op(NamedTuple):
    """An instruction of HLO: its type, its opcode, the names of its operands, and the text after them."""

    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


Computation = dict[str, Op]


class Kernel(NamedTuple):
    """A kernel: its name, what kind it is, its bytes read and written, its FLOP, and how often it runs."""

    name: str
    kind: str
    bytes: int
    flop: int
    dtype: str
    count: int

    @property
    def seconds(self) -> float:
        """Its floor, all its runs together."""
        return self.count * max(self.bytes / _BYTES_PER_S, self.flop / _FLOP_PER_S.get(self.dtype, math.inf))


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$", line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif found := re.match(r"\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", line):
            inside, _, attributes = found[5].partition(")")
            operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or (inside,)
            current[found[2]] = Op(found[3], found[4], operands, attributes, bool(found[1]))
    return computations, entry


def kernels(computations: dict[str, Computation], name: str, count: int = 1) -> Iterator[Kernel]:
    """The kernels of a computation and of those that it calls, loops as often as they run."""
    host = computations[name]
    for each, op in host.items():
        called = re.search(r"(?:body|to_apply|calls)=%([\w.\-]+)", op.attributes)
        if op.opcode == "while" and called:
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', op.attributes)
            yield from kernels(computations, called[1], count * int(trips[1] if trips else 1))
        elif op.opcode in ("call", "async-start") and called:
            yield from kernels(computations, called[1], count)
        elif op.opcode not in _NO_KERNEL:
            body = computations[called[1]] if op.opcode == "fusion" and called else {}
            yield _kernel(each, op, host, body, count)


def _kernel(name: str, op: Op, host: Computation, body: Computation, count: int) -> Kernel:
    read = sum(_read_bytes(body, i, host[o]) for i, o in enumerate(op.operands) if o in host)
    written = _nbytes(op.type)
    flop = sum(_flop(each, body) for each in body.values()) or _flop(op, host)
    for each in body.values():
        if each.opcode == "dynamic-update-slice" and each.is_root:
            written = _nbytes(body[each.operands[1]].type)
    kind = re.search(r'custom_call_target="([^"]+)"', op.attributes) or re.search(r"kind=(\w+)", op.attributes)
    first = _shapes(host[op.operands[0]].type)[0][0] if op.operands and op.operands[0] in host else ""
    return Kernel(name, kind[1] if kind else op.opcode, read + written, flop, first, count)


def _read_bytes(body: Computation, position: int, operand: Op) -> int:
    """Bytes that a kernel reads of an operand: of one that is only gathered or sliced, no more than the result."""
    whole = _nbytes(operand.type)
    names = [name for name, op in body.items() if op.opcode == "parameter" and op.operands == (str(position),)]
    users = [op for op in body.values() if names and names[0] in op.operands]
    if users and all(op.opcode in ("gather", "dynamic-slice", "slice") and op.operands[0] == names[0] for op in users):
        return min(whole, sum(_nbytes(op.type) for op in users))
    return 0 if users and all(op.opcode == "dynamic-update-slice" for op in users) else whole


def _flop(op: Op, host: Computation) -> int:
    """Of a convolution or a matrix product, forward or backward; 0 for all else."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    target = re.search(r'custom_call_target="__cudnn\$(\w+)"', op.attributes)
    if labels and (target or op.opcode == "convolution"):
        x, kernel, y = (_shapes(kind)[0][1] for kind in (*(host[o].type for o in op.operands[:2]), op.type))
        map_of, weights = (y, kernel)  # the map with the outputs of the forward convolution, and the kernel
        map_labels = labels[3]
        if target and target[1] == "convBackwardFilter":
            map_of, weights = kernel, y
        elif target and target[1] == "convBackwardInput":
            map_of = x
        places = math.prod(n for label, n in zip(map_labels, map_of, strict=True) if label != "f")
        return 2 * places * math.prod(weights)
    contracted = re.search(r"lhs_contracting_dim(?:s=\{|ensions\":\[\")(\d+)", op.attributes)
    if contracted:
        return 2 * math.prod(_shapes(op.type)[0][1]) * _shapes(host[op.operands[0]].type)[0][1][int(contracted[1])]
    return 0


def _shapes(text: str) -> list[tuple[str, list[int]]]:
    found = re.findall(r"\b(pred|bf16|f16|[suf]\d+)\[([\d,]*)\]", text)
    return [(dtype, [int(n) for n in shape.split(",") if n]) for dtype, shape in found]


def _nbytes(text: str) -> int:
    return sum(_SIZES[dtype] * math.prod(shape) for dtype, shape in _shapes(text))


def collectives(text: str) -> list[str]:
    """What the devices of a program send to one another: the kind, how often, the MB of the results, and among whom."""
    found = Counter[tuple[str, str]]()
    megabytes = Counter[tuple[str, str]]()
    for computation in parse(text)[0].values():
        for op in computation.values():
            kind = op.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                axes = re.search(r"replica_groups=mesh\[.*?\] \{(.*?)\}", op.attributes)
                key = kind, axes[1].replace("'", "") if axes else "all devices"
                found[key] += 1
                megabytes[key] += _nbytes(op.type.split("), ")[-1] if op.opcode.endswith("-start") else op.type) / 1e6
    return [f"{kind} x {n}: {megabytes[kind, who]:.2f} MB among {who}" for (kind, who), n in found.items()]


def main(
    configurations: tuple[str, ...] = (),
    batch_size: int = 512,
    image_size: int = 224,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    conv_form: Literal["gpu", "xla"] = "gpu",
    hosts: int = 1,
    devices: int = 1,
    hlo: Path | None = None,
) -> None:
    """Print the floors.

    Args:
        configurations: Networks and their trainable layers, such as "resnet18:fc,layer4"; by default those of `jaxage
            benchmark`.
        batch_size: Images per step, on each device.
        image_size: Height and width in pixels.
        dtype: Of the trunk.
        conv_form: The layers' form.
        hosts: How many hosts compute together.
        devices: GPUs of each host. For more than one device in all, what they send to one another is listed below each
            program; it is no part of the floor.
        hlo: A folder to keep the compiled programs in, as text.
    """
    from jax.experimental import topologies

    from jaxage.commands.benchmark.abstract import Case, abstract_programs
    from jaxage.commands.benchmark.run import CONFIGURATIONS
    from jaxage.commands.study.recipes import parse_model
    from jaxage.utils.sharding import make_mesh

    target = Path(__file__).with_name("h100.txtpb").read_text(encoding="utf-8")
    topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x{hosts}x{devices}")
    mesh = make_mesh(topology.devices, hosts)
    print(f"{'program':<52}{'temp GiB':>10}{'kernels':>9}{'GB':>7}{'TFLOP':>7}{'floor ms':>10}{'images/s':>10}")
    for text in configurations or CONFIGURATIONS:
        model = parse_model(text)
        case = Case(model.arch, model.trainable, batch_size * mesh.size, dtype)
        for name, program in abstract_programs(case, image_size, mesh, conv_form).items():
            compiled = program.function.lower(*program.arguments).compile()
            text = compiled.as_text()
            if hlo:
                hlo.mkdir(parents=True, exist_ok=True)
                (hlo / f"{case.arch}-{case.trainable.replace(',', '+')}-{name}.txt").write_text(text, encoding="utf-8")
            found = list(kernels(*parse(text)))
            seconds, moved = sum(k.seconds for k in found), sum(k.bytes * k.count for k in found)
            flop, calls = sum(k.flop * k.count for k in found), sum(k.count for k in found)
            temporary = compiled.memory_analysis().temp_size_in_bytes / 2**30
            print(
                f"{case.arch + ' ' + case.trainable + ' ' + name:<52}{temporary:>10.2f}{calls:>9}{moved / 1e9:>7.1f}"
                f"{flop / 1e12:>7.2f}{1e3 * seconds:>10.2f}{batch_size / seconds:>10,.0f}",
                flush=True,
            )
            for line in collectives(text):
                print(f"    {line}")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import tyro

    tyro.cli(main)
