"""An entry as a repository of a Hugging Face hub: its files, and a README.md that the hub reads metrics from.

The files of the entry stay as they are, so that its revision does, too; README.md is the card behind metadata in YAML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from diffrec.data.fetching import network_is_forbidden
from diffrec.errors import NetworkError, UsageError
from diffrec.files import write_folder
from diffrec.zoo.config import Config, Measured
from diffrec.zoo.entry import CARD, CONFIG, MANIFEST, METRICS, Entry, is_name, read_file
from diffrec.zoo.headings import unknown
from diffrec.zoo.loading import load
from diffrec.zoo.mirrors import OWNER, hub_endpoint, hub_is_offline, hub_token

README = "README.md"
SCHEME = "hf://"


@dataclass(frozen=True)
class Repository:
    """<owner>/<name> on a hub."""

    owner: str
    name: str

    @classmethod
    def parse(cls, text: str, name: str) -> Repository:
        """From `hf://owner/name`, or `hf://owner` for the name of the entry; UsageError for what is neither."""
        owner, slash, repository = text.removeprefix(SCHEME).partition("/")
        found = cls(owner, repository if slash else name)
        if not text.startswith(SCHEME) or not OWNER.fullmatch(owner) or not is_name(found.name):
            wanted = f"write {SCHEME}OWNER or {SCHEME}OWNER/NAME, with a NAME that an entry may have"
            raise UsageError(f"{text!r} is no repository; {wanted}")
        return found

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


def hub_files(entry: Entry, name: str, repository: Repository | None = None) -> dict[str, bytes]:
    """The files of the repository. Raises UsageError where the card leaves open what somebody has to know."""
    contents = entry.read_all()
    if gaps := unknown(contents[CARD].decode()):
        raise UsageError(f"{name} is not published: its card says nothing about {', '.join(gaps)}")
    manifest = read_file(entry.folder / MANIFEST, 1 << 16)
    return {**contents, MANIFEST: manifest, README: _readme(contents, name, entry.revision, repository).encode()}


def write_hub_folder(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a repository into a folder, which may hold them already; UsageError for any other."""
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= files.keys()):
        raise UsageError(f"{folder} is there and holds other files; give another folder")
    write_folder(folder, files, check=lambda copy: load(copy, offline=True))


def push(files: dict[str, bytes], repository: Repository, revision: str, private: bool) -> str:
    """Make the repository hold these files, in one commit; returns the URL of that.

    Raises UsageError without huggingface_hub or a token, NetworkError where the hub does not take them.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise UsageError("publishing to a hub needs huggingface_hub: pip install 'diffrec[hub]'") from None
    if network_is_forbidden() or hub_is_offline():
        raise NetworkError(f"{repository} cannot be written while offline")
    token = hub_token()
    if not token:
        raise UsageError("no token: log in with 'hf auth login', or set HF_TOKEN to one that may write")
    # HTTPError of whichever library this version of it uses, which refused connections raise as well
    refusals = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError))
    api = HfApi(endpoint=hub_endpoint(), token=token)
    try:
        api.create_repo(str(repository), private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, data) for name, data in sorted(files.items())]
        commit = api.create_commit(str(repository), operations, commit_message=f"Revision {revision}")
    except refusals as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NetworkError(f"{repository} was not written to {hub_endpoint()}: {reason}") from error
    return commit.commit_url


def _readme(contents: dict[str, bytes], name: str, revision: str, repository: Repository | None) -> str:
    config = Config.parse(contents[CONFIG], CONFIG)
    metrics = Measured.parse(contents[METRICS], METRICS).metrics
    metadata = yaml.safe_dump(_metadata(name, config, dict(metrics)), sort_keys=False, allow_unicode=True)
    known = repository.name if repository else name
    source = f"DIFFREC_ZOO_HUB={repository.owner}" if repository else "DIFFREC_ZOO_MIRRORS=<URL of the folder above>"
    use = f"""## Getting it

With `{source}` set, `diffrec.load("{known}")` downloads this model and checks every byte.
`diffrec zoo verify {known}` compares its golden lists. Its revision is the sha256 of `manifest.json`:

    {revision}
"""
    return f"---\n{metadata}---\n\n{contents[CARD].decode()}\n{use}"


def _metadata(name: str, config: Config, metrics: dict[str, float]) -> dict[str, Any]:
    """What a hub shows beside a model, as of its model cards' `model-index`."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", config.class_path.rpartition(".")[2]).lower()
    metadata: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "diffrec",
        "tags": ["recommendation", "recommender-system", *(["diffusion"] if config.denoiser_calls > 1 else []), kind],
    }
    if config.dataset is None or not metrics:
        return metadata
    dataset = {"type": config.dataset.name, "name": config.dataset.name, "config": config.protocol, "split": "test"}
    result = {
        "task": {"type": "recommendation", "name": "Recommendation"},
        "dataset": dataset,
        "metrics": [{"type": metric, "value": value, "name": metric} for metric, value in sorted(metrics.items())],
    }
    return {**metadata, "model-index": [{"name": name, "results": [result]}]}
