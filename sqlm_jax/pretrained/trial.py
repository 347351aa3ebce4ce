"""Tries a tokenizer file or a chat template in a process that can be killed.

Both are programs that came with a model: a template may loop or fill the
memory, and a rule of a tokenizer may grow a text without end, search it for
hours, or abort inside the `tokenizers` library. The process has limits on
processor time and memory. A harmful file is therefore refused before the run
opens it, with an error that names the file.

  python -m sqlm_jax.pretrained.trial tokenizer SECONDS FILE
  python -m sqlm_jax.pretrained.trial template SECONDS < JSON
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from sqlm_jax.pretrained import chat

_LIMITS = {'tokenizer': 30, 'template': 10}  # seconds of processor time
_WALL_SECONDS = 300.0  # a machine may be busy
_MEMORY_BYTES = 4 * 2**30
_MAX_PROMPT = 2**20  # characters that a template may make of one short message
_MESSAGES = ({'role': 'user', 'content': 'What is 2 + 3?'},)
_DATE = '2000-01-01'

_ANOTHER_PROMPT = 'expected the same prompt every time, but the prompts differ'
_TOO_MUCH_MEMORY = f'needs more than {_MEMORY_BYTES >> 30} GiB of memory'

_SOME_TEXTS = (
  '',
  ' ',
  "  The quick  brown fox\tdoesn't jump:\n\n12 + 345 = 6,789.0\r\n",
  'naïve café e\u0301 Å ﬁ ½ ² 日本語のテキスト。 한국어 हिन्दी שלום 🙂👩‍👩‍👧',
  'def f(x):\n    return x ** 2  # <|im_start|> <s> [INST] <0x41> ▁ Ġ\n',
  'word ' * 2000,
)
_RUN = 200  # length of a run of one character, for patterns that backtrack
_BLOCK = 128  # characters of Unicode that are tried at once
_LAST_CHARACTER = 0x323AF  # tags and private use come after it


def try_tokenizer(path: pathlib.Path) -> None:
  """Loads a tokenizer.json and encodes and decodes many texts with it.

  Raises:
    ValueError: if the tokenizer fails, takes too long or needs too much memory.
  """
  _run('tokenizer', [str(path)])


def try_template(template: str, variables: Mapping[str, str]) -> None:
  """Renders a chat template for one question of a user.

  Raises:
    ValueError: if the template raises, takes too long, needs too much memory,
      loses the question, or does not write the same prompt every time.
  """
  tried = _try_template(template, tuple(sorted(variables.items())))
  if tried != chat.render(template, variables, _MESSAGES, date=_DATE):
    raise ValueError(_ANOTHER_PROMPT)


@functools.lru_cache(maxsize=64)
def _try_template(template: str, variables: tuple[tuple[str, str], ...]) -> str:
  payload = {'template': template, 'variables': dict(variables)}
  return _run('template', payload=json.dumps(payload).encode())


def _run(kind: str, arguments: Sequence[str] = (), payload: bytes = b'') -> Any:
  """Runs this module as a process and returns its result.

  Raises:
    ValueError: if the process reports an error or is killed.
  """
  path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
  settings = {
    'PYTHONPATH': path,
    # Threads would take address space, and processor time several times over.
    'RAYON_NUM_THREADS': '1',
    'TOKENIZERS_PARALLELISM': 'false',
  }
  command = [sys.executable, '-W', 'ignore', '-m', __name__]
  command += [kind, str(_LIMITS[kind]), *arguments]
  try:
    process = subprocess.run(
      command,
      input=payload,
      capture_output=True,
      timeout=_WALL_SECONDS,
      check=False,
      env=os.environ | settings,
    )
  except subprocess.TimeoutExpired:
    raise ValueError(f'takes more than {_WALL_SECONDS:.0f} seconds') from None
  try:
    result = json.loads(process.stdout)
  except ValueError:
    raise ValueError(_why_killed(process, kind)) from None
  if 'error' in result:
    raise ValueError(result['error'])
  return result['value']


def _why_killed(process: subprocess.CompletedProcess, kind: str) -> str:
  """Explains why the process ended without a result."""
  lines = process.stderr.decode(errors='replace').strip().splitlines()
  if 'memory allocation of' in ''.join(lines):
    return _TOO_MUCH_MEMORY
  # The kernel sends SIGXCPU, and SIGKILL a second later.
  if -process.returncode in (24, 9):
    return f'takes more than {_LIMITS[kind]} seconds'
  return f'ended its process ({process.returncode}): ' + ' '.join(lines[:2])


def _tokenize(path: str) -> None:
  """Uses a tokenizer in all the ways in which a run uses it."""
  backend = tokenizers.Tokenizer.from_file(path)
  tokenizers.Tokenizer.from_str(backend.to_str())
  backend.no_truncation()
  backend.no_padding()
  for text in _texts():
    backend.encode(text)
    ids = backend.encode(text, add_special_tokens=False).ids
    backend.decode(ids, skip_special_tokens=False)
    backend.decode(ids, skip_special_tokens=True)


def _texts() -> Iterator[str]:
  """Yields texts that together contain all characters of Unicode."""
  yield from _SOME_TEXTS
  for code in range(32, 127):
    yield chr(code) * _RUN + '\n!x'
  for start in range(0, _LAST_CHARACTER, _BLOCK):
    codes = range(start, start + _BLOCK)
    yield ''.join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)


def _render(payload: Mapping[str, Any]) -> str:
  """Renders a template twice, and checks and returns the prompt."""
  template, variables = payload['template'], payload['variables']
  prompt, again = (
    chat.render(template, variables, _MESSAGES, date=_DATE) for _ in range(2)
  )
  if len(prompt) > _MAX_PROMPT:
    raise ValueError(
      f'writes {len(prompt)} characters for a short question: expected at '
      f'most {_MAX_PROMPT}'
    )
  if again != prompt:
    raise ValueError(_ANOTHER_PROMPT)
  if _MESSAGES[0]['content'] not in prompt:
    raise ValueError(
      "expected the user's text in the prompt, but it is missing"
    )
  return prompt


def _limit_resources(cpu_seconds: int) -> None:
  import resource  # not on Windows, which has no such limits

  for kind, limit in (
    (resource.RLIMIT_AS, _MEMORY_BYTES),
    (resource.RLIMIT_CPU, cpu_seconds),
    (resource.RLIMIT_CORE, 0),
  ):
    _, hard = resource.getrlimit(kind)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (soft, hard))


def main(kind: str, cpu_seconds: str, *arguments: str) -> None:
  """Tries a tokenizer or a template and prints its value or error as JSON."""
  if os.name == 'posix':
    _limit_resources(int(cpu_seconds))
  try:
    if kind == 'tokenizer':
      result = {'value': _tokenize(*arguments)}
    else:
      result = {'value': _render(json.load(sys.stdin))}
  except MemoryError:
    result = {'error': _TOO_MUCH_MEMORY}
  # A panic of the library is not a subclass of Exception.
  except BaseException as error:
    result = {'error': str(error) or type(error).__name__}
  sys.stdout.write(json.dumps(result))


if __name__ == '__main__':
  main(*sys.argv[1:])
