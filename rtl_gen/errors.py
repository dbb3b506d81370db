"""Errors that end a command: each knows its exit status and needs no traceback.

Status 2 is what a person wrote (:class:`InputError`), status 1 is a verification that failed
(:class:`VerificationError`) or a tool that did (:class:`ToolError`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class ReportedError(Exception):
    """An error whose text, one line per problem, is all that a user has to see."""

    exit_status = 1


class InputError(ReportedError, ValueError):
    """Something that a person wrote is wrong: a file, a value, a combination of options."""

    exit_status = 2


class VerificationError(ReportedError):
    """The hardware does not do what its reference says."""


class ToolError(ReportedError):
    """A tool is missing or failed.

    Args:
        tool: its name, as a user would type or install it.
        words: what went wrong, or the tool's own last words.
        log: where everything that it said lies.
    """

    def __init__(self, tool: str, words: str, log: Path | None = None):
        self.tool, self.words, self.log = tool, words.strip(), log
        where = f" (log: {log})" if log is not None else ""
        super().__init__(f"{tool}: {self.words}{where}")


@dataclass(frozen=True, order=True)
class FileProblem:
    """One broken rule at a place in a file; ``line`` and ``column`` count from 1."""

    line: int
    column: int
    text: str


class SpecFileError(InputError):
    """A specification file that breaks one or more rules; ``problems`` holds every one of them.

    The text has one line per problem, ``file:line:column: field: rule, value``, in the order of
    their places; a problem with the file as a whole has no place (``file: rule``).
    """

    def __init__(self, file: Path | str, problems: Iterable[FileProblem] | str):
        self.file = str(file)
        if isinstance(problems, str):
            self.problems: tuple[FileProblem, ...] = ()
            super().__init__(f"{self.file}: {problems}")
            return
        self.problems = tuple(sorted(problems))
        super().__init__(
            "\n".join(f"{self.file}:{p.line}:{p.column}: {p.text}" for p in self.problems)
        )
