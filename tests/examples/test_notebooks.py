"""Runs the notebooks with a tiny random model."""

import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / 'examples').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize('name', ['quickstart', 'your_topic'])
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  monkeypatch.setenv('SQLM_JAX_SMALL', '1')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  notebook = nbformat.read(ROOT / 'examples' / f'{name}.ipynb', as_version=4)
  nbclient.NotebookClient(
    notebook,
    timeout=180,  # seconds for each cell
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path)}},
  ).execute()
  outputs = [
    output for cell in notebook.cells for output in cell.get('outputs', ())
  ]
  assert outputs
  assert not [o for o in outputs if o.output_type == 'error']
