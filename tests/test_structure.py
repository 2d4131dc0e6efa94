"""The shape of the house: who may import whom, and that the code is clean by its own rules."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gapscope"

# Each module imports only from lines above its own; a folder stands for all modules in it.
LAYERS = (
    ("errors", "statistics", "trends", "version"),
    ("rollouts", "bootstraps", "failures"),
    ("outcomes", "report", "group_sums", "files", "mapping", "unpickling", "tokenizer", "token_numbers"),
    ("plan_options",),
    ("plans",),
    ("recoveries",),
    ("config", "cutting", "archives"),
    ("dialects",),
    ("rows", "syntax", "alignment"),
    ("json_rows",),
    ("shapes",),
    ("parsers", "metrics", "containers"),
    ("sources", "store", "findings"),
    ("beside",),
    ("detect", "pieces", "correctness", "gate", "schemas"),
    ("workers", "incremental", "demo", "planning", "processes", "threads", "sandbox", "mcp_servers"),
    ("ingest", "rereading"),
    ("audit", "capabilities"),
    ("doctor",),
    ("reporters", "recorders", "tools", "rewards", "serving"),
    ("axpo",),
    ("resampler",),
    ("cli",),
)
# Siblings in these folders know only their own `base`.
REGISTRIES = ("dialects", "parsers", "containers", "metrics", "reporters", "tools", "rewards")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(dotted: str) -> int:
    top = dotted.removeprefix("gapscope.").split(".")[0]
    return next(index for index, names in enumerate(LAYERS) if top in names)


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gapscope"):
            if node.module.count(".") == 0 or (PACKAGE / node.module.split(".")[1]).is_dir():
                found += [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("gapscope")]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_above_its_own(path: Path) -> None:
    name = "gapscope." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    if name in {"gapscope.__init__", "gapscope.__main__"}:
        assert imports(path)
        return
    own = layer_of(name)
    parts = name.split(".")
    for imported in imports(path):
        other = imported.split(".")
        if other[1] == parts[1]:
            sibling = parts[1] in REGISTRIES and len(parts) > 2
            assert not sibling or other[2] == "base", f"{name} imports its sibling {imported}"
        else:
            assert layer_of(imported) < own, f"{name} imports {imported}"


def test_every_module_has_a_layer() -> None:
    tops = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    known = {name for names in LAYERS for name in names}
    assert tops - {"__init__", "__main__", "__pycache__"} == known


def test_no_file_is_too_long_to_be_read_in_one_go() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_the_public_names_are_sorted_and_exist() -> None:
    import gapscope

    assert gapscope.__all__ == sorted(gapscope.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert [name for name in gapscope.__all__ if not hasattr(gapscope, name)] == []


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_import_no_heavy_library(flag: str) -> None:
    code = (
        "import sys\n"
        "from gapscope.cli import main\n"
        f"sys.argv = ['gapscope', {flag!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('polars', 'duckdb', 'plotly', 'pyarrow', 'numpy') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in run if " -m pytest " in line]
    (first,) = (command for command in commands if command.startswith("python3 -m venv .venv "))
    assert first in readme
    marked = {word for command in commands for word in command.partition(" -m pytest ")[2].replace('"', " ").split()}
    assert {"slow", "vllm", "trl", "verl"} <= marked


def run_tool(*command: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).parent / command[0]
    executable = str(tool) if tool.exists() else shutil.which(command[0])
    assert executable, f"{command[0]} is not installed; it is part of the extra `test`"
    return subprocess.run([executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ruff_has_nothing_to_say() -> None:
    result = run_tool("ruff", "check", "--no-cache", "gapscope", "tests")
    assert result.returncode == 0, result.stdout


def test_the_code_is_formatted() -> None:
    result = run_tool("ruff", "format", "--check", "--no-cache", "gapscope", "tests")
    assert result.returncode == 0, result.stdout


def test_the_types_are_strict() -> None:
    result = run_tool("mypy")
    assert result.returncode == 0, result.stdout
