"""What all tests share: one cache for elaborations and simulators, and where the project lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# `make` sets it; a bare `pytest` shares the same cache, and never touches the user's own.
os.environ.setdefault("RTLGEN_CACHE", str(ROOT / ".cache"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT
