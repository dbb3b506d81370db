"""The documents: every Python example runs as it is printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_block_of_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/python_api.md").read_text(encoding="utf-8")
    examples = list(re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S))
    assert len(examples) == len(re.findall("^```python", text, re.M)) >= 8
    # What they write goes elsewhere; what they read is where the page says.
    shutil.copytree(ROOT / "hw/configs", tmp_path / "hw/configs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for example in examples:
        line = text.count("\n", 0, example.start(1))
        code = compile("\n" * line + example.group(1), "docs/python_api.md", "exec")
        exec(code, names)  # noqa: S102 - our own page
    assert (tmp_path / "build/lut_core/lut_core.v").is_file()
