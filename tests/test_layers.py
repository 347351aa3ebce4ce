"""The architecture holds: who may import whom, checked by import-linter."""

import ast
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
MODULES = {
  str(path.relative_to(ROOT)): ast.parse(path.read_text())
  for path in sorted((ROOT / 'sqlm_jax').rglob('*.py'))
}


def test_import_contracts_are_kept():
  command = 'from importlinter.cli import lint_imports_command as c; c()'
  found = subprocess.run(
    [sys.executable, '-c', command, '--no-cache'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stdout + found.stderr
  assert 'Contracts: 5 kept, 0 broken.' in found.stdout


def imports(tree: ast.AST) -> set[str]:
  """Dotted names of all that a module imports, modules and what is in them."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def test_only_main_knows_flags():
  # import-linter sees absl as a whole, and everybody may log.
  flags = ('absl.flags', 'absl.app', 'ml_collections')
  found = {
    name
    for name, tree in MODULES.items()
    if any(imported.startswith(flags) for imported in imports(tree))
  }
  assert found <= {'sqlm_jax/main.py'}


def test_imports_stand_at_the_top():
  hidden = {
    f'{name}:{node.lineno}'
    for name, tree in MODULES.items()
    for outer in ast.walk(tree)
    if isinstance(outer, ast.FunctionDef | ast.ClassDef)
    for node in ast.walk(outer)
    if isinstance(node, ast.Import | ast.ImportFrom)
  }
  assert not hidden


def test_a_start_imports_no_library_that_it_may_not_need():
  found = subprocess.run(
    [sys.executable, '-c', 'import sys, sqlm_jax.main; print(*sys.modules)'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stderr
  loaded = set(found.stdout.split())
  assert 'sqlm_jax.main' in loaded
  assert not loaded & {'sympy', 'matplotlib', 'scipy.stats'}


def test_only_sharding_names_the_axes_of_the_mesh():
  found = {
    name
    for name, tree in MODULES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and node.value in ('fsdp', 'tensor')
  }
  assert found <= {'sqlm_jax/distributed/sharding.py'}


def test_nothing_is_called_utils():
  names = {path.stem for path in ROOT.rglob('*.py')}
  assert not names & {'utils', 'util', 'common', 'helpers', 'misc'}


def test_the_map_of_the_architecture_lists_every_module():
  rows = re.findall(
    r'^\| (?:`([a-z/]+)/`)? ?\| ((?:`\w+` ?)+)\|',
    (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8'),
    re.MULTILINE,
  )
  listed = [
    pathlib.Path(folder, name)
    for folder, names in rows
    for name in re.findall(r'\w+', names)
  ]
  package = ROOT / 'sqlm_jax'
  modules = [
    path.relative_to(package).with_suffix('')
    for path in package.rglob('*.py')
    if path.name != '__init__.py'
  ]
  assert sorted(listed) == sorted(modules)
