"""The cache: one maker, whole entries, keys that see every source."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from rtl_gen import cache
from rtl_gen.errors import InputError


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTLGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_dir() == tmp_path / "cache"
    assert cache.cache_dir().is_dir()
    monkeypatch.setenv("RTLGEN_CACHE", "")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg/rtlgen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_dir() == tmp_path / "home/.cache/rtlgen"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache.cache_dir() == tmp_path / "home/Library/Caches/rtlgen"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTLGEN_CACHE", "here")
    assert cache.cache_dir() == tmp_path / "here"


@pytest.mark.parametrize("taken", ["cache", "cache/kind"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).touch()
    with pytest.raises(InputError, match=rf"^{tmp_path / taken}: the cache cannot be written, .*;"):
        cache.folder("kind", "key", lambda work: None)


def test_an_entry_is_made_once(own: Path) -> None:
    made = []

    def make(work: Path) -> None:
        made.append(work)
        (work / "value").write_text("7")

    key = cache.digest({"a": 1, "b": [2]})
    assert key == cache.digest({"b": [2], "a": 1})
    assert key != cache.digest({"a": 1, "b": [3]})
    for _ in range(2):
        place = cache.folder("kind", key, make)
        assert place == own / "kind" / key
        assert (place / "value").read_text() == "7"
    assert len(made) == 1
    assert made[0] != place


def test_a_maker_that_fails_leaves_no_entry(own: Path) -> None:
    def fail(work: Path) -> None:
        (work / "half").write_text("")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.folder("kind", "key", fail)
    assert not [entry for entry in (own / "kind").iterdir() if entry.is_dir()]
    assert cache.folder("kind", "key", lambda work: None).is_dir()


def slow(work: Path) -> None:
    marker = work.parent / f"{work.name}.made"
    marker.write_text("")
    time.sleep(0.2)
    (work / "value").write_text("7")


def fetch(start: float) -> str:
    time.sleep(max(0.0, start - time.time()))
    return (cache.folder("kind", "key", slow) / "value").read_text()


def test_what_a_killed_maker_left_goes_with_the_next(own: Path) -> None:
    for name in (".key.abcd1234", ".other.abcd1234"):
        (own / "kind" / name).mkdir(parents=True)
        (own / "kind" / name / "half").write_text("")
    cache.folder("kind", "key", lambda work: (work / "value").touch())
    assert {entry.name for entry in (own / "kind").iterdir()} == {
        "key",
        ".key.lock",
        ".other.abcd1234",
    }


def test_two_processes_make_one_entry(own: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(fetch, [time.time() + 0.5] * 2, chunksize=1) == ["7", "7"]
    assert len(list((own / "kind").glob(".*.made"))) == 1


def test_every_source_is_in_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep/data.yaml").write_text("a: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def now() -> str:
        cache.source_digest.cache_clear()
        return cache.source_digest("some_package")

    seen = {now()}
    assert now() in seen
    for name, text in (("deep/data.yaml", "a: 2\n"), ("more.py", ""), ("deep/more.py", "")):
        (package / name).write_text(text)
        seen.add(now())
    assert len(seen) == 4
    (package / "__pycache__").mkdir()
    (package / "__pycache__/x.pyc").write_text("")
    assert now() in seen
    cache.source_digest.cache_clear()
    with pytest.raises(ModuleNotFoundError):
        cache.source_digest("no_such_package")


def test_new_files_appear_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    with cache.new_file(target) as work:
        work.write_text("1")
        assert not target.exists()
    assert target.read_text() == "1"

    def half() -> None:
        with cache.new_file(target) as work:
            work.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert target.read_text() == "1"
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["report.json"]
