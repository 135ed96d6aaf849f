"""The script reads programs: here ones of known cost, compiled for the CPU, and lines as XLA writes them for a GPU."""

import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "gpu_floors.py"))

CUDNN = """HloModule m
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  ROOT %y = f32[4]{0} negate(%x)
}
ENTRY %main (x: bf16[8,14,14,16], k: bf16[32,3,3,16]) -> bf16[8,7,7,32] {
  %x = bf16[8,14,14,16]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %c = bf16[8,7,7,32]{3,2,1,0} custom-call(%x, %k), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %w = (bf16[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %c), dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %l = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
}
"""


def costs(text: str) -> list[Any]:
    return list(SCRIPT["kernels"](*SCRIPT["parse"](text)))


def test_kernels_of_cudnn_and_loops() -> None:
    forward, backward, negate = costs(CUDNN)
    flop = 2 * (8 * 7 * 7) * (32 * 3 * 3 * 16)
    x, k, y = 2 * 8 * 14 * 14 * 16, 2 * 32 * 3 * 3 * 16, 2 * 8 * 7 * 7 * 32
    assert (forward.flop, forward.bytes, forward.count) == (flop, x + k + y, 1)
    assert (backward.flop, backward.bytes, backward.count) == (flop, x + k + y, 1)
    assert (negate.flop, negate.bytes, negate.count) == (0, 32, 6)
    assert forward.seconds == pytest.approx(max((x + k + y) / 3e12, flop / 790e12))


def test_a_program_of_xla() -> None:
    def run(x: Any, kernel: Any, matrix: Any) -> Any:
        y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.reshape(-1, 16) @ matrix

    shapes = ((4, 10, 10, 8), (3, 3, 8, 16), (16, 32))
    text = jax.jit(run).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().as_text()
    assert sum(kernel.flop for kernel in costs(text)) == 2 * 4 * 64 * (9 * 8 * 16 + 16 * 32)


COLLECTIVES = """HloModule m
ENTRY %main (x: u8[64,4]) -> u8[8,4] {
  %x = u8[64,4]{1,0} parameter(0)
  %r = ((u8[64,4]{1,0}), u8[8,4]{1,0}) reduce-scatter-start(%x), replica_groups=mesh['host'=8,'device'=8] {'device'}, \
dimensions={0}
  %a = f32[250]{0} all-reduce(%x), replica_groups={}, to_apply=%sum
  ROOT %d = u8[8,4]{1,0} reduce-scatter-done(%r)
}
"""


def test_what_devices_send_to_one_another() -> None:
    assert SCRIPT["collectives"](COLLECTIVES) == [
        "reduce-scatter x 1: 0.00 MB among device",
        "all-reduce x 1: 0.00 MB among all devices",
    ]
