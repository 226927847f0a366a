"""`diffrec serve` under schemathesis: right and wrong requests made from its own description, and its answers.

python benchmarks/serve_fuzz.py --output benchmarks/serve_fuzz.json

Needs `pip install schemathesis`. The server is a process of its own with an entry of the zoo. All checks are made but
one: positive_data_acceptance wants lists for every body that fits the description, which cannot know the items, and a
history with an unknown item is refused on purpose (422). `right_requests` counts the bodies that fit; all others are
wrong ones. The exit code is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ENTRY = "sasrec.ml-100k"
NOT_CHECKED = "positive_data_acceptance"


def report(address: str, examples: int, seed: int) -> dict:
    """What schemathesis says of a run against the server at that address."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        words = ["schemathesis", "run", f"{address}/openapi.json", "--exclude-checks", NOT_CHECKED,
                 "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure",
                 "--report", "json", "--report-json-path", str(path)]  # fmt: skip
        subprocess.run([str(Path(sys.executable).with_name(words[0])), *words[1:]], check=False)
        return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2500, help="at most so many fuzzed requests for an operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    words = [sys.executable, "-m", "diffrec.cli.main", "serve", ENTRY, "--port", "0", "--offline", "--threads", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = report(server.stderr.readline().split()[3].rstrip("/"), options.examples, options.seed)
        server.terminate()
    answers = {
        operation: {
            phase: {answer: counts[answer] for answer in ("accepted", "rejected")} for phase, counts in phases.items()
        }
        for operation, phases in found["valid_rates"].items()
    }
    record = {
        "model": ENTRY,
        "examples": options.examples,
        "seed": options.seed,
        "not_checked": NOT_CHECKED,
        "complete": found["complete"],
        "cases": found["test_cases"]["generated"],
        "cases_with_failures": found["test_cases"]["with_failures"] + found["test_cases"]["errored"],
        "right_requests": answers,
        "schemathesis": found["schemathesis_version"],
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(record["cases_with_failures"] > 0 or not record["complete"])


if __name__ == "__main__":
    sys.exit(main())
