"""`diffrec serve MODEL`: the model of an entry over HTTP, on this machine unless told otherwise."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import sys

from diffrec.cli.sampling import add_sampling_arguments, loaded
from diffrec.errors import UsageError, check_sizes

HELP = (
    "serve a model over HTTP: POST /recommend, GET /health, GET /models. For one list: curl -H 'content-type: "
    'application/json\' -d \'{"history": ["Alien (1979)"], "k": 10}\' http://127.0.0.1:8000/recommend'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, the address, limits, how to sample."""
    parser.add_argument("model", metavar="MODEL", help="a name of 'diffrec zoo list', or the folder of an entry")
    parser.add_argument("--host", default="127.0.0.1", help="who may ask (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--max-k", type=int, default=100, metavar="N", help="longest list (default: 100)")
    parser.add_argument("--max-history", type=int, default=1000, metavar="N", help="longest history (default: 1000)")
    parser.add_argument("--max-steps", type=int, default=1000, metavar="N", help="most steps (default: 1000)")
    parser.add_argument("--max-body", type=int, default=1 << 18, metavar="BYTES", help="largest body (256 KiB)")
    parser.add_argument("--max-batch", type=int, default=64, metavar="N", help="requests asked together (default: 64)")
    parser.add_argument("--max-waiting", type=int, default=256, metavar="N", help="then 429 (default: 256)")
    add_sampling_arguments(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="of the model (default: as torch has it)")
    parser.add_argument("--offline", action="store_true", help="take the model from this machine or not at all")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise UsageError("diffrec serve needs fastapi and uvicorn: pip install 'diffrec[serve]'")
    if args.threads is not None:
        check_sizes(threads=args.threads)
    with _listening(args.host, args.port) as listening:
        model = loaded(args)
        import torch
        import uvicorn

        from diffrec.inference.server import Limits, build_app

        if args.threads is not None:
            torch.set_num_threads(args.threads)
        limits = Limits(args.max_k, args.max_history, args.max_steps, args.max_body, args.max_batch, args.max_waiting)
        app = build_app(model, args.model, limits)
        host, port = listening.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"serving {args.model} on http://{where}:{port} (schema: /openapi.json); Ctrl-C ends it\n")
        sys.stderr.flush()
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])
        app.state.batcher.close()
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket at that address. UsageError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
        # asyncio sets this only where the protocol is spelt out; without, every answer waits 40 ms for the caller's ACK
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).removesuffix(".")
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}; --port 0 takes a free one") from None
