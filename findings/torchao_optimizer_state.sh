#!/usr/bin/env bash
# Package:  torchao 0.18.0 with torch 2.13.0, on a CPU
# Expected: an optimizer that holds its states in few bits takes a state of another kind into its
#           own, or refuses it
# Behavior: the state stays what it was, without a word. AdamW8bit goes on with AdamW's float32 and
#           AdamW4bit with 8 bits, so that no memory is saved. AdamW loads 8 bits as well, and ends
#           with a NotImplementedError at its next step.
# Seen:     2026-11-30
#           torchao 0.18.0: AdamW -> AdamW8bit steps with Tensor, 16384 bytes
#           AdamW8bit -> AdamW4bit steps with OptimState8bit
#           AdamW8bit -> AdamW loads OptimState8bit, then NotImplementedError
# Here:     states are stored as plain tensors and put into the optimizer's own kind when they are
#           loaded (recipes/training/eight_bit.py).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "torchao==0.18.0" numpy || exit 2
TORCHDYNAMO_DISABLE=1 "$work/venv/bin/python" -W ignore - 2> "$work/log" <<'PYTHON'
import sys

import torch
import torchao
from torch.optim import AdamW
from torchao.optim import AdamW4bit, AdamW8bit


def trained(kind, state=None):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)  # 4,096 weights: torchao holds smaller ones in float32
    optimizer = kind(layer.parameters(), lr=torch.tensor(0.01))
    if state is not None:
        optimizer.load_state_dict(state)
    layer(torch.ones(1, 64)).sum().backward()
    try:
        optimizer.step()
        after = "steps with"
    except NotImplementedError:
        after = "loads"
    average = optimizer.state[layer.weight]["exp_avg"]
    return optimizer.state_dict(), after, average


plain, eight = trained(AdamW)[0], trained(AdamW8bit)[0]
_, first, held = trained(AdamW8bit, plain)
size = held.untyped_storage().nbytes() if type(held) is torch.Tensor else 0
_, second, four = trained(AdamW4bit, eight)
_, third, back = trained(AdamW, eight)
names = [type(one).__name__ for one in (held, four, back)]
print(f"torchao {torchao.__version__}: AdamW -> AdamW8bit {first} {names[0]}, {size} bytes")
print(f"AdamW8bit -> AdamW4bit {second} {names[1]}")
print(f"AdamW8bit -> AdamW {third} {names[2]}{', then NotImplementedError' * (third == 'loads')}")
seen = (first, size, second, names[1], third)
sys.exit(0 if seen == ("steps with", 4 * 64 * 64, "steps with", "OptimState8bit", "loads") else 1)
PYTHON
status=$?
[ "$status" = 0 ] || cat "$work/log" >&2
exit "$status"
