#!/usr/bin/env bash
# Package:  gguf 0.19.0
# Expected: the encoder of NVFP4's block scales, NVFP4.fp32_to_ue4m3, rounds to the nearest E4M3
#           number; what is such a number already keeps its byte
# Behavior: what rounds to 256 or more becomes 448: the largest exponent is taken to be beyond the
#           format, which has seven numbers there, and the decoder beside it reads them. A block
#           under a scale of 256 is 1.75 times too large; under a tensor scale, scales up to 448 are
#           usual.
# Seen:     2026-11-30
#           gguf 0.19.0: 240 is read as 240.0, 256 as 448.0, 288 as 448.0, 416 as 448.0
#           of 126 positive numbers of E4M3, 6 are changed
# Here:     scales are copied as bytes, or rounded by torch (longlive_core/nvfp4).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "gguf==0.19.0" || exit 2
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from gguf.quants import NVFP4

codes = np.arange(1, 127, dtype=np.uint8)
numbers = (2 * NVFP4.ue4m3_to_fp32(codes)).astype(np.float32)  # its scales are halved
kept = NVFP4.fp32_to_ue4m3(numbers) == codes


def again(number: float) -> float:
    return float(2 * NVFP4.ue4m3_to_fp32(NVFP4.fp32_to_ue4m3(np.array([number], np.float32)))[0])


read = [f"{number} as {again(number)}" for number in (256, 288, 416)]
print(f"gguf {version('gguf')}: 240 is read as {again(240)}, {', '.join(read)}")
print(f"of {len(codes)} positive numbers of E4M3, {(~kept).sum()} are changed")
sys.exit(0 if again(256) == 448 and (~kept).sum() == 6 else 1)
PYTHON
