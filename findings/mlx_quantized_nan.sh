#!/usr/bin/env bash
# Package:  MLX 0.32.4, on a CPU
# Expected: quantize refuses a NaN or an infinity, or the block that has one reads back as NaN: both
#           kinds of scales can be NaN. Numbers beyond the range of "nvfp4" saturate.
# Behavior: in "nvfp4" and "mxfp4" the whole block reads as 0, in "mxfp8" as 896, its good numbers
#           included: weights that have gone wrong look pruned or healthy. "nvfp4" saturates at
#           2,688, and gives 0 from 2^36 on.
# Seen:     2026-11-30
#           MLX 0.32.4, of ones and a NaN, the ones read
#           nvfp4 0.0, mxfp4 0.0, mxfp8 896.0
#           nvfp4 of 1e4: 2688.0, of 1e11: 0.0
# Here:     MLX packs nothing; its layout is written from tensors that we packed.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "mlx==0.32.4" "mlx-cpu==0.32.4" || exit 2
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import mlx.core as mx

mx.set_default_device(mx.cpu)


def read(row, mode):
    packed = mx.quantize(mx.array([row]), mode=mode)
    return mx.dequantize(*packed, mode=mode)[0].tolist()


broken = [1.0] * 31 + [float("nan")] + [1.0] * 32
ones = {mode: read(broken, mode)[30] for mode in ("nvfp4", "mxfp4", "mxfp8")}
large = [read([number] * 64, "nvfp4")[0] for number in (1e4, 1e11)]
print(f"MLX {version('mlx')}, of ones and a NaN, the ones read")
print(", ".join(f"{mode} {one}" for mode, one in ones.items()))
print(f"nvfp4 of 1e4: {large[0]}, of 1e11: {large[1]}")
sys.exit(0 if list(ones.values()) == [0, 0, 896] and large == [2688, 0] else 1)
PYTHON
