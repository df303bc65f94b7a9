#!/usr/bin/env bash
# Package:  PyTorch Lightning 2.6.6 with torch 2.13.0
# Expected: a run that is resumed from a checkpoint ends where the run would have ended without a
#           stop, or the checkpoint is refused, also where it was written while gradients accumulate
# Behavior: the gradients so far are not in the checkpoint, but the number of batches is. The first
#           update after the resumption has the sum of what is left of its group, divided by the
#           number of the whole group, without a warning.
# Seen:     2026-11-30
#           Lightning 2.6.6: updates of a whole run [1.0, 1.0, 1.0]
#           stopped after 6 of 12 batches and resumed [1.0, 0.5, 1.0]
# Here:     the parts of a batch are one step (`accumulate`), so no checkpoint falls between them.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "pytorch-lightning==2.6.6" numpy || exit 2
cd "$work" || exit 2
"$work/venv/bin/python" -W ignore - 2> "$work/log" <<'PYTHON'
import sys

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader


class Sum(lightning.LightningModule):
    """Every batch has the gradient 1, so every update of 4 batches has the mean 1."""

    def __init__(self, stop=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop, self.updates = stop, []

    def training_step(self, batch, index):
        return (self.weight * batch).sum()

    def on_before_optimizer_step(self, optimizer):
        self.updates.append(self.weight.grad.item())

    def on_train_batch_end(self, outputs, batch, index):
        if self.stop == index + 1:
            self.trainer.save_checkpoint("stopped.ckpt")
            raise InterruptedError

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def updates(stop=0, ckpt_path=None):
    module = Sum(stop)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=4, accelerator="cpu", devices=1, **quiet
    )
    try:
        trainer.fit(module, DataLoader(torch.ones(12)), ckpt_path=ckpt_path)
    except InterruptedError:
        pass
    return module.updates


whole = updates()
resumed = updates(stop=6) + updates(ckpt_path="stopped.ckpt")
print(f"Lightning {lightning.__version__}: updates of a whole run {whole}")
print(f"stopped after 6 of 12 batches and resumed {resumed}")
sys.exit(0 if whole == [1, 1, 1] and resumed == [1, 0.5, 1] else 1)
PYTHON
status=$?
[ "$status" = 0 ] || cat "$work/log" >&2
exit "$status"
