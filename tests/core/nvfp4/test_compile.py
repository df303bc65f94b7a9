"""Layers and pages compile without a break. (In a process of its own: checked shapes cannot.)"""

import subprocess
import sys

CODE = """
import torch
from longlive_core.nvfp4 import (
    LinearConfig, NVFP4Linear, NVFP4PageCodec, NVFP4TrainingLinear, QuantizeConfig
)

linear = torch.nn.Linear(64, 96)
layers = (
    NVFP4Linear.from_linear(linear),
    NVFP4Linear.from_linear(linear, LinearConfig(activation=QuantizeConfig())),
    NVFP4TrainingLinear.from_linear(linear),
)
x, grad = torch.randn(21, 64, requires_grad=True), torch.randn(21, 96)
for layer in layers:
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for forward in (compiled, layer):
        torch.manual_seed(0)  # of random rounding
        y = forward(x)
        found.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), grad)))
    assert all(map(torch.equal, *found)), layer

codec, page = NVFP4PageCodec(dtype=torch.float32), torch.randn(2, 3, 2, 16)
store = codec.allocate(2, tuple(page.shape), page.device)
for slot in (0, 1):
    codec.write(store, slot, page + slot)
read = lambda: codec.read([store, store], [1, 0], [torch.empty(2, 6, 2, 16) for _ in "kv"])
for got, want in zip(torch.compile(read, fullgraph=True, backend="aot_eager")(), read()):
    assert torch.equal(got, want)
"""


def test_layers_and_pages_compile_whole_and_give_the_same_bits():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
