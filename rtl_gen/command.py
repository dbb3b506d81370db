"""The ``rtlgen`` command and the verbs of this package.

Verbs are entry points of the group ``rtlgen.commands``, so that a package further down the line
adds one without an edit here. A verb's package is imported when the verb is called; the list of
verbs reads the first line of each docstring from the source.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from rtl_gen import __version__, console
from rtl_gen.errors import ToolError

GROUP = "rtlgen.commands"


class Verbs(click.Group):
    """A group whose commands are entry points, each loaded when it is named."""

    @cached_property
    def _found(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._found.get(cmd_name)
        if point is None:
            return None
        try:
            return point.load()
        except ImportError as error:
            return _unavailable(cmd_name, str(error))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click, without an import of what any verb needs."""
        found = self._found
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(found[name])) for name in sorted(found)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, and names the verbs there are."""
        if not args[0].startswith("-") and args[0] not in self._found:
            import difflib

            names = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f"no verb {args[0]!r}, {hint}")
        return super().resolve_command(ctx, args)


def _summary(point: EntryPoint) -> str:
    """The first line of a verb's docstring; empty if its source is not to be found."""
    import ast
    from importlib.machinery import PathFinder

    package, *below = point.module.split(".")
    spec = PathFinder.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, *below).with_suffix(".py")
        if file.is_file():
            for node in ast.parse(file.read_bytes()).body:
                if isinstance(node, ast.FunctionDef) and node.name == point.attr:
                    return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _unavailable(name: str, reason: str) -> click.Command:
    """A verb whose package cannot be imported: it says why, and the others work on."""

    def fail(rest: tuple[str, ...]) -> None:
        raise ToolError("rtlgen", f"{name} cannot be loaded, {reason}")

    return console.Command(
        name,
        callback=fail,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        help=f"Not available: {reason}",
    )


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rtlgen")
def main() -> None:
    """Generate, verify, measure and map compute hardware for low-bit language models."""


@console.command()
@console.spec_argument
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where the folder of the build goes.",
)
@console.json_option
def build(spec_file: Path, out: Path, as_json: bool) -> None:
    """Write Verilog, manifest and constraints to DIR/<name>/.

    The folder appears whole or not at all; an earlier build of that name is replaced. The same
    specification and version give the same bytes.
    """
    from rtl_gen.build import build as build_folder
    from rtl_gen.manifest import FILE_NAME
    from rtl_gen.specfile import load_spec

    spec = load_spec(spec_file)
    with console.Progress(f"building {spec.name}"):
        result = build_folder(spec, out)
    names = [*result.manifest.files, FILE_NAME]
    if as_json:
        console.echo_json(
            {
                "folder": str(result.folder),
                "name": spec.name,
                "spec_digest": spec.digest,
                "design_digest": result.manifest.digest,
                "files": {name: (result.folder / name).stat().st_size for name in names},
            }
        )
        return
    for name in names:
        click.echo(result.folder / name)


@console.command("list")
@console.json_option
def list_blocks(as_json: bool) -> None:
    """List the blocks that can be generated."""
    from hw.block import blocks

    rows = [(item.name, item.kind, item.summary, item.source) for item in blocks().values()]
    columns = ("block", "kind", "summary", "source")
    if as_json:
        console.echo_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        console.echo_table(columns, rows)


@console.command()
@click.argument("block")
@click.option("--json", is_flag=True, expose_value=False, help="A schema is JSON in any case.")
def schema(block: str) -> None:
    """Print the JSON Schema of a BLOCK's specification.

    Editors complete and check a file that names it: a first line
    `# yaml-language-server: $schema=FILE` does for most.
    """
    from rtl_gen.describe import json_schema

    console.echo_json(json_schema(block))


@console.command()
@console.spec_argument
@console.json_option
def describe(spec_file: Path, as_json: bool) -> None:
    """Explain a specification: fields, ports, widths, cycles."""
    from rtl_gen.describe import describe as describe_spec
    from rtl_gen.specfile import load_spec

    facts = describe_spec(load_spec(spec_file))
    if as_json:
        console.echo_json(facts)
        return
    click.echo(f"{facts['name']}: {facts['block']}, {facts['summary']}")
    click.echo(f"source: {facts['source']}\n")
    rows = [
        (
            item["field"],
            _shown(item["value"]),
            "default" if item["default"] else "",
            item["description"],
        )
        for item in facts["fields"]
    ]
    console.echo_table(("field", "value", "", "meaning"), rows)
    click.echo()
    console.echo_table(
        ("derived", "value"), [(name, _shown(value)) for name, value in facts["derived"].items()]
    )
    click.echo()
    ports = [
        (
            f"{stream['name']}.{field['name']}",
            stream["direction"],
            "×".join(map(str, field["shape"])) or "1",
            f"{'s' if field['signed'] else 'u'}{field['width']}",
            field["offset"],
            field["doc"],
        )
        for stream in facts["streams"]
        for field in stream["fields"]
    ]
    console.echo_table(("stream", "way", "elements", "format", "first bit", "meaning"), ports)
    click.echo()
    timing = facts["timing"]
    constants = ", ".join(f"{name} = {value}" for name, value in timing["constants"].items())
    click.echo(f"cycles: {timing['formula']}, with {constants}")


def _shown(value: object) -> str:
    """A value as a person would write it in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
