"""`diffrec zoo publish`: an entry as a repository of a hub, in a folder or pushed."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffrec.cli.printable import print_line

HELP = "write a model as a repository of a Hugging Face hub, whose page shows its metrics; to a folder, or pushed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and where to."""
    parser.add_argument("name", metavar="NAME", help="a name of 'diffrec zoo list', or the folder of an entry")
    parser.add_argument("--to", required=True, metavar="REPO_OR_FOLDER",
                        help="hf://OWNER or hf://OWNER/NAME, which needs the extra 'hub' and a token; anything else is "
                             "a folder, in which the repository becomes the folder NAME")  # fmt: skip
    parser.add_argument("--private", action="store_true", help="let a repository that is made now be private")


def run(args: argparse.Namespace) -> int:
    """Verify the entry, then write or push it."""
    from diffrec.zoo.finding import find_entry
    from diffrec.zoo.publishing import Repository, hub_files, push, write_hub_folder
    from diffrec.zoo.verifying import verify

    entry = find_entry(args.name, offline=True)
    name = Path(args.name).resolve().name if "/" in args.name else args.name
    verify(entry)
    if "://" not in args.to and not args.to.startswith("hf:"):
        folder = Path(args.to) / name
        write_hub_folder(hub_files(entry, name), folder)
        print_line(f"{folder}: revision {entry.revision}")
        print_line(
            f"DIFFREC_ZOO_MIRRORS={Path(args.to).resolve().as_uri()}, or where the folder is served, loads {name}"
        )
        return 0
    repository = Repository.parse(args.to, name)
    url = push(hub_files(entry, name, repository), repository, entry.revision, args.private)
    print_line(f"{url}: revision {entry.revision}")
    who = "those who may read it" if args.private else "everybody"
    print_line(f"DIFFREC_ZOO_HUB={repository.owner} lets {who} load {repository.name}")
    return 0
