"""The `diffrec` command: picks a command, imports only its module, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from diffrec import __version__
from diffrec.cli.printable import printable, printable_lines
from diffrec.errors import DiffrecError, PluginWarning, UsageError, is_lack_of_memory, near_match
from diffrec.paths import naming


@dataclass(frozen=True)
class Command:
    """A word after `diffrec`; module: with `HELP`, `add_arguments(parser)` and `run(args)`.

    raw: the module takes the words as they come, `run_stage(name, words)`, for they may be overrides
    of any configuration key.
    """

    name: str
    module: str
    help: str
    raw: bool = False


COMMANDS = {
    command.name: command
    for command in (
        Command("demo", "diffrec.cli.demo", "the whole line on real data: train, compare, recommend"),
        Command("data", "diffrec.cli.data", "list, describe, fetch and import datasets"),
        Command("fit", "diffrec.cli.fit", "train a model from a recipe", raw=True),
        Command("validate", "diffrec.cli.fit", "measure a checkpoint on the validation cases", raw=True),
        Command("test", "diffrec.cli.fit", "measure a checkpoint on the test cases", raw=True),
        Command("predict", "diffrec.cli.fit", "write the lists of a checkpoint for all test users", raw=True),
        Command("recommend", "diffrec.cli.recommend", "items for a history, by title or id"),
        Command("serve", "diffrec.cli.serve", "a model over HTTP"),
        Command("export", "diffrec.cli.export", "a model and its sampler as one graph"),
        Command("zoo", "diffrec.cli.zoo", "pretrained models and their metrics"),
        Command("cache", "diffrec.cli.cache", "what downloads left on this machine; check it, make room"),
        Command("bench", "diffrec.cli.bench", "run a suite: models x datasets x seeds"),
        Command("tradeoff", "diffrec.cli.tradeoff", "accuracy against cost: samplers x steps x guidance"),
        Command("leaderboard", "diffrec.cli.leaderboard", "the table of all results"),
        Command("submit", "diffrec.cli.submit", "bundle a result, or the lists of another system"),
        Command("verify", "diffrec.cli.verify", "recompute the numbers of a bundle"),
    )
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors and name the near match."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})  # pyright: ignore[reportArgumentType]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see '{self.prog} --help'")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            words = [str(choice) for choice in action.choices]
            near = near_match(str(value), words)
            raise argparse.ArgumentError(action, f"no {value!r}; there are: {', '.join(words)}{near}")

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments; UsageError for words that no option takes, which are named before any other fault."""
        asked = self._asked(words)
        try:
            args, unknown = self.parse_known_args(words)
        except UsageError:
            for word in words:
                if word.startswith("--") and word.partition("=")[0] not in _options(asked):
                    asked.refuse(word)
            raise
        if unknown:
            asked.refuse(unknown[0])
        return args

    def _asked(self, words: Sequence[str]) -> Parser:
        """The parser of the action that the words name, at any depth; this one where they name none."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for place, word in enumerate(words):
                    if word in action.choices:
                        return action.choices[word]._asked(words[place + 1 :])
        return self

    def refuse(self, word: str) -> NoReturn:
        """Raise UsageError for a word that no option takes."""
        near = near_match(word.partition("=")[0], set(_options(self)))
        raise UsageError(f"{self.prog}: unexpected {word!r}{near}; see '{self.prog} --help'")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All option words of a parser and of the parsers of its actions."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _options(child)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 integrity, 4 not found,
    5 network, 130 interrupted; errors are one to three lines on stderr, a traceback only with DIFFREC_DEBUG=1.
    """
    if logging.lastResort is not None:  # writes warnings where nobody has set up logging
        logging.lastResort.setFormatter(_Printable())
    try:
        with _plugin_warnings_in_one_line():
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        with naming("standard output"):
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _settle_output()
        return 141
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if os.environ.get("DIFFREC_DEBUG") == "1":
            traceback.print_exc()
        sys.stderr.write(f"error: {printable_lines(_message(error))}\n")
        _settle_output()
        return _exit_code(error)


class _Printable(logging.Formatter):
    """Messages, which may hold what a server or a file said, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


@contextmanager
def _plugin_warnings_in_one_line() -> Iterator[None]:
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
        if issubclass(category, PluginWarning):
            sys.stderr.write(f"warning: {printable(str(message))}\n")
        else:
            usual(message, category, *rest, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _settle_output() -> None:
    """Drop what stdout refuses to take, for the flush at exit would fail again and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _exit_code(error: Exception) -> int:
    """Memory that does not suffice has the code of what `nn.memory` refuses before it begins."""
    if isinstance(error, DiffrecError):
        return error.exit_code
    return UsageError.exit_code if is_lack_of_memory(error) else 1


def _message(error: Exception) -> str:
    if isinstance(error, DiffrecError):
        return str(error)
    first = str(error).partition("\n")[0]
    if is_lack_of_memory(error):
        asked = re.search(r"allocate ([\d.]+ \w+)", first)
        more = f" for {asked[1]} more" if asked else ""
        return f"memory does not suffice{more}; use smaller batches or fewer items, or give the process more memory"
    if isinstance(error, OSError):
        reason = error.strerror or f"{type(error).__name__}: {first}"
        return f"{reason}: {error.filename}" if error.filename else reason
    return f"{type(error).__name__}: {first}\nThis was not expected; DIFFREC_DEBUG=1 shows where it happened"


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        (sys.stdout if words else sys.stderr).write(_overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"diffrec {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        near = near_match(words[0], COMMANDS)
        raise UsageError(f"no command {words[0]!r}; there are: {', '.join(COMMANDS)}{near}")
    command = COMMANDS[words[0]]
    module = import_module(command.module)
    if command.raw:
        return module.run_stage(command.name, words[1:])
    parser = Parser(prog=f"diffrec {command.name}", description=module.HELP)
    module.add_arguments(parser)
    try:
        args = parser.parse_all(words[1:])
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    return module.run(args)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "".join(f"  {command.name:{width}}  {command.help}\n" for command in COMMANDS.values())
    return (
        f"usage: diffrec COMMAND [options]\n\nThe model zoo for diffusion recommenders.\n\ncommands:\n{rows}"
        f"{_plugins()}\n"
        "'diffrec COMMAND --help' explains one, 'diffrec --version' tells the version.\n"
    )


def _plugins() -> str:
    """The models of other packages, if there are any."""
    from diffrec.plugins import plugins

    names = "".join(f"  {name}  of {plugin.package}\n" for name, plugin in plugins().items())
    return f"\nmodels of other packages, as in '-c model/NAME':\n{names}" if names else ""


if __name__ == "__main__":
    sys.exit(main())
