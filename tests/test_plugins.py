"""Models of other packages: found by name, used like one's own, and harmless when they are broken."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import diffrec
from diffrec import plugins as module
from diffrec.cli.main import main
from diffrec.data.synthetic import synthetic
from diffrec.errors import IntegrityError, NotFoundError, PluginWarning, UsageError
from diffrec.plugins import plugins
from diffrec.training.build import build
from diffrec.training.config import compose
from diffrec.training.fit import fit

EXAMPLE = Path(__file__).parent / "example_plugin"
PROJECT = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]


def install(folder: Path, package: str, entry_points: str, version: str = "1.0") -> None:
    """What an installer leaves of a package beside its code."""
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


def announced(models: dict[str, str]) -> str:
    return "[diffrec.models]\n" + "".join(f"{name} = {value}\n" for name, value in models.items())


@pytest.fixture(autouse=True)
def fresh():
    """Packages come and go within a test."""
    plugins.cache_clear()
    yield
    plugins.cache_clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the example package is installed into, as its own pyproject.toml says."""
    site = tmp_path_factory.mktemp("site")
    install(site, PROJECT["name"], announced(PROJECT["entry-points"]["diffrec.models"]), PROJECT["version"])
    source = EXAMPLE / "src" / "diffrec_nearest"
    (site / source.name).symlink_to(source)
    return site


@pytest.fixture(scope="module", autouse=True)
def installed(site):
    """The example package is there for all tests of this file."""
    sys.path.insert(0, str(site))
    plugins.cache_clear()
    yield
    sys.path.remove(str(site))
    plugins.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffrec_nearest"]:
        del sys.modules[name]


def example_tests() -> type:
    """The test class that the example package ships."""
    spec = importlib.util.spec_from_file_location("test_of_example", EXAMPLE / "tests" / "test_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    return tests.TestNearest


class TestExample(example_tests()):
    test_one_process_or_three = None  # two more processes for one model; test_conformance.py does it for all of ours


def test_a_name_is_known_before_its_module_is_imported(site):
    script = (
        "import sys; from diffrec.cli.main import main; main(['--help']); from diffrec.plugins import plugins;"
        "print(plugins()['nearest'].class_path, {'torch', 'diffrec_nearest'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", script], env=path_of(site), capture_output=True, text=True, check=True)
    assert "  nearest  of diffrec-nearest\n" in run.stdout
    assert run.stdout.splitlines()[-1] == "diffrec_nearest.model.Nearest set()"
    assert run.stderr == ""


def path_of(*folders: Path) -> dict[str, str]:
    here = Path(diffrec.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*folders, here]))}


def test_it_is_trained_kept_and_asked_like_any_other(tmp_path, capsys):
    config = compose(["model/nearest", "data/synthetic"], ["--model.embedding_size=8"])
    assert config["model"] == {"class_path": "diffrec_nearest.model.Nearest", "init_args": {"embedding_size": 8}}
    run = build(
        ["model/nearest", "data/synthetic"], ["--trainer.max_epochs=1", "--trainer.logger=false"], tmp_path / "run"
    )
    fit(run)
    entry = diffrec.save(run.model, tmp_path / "nearest.synthetic", dataset=synthetic())
    asked = torch.from_numpy(synthetic().parts["all"].items.padded(np.arange(5)))
    loaded = diffrec.load(entry)
    assert torch.equal(loaded.recommend(asked).items, run.model.recommend(asked).items)
    assert main(["recommend", str(entry), "--history", "1,2", "-k", "3", "--explain"]) == 0
    assert "because of" in capsys.readouterr().out
    with pytest.raises(UsageError, match="did you mean 'embedding_size'"):
        compose(["model/nearest", "data/synthetic"], ["--model.embeding_size=8"])


def test_an_entry_of_a_plug_in_that_is_gone_is_refused(tmp_path, monkeypatch, site):
    entry = diffrec.save(plugins()["nearest"].load()(9), tmp_path / "nearest")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(site)])
    plugins.cache_clear()
    with pytest.raises(IntegrityError, match="only those of diffrec and of installed plug-ins may be loaded"):
        diffrec.load(entry)


BROKEN = {
    "not-there": ("gone = no_such_package.model:Gone", "'gone' lies in 'no_such_package', which is not installed"),
    "no-class": ("odd = diffrec_nearest", "odd = 'diffrec_nearest' is not of the form package.module:Class"),
    "no-name": ("Odd Name = diffrec_nearest.model:Nearest", "the name 'Odd Name' is not of a-z"),
    "ours": ("sasrec = diffrec_nearest.model:Nearest", "'sasrec' is a model of diffrec"),
    "twice": ("nearest = diffrec_nearest.model:Nearest", "'nearest' is a model of diffrec-nearest"),
    "inside": ("inside = diffrec.models.sasrec:SASRec", "'inside' lies in diffrec itself"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_a_warning_that_names_its_package(name, tmp_path, monkeypatch, capsys):
    line, message = BROKEN[name]
    install(tmp_path, f"xx-{name}", f"[diffrec.models]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(PluginWarning, match=f"a plug-in of xx-{name} is left out: .*{message}"):
        assert list(plugins()) == ["nearest"]
    plugins.cache_clear()
    assert main(["--help"]) == 0
    told = capsys.readouterr()
    assert told.err == f"warning: a plug-in of xx-{name} is left out: {told.err.partition('out: ')[2]}"
    assert len(told.err.splitlines()) == 1
    assert "  nearest  of diffrec-nearest" in told.out


def test_metadata_that_cannot_be_read_is_a_warning(tmp_path, monkeypatch):
    install(tmp_path, "xx-bytes", "")
    (tmp_path / "xx_bytes-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[diffrec")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(PluginWarning, match="the entry points of xx-bytes cannot be read"):
        assert list(plugins()) == ["nearest"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise RuntimeError('two\\nlines')", r"RuntimeError: two\)"),
        ("", "AttributeError"),
        ("Late = 3", "which is no class"),
    ],
)
def test_a_plug_in_that_fails_when_it_is_imported(code, reason, tmp_path, monkeypatch):
    (tmp_path / "xx_late.py").write_text(code)
    install(tmp_path, "xx-late", announced({"late": "xx_late:Late"}))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "xx_late", raising=False)
    assert list(plugins()) == ["late", "nearest"]
    with pytest.raises(UsageError, match=f"the plug-in 'late' of xx-late .*{reason}"):
        compose(["model/late", "data/synthetic"])


def test_a_class_that_is_no_model(tmp_path, monkeypatch):
    (tmp_path / "xx_other.py").write_text("class Other:\n    pass\n")
    install(tmp_path, "xx-other", announced({"other": "xx_other:Other"}))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"xx_other\.Other cannot be a model; it is no Recommender"):
        compose(["model/other", "data/synthetic"])


def test_classes_that_nobody_announced_stay_forbidden():
    with pytest.raises(UsageError, match=r"class_path 'diffrec_nearest\.model\.EmbeddingSpace' is not allowed"):
        compose(["data/synthetic"], ["--model.class_path=diffrec_nearest.model.EmbeddingSpace"])


def test_near_names_include_plug_ins():
    with pytest.raises(NotFoundError, match="did you mean 'model/nearest'"):
        compose(["model/nearst", "data/synthetic"])


def test_the_help_of_fit_lists_them(capsys):
    assert main(["fit", "--help"]) == 0
    assert "model/nearest (diffrec-nearest)" in capsys.readouterr().out


def test_the_group_is_the_one_that_contributing_names():
    assert f'"{module.GROUP}"' in (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
