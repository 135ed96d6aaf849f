"""Find faces with CenterFace (Xu et al. 2019, arXiv 1911.03599), run by onnxruntime."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxage.pretrained.download import fetch
from jaxage.pretrained.manifest import read_manifest, weights_folder
from jaxage.utils.extras import require

TAG = "centerface.wider_face"

_STRIDE, _MULTIPLE = 4, 32
_OVERLAP = 0.3
_GRAY = 127

Pixels = UInt8[np.ndarray, "height width 3"]


class Detections(NamedTuple):
    """Faces of one image, the surest first, in pixels from its upper left corner.

    boxes: left, top, right, bottom. scores: 0-1. landmarks: x and y of eyes, nose and corners of the mouth.
    """

    boxes: Float[np.ndarray, "faces 4"]
    scores: Float[np.ndarray, " faces"]
    landmarks: Float[np.ndarray, "faces 5 2"]


Network = Callable[[Pixels], tuple[Float[np.ndarray, "channels y x"], ...]]
"""RGB whose sides are multiples of 32 -> heatmap (1), log size (2), offset (2), landmarks (10) at a quarter of it."""


def open_network() -> Network:
    """CenterFace's network on one CPU thread; it may be called from many threads.

    The file is downloaded and verified by the first call (see `jaxage.pretrained.download.fetch`).

    Raises:
        UserError: if onnx or onnxruntime is not installed.
        WeightsUnavailableError: if the file cannot be had.
    """
    onnx = require("onnx", "photos", "finding faces")
    runtime = require("onnxruntime", "photos", "finding faces")
    model = onnx.load(fetch(read_manifest()[TAG], weights_folder()))
    for value in (model.graph.input[0], *model.graph.output):  # the file has a fixed size of 32 x 32 pixels
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the file names parameters that it does not use
    session: Any = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(pixels: Pixels) -> tuple[Float[np.ndarray, "channels y x"], ...]:
        outputs = session.run(None, {name: pixels.astype(np.float32).transpose(2, 0, 1)[None]})
        return tuple(output[0] for output in outputs)

    return run


def detect(
    network: Network, image: Image.Image, longest: int, margin: float = 0.0, threshold: float = 0.5
) -> Detections:
    """Find faces in an image at one size.

    Args:
        network: From `open_network`.
        image: RGB.
        longest: Pixels of the longer side that the network sees, gray margins included.
        margin: Gray margins on each side, as a share of the image's longer side: large faces are found more surely.
        threshold: The lowest score.
    """
    ratio = longest / max(image.size) / (1 + 2 * margin)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    border = round(margin * max(size))
    width, height = (-(-(side + 2 * border) // _MULTIPLE) * _MULTIPLE for side in size)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.full((height, width, 3), _GRAY, np.uint8)
    resized = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    canvas[top : top + size[1], left : left + size[0]] = np.asarray(resized)
    boxes, scores, landmarks = decode_outputs(*network(canvas), threshold=threshold)
    corner, scale = np.array([left, top], np.float32), np.array(image.size, np.float32) / np.array(size, np.float32)
    boxes = (boxes.reshape(-1, 2, 2) - corner[None, None]) * scale[None, None]
    return Detections(boxes.reshape(-1, 4), scores, (landmarks - corner[None, None]) * scale[None, None])


def decode_outputs(
    heatmap: Float[np.ndarray, "1 y x"],
    size: Float[np.ndarray, "2 y x"],
    offset: Float[np.ndarray, "2 y x"],
    landmarks: Float[np.ndarray, "10 y x"],
    *,
    threshold: float,
) -> Detections:
    """Faces at the places whose heat is above the threshold, without overlapping ones; sizes are (height, width)."""
    row, column = np.nonzero(heatmap[0] > threshold)
    at = np.s_[:, row, column]
    height, width = np.exp(size[at]) * _STRIDE
    top = (row + 0.5 + offset[at][0]) * _STRIDE - height / 2
    left = (column + 0.5 + offset[at][1]) * _STRIDE - width / 2
    boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)
    points = landmarks[at].reshape(5, 2, -1)
    marks = np.stack([points[:, 1] * width[None] + left[None], points[:, 0] * height[None] + top[None]], axis=-1)
    return without_overlaps(Detections(boxes, heatmap[at][0], marks.transpose(1, 0, 2).astype(np.float32)))


def without_overlaps(found: Detections) -> Detections:
    """Detections, the surest first, without those whose box overlaps a surer one by an IoU above 0.3."""
    keep: list[int] = []
    for face in np.argsort(-found.scores, kind="stable"):
        if all(iou(found.boxes[face], found.boxes[kept]) <= _OVERLAP for kept in keep):
            keep.append(int(face))
    return Detections(*(column[keep] for column in found))


def iou(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - common)
