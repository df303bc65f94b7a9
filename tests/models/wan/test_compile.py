"""The forward is one graph: nothing in it waits for a value. (Checked shapes cannot be traced.)"""

import subprocess
import sys

CODE = """
from dataclasses import replace
import torch
from longlive_models.objectives import teacher_forcing_mask
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

model = tiny_model(replace(TINY, num_layers=1))
compiled = torch.compile(model, backend="eager", fullgraph=True)
latents, timesteps, text = inputs(frames=4, segments=2)
mask = teacher_forcing_mask(4, TOKENS, 2)
mask.dense(latents.device)  # a mask takes form once, outside the graph
how = {"mask": mask, "clean": latents, "positions": torch.arange(4.0) + 0.5}
got, want = (run(latents, timesteps, text, **how) for run in (compiled, model))
torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
"""


def test_the_forward_compiles_without_a_graph_break():
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
