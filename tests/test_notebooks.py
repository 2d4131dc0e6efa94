"""The notebooks run from top to bottom, use nothing but the public API, and are stored without outputs."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def first_look(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook, run as if it had been opened in its folder; the file itself stays as it is."""
    folder = tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.read(NOTEBOOKS / "01_first_look.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder))
        patch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
        client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}})
        client.execute()
    return notebook


def outputs_of(notebook: NotebookNode, cell_id: str) -> list[NotebookNode]:
    return next(cell.outputs for cell in notebook.cells if cell.id == cell_id)


def text_of(notebook: NotebookNode, cell_id: str) -> str:
    return "".join(output.text for output in outputs_of(notebook, cell_id) if output.output_type == "stream")


def test_it_is_stored_clean(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_imports_the_public_api_and_plotly_and_what_python_has(notebook: NotebookNode) -> None:
    modules = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    modules.add(node.module or "")
    assert modules <= {"gapscope", "plotly.graph_objects", "plotly.subplots", "tempfile", "pathlib"}


def test_no_cell_fails_or_warns(first_look: NotebookNode) -> None:
    outputs = [output for cell in first_look.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_the_rates_are_drawn_with_their_bands_and_the_null(first_look: NotebookNode) -> None:
    (output,) = outputs_of(first_look, "rates")
    figure = output.data[PLOTLY]
    assert "Tool use falls from 29 % to 7 %" in figure.layout.title.text
    # Two edges of a band and a line for each rate, and the null.
    assert len(figure.data) == 7
    assert sum(trace.get("fill") == "tonexty" for trace in figure.data) == 2
    assert figure.data[-1].line.dash == "dash"


def test_the_census_is_drawn(first_look: NotebookNode) -> None:
    (output,) = outputs_of(first_look, "census")
    (heat_map,) = output.data[PLOTLY].data
    assert heat_map.type == "heatmap"
    assert sum(map(sum, heat_map.z)) == 320


@pytest.mark.parametrize("cell_id", ["report", "dead", "sql"])
def test_reports_and_tables_show_as_html(first_look: NotebookNode, cell_id: str) -> None:
    (output,) = outputs_of(first_look, cell_id)
    assert "<t" in output.data["text/html"]


def test_the_first_dead_group_is_shown_and_the_gate_fails(first_look: NotebookNode) -> None:
    assert "<tool_call>" in text_of(first_look, "read")
    assert "Exit code: 1" in text_of(first_look, "gate")
