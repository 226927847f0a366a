"""One door to every dataset: registered, in a folder of DIFFREC_DATA, or imported."""

from __future__ import annotations

from pathlib import Path

from diffrec.data.catalogue import dataset_dir, find
from diffrec.data.dataset import Dataset
from diffrec.data.folders import read_folder
from diffrec.data.synthetic import synthetic


def load_dataset(name: str) -> Dataset:
    """The dataset of that name, fetched first where it is a registered one that is not in the cache.

    Looked for among the registered names, then the folders of DIFFREC_DATA, then the imported datasets.
    Raises NotFoundError (unknown name), NetworkError (download), IntegrityError (damaged file).
    """
    folder = fetch(name)
    return synthetic() if folder is None else read_folder(folder, name)


def fetch(name: str) -> Path | None:
    """The folder of a dataset, filled from its publisher where that has not been done; None if it is generated."""
    entry = find(name)
    if entry.folder is None and name == "ml-100k":
        from diffrec.data.movielens import fetch_ml_100k  # only here: most processes never download

        fetch_ml_100k(dataset_dir(name))
        return dataset_dir(name)
    return entry.folder
