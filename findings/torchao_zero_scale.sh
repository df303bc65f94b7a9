#!/usr/bin/env bash
# Package:  torchao 0.18.0 with torch 2.13.0, on a CPU
# Expected: a matrix of zeros, quantized under the scale that its own largest magnitude gives (0),
#           is zeros again
# Behavior: zeros are divided by the scale 0: the block scales are NaN, and the codes are those of
#           -2 (0xC). The matrix reads back as NaN, without a warning.
# Seen:     2026-11-30
#           torchao 0.18.0: scale 0.0, codes ['0xCC'], reads nan
# Here:     a tensor of zeros is divided by 1 (longlive_core/nvfp4/scale_rules.py).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "torchao==0.18.0" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import torchao
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

zeros = torch.zeros(16, 32)
scale = per_tensor_amax_to_scale(zeros.abs().max())
packed = NVFP4Tensor.to_nvfp4(zeros, per_tensor_scale=scale)
codes = sorted({f"0x{code:02X}" for code in packed.qdata.view(torch.uint8).flatten().tolist()})
back = packed.dequantize(torch.float32)
print(f"torchao {torchao.__version__}: scale {scale.item()}, codes {codes}, reads {back[0, 0].item()}")
sys.exit(0 if back.isnan().all() else 1)
PYTHON
