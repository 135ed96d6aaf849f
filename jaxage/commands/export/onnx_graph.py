"""An ONNX graph from uint8 images to ages: plain operators, BatchNorm folded, the input contract inside."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from jaxage.losses import moved_years
from jaxage.models.layers import BatchNorm
from jaxage.training.export import ModelConfig
from jaxage.types import UserError, Variables
from jaxage.utils.extras import require
from jaxage.utils.trees import flatten

OPSET = 17
_LOSSES = ("l1", "mse", "huber", "dldl")

Name = str
"""The name of a value of the graph."""


class Graph:
    """Nodes and constants, in the order in which they are added; maps are NCHW inside."""

    def __init__(self, variables: Variables) -> None:
        self._onnx = require("onnx", "onnx", "export to ONNX")
        self._leaves = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(variables).items()}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._scalars: dict[float, Name] = {}

    def add(self, operator: str, *inputs: Name, output: Name | None = None, **attributes: Any) -> Name:
        """A node with one output, which gets a new name unless one is given."""
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Shaped[np.ndarray, "..."]) -> Name:
        """A value that is part of the file."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def shared(self, value: float) -> Name:
        """A float32 scalar, once for all nodes that take it."""
        if value not in self._scalars:
            self._scalars[value] = self.constant(np.array(value, np.float32))
        return self._scalars[value]

    def has(self, module: str) -> bool:
        """Whether the network has a convolution of this name."""
        return f"params.{module}.kernel" in self._leaves

    def conv_norm(self, conv: str, norm: str, x: Name, stride: int = 1) -> Name:
        """A convolution, padded by half its size, with the BatchNorm behind it folded into kernel and bias."""
        kernel = self._leaves[f"params.{conv}.kernel"].transpose(3, 2, 0, 1)
        scale, bias = (self._leaves[f"params.{norm}.{name}"] for name in ("scale", "bias"))
        mean, var = (self._leaves[f"batch_stats.{norm}.{name}"] for name in ("mean", "var"))
        gain = scale / np.sqrt(var + BatchNorm.eps)
        size = kernel.shape[2]
        weights = self.constant((kernel * gain[:, None, None, None]).astype(np.float32))
        shift = self.constant((bias - mean * gain).astype(np.float32))
        group = len(kernel) if kernel.shape[1] == 1 else 1
        return self.add(
            "Conv", x, weights, shift, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4, group=group
        )

    def linear(self, module: str, x: Name) -> Name:
        """A matrix product and a bias."""
        kernel, bias = (self.constant(self._leaves[f"params.{module}.{name}"]) for name in ("kernel", "bias"))
        return self.add("Gemm", x, kernel, bias)


Trunk = Callable[[Graph, Name], Name]
"""From a normalized image (NCHW) to the logits."""


def onnx_model(variables: Variables, config: ModelConfig, trunk: Trunk, metadata: dict[str, str]) -> bytes:
    """The file's bytes: `images` uint8 (batch, size, size, 3) -> `age` (batch,) and, if the loss has them,
    `probabilities` (batch, years).

    Args:
        variables: Of the model.
        config: What it takes and gives; normalization, the mirror's mean and the age are inside the graph.
        trunk: The network.
        metadata: Texts that travel in the file.

    Raises:
        UserError: if the extra `onnx` is not installed.
    """
    onnx = require("onnx", "onnx", "export to ONNX")
    helper, graph = onnx.helper, Graph(variables)
    outputs = _add_ages(graph, config, trunk(graph, _add_input(graph, config)))
    types = {"age": ["batch"], "probabilities": ["batch", config.objective().outputs]}
    size, number = config.image_size, onnx.TensorProto
    made = helper.make_graph(
        graph.nodes,
        f"jaxage {config.arch}",
        [helper.make_tensor_value_info("images", number.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(name, number.FLOAT, types[name]) for name in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="jaxage", ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _add_input(graph: Graph, config: ModelConfig) -> Name:
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (config.mean, config.std))
    x = graph.add("Cast", "images", to=1)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add("Div", x, graph.constant(255 * std))
    x = graph.add("Sub", x, graph.constant(mean / std))
    if not config.flip:
        return x
    last, first, axis, step = (graph.constant(np.array([n], np.int64)) for n in (-1, -(2**31), 3, -1))
    return graph.add("Concat", x, graph.add("Slice", x, last, first, axis, step), axis=0)


def _add_ages(graph: Graph, config: ModelConfig, logits: Name) -> Sequence[str]:
    if config.loss not in _LOSSES:
        raise UserError(f"loss {config.loss!r}: no ONNX form of it is known; export to stablehlo")
    if not config.has_distribution():
        age = graph.add("Mul", logits, graph.shared(config.scale * config.age_std))
        age = graph.add("Relu", graph.add("Add", age, graph.shared(config.scale * config.age_mean + config.offset)))
        _mean_of_views(graph, config, age, None, "age")
        return ("age",)
    outputs = config.objective().outputs
    probabilities = graph.add("Softmax", logits, axis=1)
    if config.is_calibrated():
        moved = moved_years(outputs, config.scale, config.offset)
        probabilities = graph.add("MatMul", probabilities, graph.constant(np.asarray(moved, np.float32)))
    years = graph.constant(np.arange(outputs, dtype=np.float32)[:, None])
    _mean_of_views(graph, config, graph.add("MatMul", probabilities, years), None, "age")
    _mean_of_views(graph, config, probabilities, outputs, "probabilities")
    return "age", "probabilities"


def _mean_of_views(graph: Graph, config: ModelConfig, x: Name, columns: int | None, output: str) -> None:
    """The mean of images and mirrors, which stand one after the other; named `output`."""
    shape = [1 + config.flip, -1, *([] if columns is None else [columns])]
    x = graph.add("Reshape", x, graph.constant(np.array(shape, np.int64)))
    graph.add("ReduceMean", x, output=output, axes=[0], keepdims=0)


def run_onnx(data: bytes, images: Shaped[np.ndarray, "n size size 3"]) -> Float[np.ndarray, " n"]:
    """Ages by onnxruntime, on the CPU. Raises UserError if it is not installed."""
    runtime = require("onnxruntime", "onnx", "checking an ONNX file")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["age"], {"images": images})[0])
