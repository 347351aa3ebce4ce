"""Style rules that a program can check."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
  'command', [('check',), ('format', '--check')], ids=lambda x: x[0]
)
def test_ruff(command):
  process = subprocess.run(
    [sys.executable, '-m', 'ruff', *command, '--no-cache', '.'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == 0, process.stdout + process.stderr


def test_every_module_imports_without_warnings_or_output():
  paths = sorted((ROOT / 'sqlm_jax').rglob('*.py'))
  names = ['.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in paths]
  process = subprocess.run(
    [sys.executable, '-W', 'error', '-c', f'import {", ".join(names)}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (process.returncode, process.stdout, process.stderr) == (0, '', '')


def test_the_library_does_not_print():
  # Ruff's T20 checks this, too, but a comment can disable it.
  for path in (ROOT / 'sqlm_jax').rglob('*.py'):
    text = path.read_text()
    assert 'print(' not in text.replace('_print(', '').replace('.print(', '')


def test_every_text_file_has_an_encoding():
  """On some systems, the default encoding is not UTF-8."""
  for path in sorted((ROOT / 'sqlm_jax').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call) and _opens_text(node):
        names = [keyword.arg for keyword in node.keywords]
        assert 'encoding' in names, f'{path}:{node.lineno}'


def _opens_text(call: ast.Call) -> bool:
  name = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
  if name in ('read_text', 'write_text'):
    # `storage.write_text` sets the encoding itself.
    return ast.unparse(call.func) != 'storage.write_text'
  if name != 'open' or ast.unparse(call.func) == 'os.open':
    return False
  # `open(file, mode)`, or `path.open(mode)`.
  is_method = isinstance(call.func, ast.Attribute)
  modes = [ast.unparse(x) for x in call.args[0 if is_method else 1 :]]
  modes += [ast.unparse(x.value) for x in call.keywords if x.arg == 'mode']
  return "'w'" in modes or "'a'" in modes or not any('b' in m for m in modes)


# A docstring starts with a verb, or with a noun that says what the thing is.
_RIDDLES = re.compile(
  r'(Of|What|Whether|Where|Those|The same|How|Else|Whose)\b'
)


@pytest.mark.parametrize(
  'folder', ['sqlm_jax', 'tests', 'benchmarks', 'tools', 'configs']
)
def test_docstrings_start_with_a_verb_or_a_noun(folder):
  riddles = [
    f'{path}: {text.splitlines()[0]}'
    for path in sorted((ROOT / folder).rglob('*.py'))
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    and (text := ast.get_docstring(node))
    and _RIDDLES.match(text)
  ]
  assert not riddles
