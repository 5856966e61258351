"""The notebook runs from top to bottom, and what it shows is what the package holds now."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="install the extra 'notebook'")
nbclient = pytest.importorskip("nbclient", reason="install the extra 'notebook'")
pytest.importorskip("ipykernel", reason="install the extra 'notebook'")

PATH = Path(__file__).resolve().parents[1] / "gpt2_from_scratch.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


def shown(cell) -> list[str]:
    """The sources that a cell displays."""
    return [output["data"]["text/markdown"] for output in cell.get("outputs", [])
            if "text/markdown" in output.get("data", {})]  # fmt: skip


def test_its_outputs_and_pictures_are_inside(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 20
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    silent = [cell.source for cell in cells if not cell.outputs]
    assert len(silent) == 1 and silent[0].startswith("import ")  # every cell but the first has something to show
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4


def test_every_code_cell_is_explained_before_it(notebook):
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and before.cell_type == "code":
            assert "plt." in cell.source  # only the curve follows its loop


@pytest.mark.slow
def test_it_runs_and_shows_the_package_as_it_is(notebook, tmp_path):
    fresh = copy.deepcopy(notebook)
    nbclient.NotebookClient(fresh, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    compared = 0
    for old, new in zip(notebook.cells, fresh.cells, strict=True):
        if old.cell_type == "code":
            assert shown(old) == shown(new), "the package has changed: run the notebook again and save it"
            compared += len(shown(new))
    assert compared >= 15
