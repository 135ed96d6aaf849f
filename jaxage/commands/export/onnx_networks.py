"""The networks as ONNX operators: the same blocks as in `jaxage.models`, by torchvision's module names."""

from jaxage.commands.export.onnx_graph import Graph, Name, Trunk
from jaxage.types import Arch, UserError


def find_trunk(arch: Arch) -> Trunk:
    """How a network is written. Raises UserError for one that has no ONNX form here."""
    if arch in ("resnet18", "resnet34", "resnet50"):
        return resnet
    if arch == "mobilenet_v2":
        return mobilenet_v2
    raise UserError(f"{arch}: ONNX forms are known of ResNets and MobileNetV2; export to stablehlo")


def resnet(graph: Graph, x: Name) -> Name:
    """A ResNet of basic blocks or bottlenecks."""
    x = graph.add("Relu", graph.conv_norm("conv1", "bn1", x, stride=2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage in range(1, 5):
        block = 0
        while graph.has(name := f"layer{stage}.{block}.conv1"):
            x = _resnet_block(graph, name.removesuffix(".conv1"), x, stride=2 if stage > 1 and block == 0 else 1)
            block += 1
    return graph.linear("fc", _pool(graph, x))


def _resnet_block(graph: Graph, name: str, x: Name, stride: int) -> Name:
    bottleneck = graph.has(f"{name}.conv3")
    strides = (1, stride, 1) if bottleneck else (stride, 1)
    y = x
    for number, each in enumerate(strides, 1):
        y = graph.conv_norm(f"{name}.conv{number}", f"{name}.bn{number}", y, each)
        y = graph.add("Relu", y) if number < len(strides) else y
    if graph.has(f"{name}.downsample.0"):
        x = graph.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
    return graph.add("Relu", graph.add("Add", y, x))


_STRIDE_2 = {2, 4, 7, 14}
_SHORTCUT = {3, 5, 6, 8, 9, 10, 12, 13, 15, 16}


def mobilenet_v2(graph: Graph, x: Name) -> Name:
    """MobileNetV2."""
    x = _relu6(graph, graph.conv_norm("features.0.0", "features.0.1", x, stride=2))
    for block in range(1, 18):
        name, y = f"features.{block}.conv", x
        last = 1 if block == 1 else 2
        for part in range(last):
            stride = 2 if part == last - 1 and block in _STRIDE_2 else 1
            y = _relu6(graph, graph.conv_norm(f"{name}.{part}.0", f"{name}.{part}.1", y, stride))
        y = graph.conv_norm(f"{name}.{last}", f"{name}.{last + 1}", y)
        x = graph.add("Add", x, y) if block in _SHORTCUT else y
    x = _relu6(graph, graph.conv_norm("features.18.0", "features.18.1", x))
    return graph.linear("classifier.1", _pool(graph, x))


def _relu6(graph: Graph, x: Name) -> Name:
    return graph.add("Clip", x, graph.shared(0.0), graph.shared(6.0))


def _pool(graph: Graph, x: Name) -> Name:
    return graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)
