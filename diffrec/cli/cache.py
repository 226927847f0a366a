"""`diffrec cache`: downloaded models, datasets, and vectors and codes of items on this machine."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.paths import MAKING

if TYPE_CHECKING:
    from diffrec.zoo.cache import Kept, ZooCache

HELP = "list what was downloaded or made, check it by sha256, make room"


@dataclass(frozen=True)
class Made:
    """Vectors or codes of items, called `<dataset>/<name>` (`nn.artefacts`)."""

    kind: str
    name: str
    path: Path
    size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions ls, verify and prune."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser(
        "ls", help="models, unfinished downloads, datasets, item vectors and codes, with their sizes"
    )
    verify = actions.add_parser("verify", help="check every byte of every model, and of item vectors and codes")
    verify.add_argument("--remove", action="store_true", help="remove models that are damaged; they can be downloaded "
                        "again, vectors and codes cannot and stay")  # fmt: skip
    prune = actions.add_parser(
        "prune",
        help="remove unfinished downloads and revisions that no name means any more",
        epilog="Datasets always stay. Item vectors and codes were made here and cannot be downloaded again: they go "
               "only where they are named.",
    )  # fmt: skip
    prune.add_argument("names", nargs="*", metavar="NAME", help="remove all revisions of these models instead, or the "
                       "item vectors and codes of these names, such as ml-100k/text")  # fmt: skip
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
    rows += [(made.size, f"{made.kind} {made.name}", "") for made in _made(cache.root.parent)]
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


def _made(cache: Path) -> list[Made]:
    """Item vectors and codes, in real folders: links are not followed."""
    paths = [
        (kind, path)
        for kind in MAKING
        for path in sorted((cache / kind).glob("*/*.safetensors"))
        if path.is_file() and not any(part.is_symlink() for part in (path, path.parent, path.parent.parent))
    ]
    return [Made(kind, f"{path.parent.name}/{path.stem}", path, path.stat().st_size) for kind, path in paths]


def _verify(args: argparse.Namespace, cache: ZooCache, there: list[Kept]) -> int:
    """Every model, and all vectors and codes, are looked at; 3 where something is damaged and stays."""
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
    for made in _made(cache.root.parent):
        if fault := _damage(made):
            code = IntegrityError.exit_code
            fault += f"; '{MAKING[made.kind]}' makes it anew with --force"
        sys.stdout.write(f"{made.kind} {made.name}: {fault or 'ok'}\n")
    return code


def _damage(made: Made) -> str | None:
    """What is wrong with vectors or codes; None where nothing is."""
    from diffrec.errors import DiffrecError
    from diffrec.nn.artefacts import read_artefact

    try:
        read_artefact(made.path)
    except DiffrecError as error:
        return str(error)
    return None


def _prune(args: argparse.Namespace, cache: ZooCache, there: list[Kept]) -> int:
    from diffrec.errors import UsageError, choose

    if args.all and args.names:
        raise UsageError("give names, or --all, but not both")
    for name in args.names:
        choose(
            "model, vectors or codes in the cache", name, {each.name for each in (*there, *_made(cache.root.parent))}
        )
    removed = [kept for kept in there if not kept.busy and _goes(kept, args)]
    for kept in removed:
        if not args.dry_run:
            cache.remove(kept)
        sys.stdout.write(f"{kept.size:>13,}  {kept.name} {kept.revision[:12]} {_state(kept)}".rstrip() + "\n")
    named = [made for made in _made(cache.root.parent) if made.name in args.names]
    for made in named:
        if not args.dry_run:
            made.path.unlink()
        sys.stdout.write(f"{made.size:>13,}  {made.kind} {made.name}\n")
    total = sum(each.size for each in (*removed, *named))
    sys.stdout.write(f"{total:>13,}  bytes {'would be ' * args.dry_run}removed\n")
    return 0


def _goes(kept: Kept, args: argparse.Namespace) -> bool:
    if args.all or args.names:
        return args.all or kept.name in args.names
    return not kept.whole or not kept.current
