#!/usr/bin/env bash
# Package:  safetensors 0.8.0 (0.7.0 keeps the numbers)
# Expected: safetensors.numpy writes an array that is contiguous in Fortran's order, as `weight.T`
#           is, or refuses it, as safetensors.torch refuses such a tensor
# Behavior: the array's memory is written as it lies, under the shape of the array. What is read has
#           the right shape and type, and its numbers in other places, without a warning
#           (safetensors issue 825).
# Seen:     2026-11-30
#           safetensors 0.8.0: [[0, 1, 2], [3, 4, 5]] is read as [[0, 3, 1], [4, 2, 5]]
# Here:     only safetensors.torch is used.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "safetensors==0.8.0" "numpy==2.4.6" || exit 2
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

weight = np.asfortranarray(np.arange(6).reshape(2, 3))
read = load(save({"weight": weight}))["weight"]
print(f"safetensors {safetensors.__version__}: {weight.tolist()} is read as {read.tolist()}")
sys.exit(0 if read.shape == weight.shape and not np.array_equal(read, weight) else 1)
PYTHON
