"""Tests of the architecture: imports, names and the table of modules."""

import ast
import collections
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = {
  str(path.relative_to(ROOT)): ast.parse(path.read_text())
  for path in sorted((ROOT / 'sqlm_jax').rglob('*.py'))
}


def test_import_contracts_are_kept():
  command = 'from importlinter.cli import lint_imports_command as c; c()'
  process = subprocess.run(
    [sys.executable, '-c', command, '--no-cache'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == 0, process.stdout + process.stderr
  assert 'Contracts: 6 kept, 0 broken.' in process.stdout


def imports(tree: ast.AST) -> set[str]:
  """Returns the dotted names of everything that a module imports."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


@pytest.mark.parametrize(
  'libraries, allowed',
  [
    # import-linter cannot distinguish these modules from absl.logging.
    (
      ('absl.flags', 'absl.app'),
      {'sqlm_jax/main.py', 'sqlm_jax/command_line.py'},
    ),
    # config.schema accepts a ConfigDict, and configs returns one.
    (
      ('ml_collections',),
      {
        'sqlm_jax/command_line.py',
        'sqlm_jax/config/schema.py',
        'sqlm_jax/configs.py',
      },
    ),
  ],
)
def test_only_main_and_the_config_use_flags_and_config_dicts(
  libraries, allowed
):
  importing = {
    name
    for name, tree in MODULES.items()
    if any(imported.startswith(libraries) for imported in imports(tree))
  }
  assert importing <= allowed


def test_modules_are_imported_at_the_top():
  # Exceptions are modules that some operating systems lack.
  optional = {'fcntl', 'msvcrt', 'resource'}
  hidden = {
    f'{name}:{node.lineno}'
    for name, tree in MODULES.items()
    for outer in ast.walk(tree)
    if isinstance(outer, ast.FunctionDef | ast.ClassDef)
    for node in ast.walk(outer)
    if isinstance(node, ast.Import | ast.ImportFrom)
    and not {alias.name for alias in node.names} <= optional
  }
  assert not hidden


def test_main_does_not_import_slow_libraries_at_the_start():
  process = subprocess.run(
    [sys.executable, '-c', 'import sys, sqlm_jax.main; print(*sys.modules)'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == 0, process.stderr
  loaded = set(process.stdout.split())
  assert 'sqlm_jax.main' in loaded
  assert not loaded & {'sympy', 'matplotlib', 'scipy.stats'}


def test_only_sharding_contains_the_names_of_mesh_axes():
  modules = {
    name
    for name, tree in MODULES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and node.value in ('fsdp', 'tensor')
  }
  assert modules <= {'sqlm_jax/distributed/sharding.py'}


def test_no_module_has_a_meaningless_name():
  names = {path.stem for path in ROOT.rglob('*.py')}
  assert not names & {'utils', 'util', 'common', 'helpers', 'misc'}


def test_the_table_of_modules_is_complete():
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


def test_no_two_modules_have_the_same_name():
  names = collections.Counter(pathlib.Path(name).stem for name in MODULES)
  del names['__init__']
  assert {name for name, count in names.items() if count > 1} == set()
