"""The verbs `map` and `run`, and reports as text, JSON and pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sw_driver.commands.map import map_model
from sw_driver.commands.run import run
from sw_driver.report import Report, Table, engineering, fixed

LUT_CORE = "hw/configs/lut_core.yaml"


@pytest.fixture(autouse=True)
def _at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def mapped(*arguments: str) -> Result:
    return CliRunner().invoke(map_model, [*arguments, "--core", LUT_CORE])


def test_map_prints_tables() -> None:
    result = mapped("mixtral-8x7b", "--decode", "2", "--context", "9", "--batch", "3")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "mixtral-8x7b on lut_core"
    assert "46,702,792,704 parameters (12,879,925,248 active)" in result.output
    assert "decode: 2 tokens after 9, batch 3" in lines
    assert any(line.startswith("total ") and line.endswith(" tokens/s") for line in lines)
    assert "not done by the core, in no seconds" in result.output
    assert "note: 2 of 8 experts a token, balanced routing: 6 distinct experts" in result.output


def test_map_reports_the_same_as_json() -> None:
    result = mapped("llama-2-7b", "--prefill", "64", "--decode", "3", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert [phase["phase"] for phase in data["phases"]] == ["prefill", "decode"]
    for phase in data["phases"]:
        operators = phase["operators"]
        assert phase["cycles"] == sum(item["cycles"] for item in operators)
        assert phase["dram_bytes"] == sum(item["bytes"] for item in operators)
        assert phase["seconds"] == pytest.approx(sum(item["seconds"] for item in operators))
        assert phase["tokens_per_second"] == pytest.approx(phase["tokens"] / phase["seconds"])
    assert data["model"]["parameters"] == 6_738_415_616
    assert data["core"]["digest"]


def test_map_takes_widths() -> None:
    arguments = ["--decode", "1", "--json", "--weight-bits", "2", "--weight-bits", "lm_head=3"]
    data = json.loads(mapped("gpt2", *arguments).output)
    bits = {item["name"]: item["bits"] for item in data["phases"][0]["operators"]}
    assert (bits["q"], bits["lm_head"]) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["llama-2-7c"], "did you mean llama-2-7b"),
        (["none/config.json"], "none/config.json: cannot be read, no such file or directory"),
        (["gpt2", "--weight-bits", "x"], "must be a number of bits, or operator=bits, got 'x'"),
        (["gpt2", "--weight-bits", "=4"], "must be a number of bits, or operator=bits, got '=4'"),
        (["gpt2", "--weight-bits", "9"], "weight_bits: must lie in [1, 4] for lut_core, got 9"),
        (["gpt2", "--decode", "9", "--context", "1020"], "decode: must be at most 1024 tokens"),
        (["gpt2", "--decode", "0"], "decode: must lie in [1, 16777216], got 0"),
        (["gpt2", "--prefill", "8", "--batch", "0"], "batch: must lie in [1, 65536], got 0"),
        (["gpt2", "--decode", "-1", "--prefill", "0"], "decode: must lie in [1, 16777216], got -1"),
        (["gpt2", "--decode", "-1", "--prefill", "0"], "prefill: must lie in [1, 16777216], got 0"),
        (["gpt2", "--decode", "0", "--context", "3"], "decode: must lie in [1, 16777216], got 0"),
        (["gpt2", "--picture", "x.gif"], "x.gif: must end in .png, .svg, .pdf"),
        (["gpt2", "--synth-report", "none.json"], "none.json: cannot be read, no such file"),
        (["bert-base-uncased", "--decode", "1"], "is an encoder, it can only be prefilled"),
    ],
)
def test_map_refuses(arguments: list[str], text: str) -> None:
    result = mapped(*arguments)
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("model", ["gpt2", "none.json", ""])
def test_map_refuses_a_wrong_specification(tmp_path: Path, model: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("block: lut_core\nname: x\ntile: {m: 0}\n")
    result = CliRunner().invoke(map_model, [model, "--core", str(file)])
    assert result.exit_code == 2
    # A wrong model is said together with a wrong specification.
    *first, last = result.output.splitlines()
    assert last.startswith(f"{file}:3:")
    assert first == {
        "gpt2": [],
        "none.json": ["none.json: cannot be read, no such file or directory"],
    }.get(model, first)
    assert len(first) == (model != "gpt2")


def test_run_refuses() -> None:
    runner = CliRunner()
    for arguments, text in (
        (["--layer", "9"], "layer: must lie in [0, 5], got 9"),
        (["--model", "nowhere"], "model: must be minilm or a checkpoint with tensors"),
        (["--text", "  "], "text: must not be empty"),
        (["--weight-bits", "5"], "weight_bits: must lie in [1, 4] for lut_core, got 5"),
    ):
        result = runner.invoke(run, [LUT_CORE, *arguments])
        assert result.exit_code == 2
        assert text in result.output


def test_run_fails_where_the_rtl_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from sw_driver.runner import run as module
    from sw_driver.runner.run import RunReport

    broken = RunReport(
        title="t", data={"x": 1}, runs=(), layer_cosine={}, failures=("q at W4: 1 of 2 differ",)
    )
    monkeypatch.setattr(module, "run_layer", lambda *_, **__: broken)
    result = CliRunner().invoke(run, [LUT_CORE])
    assert result.exit_code == 1
    assert "q at W4: 1 of 2 differ" in result.output


def test_mapping_loads_nothing_heavy(root: Path) -> None:
    script = (
        "import sys\nfrom rtl_gen.command import main\n"
        f"main(['map', 'llama-2-70b', '--core', {LUT_CORE!r}], standalone_mode=False)\n"
        "print('\\n@', *sorted(name.partition('.')[0] for name in sys.modules))"
    )
    for _ in range(2):  # the first may have to read the specification
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
        )
    loaded = set(result.stdout.rpartition("@")[2].split())
    assert "sw_driver" in loaded
    assert not loaded & {"numpy", "pydantic", "yaml", "rich", "matplotlib", "amaranth", "sim"}


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture_is_drawn_and_repeatable(tmp_path: Path, ending: str) -> None:
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for file in files:
        result = mapped("gemma-2-2b", "--picture", str(file))
        assert result.exit_code == 0, result.output
    assert files[0].stat().st_size > 5000
    assert files[0].read_bytes() == files[1].read_bytes()
    assert {entry.name for entry in tmp_path.iterdir()} == {file.name for file in files}


def test_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = mapped("gpt2", "--picture", str(tmp_path / "file" / "x.png"))
    assert result.exit_code == 2
    assert "cannot be written" in result.output


def test_table_aligns_numbers_right() -> None:
    table = Table(
        columns=("name", "n"), rows=[("a", "1,000"), ("µµµ", "2")], footer=[("", "1,002")]
    )
    assert str(table).splitlines() == [
        "name      n",
        "───────────",
        "a     1,000",
        "µµµ       2",
        "───────────",
        "      1,002",
    ]


def test_report_without_a_picture_says_so(tmp_path: Path) -> None:
    from rtl_gen.errors import InputError

    report = Report(title="t", data={})
    with pytest.raises(InputError, match="this report has no picture"):
        report.save_picture(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (3.4e9, "3.4 GB"), (2e-5, "20 µB")],
)
def test_engineering(value: float, text: str) -> None:
    assert engineering(value, "B") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,234"), (12.345, "12.3"), (0.01234, "0.0123"), (1e-12, "0.000000000")],
)
def test_fixed(value: float, text: str) -> None:
    assert fixed(value) == text


def test_public_names_load() -> None:
    import sw_driver

    for name in sw_driver.__all__:
        assert getattr(sw_driver, name) is not None
    missing: Any = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(sw_driver, missing)
