"""Configurations that try to run code, to eat memory, or to write elsewhere; the marker file must never appear."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.errors import UsageError
from diffrec.testing.fuzzing import BASES, any_configuration_is_read_or_refused, trees
from diffrec.training.config import compose

_MODEL = "model:\n  class_path: diffrec.models.SASRec\n"
_DATA = "data:\n  dataset: synthetic\n"


def _callback(path: str, arguments: str = "{}") -> str:
    return f"trainer:\n  callbacks:\n  - class_path: {path}\n    init_args: {arguments}\n"


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# refused on sight: no class is imported, no torch is loaded
UNREAD = {
    "alias bomb": _BOMB,
    "alias": "model: &m {class_path: diffrec.models.SASRec}\ndata: *m\n",
    "merge key": "x: &x {a: 1}\nmodel:\n  <<: *x\n",
    "anchor only": "model: &m\n  class_path: diffrec.models.SASRec\n",
    "alias bomb in a string": _MODEL + "  init_args: {dropout: '" + _BOMB.replace("\n", "\\n") + "'}\n",
    "nesting in a string": _MODEL + "  init_args: {dropout: '" + "[" * 25_000 + "'}\n",
    "nesting in a key": _MODEL + "  init_args: {'" + "[" * 25_000 + "': 1}\n",
    "a long list": _MODEL + "  init_args: {dropout: [" + "1, " * 4_000 + "1]}\n",
    "long lists in lists": _MODEL + "  init_args: {dropout: [" + ("[" + "1, " * 200 + "1], ") * 200 + "1]}\n",
    "thousands of classes": "trainer: {callbacks: [" + "{class_path: os.x}, " * 4_000 + "]}\n",
    "class_path of a thousand modules": "model: {class_path: diffrec" + ".a" * 450 + "}\n",
    "python object": "model: !!python/object/apply:os.system ['touch {marker}']\n",
    "python name": "model: !!python/name:os.system\n",
    "python module": "model: !!python/module:this\n",
    "python new": "model: !!python/object/new:subprocess.Popen [[touch, '{marker}']]\n",
    "own tag": "model: !include /etc/passwd\n",
    "standard tag": "model: !!binary aGVsbG8=\n",
    "tag on a key": "!!str model: 1\n",
    "os.system": "model: {class_path: os.system, init_args: {command: 'touch {marker}'}}\n",
    "subprocess": "model: {class_path: subprocess.Popen, init_args: {args: [touch, '{marker}']}}\n",
    "builtins": "model: {class_path: builtins.eval}\n",
    "class_path in data": "data: {class_path: os.system}\n",
    "class_path deep": _MODEL + "  init_args: {dropout: {a: [{class_path: os.system}]}}\n",
    "class_path is a list": "model: {class_path: [os, system]}\n",
    "class_path is a number": "model: {class_path: 1}\n",
    "class_path is empty": "model: {class_path: ''}\n",
    "class_path with a newline": 'model: {class_path: "diffrec.models.SASRec\\nos.system"}\n',
    "class_path relative": "model: {class_path: .os.system}\n",
    "prefix that looks alike": "model: {class_path: diffrec_evil.Model}\n",
    "scheduler in another package": "model: {class_path: evil.diffusers.DDIMScheduler}\n",
    "diffusers module": "model: {class_path: diffusers.utils.import_utils.Scheduler}\n",
    "lambda callback": _callback("pytorch_lightning.callbacks.LambdaCallback", "{on_fit_start: os.system}"),
    "other callback": _callback(
        "pytorch_lightning.callbacks.StochasticWeightAveraging", "{swa_lrs: 1, avg_fn: os.system}"
    ),
    "callback by inner module": _callback("pytorch_lightning.callbacks.callback.os"),
    "url as model": "model: http://127.0.0.1:9/model.yaml\n",
    "url as base": "base: ['https://127.0.0.1:9/trainer.yaml']\n",
    "url as logger": "trainer: {logger: 's3://bucket/logger.yaml'}\n",
    "url with fsspec chain": "data: {dataset: 'simplecache::https://127.0.0.1:9/x'}\n",
    "deep flow": "a: " + "[" * 5000 + "\n",
    "deep flow mappings": "{a: " * 3000 + "\n",
    "deep blocks": "".join(" " * i + f"k{i}:\n" for i in range(300)),
    "duplicate top key": _MODEL + "model: {class_path: diffrec.models.DiffRec}\n",
    "duplicate inner key": _MODEL + "  init_args: {lr: 1.0, dropout: 0.1, lr: 2.0}\n",
    "too large": "# " + "x" * 300_000 + "\n",
    "too many keys": "".join(f"k{i}: {i}\n" for i in range(40_000)),
    "two documents": _MODEL + "---\n" + _DATA,
    "key is a list": "? [a, b]\n: 1\n",
    "not a mapping": "- model\n- data\n",
    "only a word": "model\n",
    "unclosed": "model: [1, 2\n",
    "tab": "model:\n\tclass_path: x\n",
    "control characters": "model: \x00\x01\n",
    "not utf-8": b"model: \xff\xfe\n",
    "base of itself": "base: [{self}]\n",
    "base is a word": "base: ../trainer.yaml\n",
    "base is missing": "base: [nowhere.yaml]\n",
    "base is a folder": "base: [.]\n",
}

# refused by looking at the signatures of allowed classes; nothing of these is built
CHECKED = {
    "class by a name that is no class": "model: {class_path: diffrec.errors.difflib}\n" + _DATA,
    "class of another package": "model: {class_path: diffrec.paths.Path, init_args: {}}\n" + _DATA,
    "module that does not exist": "model: {class_path: diffrec.os.system}\n" + _DATA,
    "class that is no model": "model: {class_path: diffrec.data.datamodule.EpochSampler}\n" + _DATA,
    "function": "model: {class_path: diffrec.recommender.count_parameters}\n" + _DATA,
    "plugin as a word": _MODEL + _DATA + "trainer: {plugins: os.system}\n",
    "logger as a class word": _MODEL + _DATA + "trainer: {logger: os.system}\n",
    "logger as a file": _MODEL + _DATA + "trainer: {logger: {evil}}\n",
    "callback as a class word": _MODEL + _DATA + "trainer: {callbacks: [os.system]}\n",
    "strategy of another class": _MODEL + _DATA + "trainer: {strategy: {class_path: diffrec.models.SASRec}}\n",
    "strategy without class": _MODEL + _DATA + "trainer: {strategy: {init_args: {x: os.system}}}\n",
    "experiment of a logger": _MODEL + _DATA + "trainer: {logger: [{class_path: pytorch_lightning.loggers.WandbLogger, "
    "init_args: {experiment: os.system}}]}\n",
    "unnamed arguments": _MODEL + _DATA + "trainer: {logger: [{class_path: pytorch_lightning.loggers.WandbLogger, "
    "dict_kwargs: {settings: x}}]}\n",
    "writes elsewhere": _MODEL + _DATA + "trainer: {default_root_dir: /tmp}\n",
    "checkpoints elsewhere": _MODEL + _DATA
    + _callback("pytorch_lightning.callbacks.ModelCheckpoint", "{dirpath: /tmp}"),
    "file name that climbs": _MODEL + _DATA
    + _callback("pytorch_lightning.callbacks.ModelCheckpoint", "{filename: ../../x}"),
    "log name that climbs": _MODEL + _DATA
    + "trainer: {logger: [{class_path: pytorch_lightning.loggers.CSVLogger, init_args: {name: ../x}}]}\n",
    "model is null": "model:\n" + _DATA,
    "arguments are a list": _MODEL + "  init_args: [1]\n" + _DATA,
    "data is a word": _MODEL + "data: synthetic\n",
    "trainer is a word": _MODEL + _DATA + "trainer: fast\n",
    "callbacks is a word": _MODEL + _DATA + "trainer: {callbacks: all}\n",
    "seed is a word": _MODEL + _DATA + "seed_everything: lucky\n",
    "seed is negative": _MODEL + _DATA + "seed_everything: -1\n",
    "seed is a switch": _MODEL + _DATA + "seed_everything: true\n",
    "infinite number of items": _MODEL + "  init_args: {num_items: 99999999999}\n" + _DATA,
}  # fmt: skip


def write(path: Path, content: str | bytes, marker: Path | None = None) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        evil = path.with_name("evil.yaml")
        evil.write_text(f"class_path: os.system\ninit_args: {{command: 'touch {marker}'}}\n")
        filled = content.replace("{marker}", str(marker)).replace("{self}", path.name).replace("{evil}", str(evil))
        path.write_text(filled)
    return path


def test_hostile_files_are_refused_at_once_without_importing_anything(tmp_path):
    """In a process of its own, so that the modules that get imported can be seen."""
    marker = tmp_path / "marker"
    folder = tmp_path / "hostile"
    folder.mkdir()
    for number, content in enumerate(UNREAD.values()):
        write(folder / f"{number:03}.yaml", content, marker)
    (folder / "evil.yaml").unlink()
    script = """
        import sys, time
        from pathlib import Path
        from diffrec.errors import DiffrecError
        from diffrec.training.config import compose
        names = sys.stdin.read().splitlines()
        files = sorted(Path(sys.argv[1]).iterdir())
        assert len(files) == len(names) >= 30, (len(files), len(names))
        before = set(sys.modules)
        for name, path in zip(names, files):
            started = time.process_time()
            try:
                compose([path])
            except DiffrecError as error:
                assert error.exit_code in (2, 4), (name, error)
            else:
                raise AssertionError(f"{name} was accepted")
            assert time.process_time() - started <= 0.2, name
        new = {module.partition(".")[0] for module in set(sys.modules) - before}
        assert not new & {"torch", "pytorch_lightning", "jsonargparse", "diffrec.models", "subprocess", "this"}, new
        assert "diffrec.training.config_check" not in sys.modules
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        input="\n".join(UNREAD), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not marker.exists()


@pytest.mark.parametrize("name", CHECKED)
def test_what_needs_signatures_is_refused_before_anything_is_built(name, tmp_path):
    marker = tmp_path / "marker"
    path = write(tmp_path / "config.yaml", CHECKED[name], marker)
    compose(BASES)  # imports are done
    started = time.process_time()
    with pytest.raises(UsageError, match=r"config\.yaml:\d|no model is configured"):
        compose([path])
    assert time.process_time() - started <= 0.2
    assert not marker.exists()


@settings(max_examples=80, deadline=None)
@given(trees(), st.sampled_from([*BASES, "model/diffrec"]))
def test_any_tree_is_accepted_or_refused_in_words(tmp_path_factory, tree, base):
    any_configuration_is_read_or_refused(tree, base, tmp_path_factory.mktemp("fuzz") / "config.yaml")
