# bash make_samples.sh CHECKOUT PYTHON_BIN  -> ./cc03c32
set -euo pipefail
checkout=$1 bin=$2
export OMP_NUM_THREADS=1
mkdir cc03c32 && cd cc03c32 && here=$PWD
(cd "$checkout" && "$bin/python" - "$here" <<'P'
import sys
from dataclasses import replace
from pathlib import Path
import torch
from longlive_models.folder import save_part
from longlive_models.settings import write_index
from longlive_models.text import PocketTextEncoder
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer
from tests.models import tiny_pipeline
from tests.models.tiny_pipeline import SPEC, TEXT
from longlive_recipes import train_vae
from longlive_recipes.data import FramePool
from longlive_recipes.moving_shapes import World

here = Path(sys.argv[1])
torch.manual_seed(0)
wan = replace(SPEC.transformer, dim=16, ffn_dim=16)
vae_config = replace(SPEC.vae, encoder_dim=2, decoder_dim=2)
parts = WanTransformer(wan), WanVAE(vae_config), PocketTextEncoder(TEXT)
for part in parts:
    tiny_pipeline._stir(part)
names = "transformer", "vae", "text_encoder"
for folder, config, part in zip(names, (wan, vae_config, TEXT), parts):
    save_part(here / "model" / folder, config.to_dict(), {name: x.bfloat16() for name, x in part.state_dict().items()})
write_index(here / "model", SPEC.settings)
config = replace(train_vae.vae_tiny().vae, encoder_dim=2, decoder_dim=2)
pool = FramePool.draw(World(size=32), 2, 0, torch.device("cpu"), blocks=1)
train_vae.write_vae(WanVAE(config).eval(), pool, here / "vae")
P
)
common="--device cpu --model model --seed 3"
"$bin/longlive" generate "a red circle" $common --seconds 2 -o video.mp4
printf '%s\n' '@0.5s a blue circle' '@2s /cut the blue square' \
  | "$bin/longlive" live "a red circle" $common --seconds 4 -o steered.mp4
(cd "$checkout" && "$bin/python" - "$here" <<'P'
import os, sys
from tests.cli.test_steering import interrupts_at, longlive
sys.path.insert(0, os.getcwd())
os.chdir(sys.argv[1])
wanted = "generate|a red circle|--device|cpu|--model|model|--seed|3|--seconds|2|-o|stopped.mp4"
with interrupts_at(0):
    done = longlive(*wanted.split("|"), "--snapshot", "stopped.snapshot")
assert done.exit_code == 130, done.output
P
)
train() {
  "$bin/longlive" train ar_tiny --set vae=vae --set run.progress_bar=false --set run.samples_every=0 \
    --set run.validate_every=2 --set phases.0.batch=2 --set phases.1.batch=2 --set validation_clips=2 \
    --set model.dim=8 --set model.ffn_dim=8 --set model.num_layers=1 --set model.num_heads=1 \
    --set model.freq_dim=8 --set text.dim=8 --set model.text_dim=8 --set text.num_heads=1 --set text.ffn_dim=8 --set budget.steps=2 "$@"
}
train --set run.output=run
train --set run.output=sharded --set parallel.data=2
for name in run sharded; do
  train --resume $name --set run.output=longer_$name --set budget.steps=4
  cp longer_$name/train.csv $name/went_on.csv
  rm -r longer_$name
done
sed -i 's|"/.*/longlive"|"longlive"|' */run.json
tar --create --xz --file=runs.tar.xz --exclude=tensorboard --exclude=model run sharded vae
rm -r run sharded vae
