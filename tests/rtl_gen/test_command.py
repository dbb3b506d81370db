"""The command: verbs, exit statuses, JSON, and what a person sees when something is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hw.block import blocks
from hw.errors import Problem, SpecError
from rtl_gen import console
from rtl_gen.cache import new_folder
from rtl_gen.command import Verbs, main
from rtl_gen.errors import InputError, ToolError, VerificationError
from rtl_gen.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
LUT = str(ROOT / "hw/configs/lut_core.yaml")
TINY = "block: lut_core\nname: tiny\ntile: {m: 1, n: 2, k: 4}\nmax_k: 16\n"


def rtlgen(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(item) for item in arguments], prog_name="rtlgen")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


def test_build_writes_the_folder_and_names_its_files(tmp_path: Path, spec_file: Path) -> None:
    result = rtlgen("build", spec_file, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert {Path(line) for line in result.stdout.splitlines()} == set(
        (tmp_path / "out/tiny").iterdir()
    )
    assert result.stderr == ""


def test_build_reports_json(tmp_path: Path, spec_file: Path) -> None:
    result = rtlgen("build", spec_file, "-o", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    manifest = read_manifest(report["folder"])
    assert report["spec_digest"] == manifest.spec_digest
    assert report["design_digest"] == manifest.digest
    assert report["files"] == {
        file.name: file.stat().st_size for file in (tmp_path / "out/tiny").iterdir()
    }


def test_bad_specification_ends_in_status_2_with_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("block: lut_core\nname: bad\ntile: {m: 0, n: 0}\n")
    result = rtlgen("build", file, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"{file}:3:11: tile.m: must be greater than or equal to 1, got 0\n"
        f"{file}:3:17: tile.n: must be greater than or equal to 1, got 0\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_real_process(tmp_path: Path, spec_file: Path) -> None:
    command = [sys.executable, "-m", "rtl_gen"]
    good = subprocess.run(
        [*command, "describe", str(spec_file), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["name"] == "tiny"
    bad = subprocess.run(
        [*command, "describe", "none.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "none.yaml: cannot be read, no such file or directory\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "rtl_gen", "schema", "lut_core"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert result.stderr == ""
    assert result.returncode == 1


def test_list_names_every_block() -> None:
    result = rtlgen("list")
    assert result.exit_code == 0
    for item in blocks().values():
        assert item.name in result.stdout
        assert item.summary in result.stdout
    report = json.loads(rtlgen("list", "--json").stdout)
    assert [row["block"] for row in report] == list(blocks())
    assert all(row["summary"] and row["source"] and row["kind"] for row in report)


def test_unknown_verbs_and_options_end_in_status_2() -> None:
    result = rtlgen("biuld", LUT)
    assert result.exit_code == 2
    assert "no verb 'biuld', did you mean 'build'?" in result.stderr
    result = rtlgen("xyzzy")
    assert result.exit_code == 2
    verbs = ", ".join(Verbs().list_commands(click.Context(main)))
    assert f"no verb 'xyzzy', there are {verbs}" in result.stderr
    assert rtlgen("build", "--fast", LUT).exit_code == 2
    assert rtlgen("build").exit_code == 2


def test_help_lists_every_verb_with_its_first_line() -> None:
    lines = rtlgen("--help").stdout.splitlines()
    (build,) = [line for line in lines if line.startswith("  build ")]
    assert build.split(maxsplit=1)[1] == "Write Verilog, manifest and constraints to DIR/<name>/."
    verbs = Verbs().list_commands(click.Context(main))
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line]
    assert listed == verbs
    assert all(len(line.split()) > 3 for line in lines[lines.index("Commands:") + 1 :] if line)


def test_a_verb_whose_package_is_broken_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.metadata import EntryPoint

    assert isinstance(main, Verbs)
    broken = EntryPoint("broken", "no_such_package.command:verb", "rtlgen.commands")
    monkeypatch.setitem(main._found, "broken", broken)
    assert "  broken" in rtlgen("--help").stdout
    assert rtlgen("list").exit_code == 0
    result = rtlgen("broken", "--anything")
    assert result.exit_code == 1
    assert result.stderr == ("rtlgen: broken cannot be loaded, No module named 'no_such_package'\n")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("a: b"), 2, "a: b\n"),
        (SpecError([Problem(("tile", "m"), "must be odd", 2)]), 2, "tile.m: must be odd, got 2\n"),
        (VerificationError("o[3]: differs"), 1, "o[3]: differs\n"),
        (
            ToolError("yosys", "ERROR: x\n", Path("run/yosys.log")),
            1,
            f"yosys: ERROR: x (log: {Path('run/yosys.log')})\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_a_status_and_their_text(
    error: BaseException, status: int, text: str
) -> None:
    @console.command("verb")
    def verb() -> None:
        """Fail."""
        raise error

    result = CliRunner().invoke(verb)
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", text)


def test_defects_keep_their_traceback() -> None:
    @console.command("verb")
    def verb() -> None:
        """Fail."""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(verb, catch_exceptions=False)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_polite_kill_leaves_nothing_half_written(tmp_path: Path, number: str) -> None:
    @console.command("verb")
    def verb() -> None:
        """Be killed while writing."""
        with new_folder(tmp_path / "result") as work:
            (work / "half").write_text("half")
            os.kill(os.getpid(), kill)
            raise AssertionError("went on")

    # Whoever runs the tests may have had them ignored (nohup, a job in the background).
    kill = getattr(signal, number)
    default = signal.default_int_handler if number == "SIGINT" else signal.SIG_DFL
    given = signal.signal(kill, default)
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(verb)
    finally:
        signal.signal(kill, given)
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())
    if number != "SIGTERM":
        assert signal.getsignal(signal.SIGTERM) is before


def test_an_output_appears_whole_and_nothing_lies_there_before(tmp_path: Path) -> None:
    target = tmp_path / "below" / "report.json"
    with console.output_file(target) as work:
        work.write_text("{}")
        assert not list(target.parent.iterdir())
    assert target.read_text() == "{}"

    def fail() -> None:
        with console.output_file(target) as work:
            work.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "{}"
    assert [entry.name for entry in target.parent.iterdir()] == ["report.json"]


def test_an_output_that_has_no_place_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target, words in (
        (tmp_path, "must be a file or free, is a folder"),
        (tmp_path / "file" / "x.json", "cannot be written, "),
        (Path("/proc/none/x.json"), "cannot be written, "),
    ):
        with pytest.raises(InputError, match=f"^{target}: {words}"), console.output_file(target):
            raise AssertionError("went on")


class Terminal(io.StringIO):
    """What a terminal is to a program."""

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.Progress("quick", total=2) as progress:
        progress.advance()
    with console.Progress("hidden", enabled=False) as progress:
        progress._show()
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(console, "PROGRESS_AFTER", 0.0)
    with console.Progress("slow", total=2) as progress:
        assert progress._timer is not None
        progress._timer.join()
        progress.describe("slower")
    assert "slow" in sys.stderr.getvalue()
    assert "slower" in sys.stderr.getvalue()


def test_progress_is_silent_off_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PROGRESS_AFTER", 0.0)
    with console.Progress("slow") as progress:
        assert progress._timer is None
        progress.describe("slower")
    assert capfd.readouterr().err == ""


def test_tables_are_not_cut_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    wide = "x" * 300
    console.echo_table(("name", "count"), [(wide, 1), ("[bold]", 1_000)])
    out = capsys.readouterr().out
    assert wide in out
    assert "[bold]" in out
    lines = out.splitlines()
    assert lines[-1].endswith("1000")
    assert lines[-2].endswith("   1")
    assert not any(line != line.rstrip() for line in lines)
