"""A run over two nodes of two processes each, started as README.md says, has one rank's numbers.

The nodes are simulated: both are this machine, and they talk over localhost.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import write_tiny_folder
from tests.recipes.tiny_runs import column, write_tiny_vae

LONGLIVE = str(Path(sys.executable).with_name("longlive"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
LIMIT = 300.0  # seconds for a run; most of them go into starting
OVER_NODES = {"data": 2, "sequence": 2, "nodes": 2, "timeout_minutes": 4.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Clips of two blocks, two a batch: what two data ranks and two sequence ranks share out."""
    folder = tmp_path_factory.mktemp("nodes")
    fields = {
        "vae": str(write_tiny_vae(folder / "vae")),
        "phases": [{"length": 2, "batch": 2, "until": 1.0}],
        "sets": [{"blocks": 2, "clips": 4}],
        "validation_clips": 2,
        "run": {"samples_every": 0, "progress_bar": False},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(fields, sort_keys=False))
    return file


def train(config: Path, name: str) -> list[str]:
    command = [LONGLIVE, "train", "ar_tiny", "--config", str(config)]
    return [*command, "--set", f"run.output={config.parent / name}"]


def run_all(commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    """What commands print that run side by side, all of which must succeed."""
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    try:
        printed = [process.communicate(timeout=LIMIT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, printed, strict=True):
        assert process.returncode == 0, output
    return printed


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.fixture(scope="module")
def alone(config) -> Path:
    run_all([train(config, "alone")], [{}])
    return config.parent / "alone"


def over_nodes(command: list[str], launcher: str, ranks: int) -> list[str]:
    """What two nodes print, each of which has half of the ranks."""
    port = free_port()
    if launcher == "lightning":
        at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return run_all([command] * 2, [{**at, "NODE_RANK": str(node)} for node in (0, 1)])
    how = ["--nnodes", "2", "--nproc-per-node", str(ranks // 2)]
    how += ["--master-addr", "127.0.0.1", "--master-port", port]
    commands = [[*TORCHRUN, *how, "--node-rank", str(node), "--", *command] for node in (0, 1)]
    return run_all(commands, [{}] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_nodes_train_as_one_rank_does(config, alone, launcher):
    command = train(config, launcher)
    for name, value in OVER_NODES.items():
        command += ["--set", f"parallel.{name}={value}"]
    first, second = over_nodes(command, launcher, ranks=4)
    folder = config.parent / launcher
    assert str(folder / "model") in first
    assert str(folder / "model") not in second  # one process speaks for the job
    for table, name in (("train.csv", "loss"), ("validation.csv", "loss_2_blocks")):
        wanted = column(alone / table, name)
        assert column(folder / table, name) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_nodes_make_the_video_of_one_rank(tmp_path, launcher):
    model = write_tiny_folder(tmp_path / "model")
    how = ["--model", str(model), "--device", "cpu", "--seconds", "2", "--seed", "3"]
    generate = [LONGLIVE, "generate", "a red circle", *how, "-o"]
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    run_all([[*generate, str(one)]], [{}])
    command = [*generate, str(many), "--nproc", "2", "--nodes", "2"]
    first, second = over_nodes(command, launcher, ranks=2)
    assert str(many) in first
    assert str(many) not in second
    (frames, _), (others, _) = (read_video(path) for path in (one, many))
    # a last bit in one pixel can change how the lossy file is written around it
    assert (frames.float() - others.float()).abs().mean() < 0.05
