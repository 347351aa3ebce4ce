"""Extracts the program from a model's response.

Fences are paired as in Markdown (CommonMark, section 4.5): a block ends with a
fence of the same character that is at least as long as the opening fence, or at
the end of the text. In addition, an opening fence may be at the end of a line
of prose, and a closing fence at the end of a line of code.
"""

import re
import textwrap
from typing import NamedTuple

from sqlm_jax.text import extraction

_FENCE = re.compile(
  r'(?P<before>.*?)(?<![`~])(?P<fence>`{3,}+|~{3,}+)[ \t]*'
  r'(?P<info>[^`\n]*?)[ \t]*'
)
_FENCES = re.compile('`{3,}|~{3,}')
_HIDDEN = '\ue000\ue001\ue000'  # private use, so not in a model's responses
# The text that may precede a fence in a quotation or a list.
_MARGIN = re.compile(r'[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?')
_PYTHON = re.compile(r'\W*(?:python|pypy|py)[\d.]*(?![\w-])', re.IGNORECASE)


class Block(NamedTuple):
  """A fenced block of code.

  Attributes:
    info: the text after the opening fence.
    code: the lines of the block, without the indentation that they share.
  """

  info: str
  code: str

  def is_python(self) -> bool:
    return _PYTHON.match(self.info) is not None


def find(pattern: str, text: str) -> str | None:
  """Finds the program in a response.

  Args:
    pattern: a regular expression as in `extraction.find`. A pattern with
      a fence is tried on each fenced block separately, starting with the last
      block. '' finds the last block of Python; if there is none, the last block
      without an info string; if there is no block at all, the complete text.
    text: a response.

  Returns:
    The program, or None if there is none or it is empty.
  """
  parts = _split(text)
  blocks = [part for part in parts if isinstance(part, Block)]
  if not pattern:
    return _program(blocks) if blocks else _dedent(text) or None
  fence = _FENCES.search(pattern)
  if not blocks or not fence:
    return extraction.find(pattern, text)
  prose = [
    _FENCES.sub('', part) if isinstance(part, str) else _HIDDEN
    for part in parts
  ]
  for i in reversed(range(len(parts))):
    if isinstance(parts[i], Block):
      info, code = parts[i]
      # The text then has one pair of fences, spelled as in the pattern.
      code = code.replace(fence[0], _HIDDEN)
      fenced = f'{fence[0]}{info}\n{code}\n{fence[0]}'
      alone = '\n'.join([*prose[:i], fenced, *prose[i + 1 :]])
      if program := extraction.find(pattern, alone):
        return program.replace(_HIDDEN, fence[0])
  return None


def _program(blocks: list[Block]) -> str | None:
  full = [block for block in blocks if block.code]
  for fits in (Block.is_python, lambda block: not block.info):
    if programs := [block.code for block in full if fits(block)]:
      return programs[-1]
  return None


def _split(text: str) -> list[str | Block]:
  """Splits a text into prose and blocks, in order."""
  parts: list[str | Block] = []
  prose: list[str] = []
  lines: list[str] = []
  opening = None  # the match of the fence that is open
  for line in text.replace('\r\n', '\n').split('\n'):
    match = _FENCE.fullmatch(line)
    if opening is None:
      if match and _opens(match):
        parts.append('\n'.join([*prose, match['before']]))
        opening, prose, lines = match, [], []
      else:
        prose.append(line)
    elif (rest := _before_end(line, opening)) is not None:
      parts.append(_block(opening, [*lines, rest]))
      opening = None
    elif match and _opens_instead(match, opening):
      parts.append('\n'.join([opening[0], *lines]))  # the block has no end
      opening, lines = match, []
    else:
      lines.append(line)
  if opening is not None:
    parts.append(_block(opening, lines))
  elif prose:
    parts.append('\n'.join(prose))
  return parts


def _opens(match: re.Match[str]) -> bool:
  """Returns True if a fence begins a block and is not quoted in prose."""
  if _MARGIN.fullmatch(match['before']):
    return True
  return '`' not in match['before'] and ' ' not in match['info']


def _opens_instead(match: re.Match[str], opening: re.Match[str]) -> bool:
  """Returns True if a fence with a language begins a block inside another.

  The outer block is then treated as prose because its end is missing.
  """
  return (
    _MARGIN.fullmatch(match['before']) is not None
    and match['fence'][0] == opening['fence'][0]
    and len(match['fence']) >= len(opening['fence'])
    and re.fullmatch(r'[\w.+#-]+', match['info']) is not None
  )


def _before_end(line: str, opening: re.Match[str]) -> str | None:
  """Returns the code before a closing fence, None if there is no such fence."""
  fence = opening['fence']  # ` and ~ need no escape
  if re.fullmatch(rf'[ \t>]*{fence[0]}{{{len(fence)},}}(?:[ \t]+.*)?', line):
    return ''
  if fence[0] == '`':
    match = re.fullmatch(rf'(.*[^`]){fence}[ \t]*', line)
    return match and match[1]
  return None


def _block(opening: re.Match[str], lines: list[str]) -> Block:
  before = opening['before']
  if _MARGIN.fullmatch(before):
    quotes = before.count('>')
    indent = before.rpartition('>')[2].removeprefix(' ' * bool(quotes))
    margin = re.compile(rf'(?:[ \t]*> ?){{0,{quotes}}}[ \t]{{0,{len(indent)}}}')
    lines = [margin.sub('', line, count=1) for line in lines]
  return Block(opening['info'], _dedent('\n'.join(lines)))


def _dedent(text: str) -> str:
  """Removes blank lines around a program and the shared indentation."""
  text = re.sub(r'\A(?:[ \t]*\r?\n)+', '', text).rstrip()
  return textwrap.dedent(text) if text[:1] in (' ', '\t') else text
