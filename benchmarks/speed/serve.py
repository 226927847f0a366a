"""`diffrec serve` under callers that each send one history: requests a second, and how long they wait.

python benchmarks/speed/serve.py --output benchmarks/speed/serve.json

The server is a process of its own with an entry of the zoo; the callers are threads of another process on the same
machine, each with a connection that it keeps, and take a share of the two cores themselves. `alone` is one caller;
`callers` are several at once, whose requests the server answers together where they wait. `load` is the load average
before and after: other work on the machine makes both slower.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

ENTRY = "sasrec.ml-100k"


def caller(address: str, requests: int, seed: int) -> list[float]:
    """Milliseconds of each of some requests, one after the other."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    rng, waits = np.random.default_rng(seed), []
    for _ in range(requests):
        history = [str(item) for item in rng.integers(1, 1600, rng.integers(1, 40))]
        body = json.dumps({"history": history, "k": 10})
        start = time.perf_counter()
        connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        waits.append(1000 * (time.perf_counter() - start))
        assert answer.status == 200, answer.status
    connection.close()
    return waits


def measured(address: str, callers: int, requests: int) -> dict[str, float]:
    """Requests a second and percentiles of the waits, in milliseconds."""
    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        waits = [wait for part in pool.map(lambda n: caller(address, requests, n), range(callers)) for wait in part]
    seconds = time.perf_counter() - start
    p50, p99 = np.percentile(waits, [50, 99])
    return {"callers": callers, "requests": len(waits), "requests_per_second": len(waits) / seconds,
            "p50_ms": float(p50), "p99_ms": float(p99)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000, help="of each caller")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    words = [sys.executable, "-m", "diffrec.cli.main", "serve", ENTRY, "--port", "0", "--offline",
             "--threads", str(options.threads)]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = server.stderr.readline().split()[3]
        caller(address, 50, 0)
        results = {"alone": measured(address, 1, options.requests),
                   "callers": measured(address, options.callers, options.requests // options.callers)}  # fmt: skip
        server.terminate()
    for name, value in results.items():
        rate, p50, p99 = (value[key] for key in ("requests_per_second", "p50_ms", "p99_ms"))
        print(f"{name}: {rate:.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    record = {"model": ENTRY, "threads": options.threads, "torch": torch.__version__, "machine": platform.machine(),
              "load": [before, os.getloadavg()[0]], "results": results}  # fmt: skip
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
