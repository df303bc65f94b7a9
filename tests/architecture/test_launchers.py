"""docs/several_gpus.md: what it gives to Slurm, Kubernetes and Ray is whole and understood."""

import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from longlive_cli.main import app
from tests.architecture.source import ROOT

PAGE = (ROOT / "docs" / "several_gpus.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def understood(words: list[str], folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan a command; it must be one of ours, and its settings must go together."""
    assert words[0] == "longlive"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*words[1:], "--dry-run"])
    assert done.exit_code == 0, done.output


def test_the_script_for_slurm_is_bash_and_its_line_is_understood(tmp_path, monkeypatch):
    script = block("bash")
    subprocess.run(["bash", "-n", "-c", script], check=True)
    [line] = [line for line in script.splitlines() if line.startswith("srun ")]
    understood(line.split()[1:], tmp_path, monkeypatch)
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", script, re.MULTILINE))
    ranks = int(asked["nodes"]) * int(asked["ntasks-per-node"])
    sizes = dict(re.findall(r"parallel\.(\w+)=(\d+)", line))
    assert ranks == int(sizes["data"]) * int(sizes["sequence"])
    assert sizes["nodes"] == asked["nodes"]


def test_the_job_for_kubernetes_is_understood_and_its_pods_meet(tmp_path, monkeypatch):
    service, job = yaml.safe_load_all(block("yaml"))
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    understood([*container["command"], *container["args"]], tmp_path, monkeypatch)
    given = {one["name"]: one for one in container["env"]}
    assert given["MASTER_ADDR"]["value"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    index = given["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert "job-completion-index" in index
    words = " ".join(container["args"])
    sizes = {name: int(size) for name, size in re.findall(r"parallel\.(\w+)=(\d+)", words)}
    assert spec["completions"] == spec["parallelism"] == sizes["nodes"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus * sizes["nodes"] == sizes["data"] * sizes["sequence"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_program_for_ray_runs_the_command_once_on_each_machine(tmp_path, monkeypatch):
    ran: list[tuple[list[str], dict[str, str]]] = []
    placed: list[Any] = []

    class Task:
        def __init__(self, call: Any) -> None:
            self.call = call

        def options(self, *, scheduling_strategy: Any) -> "Task":
            placed.append(scheduling_strategy)
            return self

        def remote(self, *arguments: Any) -> Any:
            return self.call(*arguments)

    class Strategy:
        def __init__(self, *, node_id: str, soft: bool) -> None:
            self.node_id, self.soft = node_id, soft

    nodes = [
        {"Alive": number != 1, "NodeManagerAddress": f"10.0.0.{number}", "NodeID": f"n{number}"}
        for number in range(3)
    ]
    ray, util, strategies = (ModuleType(name) for name in ("ray", "util", "strategies"))
    vars(ray).update(
        remote=lambda **how: Task, init=lambda: None, nodes=lambda: nodes, get=lambda waiting: None
    )
    vars(strategies)["NodeAffinitySchedulingStrategy"] = Strategy
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util", util)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)

    def run(words: list[str], *, env: dict[str, str], check: bool) -> None:
        assert check
        ran.append((words, env))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        exec(compile(block("py"), "several_gpus.md", "exec"), {"__name__": "program"})
    assert [env["NODE_RANK"] for _, env in ran] == ["0", "1"]
    assert {env["MASTER_ADDR"] for _, env in ran} == {"10.0.0.0"}
    assert [one.node_id for one in placed] == ["n0", "n2"] and not placed[0].soft
    understood(ran[0][0], tmp_path, monkeypatch)
