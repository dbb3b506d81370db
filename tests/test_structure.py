"""The structure of the project, enforced: import arrows, file names, light imports, pins."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from rtl_gen import __version__

ROOT = Path(__file__).resolve().parent.parent

ARROWS = {
    "hw": set(),
    "rtl_gen": {"hw"},
    "sim": {"hw", "rtl_gen"},
    "flows": {"hw", "rtl_gen"},
    "sw_driver": {"hw", "rtl_gen", "sim", "flows"},
}
"""Which packages each package may import, besides itself."""

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "new"}
DATA_MODULES = {"spec.py", "golden.py", "timing.py"}


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, at whatever depth."""
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the arrows"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def shown(file: Path, line: int, name: str) -> str:
    return f"{file.relative_to(ROOT)}:{line}: {name}"


@pytest.mark.parametrize("package", ARROWS)
def test_imports_flow_one_way(package: str) -> None:
    files = python_files(package)
    assert files, f"no sources in {package}"
    never = (set(ARROWS) | {"tests", "docs"}) - ARROWS[package] - {package}
    wrong = [
        shown(file, line, name)
        for file in files
        for line, name in imported(file)
        if name.partition(".")[0] in never
    ]
    assert not wrong


def test_reference_and_cost_stay_independent_of_the_rtl() -> None:
    files = [file for file in python_files("hw/blocks") if file.name in DATA_MODULES]
    assert len(files) >= 6
    wrong = [
        shown(file, line, name)
        for file in files
        for line, name in imported(file)
        if name.startswith(("amaranth", "hw.lib")) or "rtl" in name.split(".")
    ]
    assert not wrong


def test_driver_takes_hardware_as_data() -> None:
    wrong = [
        shown(file, line, name)
        for file in python_files("sw_driver")
        for line, name in imported(file)
        if name.startswith(("amaranth", "pyosys", "hw.lib")) or "rtl" in name.split(".")
    ]
    assert not wrong


def test_every_block_has_its_four_files() -> None:
    folders = [file.parent for file in (ROOT / "hw/blocks").glob("*/__init__.py")]
    assert {folder.name for folder in folders} >= {"lut_core", "mac_core"}
    for folder in folders:
        names = {file.name for file in folder.glob("*.py")}
        assert names >= DATA_MODULES | {"rtl.py"}, folder.name


def test_files_are_named_for_what_they_hold() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for folder in (*ARROWS, "tests")
        for path in (ROOT / folder).rglob("*")
        if path.stem in FORBIDDEN_NAMES
    ]
    assert not wrong


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\nsys.argv[1:] = {list(arguments)!r}\n{code}\n"
    script += "print('\\n@', *{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.rpartition("@")[2].split())


RUN = "from rtl_gen.command import main\nmain(standalone_mode=False)"
HEAVY = {"amaranth", "cocotb", "matplotlib", "numpy", "pydantic", "pyosys", "rich", "yaml"}


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after(RUN, "--help")
    assert "click" in loaded
    assert not loaded & (HEAVY | {"sim", "flows", "sw_driver"})


def test_cost_query_elaborates_nothing() -> None:
    loaded = modules_after(RUN, "describe", "hw/configs/lut_core.yaml")
    assert "pydantic" in loaded
    assert not loaded & {"amaranth", "numpy"}
    loaded = modules_after("from hw.block import blocks\nblocks()")
    assert "pydantic" in loaded
    assert not loaded & {"amaranth", "numpy"}


VERBS = {
    *("accuracy", "allot", "build", "compare", "describe", "explore", "inspect", "list"),
    *("generate", "map", "perplexity", "pim", "power"),
    *("run", "schema", "synth", "verify"),
}


def test_verbs_are_the_documented_ones() -> None:
    assert {point.name for point in entry_points(group="rtlgen.commands")} == VERBS


@pytest.mark.parametrize("name", sorted(VERBS))
def test_verb_explains_itself(name: str) -> None:
    (point,) = entry_points(group="rtlgen.commands", name=name)
    verb = point.load()
    assert isinstance(verb, click.Command)
    assert verb.name == name
    first = (verb.help or "").partition("\n")[0]
    assert 10 < len(first) <= 72
    assert first.endswith(".")
    undocumented = [
        parameter.name
        for parameter in verb.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not undocumented


@pytest.mark.parametrize("name", sorted(VERBS - {"schema"}))
def test_verb_reports_as_json(name: str) -> None:
    (point,) = entry_points(group="rtlgen.commands", name=name)
    assert any("--json" in parameter.opts for parameter in point.load().params)


def pins() -> dict[str, str]:
    files = sorted((ROOT / ".lock").glob("*.txt"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): number for name, number in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_lock_is_within_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(item for extra in project["project"]["optional-dependencies"].values() for item in extra),
    ]
    locked = pins()
    wrong = []
    for text in texts:
        requirement = Requirement(text)
        pin = locked.get(normal(requirement.name))
        if pin is None or not requirement.specifier.contains(pin):
            wrong.append(f"{text}: locked at {pin}")
    assert len(texts) > 15
    assert not wrong


def test_every_dependency_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")].splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(section)
        if line.startswith('    "') and "#" not in line and "#" not in above
    ]
    assert not bare


def test_installed_version_is_the_source_s() -> None:
    assert version("rtlgen") == __version__
