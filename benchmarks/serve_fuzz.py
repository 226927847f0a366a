"""`diffrec serve` under schemathesis: right and wrong requests made from its own description, and its answers.

python benchmarks/serve_fuzz.py --output benchmarks/serve_fuzz.json

Needs `pip install -c constraints.txt schemathesis`. The server is a process of its own with an entry of the zoo. Of ten
items of a history nine, on average, are items of the entry, by id or title; the others are made up. All checks are made
but one: positive_data_acceptance wants lists for every body that fits the description, which cannot know the items, nor
the settings of the model, and takes 3.0 for a whole number; those are refused on purpose (422). `requests` counts, for
an operation, what was sent (`right` fits the description) and the codes that came back; `checks` counts the outcomes of
each check. The exit code is 1 where a check fails or the run is not complete.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import diffrec

ENTRY = "sasrec.ml-100k"
NOT_CHECKED = {
    "positive_data_acceptance": "unknown items, settings that the model has not, and 3.0 for 3, are refused (422)"
}
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]  # 413 is ours
PACKAGES = ("schemathesis", "hypothesis", "fastapi", "pydantic", "starlette", "uvicorn", "torch")
KNOWN = 0.9  # of the items of a history


def report(address: str, names: list[str], examples: int, seed: int) -> tuple[dict, list[dict]]:
    """What schemathesis says of a run against the server at that address, and its scenarios, case by case."""
    with tempfile.TemporaryDirectory() as name:  # without examples that an earlier run left behind
        folder = Path(name)
        values = json.dumps(names, ensure_ascii=False)
        settings = (f"dictionaries.items.values = {values}",
                    f"checks.negative_data_rejection.expected-statuses = {json.dumps(REFUSALS)}",
                    f'parameters."body.history[*]" = {{ dictionary = "items", probability = {KNOWN} }}')  # fmt: skip
        (folder / "schemathesis.toml").write_text("\n".join(settings), encoding="utf-8")
        words = ["run", f"{address}/openapi.json", "--exclude-checks", ",".join(NOT_CHECKED),
                 "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure",
                 "--report", "json,ndjson", "--report-json-path", "run.json", "--report-ndjson-path", "cases.ndjson",
                 ]  # fmt: skip
        subprocess.run([str(Path(sys.executable).with_name("schemathesis")), *words], cwd=folder, check=False)
        events = map(json.loads, (folder / "cases.ndjson").read_text(encoding="utf-8").splitlines())
        scenarios = [event["ScenarioFinished"]["recorder"] for event in events if "ScenarioFinished" in event]
        return json.loads((folder / "run.json").read_text(encoding="utf-8")), scenarios


def requests(scenarios: list[dict]) -> dict[str, dict]:
    """For each operation: requests, right ones among them, and how often each code came back."""
    kinds: dict[str, Counter[str]] = {}
    codes: dict[str, Counter[str]] = {}
    for scenario in scenarios:
        for case in scenario.get("cases", {}).values():
            kinds.setdefault(scenario["label"], Counter())[case["value"]["meta"]["generation"]["mode"]] += 1
        for exchange in scenario.get("interactions", {}).values():
            answer = exchange["response"]
            codes.setdefault(scenario["label"], Counter())[str(answer["status_code"]) if answer else "none"] += 1
    return {
        name: {"cases": kinds[name].total(), "right": kinds[name]["positive"], "codes": dict(sorted(counts.items()))}
        for name, counts in codes.items()
    }


def checks(scenarios: list[dict]) -> dict[str, dict[str, int]]:
    """How often each check had which outcome."""
    outcomes: dict[str, Counter[str]] = {}
    for scenario in scenarios:
        for made in scenario.get("checks", {}).values():
            for check in made:
                outcomes.setdefault(check["name"], Counter())[check["status"]] += 1
    return {name: dict(counts) for name, counts in sorted(outcomes.items())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2500, help="at most so many fuzzed requests for an operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    vocabulary = diffrec.load(ENTRY, offline=True).vocabulary
    assert vocabulary is not None
    names = [*vocabulary.item_ids, *(vocabulary.titles or ())]
    words = [sys.executable, "-m", "diffrec.cli.main", "serve", ENTRY, "--port", "0", "--offline", "--threads", "1"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = server.stderr.readline().split()[3].rstrip("/")
        Thread(target=sys.stderr.writelines, args=(server.stderr,)).start()  # a full pipe would halt the server
        try:
            run, scenarios = report(address, names, options.examples, options.seed)
        finally:
            server.terminate()
    record = {
        "model": ENTRY,
        "examples": options.examples,
        "seed": options.seed,
        "known_items": KNOWN,
        "not_checked": NOT_CHECKED,
        "complete": run["complete"],
        "cases": run["test_cases"]["generated"],
        "cases_with_failures": run["test_cases"]["with_failures"] + run["test_cases"]["errored"],
        "failures": run["failures"] + run["errors"],
        "requests": requests(scenarios),
        "checks": checks(scenarios),
        "versions": {
            "diffrec": diffrec.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(bool(record["failures"]) or record["cases_with_failures"] > 0 or not record["complete"])


if __name__ == "__main__":
    sys.exit(main())
