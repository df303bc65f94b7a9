#!/usr/bin/env bash
# Package:  torch 2.13.0, on a CPU
# Expected: an infinity that is cast to float8_e4m3fn, which has NaN and no infinity, becomes NaN,
#           as in torch 2.11 and in float8_e4m3fnuz, so that an overflow is seen behind the cast
# Behavior: it becomes 448, the largest number. By pytorch pull request 178817 finite numbers beyond
#           the range saturate, and so do infinities: activations of a step that has overflowed are
#           finite. float8_e5m2 saturates neither, the fnuz types give NaN for both.
# Seen:     2026-11-30
#           torch 2.13.0+cpu: [inf, -inf, 1e6] is
#           float8_e4m3fn [448.0, -448.0, 448.0]
#           float8_e5m2 [inf, -inf, inf]
#           float8_e4m3fnuz [nan, nan, nan]
#           float8_e5m2fnuz [nan, nan, nan]
# Here:     a row is divided by its largest magnitude, which makes a row with an infinity NaN.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch

x = torch.tensor([float("inf"), float("-inf"), 1e6])
print(f"torch {torch.__version__}: [inf, -inf, 1e6] is")
read = {}
for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
    read[name] = x.to(getattr(torch, name)).float()
    print(name, read[name].tolist())
first = read["float8_e4m3fn"].tolist() == [448, -448, 448]
sys.exit(0 if first and read["float8_e4m3fnuz"].isnan().all() else 1)
PYTHON
