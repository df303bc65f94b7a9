"""Hold the library against a folder of golden vectors, one line a case: `name: verdict`.

    python tests/conformance.py tests/golden [--group N] [--json]

Verdicts: `held`; `held (parity)`, under a switch that copies a defect of the original;
`refused: RULE` and `differs: RULE`, on purpose (the rules are in tests/checks/framework.py);
`not yet: ISSUE`; `failed: MISMATCH`. The exit status is 1 when a case failed, with `--group` also
when one is not yet there, and 2 for a bad call.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder with manifest.json")
    parser.add_argument("--group", type=int, help="run this group's cases only")
    parser.add_argument("--json", action="store_true", help="print one JSON object a case")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the cases of a folder; return the exit status."""
    from tests.checks.framework import run_case

    options = parser().parse_args(arguments)
    manifest = options.folder / "manifest.json"
    if not manifest.is_file():
        print(f"{options.folder} has no manifest.json: not a golden folder.", file=sys.stderr)
        return 2
    cases = json.loads(manifest.read_text())["cases"]
    groups = sorted({meta["group"] for meta in cases.values()})
    if options.group is not None and options.group not in groups:
        print(f"no case of group {options.group}; the groups are {groups}.", file=sys.stderr)
        return 2
    kinds: Counter[str] = Counter()
    for name, meta in sorted(cases.items(), key=lambda item: (item[1]["group"], item[0])):
        if options.group not in (None, meta["group"]):
            continue
        verdict = run_case(options.folder, name, meta)
        kinds[verdict.kind] += 1
        if options.json:
            record = {"case": name, "group": meta["group"], "verdict": verdict.kind}
            print(json.dumps({**record, "detail": verdict.detail}), flush=True)
        else:
            print(f"{name}: {verdict}", flush=True)
    bad = kinds["failed"] or (options.group is not None and kinds["not yet"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
