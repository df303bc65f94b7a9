#!/usr/bin/env bash
# Package:  torch 2.13.0, on a CPU (2.11.0 does the same); needs a C++ compiler
# Expected: a compiled function under selective checkpointing has the gradients that it has without
#           it. The code changes nothing in place, and the policy saves the output of one operation.
# Behavior: the compiled code adds to the saved output in its own memory. The checkpoint holds that
#           memory, so that the second run begins with what the first one left there: the gradients
#           are wrong, without an error. Eager code that adds in place is refused.
# Seen:     2026-11-30
#           torch 2.13.0+cpu: eager 0.0, eager under the checkpoint 0.0
#           compiled 0.0, compiled under the checkpoint 2.0 (of the largest gradient)
# Here:     a policy is used only where the checkpoint is compiled as well; in eager mode attention
#           is kept by a class of our own (longlive_models/wan/recomputation.py).
set -uo pipefail
command -v g++ > /dev/null || exit 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" numpy || exit 2
TORCHINDUCTOR_CACHE_DIR="$work/cache" "$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from functools import partial

import torch
from torch.utils.checkpoint import CheckpointPolicy as Policy
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts


@torch.library.custom_op("finding::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


double.register_fake(torch.empty_like)
double.register_autograd(lambda _, grad: grad * 2)


def block(x, y):
    return (double(x) + y).sin().cos()


def policy(context, operation, *args, **kwargs):
    saved = operation == torch.ops.finding.double.default
    return Policy.MUST_SAVE if saved else Policy.PREFER_RECOMPUTE


def gradient(function, **how):
    x = torch.linspace(-1, 1, 64).requires_grad_()
    y = torch.linspace(0, 2, 64).requires_grad_()
    (checkpoint(function, x, y, **how) if how else function(x, y)).sum().backward()
    return x.grad


how = {"use_reentrant": False, "context_fn": partial(create_selective_checkpoint_contexts, policy)}
right, off = gradient(block), []
for function in (block, torch.compile(block)):
    for given in ({}, how):
        error = (gradient(function, **given) - right).abs().max() / right.abs().max()
        off.append(round(error.item(), 2))
print(f"torch {torch.__version__}: eager {off[0]}, eager under the checkpoint {off[1]}")
print(f"compiled {off[2]}, compiled under the checkpoint {off[3]} (of the largest gradient)")
sys.exit(0 if off[:3] == [0, 0, 0] and off[3] > 0.1 else 1)
PYTHON
