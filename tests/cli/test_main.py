"""The entry point: quick help, near matches, exit codes, errors without tracebacks."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from diffrec import __version__
from diffrec.cli import main as module
from diffrec.cli.main import COMMANDS, Command, main
from diffrec.errors import DiffrecError, IntegrityError, NetworkError, NotFoundError, UsageError
from diffrec.paths import naming

HEAVY = ("torch", "numpy", "scipy", "pyarrow", "pytorch_lightning", "matplotlib", "rich", "yaml")


def test_control_characters_of_an_error_do_not_reach_the_terminal(monkeypatch, capsys):
    def run(args):
        raise NetworkError("answered 404 \x1b]0;pwned\x07\nand \x9b31m more")

    command(monkeypatch, run)
    assert main(["try"]) == 5
    assert capsys.readouterr().err == "error: answered 404 ?]0;pwned?\nand ?31m more\n"
    assert logging.lastResort is not None
    assert logging.lastResort.format(logging.makeLogRecord({"msg": "a\x1b[31m"})) == "a?[31m"


def command(monkeypatch, run, raw=False):
    """`diffrec try` with the given behaviour."""

    def add_arguments(parser):
        parser.add_argument("--number", type=int, default=1)
        parser.add_argument("--kind", choices=["fast", "slow"])
        parser.add_subparsers(dest="action").add_parser("list").add_argument("--json", action="store_true")

    fake = types.SimpleNamespace(
        HELP="try it", add_arguments=add_arguments, run=run, run_stage=lambda name, words: run(words)
    )
    monkeypatch.setitem(COMMANDS, "try", Command("try", "diffrec.cli.try", "try it", raw))
    monkeypatch.setitem(sys.modules, "diffrec.cli.try", fake)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), ([], 2), (["demmo"], 2)])
def test_starts_at_once_and_loads_nothing_heavy(words, code):
    script = f"""
        import sys
        from diffrec.cli.main import main
        code = main({words!r})
        heavy = set({HEAVY!r}) & set(sys.modules)
        sys.exit(100 if heavy else code)
    """
    before = os.times()
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True)
    assert result.returncode == code
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system <= 0.5


def test_help_names_every_command_in_80_columns(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffrec {__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["leaderbord"]) == 2
    assert "did you mean 'leaderboard'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(DiffrecError, 1), (UsageError, 2), (IntegrityError, 3), (NotFoundError, 4), (NetworkError, 5)],
)
def test_errors_are_one_line_and_an_exit_code(error, code, monkeypatch, capsys):
    def run(args):
        raise error("something was seen")

    command(monkeypatch, run)
    assert main(["try"]) == code
    assert capsys.readouterr() == ("", "error: something was seen\n")


def test_unexpected_errors_say_how_to_see_more(monkeypatch, capsys):
    def run(args):
        raise ZeroDivisionError("division by zero\nand more")

    command(monkeypatch, run)
    assert main(["try"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ZeroDivisionError: division by zero\n")
    assert "DIFFREC_DEBUG=1" in text
    assert len(text.splitlines()) == 2
    monkeypatch.setenv("DIFFREC_DEBUG", "1")
    assert main(["try"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last):\n")
    assert "error: ZeroDivisionError: division by zero\n" in text
    assert main(["recommend", "nosuch", "--history", "1"]) == 4


def allocate_torch():
    import torch

    torch.empty(1 << 58, dtype=torch.uint8)


def allocate_device():
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 4 GiB")


@pytest.mark.parametrize(
    ("allocate", "more"),
    [
        (lambda: bytearray(1 << 62), ""),
        (lambda: np.empty(1 << 58, dtype=np.uint8), " for 256. PiB more"),
        (allocate_torch, f" for {1 << 58} bytes more"),
        (allocate_device, " for 20.00 GiB more"),
    ],
)
def test_memory_that_does_not_suffice_is_no_surprise(allocate, more, monkeypatch, capsys):
    command(monkeypatch, lambda args: allocate())
    assert main(["try"]) == UsageError.exit_code
    told = (
        f"error: memory does not suffice{more}; use smaller batches or fewer items, or give the process more memory\n"
    )
    assert capsys.readouterr() == ("", told)


def test_errors_of_the_system_name_the_file(monkeypatch, capsys):
    command(monkeypatch, lambda args: Path("/nowhere/at/all").read_text())
    assert main(["try"]) == 1
    assert capsys.readouterr().err == "error: No such file or directory: /nowhere/at/all\n"


def test_a_full_disk_is_one_line_with_the_file_and_the_reason(monkeypatch, capsys):
    def run(args):
        with naming("/some/file.parquet"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command(monkeypatch, run)
    assert main(["try"]) == 1
    assert capsys.readouterr().err == "error: No space left on device: /some/file.parquet\n"


def test_errors_of_the_system_without_number_are_one_line(monkeypatch, capsys):
    def run(args):
        raise OSError("cannot be done\nfor many reasons")

    command(monkeypatch, run)
    assert main(["try"]) == 1
    assert capsys.readouterr().err == "error: OSError: cannot be done\n"


def diffrec(*words, limit="", **options):
    """The real command; `limit`: a shell command that comes before it."""
    script = f'{limit}exec "$0" -m diffrec.cli.main "$@"'
    return subprocess.run(["bash", "-c", script, sys.executable, *words], text=True, stderr=subprocess.PIPE, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_does_not_fit():
    with open("/dev/full", "w") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        result = diffrec("--help", stdout=full, env=buffered, check=False)
    assert (result.returncode, result.stderr) == (1, "error: No space left on device: standard output\n")


def writers(tmp_path):
    """Commands that write, with the place that they write to."""
    table = tmp_path / "table.csv"
    table.write_text("user,item,timestamp\n" + "".join(f"{n % 7},{n % 5},{n}\n" for n in range(90)))
    there = tmp_path / "there"
    return {
        "fit": (["fit", "-c", "model/popularity", "-c", "data/synthetic", "--run-dir", str(there)], {}),
        "import": (["data", "import", str(table), "--name", "mine"], {"DIFFREC_CACHE": str(there)}),
    }


@pytest.mark.parametrize("name", ["fit", "import"])
def test_a_place_that_takes_no_bytes_ends_in_one_line(name, tmp_path):
    words, variables = writers(tmp_path)[name]
    result = diffrec(
        *words, limit="ulimit -f 1; ", env={**os.environ, **variables}, stdout=subprocess.PIPE, check=False
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    reason = r"File too large|.* unexpected pos .*"  # torch's writer does not pass the system's reason on
    assert re.fullmatch(rf"error: {tmp_path}/there/\S+ could not be written \(({reason})\); .* is unchanged", last)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["fit", "import"])
def test_a_place_that_may_not_be_written_ends_in_one_line(name, tmp_path):
    (tmp_path / "there").write_text("a file, no folder")
    words, variables = writers(tmp_path)[name]
    result = diffrec(*words, env={**os.environ, **variables}, stdout=subprocess.PIPE, check=False)
    assert result.returncode == 1
    reason = "Not a directory|File exists"
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"error: {tmp_path}/there\S* could not be written \(({reason})\); .* is unchanged", last)
    assert "Traceback" not in result.stderr


def test_interrupted(monkeypatch, capsys):
    def run(args):
        raise KeyboardInterrupt

    command(monkeypatch, run)
    assert main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nmber", "1"], "did you mean '--number'?"),
        (["--num=1"], "unexpected '--num=1'"),
        (["--number", "x"], "invalid int value: 'x'"),
        (["--kind", "fasst"], "no 'fasst'; there are: fast, slow; did you mean 'fast'?"),
        (["lst"], "did you mean 'list'?"),
        (["list", "--jsn"], "did you mean '--json'?"),
        (["list", "--number", "1"], "diffrec try list: unexpected '--number'; see 'diffrec try list --help'"),
        (["list", "more"], "diffrec try list: unexpected 'more'; see 'diffrec try list --help'"),
    ],
)
def test_wrong_options_name_the_nearest(words, message, monkeypatch, capsys):
    command(monkeypatch, lambda args: 0)
    assert main(["try", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "data embed ml-100k --dimensions 16",
        "data tokenize --dimensions 16",
        "zoo list --by ndcg@10",
        "bench run --all",
        "cache prune --everything",
    ],
)
def test_wrong_options_of_an_action_point_to_its_own_help(words, capsys):
    assert main(words.split()) == 2
    command, action, *_ = words.split()
    assert f"see 'diffrec {command} {action} --help'" in capsys.readouterr().err


def test_arguments_and_exit_code_pass_through(monkeypatch):
    command(monkeypatch, lambda args: args.number)
    assert main(["try", "--number", "7"]) == 7
    assert main(["try", "--help"]) == 0
    command(monkeypatch, len, raw=True)
    assert main(["try", "--anything=1", "-x", "y"]) == 3


def test_a_closed_pipe_is_no_error():
    script = """
        import sys, types
        from diffrec.cli import main as module
        def run(args):
            for _ in range(100000):
                sys.stdout.write("a line of output\\n")
            return 0
        fake = types.SimpleNamespace(HELP="", add_arguments=lambda parser: None, run=run)
        module.COMMANDS["try"] = module.Command("try", "diffrec.cli.try", "")
        sys.modules["diffrec.cli.try"] = fake
        sys.exit(module.main(["try"]))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: diffrec {name}" in capsys.readouterr().out


def test_the_table_is_complete():
    assert module.COMMANDS.keys() >= {"demo", "data", "fit", "validate", "test", "predict", "recommend", "zoo", "bench"}
