#!/usr/bin/env bash
# Package:  torch 2.11.0, on a CPU
# Expected: a compiled autograd.Function has the gradient that its backward gives
# Behavior: if the forward returns a tensor that it also has under another name, as `y.to(y.dtype)` or
#           an operation in place leaves one, the gradient of the compiled function is 0, with every
#           backend, without a warning. torch 2.13 gives the right one (pytorch issue 180642).
# Seen:     2026-11-30
#           torch 2.11.0+cu130: the gradient is [0.0], should be [3.0]
# Here:     the emulated FP8 product converts its result only where the type is another one
#           (longlive_core/float8/matmul_backends.py).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.11.0" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch


class Times3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 3).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


x = torch.ones(1, requires_grad=True)
torch.compile(lambda x: Times3.apply(x), fullgraph=True, backend="eager")(x).sum().backward()
print(f"torch {torch.__version__}: the gradient is {x.grad.tolist()}, should be [3.0]")
sys.exit(0 if x.grad.item() == 0 else 1)
PYTHON
