"""Give the program one small fault at a time, and see whether its tests notice.

    python -m tests.mutations.run --count 150 --seed 0 --jobs 2

draws faults at random from ``longlive_core`` and ``longlive_models``, puts each into a copy of the
tree of its own, and runs the tests that mirror the file, then those of the same folder that import
it. A fault that no test notices survives; survivors are printed, with the line that they are in.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.operators import Mutation, mutations

ROOT = Path(__file__).parents[2]
PACKAGES = ("longlive_core", "longlive_models")
SECONDS = 400
"""How long the tests of one fault may take; a fault that makes them hang is noticed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: ``killed``, ``survived``, or ``hung`` (which counts as noticed)."""

    mutation: Mutation
    fate: str
    seconds: float
    tests: tuple[str, ...]

    def __str__(self) -> str:
        source = (ROOT / self.mutation.file).read_text().splitlines()[self.mutation.line - 1]
        place = f"{self.mutation.file}:{self.mutation.line}"
        return f"{self.fate:9} {place} {self.mutation.what}: {source.strip()}"


def draw(count: int, seed: int, packages: Sequence[str] = PACKAGES) -> list[Mutation]:
    """Faults, each as likely as any other; kernels are left out, which no CPU test imports."""
    found = [
        mutation
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.parent.name != "kernels" and path.name != "__init__.py"
        for mutation in mutations(str(path.relative_to(ROOT)), path.read_text())
    ]
    return random.Random(seed).sample(found, min(count, len(found)))


def mirrored(file: str) -> list[str]:
    """The tests of a source file: its mirror first, then those that import it or name its classes.

    Of its folder the first, of other folders the second.
    """
    path = Path(file)
    short = {"longlive_core": "core", "longlive_models": "models", "longlive_cli": "cli"}
    folder = Path("tests", *[short.get(part, part) for part in path.parts[:-1]])
    while not (
        ROOT / folder
    ).is_dir():  # a command's tests lie with those of the whole command line
        folder = folder.parent
    own = sorted((ROOT / folder).glob(f"test_{path.stem}*.py"))
    parent = ".".join(path.parts[:-1])
    names = (f"{parent}.{path.stem}", f"from {parent} import", f"import {parent}")
    others = [
        test
        for test in sorted((ROOT / folder).rglob("test_*.py"))
        if test not in own and any(name in test.read_text() for name in names)
    ]
    classes = re.findall(r"^class ([A-Z]\w+)", (ROOT / file).read_text(), re.MULTILINE)
    others += [
        test
        for test in sorted((ROOT / "tests").glob(f"{folder.parts[1]}/**/test_*.py"))
        if test not in [*own, *others] and any(name in test.read_text() for name in classes)
    ]
    if not own and not others:
        others = sorted((ROOT / folder).glob("test_*.py"))
    return [str(test.relative_to(ROOT)) for test in [*own, *others]]


def run_one(mutation: Mutation, tree: Path, without: Sequence[str] = ()) -> Outcome:
    """Run a fault's tests in a copy of the tree; the copy is as it was afterwards.

    ``without`` names tests that fail on this machine anyhow.
    """
    file = tree / mutation.file
    source = file.read_text()
    tests = mirrored(mutation.file)
    began = time.perf_counter()
    file.write_text(mutation.apply(source))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [word for test in without for word in ("--deselect", test)]
    paths = [str(tree), os.environ.get("PYTHONPATH", "")]  # the tree's own packages come first
    try:
        done = subprocess.run(
            [*command, "--hypothesis-seed=0", *tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        fate = "survived" if done.returncode == 0 else "killed"
    except subprocess.TimeoutExpired:
        fate = "hung"
    finally:
        file.write_text(source)
    return Outcome(mutation, fate, time.perf_counter() - began, tuple(tests))


def run(drawn: Sequence[Mutation], jobs: int, without: Sequence[str] = ()) -> list[Outcome]:
    """Every fault's outcome, in the order they were drawn; prints each as it is known."""
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as work:
        for number in range(jobs):
            tree = Path(work, str(number))
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".*_cache", "build"))
            (tree / "longlive_recipes").symlink_to("recipes")  # else those that are installed
            trees.put(tree)

        def job(mutation: Mutation) -> Outcome:
            tree = trees.get()
            try:
                outcome = run_one(mutation, tree, without)
            finally:
                trees.put(tree)
            sys.stdout.write(f"{outcome.seconds:6.1f} s {outcome}\n")
            sys.stdout.flush()
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(job, drawn))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=150)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--packages", nargs="+", default=list(PACKAGES))
    options.add_argument(
        "--deselect", nargs="*", default=[], help="tests that fail without a fault"
    )
    options.add_argument("-o", "--output", type=Path, help="a JSON file of all outcomes")
    given = options.parse_args()
    outcomes = run(draw(given.count, given.seed, given.packages), given.jobs, given.deselect)
    lasting = [outcome for outcome in outcomes if outcome.fate == "survived"]
    if given.output:
        rows = [{**vars(o.mutation), "fate": o.fate, "seconds": o.seconds} for o in outcomes]
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write("\n".join(["", *map(str, lasting), ""]))
    share = 1 - len(lasting) / len(outcomes)
    sys.stdout.write(f"{len(outcomes)} faults, {len(lasting)} survived: {share:.1%} noticed\n")


if __name__ == "__main__":
    main()
