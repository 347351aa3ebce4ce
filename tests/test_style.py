"""The hand that the project is written in, as far as a machine can tell."""

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
def test_ruff_is_content(command):
  found = subprocess.run(
    [sys.executable, '-m', 'ruff', *command, '--no-cache', '.'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stdout + found.stderr


def test_every_module_imports_without_a_warning_or_a_word():
  paths = sorted((ROOT / 'sqlm_jax').rglob('*.py'))
  names = ['.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in paths]
  found = subprocess.run(
    [sys.executable, '-W', 'error', '-c', f'import {", ".join(names)}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (found.returncode, found.stdout, found.stderr) == (0, '', '')


def test_the_library_does_not_print():
  # Ruff's T20 says so, too, but a comment can silence it.
  for path in (ROOT / 'sqlm_jax').rglob('*.py'):
    text = path.read_text()
    assert 'print(' not in text.replace('_print(', '').replace('.print(', '')


def test_every_text_file_has_an_encoding():
  """Elsewhere the default is another than UTF-8."""
  for path in sorted((ROOT / 'sqlm_jax').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call) and _opens_text(node):
        names = [keyword.arg for keyword in node.keywords]
        assert 'encoding' in names, f'{path}:{node.lineno}'


def _opens_text(call: ast.Call) -> bool:
  name = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
  if name in ('read_text', 'write_text'):
    # `storage.write_text` gives one itself.
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


def test_docstrings_do_not_begin_with_a_riddle():
  riddles = [
    f'{path}: {text.splitlines()[0]}'
    for folder in ('sqlm_jax', 'benchmarks', 'tools')
    for path in sorted((ROOT / folder).rglob('*.py'))
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    and (text := ast.get_docstring(node))
    and _RIDDLES.match(text)
  ]
  assert not riddles
