"""Programs in the code blocks of a response."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import code_blocks

BLOCK = r'```(?:python)?\n(.*?)```'
CODE = 'print(1)'


@pytest.mark.parametrize(
  'text, expected',
  [
    (f'```python\n{CODE}\n```', CODE),
    (f'```text\n5\n```\nSo:\n```python\n{CODE}\n```', CODE),
    (f'```\n5\n```\nSo:\n```python\n{CODE}\n```', CODE),
    (f'```python\n{CODE}\n```\nIt prints:\n```\n1\n```', CODE),
    (f'```python\nx\n```\nno:\n```python\n{CODE}\n```', CODE),  # the last one
    (f'```cpp\nx\n```\n```py\n{CODE}\n```\n```bash\nls\n```', CODE),
    # Info strings.
    *(
      (f'```{info}\n{CODE}\n```', CODE)
      for info in (
        *('', ' python', 'Python', 'PYTHON', 'python3', 'Python3', 'py', 'py3'),
        *('python3.11', 'pypy3', 'Python 3', 'python title="a b"'),
        *('{.python}', '{python}', 'python:main.py', 'python '),
      )
    ),
    ('```python-repl\n>>> 1\n```', None),
    ('```pycon\n>>> 1\n```', None),
    ('```json\n{}\n```', None),
    # Other fences.
    (f'~~~python\n{CODE}\n~~~', CODE),
    (f'~~~\n{CODE}\n~~~~', CODE),
    ('~~~python\ns = """\n```\n"""\n~~~', 's = """\n```\n"""'),
    ('````python\nprint("""\n```\n""")\n````', 'print("""\n```\n""")'),
    (f'```python\n{CODE}\n`````', CODE),
    (f'```python\n{CODE}\n```  \nmore', CODE),
    (f'```python\r\n{CODE}\r\n```\r\n', CODE),
    # Fences on the same line as text.
    (f'Here: ```python\n{CODE}\n```', CODE),
    (f'**Code:**\n```python\n{CODE}```', CODE),
    (f'```python\n{CODE}\n``` This prints 1.\nmore', CODE),
    (f'Between ``` and ```, or ```x```:\n```python\n{CODE}\n```', CODE),
    (f'It ends with ```\n```python\n{CODE}\n```', CODE),
    # Unclosed blocks.
    (f'```python\n{CODE}', CODE),
    (f'```python\n{CODE}\n', CODE),
    (f'```text\n5\n```python\n{CODE}\n```', CODE),
    (f'Plan.\n```python\nx =\n\n```python\n{CODE}\n```', CODE),
    # In lists and quotations.
    (
      '1. Read:\n\n   ```python\n   if x:\n     y\n   ```\n2. Run.',
      'if x:\n  y',
    ),
    ('- ```python\n  if x:\n    y\n  ```', 'if x:\n  y'),
    ('10) ```python\n    if x:\n      y\n    ```', 'if x:\n  y'),
    ('    ```python\n    if x:\n      y\n    ```', 'if x:\n  y'),
    ('\t```python\n\tif x:\n\t\ty\n\t```', 'if x:\n\ty'),
    ('> ```python\n> if x:\n>   y\n> ```\nno', 'if x:\n  y'),
    ('>> ```python\n>> if x:\n>>   y\n>> ```', 'if x:\n  y'),
    (
      '  ```python\n  s = """\nab\n  """\n  y\n  ```',
      's = """\nab\n"""\ny',
    ),
    ('```python\n  if x:\n    y\n```', 'if x:\n  y'),
    ('```python\nif x:\n  y\n\n\n  z\n```', 'if x:\n  y\n\n\n  z'),
    # Without a fence.
    (CODE, CODE),
    (' x + 2', 'x + 2'),
    ('\n  x\n  y\n', 'x\ny'),
    ('', None),
    (' \n ', None),
    ('```', None),
    ('```python\n```', None),
    ('```python\n\n```\n', None),
  ],
)
def test_find_without_a_pattern(text, expected):
  assert code_blocks.find('', text) == expected


@pytest.mark.parametrize(
  'pattern, text, expected',
  [
    (BLOCK, f'```text\n5\n```\nSo:\n```python\n{CODE}\n```', CODE),
    (BLOCK, f'```python\nx\n```\n```\n{CODE}\n```', CODE),
    (BLOCK, '```text\n5\n```\nprose\n```json\n{}\n```', None),
    (BLOCK, f'```python\n{CODE}', CODE),
    (BLOCK, '- ```python\n  if x:\n    y\n  ```', 'if x:\n  y'),
    (BLOCK, '````python\nprint("""\n```\n""")\n````', 'print("""\n```\n""")'),
    (BLOCK, f'It ends with ```\n```python\n{CODE}\n```', CODE),
    (BLOCK, CODE, None),
    (r'Final:\s*```\w*\n(.*?)```', '```\nx\n```\nFinal:\n```py\ny\n```', 'y'),
    (r'Final:\s*```\w*\n(.*?)```', 'Final:\n```py\ny\n```\n```\nx\n```', 'y'),
    (r'<code>(.*?)</code>', f'<code>{CODE}</code>\n```\nx\n```', CODE),
    (r'`(.*?)`', f'`{CODE}`', CODE),
    # The pattern and the response may use different fences.
    (r'~~~\w*\n(.*?)~~~', f'~~~python\n{CODE}\n~~~', CODE),
    (r'~~~\w*\n(.*?)~~~', f'```python\n{CODE}\n```', CODE),
    (r'````\w*\n(.*?)````', '```py\nx\n```', 'x'),
  ],
)
def test_find_with_a_pattern(pattern, text, expected):
  assert code_blocks.find(pattern, text) == expected


PIECES = st.lists(
  st.sampled_from(
    [
      '```',
      '~~~',
      '````',
      '\n',
      '\n',
      ' ',
      '> ',
      '- ',
      'python',
      'text',
      'x',
      '`',
    ]
  ),
  max_size=30,
).map(''.join)


@hypothesis.given(PIECES, st.sampled_from(['', BLOCK, 'x']))
def test_any_text_is_searched(text, pattern):
  program = code_blocks.find(pattern, text)
  assert program is None or program.strip()


@pytest.mark.parametrize(
  'piece', ['`', '~', '```\n', '```x\n', '> ```py\n', '- ', '``` ', ' `']
)
def test_long_repetitions_take_bounded_time(piece):
  code_blocks.find('', piece * (20_000 // len(piece)))
  code_blocks.find(BLOCK, piece * (4_000 // len(piece)))
