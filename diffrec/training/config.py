"""Configurations: YAML files and command line words composed into one, checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from diffrec.errors import NotFoundError, UsageError, near_match
from diffrec.paths import resource_dir
from diffrec.plugins import by_class, plugins
from diffrec.strict_json import short
from diffrec.training.yaml_tree import MAX_BYTES, MAX_DEPTH, Node, all_classes, merge, read_yaml

MAX_FILES = 50  # a chain of bases longer than this is a mistake
MAX_VALUES = 500  # mappings, lists and their members together; the largest shipped configuration has 72
MAX_TEXT = 1000  # characters of a word; jsonargparse reads words as YAML once more, with a reader that recurses
MAX_CLASS_PATH = 200
MAX_FAULTS = 20  # that are listed

_CALLBACKS = (
    "DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor", "ModelCheckpoint",
    "ModelSummary", "RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar",
)  # fmt: skip
_LOGGERS = ("CSVLogger", "TensorBoardLogger", "WandbLogger")
_OF_LIGHTNING = (
    *(f"pytorch_lightning.callbacks.{name}" for name in _CALLBACKS),
    *(f"pytorch_lightning.loggers.{name}" for name in _LOGGERS),
)
_PLACE = re.compile(r"([^:\n]+):(\d+)[:,] ")
_SHIPPED = re.compile(r"(?:(?:data|logger|model|recipe)/)?[\w.-]+")  # what `shipped_configs` may name
_ALLOWED_CLASS = re.compile(
    r"diffrec(\.[A-Za-z_]\w*)+"
    rf"|pytorch_lightning\.callbacks\.({'|'.join(_CALLBACKS)})"
    rf"|pytorch_lightning\.loggers\.({'|'.join(_LOGGERS)})"
    r"|diffusers\.(schedulers\.(\w+\.)?)?\w+Scheduler"
)

Fault = UsageError | NotFoundError
_Member = TypeVar("_Member")
_Made = TypeVar("_Made")


def compose(
    configs: Sequence[str | Path], overrides: Sequence[str] = (), *, with_values: bool = False
) -> dict[str, object]:
    """The checked configuration that the files make together, later ones and `overrides` winning.

    configs: paths, or names of shipped files such as `dreamrec-ml-100k` or `model/ease`; `trainer.yaml`
    lies below all of them. overrides: command line words, `--model.lr=1e-3` or `--model.lr 1e-3`, where
    `model.lr` is short for `model.init_args.lr`. with_values: constructors are asked for what they allow, too
    (`config_values`). Raises one UsageError with every fault, each with file and line, and NotFoundError where all
    that is wrong is a name of nothing.
    """
    tree, misspelt = _merged(configs, overrides)
    from diffrec.training.config_check import faults  # here, for it imports torch

    found = [*misspelt, *faults(tree)]
    if with_values:
        from diffrec.training.config_values import value_faults

        found += value_faults(tree)
    _refuse(sorted(found, key=_place))
    config = tree.plain()
    assert isinstance(config, dict)
    return config


def located(error: Fault, configs: Sequence[str | Path], overrides: Sequence[str], sections: Sequence[str]) -> Fault:
    """The error of building these sections with the places of the arguments it names, itself where it names none."""
    from diffrec.training.config_values import located_in

    return located_in(error, _merged(configs, overrides)[0], sections)


def _merged(configs: Sequence[str | Path], overrides: Sequence[str]) -> tuple[Node, list[str | Fault]]:
    """The tree of files and overrides without hidden code, and what is misspelt in it."""
    wrong: list[Fault] = []
    layers = [_without_controls(layer) for layer in _Files().layers(["trainer", *configs], wrong)]
    words = _made(_parse_override, _pair_up(overrides), wrong)
    _refuse(wrong)
    tree = layers[0]
    for layer in layers[1:]:
        tree = merge(tree, layer)
    parts = [*layers, *(leaf for _, leaf in words)]
    _refuse(fault for part in parts for fault in hidden_code(part))
    misspelt: list[str | Fault] = [fault for part in parts for fault in _misspelt_classes(part)]
    for path, leaf in words:
        try:
            tree = merge(tree, _overlay(tree, path, leaf))
        except UsageError as error:
            misspelt.append(error)
    _refuse(hidden_code(tree))
    return tree, misspelt


def controls(configs: Sequence[str | Path]) -> dict[str, tuple[str, ...]]:
    """The controls that the files declare under `controls`: name -> overrides that turn a part of the model off.

    Imports nothing. Raises UsageError where they are no lists of overrides.
    """
    found: dict[str, tuple[str, ...]] = {}
    wrong: list[Fault] = []
    layers = _Files().layers(configs, wrong)
    _refuse(wrong)
    for layer in layers:
        declared = layer.get("controls")
        if declared is None:
            continue
        if not isinstance(declared.value, dict):
            raise UsageError(f"{declared.where}: controls is a mapping such as noise-off: [--model.noise_scale=0.0]")
        for name, node in declared.value.items():
            words = node.plain()
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise UsageError(f"{node.where}: {name} is a list such as [--model.noise_scale=0.0], got {words!r}")
            _pair_up(words)
            found[name] = tuple(words)
    return found


def _without_controls(layer: Node) -> Node:
    assert isinstance(layer.value, dict)
    return Node({key: child for key, child in layer.value.items() if key != "controls"}, layer.where)


def _made(make: Callable[[_Member], _Made], members: Iterable[_Member], wrong: list[Fault]) -> list[_Made]:
    """`make` of every member; what is the matter with some of them goes into `wrong`, to be told together."""
    made: list[_Made] = []
    for member in members:
        try:
            made.append(make(member))
        except (UsageError, NotFoundError) as error:
            wrong.append(error)
    return made


def _place(fault: str | Fault) -> tuple[bool, str, int]:
    """By what faults are put in order: by line of each file, what has no line last."""
    found = _PLACE.match(str(fault))
    return (False, found[1], int(found[2])) if found else (True, "", 0)


def _refuse(found: Iterable[str | Fault]) -> None:
    lines: list[str] = []
    kinds = set()
    for fault in found:
        if str(fault) not in lines:
            lines.append(str(fault))
            kinds.add(NotFoundError if isinstance(fault, NotFoundError) else UsageError)
        if len(lines) > MAX_FAULTS:
            lines[-1] = "and more"
            break
    if lines:
        raise (NotFoundError if kinds == {NotFoundError} else UsageError)("\n".join(lines))


def hidden_code(tree: Node) -> Iterator[str]:
    """What could make checking this tree costly, or building it run foreign code or open a connection; imports nothing.

    A tree of more than `MAX_VALUES` is told as that alone. Misspelt classes of Lightning are no hidden code.
    """
    nodes = list(islice(tree.walk(), MAX_VALUES + 1))
    if len(nodes) > MAX_VALUES:
        yield f"{nodes[-1][1].where}: more than {MAX_VALUES} values, which no configuration needs"
        return
    for key, node in nodes:
        for text in (key, node.value):
            if isinstance(text, str) and len(text) > MAX_TEXT:
                yield f"{node.where}: {short(text)} has {len(text):,} characters; a word has {MAX_TEXT:,} at most"
        if key == "class_path" and not (isinstance(node.value, str) and _is_named(node.value)):
            yield f"{node.where}: {not_allowed(node.plain())}"
        elif isinstance(node.value, str) and "://" in node.value:
            yield f"{node.where}: {short(node.value)} is an address; configurations come from local files only"
        elif isinstance(node.value, str) and "&" in node.value and "*" in node.value:
            yield f"{node.where}: {short(node.value)} hides YAML with aliases in a string"


def _misspelt_classes(tree: Node) -> Iterator[str]:
    for key, node in tree.walk():
        if key == "class_path" and not is_allowed(str(node.value)):
            yield f"{node.where}: {not_allowed(node.value)}"


def is_allowed(class_path: str) -> bool:
    """Whether a configuration may name this class."""
    allowed = _ALLOWED_CLASS.fullmatch(class_path) or by_class(class_path)
    return allowed is not None and len(class_path) <= MAX_CLASS_PATH


def _is_named(class_path: str) -> bool:
    """Whether it is an allowed class or, with a slip of the pen, one of Lightning's, which is told with the rest."""
    package, _, name = class_path.rpartition(".")
    alike = [path.rpartition(".")[2] for path in _OF_LIGHTNING if path.startswith(f"{package}.")]
    return is_allowed(class_path) or bool(near_match(name[:MAX_CLASS_PATH], alike))


def not_allowed(path: object) -> str:
    """What is told of a class that a configuration may not name."""
    return (
        f"class_path {short(path)} is not allowed; allowed are classes of diffrec and of its plug-ins, diffusers' "
        f"schedulers, and Lightning's {', '.join(_CALLBACKS + _LOGGERS)}{near_match(str(path), _OF_LIGHTNING)}"
    )


def find_config(name: str | Path) -> Path:
    """The file of a configuration: a path, else a file shipped in `configs/`, a recipe by its bare name."""
    if Path(name).is_file():
        return Path(name)
    if shipped := _shipped(name):
        return shipped
    asked = _bare(name)
    names = [*(word.removeprefix("recipe/") for word in shipped_configs()), *(f"model/{name}" for name in plugins())]
    model = f"model/{asked}"
    near = near_match(model if model in names else asked.removeprefix("recipe/"), names)
    raise NotFoundError(f"no configuration {str(name)!r}{near}; 'diffrec fit --help' lists the recipes")


def _bare(name: str | Path) -> str:
    return str(name).removeprefix("configs/").removesuffix(".yaml")


def _shipped(name: str | Path) -> Path | None:
    """The file of the project that is called so, a recipe by its bare name."""
    for candidate in (_bare(name), f"recipe/{_bare(name)}"):
        path = resource_dir("configs") / f"{candidate}.yaml"
        if _SHIPPED.fullmatch(candidate) and path.is_file():
            return path
    return None


def shipped_configs() -> dict[str, Path]:
    """The files of the project's `configs` folder by name: `recipe/dreamrec-ml-100k`, `model/ease`, ..."""
    folder = resource_dir("configs")
    paths = [path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != "search"]  # spaces, for tuning
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


class _Files:
    """Reads configurations and the files they build on."""

    def __init__(self) -> None:
        self.read = 0

    def layers(self, names: Sequence[str | Path], wrong: list[Fault]) -> list[Node]:
        """Those of all files in order; what is the matter with a file goes into `wrong`."""
        found = _made(lambda name: _of_plugin(name) or self.with_bases(find_config(name), ()), names, wrong)
        return [layer for layers in found for layer in layers]

    def with_bases(self, path: Path, chain: tuple[Path, ...]) -> list[Node]:
        """The file's bases in order, each with its own bases, then the file itself."""
        source = _shown(path)
        self.read += 1
        if self.read > MAX_FILES or path.resolve() in chain:
            raise UsageError(f"{source}: its bases lead back to itself or to more than {MAX_FILES} files")
        tree = read_yaml(_text(path, source), source)
        if not isinstance(tree.value, dict):
            raise UsageError(f"{tree.where}: a configuration is a mapping with the keys base, model, data, trainer")
        layers = []
        for base in _base_paths(tree.value.get("base"), path.parent):
            layers += self.with_bases(base, (*chain, path.resolve()))
        own = {key: child for key, child in tree.value.items() if key != "base"}
        return [*layers, Node(own, tree.where)]


def _of_plugin(name: str | Path) -> list[Node]:
    """The layer of `model/<name>` for a plug-in, whose constructor has the defaults; nothing for another name."""
    kind, _, word = str(name).partition("/")
    plugin = plugins().get(word) if kind == "model" and not Path(name).is_file() else None
    where = f"{name} (plug-in of {plugin.package})" if plugin is not None else ""
    return [] if plugin is None else [read_yaml(f"model: {{class_path: {plugin.class_path}}}", where, numbered=False)]


def _base_paths(base: Node | None, folder: Path) -> list[Path]:
    if base is None:
        return []
    names = base.plain()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{base.where}: base must be a list of paths from here or of shipped configurations, such as "
            "[../model/dreamrec.yaml] or [sasrec-ml-100k]"
        )
    return [_base_path(name, base.where, folder) for name in names]


def _base_path(name: str, where: str, folder: Path) -> Path:
    """A path from the folder of the file that names it, else a shipped configuration."""
    path = folder / name
    if path.is_file():
        return path
    if shipped := _shipped(name):
        return shipped
    beside = [f"{Path(name).parent.as_posix()}/{there.name}" for there in path.parent.glob("*.yaml")]
    near = near_match(name, beside) or near_match(name, [word.removeprefix("recipe/") for word in shipped_configs()])
    raise NotFoundError(f"{where}: no base {name!r} beside this file or among the shipped configurations{near}")


def _text(path: Path, source: str) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no configuration needs")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 text (byte {error.start})") from None


def _shown(path: Path) -> str:
    """The path as a reader of messages wants it: relative to here where it lies below."""
    full, here = path.resolve(), Path.cwd().resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(path)


def _pair_up(words: Sequence[str]) -> list[str]:
    """`--a.b 1` as `--a.b=1`; anything that is no option is refused."""
    paired: list[str] = []
    waiting = False
    for word in words:
        if waiting:
            paired[-1] += f"={word}"
            waiting = False
        elif word.startswith("--") and len(word) > 2:
            paired.append(word)
            waiting = "=" not in word
        else:
            raise UsageError(f"unexpected word {word!r}; overrides look like --model.lr=1e-3")
    if waiting:
        raise UsageError(f"the option {paired[-1]} needs a value, as in {paired[-1]}=VALUE")
    return paired


def _parse_override(word: str) -> tuple[list[str], Node]:
    name, _, text = word.removeprefix("--").partition("=")
    if name.count(".") >= MAX_DEPTH:
        raise UsageError(f"the option {short(word)} is nested deeper than {MAX_DEPTH} levels")
    return name.split("."), read_yaml(text, f"--{name}", numbered=False)


def _overlay(tree: Node | None, path: Sequence[str], leaf: Node) -> Node:
    """A tree that holds only `leaf`, at `path`; below a class, a key is one of its init_args."""
    if not path:
        return leaf
    head, *rest = path
    if tree is not None and isinstance(tree.value, list) and tree.value and all_classes(tree):
        return Node([_of_class(tree, head, rest, leaf)], leaf.where)
    if tree is not None and tree.is_class and head not in ("class_path", "init_args"):
        return Node({"init_args": _overlay(tree.get("init_args"), path, leaf)}, leaf.where)
    return Node({head: _overlay(tree and tree.get(head), rest, leaf)}, leaf.where)


def _of_class(members: Node, name: str, path: Sequence[str], leaf: Node) -> Node:
    """The overlay for the member of a list whose class is called `name`, such as EarlyStopping."""
    assert isinstance(members.value, list)
    paths = {str(child.plain()["class_path"]).rpartition(".")[2]: child for child in members.value}  # type: ignore[index]
    if name not in paths:
        raise UsageError(f"{leaf.where}: {name!r} is not one of {', '.join(paths)}{near_match(name, paths)}")
    child = _overlay(paths[name], path, leaf)
    assert isinstance(child.value, dict)
    return Node({"class_path": paths[name].value["class_path"], **child.value}, leaf.where)  # type: ignore[index]
