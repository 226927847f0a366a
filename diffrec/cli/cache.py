"""`diffrec cache`: downloaded models and datasets on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.zoo.cache import Kept, ZooCache

HELP = "list what was downloaded, check it by sha256, make room"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions ls, verify and prune."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="models, unfinished downloads and datasets, with their sizes")
    verify = actions.add_parser("verify", help="check every byte of every model")
    verify.add_argument("--remove", action="store_true", help="remove what is damaged; it can be downloaded again")
    prune = actions.add_parser("prune", help="remove unfinished downloads and revisions that no name means any more")
    prune.add_argument("names", nargs="*", metavar="NAME", help="remove all revisions of these models instead")
    prune.add_argument("--all", action="store_true", help="remove all models")
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed")
    for action in (ls, verify, prune):
        action.add_argument(
            "--cache-dir", type=Path, metavar="DIR", help="default: DIFFREC_CACHE, else ~/.cache/diffrec"
        )


def run(args: argparse.Namespace) -> int:
    """Run one action; the exit code."""
    from diffrec.zoo.cache import ZooCache
    from diffrec.zoo.index import read_index

    cache = ZooCache.at(args.cache_dir)
    there = cache.kept({name: row.revision for name, row in read_index().items()})
    return {"ls": _ls, "verify": _verify, "prune": _prune}[args.action](args, cache, there)


def _ls(args: argparse.Namespace, cache: ZooCache, there: list[Kept]) -> int:
    rows = [(kept.size, f"model {kept.name}", f"{kept.revision[:12]} {_state(kept)}") for kept in there]
    rows += [(size, f"dataset {name}", "") for name, size in _datasets(cache.root.parent)]
    for size, what, more in rows:
        sys.stdout.write(f"{size:>13,}  {what}  {more}".rstrip() + "\n")
    sys.stdout.write(f"{sum(size for size, *_ in rows):>13,}  bytes in {cache.root.parent}\n")
    return 0


def _state(kept: Kept) -> str:
    if not kept.whole:
        return "is being downloaded" if kept.busy else "not finished"
    return "" if kept.current else "no name means it any more"


def _datasets(cache: Path) -> list[tuple[str, int]]:
    """Name and bytes of what was fetched or imported, which no action removes."""
    folders = sorted((cache / "datasets").glob("*/"))
    return [(folder.name, sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())) for folder in folders]


def _verify(args: argparse.Namespace, cache: ZooCache, there: list[Kept]) -> int:
    """Every model is looked at; 3 where one is damaged and stays."""
    from diffrec.errors import IntegrityError
    from diffrec.zoo.cache import damage

    code = 0
    if not there:
        sys.stdout.write(f"no models in {cache.root}\n")
    for kept in there:
        if not kept.whole:
            continue
        fault = damage(kept)
        if fault and args.remove:
            cache.remove(kept)
        elif fault:
            code = IntegrityError.exit_code
        state = f"{fault}{'; removed' if args.remove else ''}" if fault else "ok"
        sys.stdout.write(f"{kept.name} {kept.revision[:12]}: {state}\n")
    return code


def _prune(args: argparse.Namespace, cache: ZooCache, there: list[Kept]) -> int:
    from diffrec.errors import UsageError, choose

    if args.all and args.names:
        raise UsageError("give names, or --all, but not both")
    for name in args.names:
        choose("model in the cache", name, {kept.name for kept in there})
    removed = [kept for kept in there if not kept.busy and _goes(kept, args)]
    for kept in removed:
        if not args.dry_run:
            cache.remove(kept)
        sys.stdout.write(f"{kept.size:>13,}  {kept.name} {kept.revision[:12]} {_state(kept)}".rstrip() + "\n")
    sys.stdout.write(f"{sum(kept.size for kept in removed):>13,}  bytes {'would be ' * args.dry_run}removed\n")
    return 0


def _goes(kept: Kept, args: argparse.Namespace) -> bool:
    if args.all or args.names:
        return args.all or kept.name in args.names
    return not kept.whole or not kept.current
