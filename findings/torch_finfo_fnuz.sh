#!/usr/bin/env bash
# Package:  torch 2.13.0 (2.11.0 does the same)
# Expected: torch.finfo(dtype).eps is the distance from 1 to the next number of the type
# Behavior: for float8_e5m2fnuz, which has two bits of mantissa, it is 0.125, and the next number is
#           1.25: 1 + eps is 1. The eps of the other three float8 types is right. A bound of
#           rounding that is made of eps is half of what it should be.
# Seen:     2026-11-30
#           torch 2.13.0+cpu: eps, and the distance from 1 to the next number
#           float8_e4m3fn 0.125 0.125
#           float8_e5m2 0.25 0.25
#           float8_e4m3fnuz 0.125 0.125
#           float8_e5m2fnuz 0.125 0.25
# Here:     nothing is done; only float8_e4m3fn is used.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch

print(f"torch {torch.__version__}: eps, and the distance from 1 to the next number")
wrong = []
for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
    dtype = getattr(torch, name)
    code = torch.ones(1).to(dtype).view(torch.uint8) + 1
    step = code.view(dtype).float().item() - 1
    print(name, torch.finfo(dtype).eps, step)
    if torch.finfo(dtype).eps != step:
        wrong.append(name)
sys.exit(0 if wrong == ["float8_e5m2fnuz"] else 1)
PYTHON
