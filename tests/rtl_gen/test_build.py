"""Build folders: identical bytes, whole or not at all, never over what is not ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hw.block import blocks, spec_from_dict
from hw.errors import SpecError
from hw.spec import BlockSpec
from rtl_gen import build as builder
from rtl_gen.build import build, build_files, check_ports, constraints, period_ns
from rtl_gen.errors import InputError, ToolError
from rtl_gen.manifest import parse_manifest, read_manifest

FILES = {"tiny.v", "tiny.vlt", "tiny.sdc", "tiny.core", "manifest.json"}


def tiny(block: str = "lut_core", **fields: object) -> BlockSpec:
    base = {"block": block, "name": "tiny", "tile": {"m": 1, "n": 2, "k": 4}, "max_k": 16}
    return spec_from_dict({**base, **fields})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("block", ["lut_core", "mac_core"])
def test_build_is_complete_and_proves_itself(tmp_path: Path, block: str) -> None:
    spec = tiny(block)
    result = build(spec, tmp_path / "out")
    assert result.folder == tmp_path / "out" / "tiny"
    assert set(content(result.folder)) == FILES
    assert read_manifest(result.folder) == result.manifest
    assert result.manifest.block_spec() == spec
    assert "module tiny" in result.verilog.read_text()
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["tiny"]
    if os.name == "posix":
        assert result.folder.stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("block", ["lut_core", "mac_core"])
def test_bytes_depend_on_the_specification_alone(tmp_path: Path, block: str) -> None:
    """Other hash seeds, folders and empty caches; the second specification writes its defaults."""
    texts = [
        f"block: {block}\nname: tiny\ntile: {{m: 1, n: 2, k: 4}}\nmax_k: 16\n",
        f"max_k: 16\nclock_mhz: 500\ntile:\n  k: 4\n  n: 2\n  m: 1\nname: 'tiny'\nblock: {block}\n",
    ]
    builds = []
    for number, text in enumerate(texts):
        place = tmp_path / f"place{number}" / ("deep" * number)
        place.mkdir(parents=True)
        (place / "spec.yaml").write_text(text)
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(17 * number + 1),
            "RTLGEN_CACHE": str(place / "cache"),
            "TMPDIR": str(place),
        }
        subprocess.run(
            [sys.executable, "-m", "rtl_gen", "build", "spec.yaml", "-o", "out"],
            check=True,
            cwd=place,
            env=environment,
            capture_output=True,
        )
        builds.append(content(place / "out/tiny"))
    assert builds[0] == builds[1]
    assert set(builds[0]) == FILES
    for name, data in builds[0].items():
        text = data.decode()
        assert str(tmp_path) not in text, name
        assert "\r" not in text, name
        # No path of this machine and no time.
        assert not re.search(r"/(home|root|tmp|usr|work)/|\d\d:\d\d:\d\d", text), name


EMIT = """
import hashlib
from hw.block import block, blocks, spec_from_dict
from rtl_gen.emit import emit_verilog
for name in blocks():
    for fields in block(name).sweep[:2]:
        text = emit_verilog(spec_from_dict({"block": name, "name": "dut", **fields}))
        print(name, hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.mark.slow
def test_no_block_depends_on_the_order_of_a_set() -> None:
    found = []
    for seed in ("1", "4"):
        result = subprocess.run(
            [sys.executable, "-c", EMIT],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        found.append(result.stdout.splitlines())
    assert found[0] == found[1]
    assert len({line.split()[0] for line in found[0]}) == len(blocks())


def test_the_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny()
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "cache"))
    first = build_files(spec)

    def again(spec: BlockSpec) -> str:
        raise AssertionError("elaborated twice")

    monkeypatch.setattr("rtl_gen.emit.emit_verilog", again)
    assert build_files(spec) == first
    with pytest.raises(AssertionError, match="elaborated twice"):
        build_files(tiny(max_k=8))


def test_an_earlier_build_is_replaced(tmp_path: Path) -> None:
    build(tiny(clock_mhz=100.0), tmp_path)
    (tmp_path / "tiny/tiny.sdc").write_text("edited")
    result = build(tiny(clock_mhz=800.0), tmp_path)
    assert set(content(result.folder)) == FILES
    assert read_manifest(result.folder).clock.mhz == 800.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_an_empty_folder_and_a_link_to_a_build_are_taken(tmp_path: Path) -> None:
    (tmp_path / "out/tiny").mkdir(parents=True)
    build(tiny(), tmp_path / "out")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/tiny").symlink_to(tmp_path / "out/tiny")
    build(tiny(clock_mhz=800.0), tmp_path / "links")
    assert (tmp_path / "links/tiny").is_symlink()
    assert read_manifest(tmp_path / "out/tiny").clock.mhz == 800.0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "mine"}, "must be free or an earlier build, holds no manifest.json"),
        ({"manifest.json": "{}"}, "must be free or an earlier build, has another manifest.json"),
        ({"manifest.json": "no"}, "must be free or an earlier build, has another manifest.json"),
        (None, "must be a folder or free, is a file"),
    ],
)
def test_what_is_no_build_is_never_replaced(
    tmp_path: Path, files: dict[str, str] | None, message: str
) -> None:
    target = tmp_path / "tiny"
    if files is None:
        target.write_text("mine")
    else:
        target.mkdir()
        for name, text in files.items():
            (target / name).write_text(text)
    before = content(tmp_path) if files is None else content(target)
    with pytest.raises(InputError, match=f"tiny: {re.escape(message)}$"):
        build(tiny(), tmp_path)
    assert (content(tmp_path) if files is None else content(target)) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_files_added_to_a_build_are_not_lost(tmp_path: Path) -> None:
    build(tiny(), tmp_path)
    (tmp_path / "tiny/wrapper.v").write_text("mine")
    with pytest.raises(InputError, match=r"must hold nothing but an earlier build, holds wrapper"):
        build(tiny(), tmp_path)
    assert (tmp_path / "tiny/wrapper.v").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("earlier", [False, True])
def test_interruption_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, earlier: bool
) -> None:
    if earlier:
        build(tiny(clock_mhz=100.0), tmp_path)
    before = content(tmp_path / "tiny") if earlier else {}
    write = Path.write_text

    def fail(self: Path, *arguments: object, **options: object) -> int:
        if self.name == "manifest.json":
            raise error
        return write(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", fail)
    kind = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        build(tiny(), tmp_path)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == (["tiny"] if earlier else [])
    if earlier:
        assert content(tmp_path / "tiny") == before


def test_interruption_between_the_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tiny(clock_mhz=100.0), tmp_path)
    before = content(tmp_path / "tiny")
    rename, calls = Path.rename, []

    def fail(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        build(tiny(), tmp_path)
    monkeypatch.undo()
    assert len(calls) == 4
    assert content(tmp_path / "tiny") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_failing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtl_gen.emit import EmitError

    def fail(spec: BlockSpec) -> str:
        raise EmitError("yosys: ERROR: no such thing")

    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rtl_gen.emit.emit_verilog", fail)
    with pytest.raises(ToolError, match=r"^yosys: ERROR: no such thing$"):
        build(tiny(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    left = [path for path in (tmp_path / "cache/verilog").iterdir() if path.suffix != ".lock"]
    assert not left


def test_reserved_names_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^name: must not be a reserved word .*, got 'module'$"):
        build(tiny(name="module"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("input [31:0] i_a__payload;", "input [30:0] i_a__payload;"),
        ("input i_a__valid;", "output i_a__valid;"),
        ("input rst;", "input rst;\n  input scan;"),
        ("output o__valid;", ""),
    ],
)
def test_a_manifest_never_describes_other_ports(old: str, new: str) -> None:
    spec = tiny()
    source = builder.verilog(spec)
    check_ports(spec, source)
    assert old in source
    with pytest.raises(ToolError, match="ports of tiny differ from its streams"):
        check_ports(spec, source.replace(old, new))


def test_constraints_name_every_port_once() -> None:
    spec = tiny(clock_mhz=300.0, addend=True, max_k=4)
    text = constraints(spec)
    assert "set period 3.333333\n" in text
    manifest = parse_manifest(build_files(spec)["manifest.json"])
    named = re.findall(r"\[get_ports \{(.*)\}\]", text)
    assert len(named) == 3
    names = " ".join(named).split()
    assert sorted(name.removesuffix("[*]") for name in names) == sorted(
        ["clk", "rst"]
        + [name for stream in manifest.streams for name in stream.ports.model_dump().values()]
    )
    wide = {stream.ports.payload for stream in manifest.streams if stream.width > 1}
    assert {name.removesuffix("[*]") for name in names if name.endswith("[*]")} == wide


@pytest.mark.parametrize(
    ("clock_mhz", "text"), [(500.0, "2.0"), (1000.0, "1.0"), (300.0, "3.333333"), (0.5, "2000.0")]
)
def test_the_period_is_never_longer_than_asked(clock_mhz: float, text: str) -> None:
    assert period_ns(clock_mhz) == text
    assert float(text) * clock_mhz <= 1000


def test_core_file_is_capi2_and_names_the_files() -> None:
    import yaml

    text = build_files(tiny())["tiny.core"]
    assert text.startswith("CAPI=2:\n")
    data = yaml.safe_load(text.removeprefix("CAPI=2:\n"))
    assert data["name"] == "rtlgen:lut_core:tiny:0.1.0"
    listed = {name for fileset in data["filesets"].values() for name in fileset["files"]}
    assert listed == FILES - {"manifest.json", "tiny.core"}
    assert set(data["targets"]) == {"default", "lint", "sim", "synth"}
    for target in data["targets"].values():
        assert target["toplevel"] == "tiny"
        assert set(target["filesets"]) <= set(data["filesets"])


def test_manifest_hashes_every_other_file() -> None:
    files = build_files(tiny())
    data = json.loads(files["manifest.json"])
    assert set(data["files"]) == FILES - {"manifest.json"}
