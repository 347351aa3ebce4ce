"""Canonical answers to multiple-choice questions: the letter of an option."""

import functools
import re
import string
from collections.abc import Callable, Sequence

from sqlm_jax.grading import answers, markup
from sqlm_jax.text import normalize

_MAX_LENGTH = 1000  # characters; no option is longer
_MAX_LAYERS = 32  # introductions, endings and brackets around an answer

# Words that announce a letter, in the languages of `markup`.
_OPTION = (
  r'(?:(?:the )?(?:(?:correct|final|right|best) )*'
  r'(?:option|choice|letter|alternative)|buchstabe|opción|alternativa|opzione'
  r'|opção|lettre|letra|選択肢|選択|記号|选项|選項|옵션|보기)'
  r'(?: is)? ?[:=]? ?(?:は|是)?'
)
_OPEN, _CLOSE = r'[(\[{<"\']{0,3} ?', r' ?[)\]}>"\'.:,;!?]*'
_LABEL = re.compile(rf'(?:{_OPTION})?{_OPEN}(?P<letter>[a-z]){_CLOSE}')
# The letter must be a complete word in scripts with spaces between words.
_LABEL_FIRST = re.compile(
  rf'(?:{_OPTION})?{_OPEN}(?P<letter>[a-z])'
  rf'(?=[^\w]|[{normalize.UNSPACED}\uac00-\ud7a3])(?P<rest>.+)'
)
_LABEL_LAST = re.compile(
  r'(?P<rest>.+?) ?'
  rf'(?:[,.:;=] ?(?:{_OPTION})?{_OPEN}|(?:{_OPTION})?[(\[{{<"]+ ?)'
  rf'(?P<letter>[a-z]){_CLOSE}'
)
_CLOSING = ' )]}>.:,;="\''
_DASHES = '-–—→/|'  # separate a letter from its text; - may also be a sign

# Introductions in addition to those of `markup`.
_INTRODUCTION = re.compile(
  r'\A(?:(?:(?:the |my )?(?:(?:correct|final|right|best) )*answer'
  r"|i(?:'d| would| will)? (?:choose|pick|select|say|go with)"
  r"|(?:it|that)(?:'s| is)|antwort|réponse|respuesta|risposta|resposta) "
  r'|(?:la|le|die) (?=\W*[a-z]\b)'
  r'|(?:所以|因此|故|我|应该|應該|,)*[选選](?:择|擇)?:? ?'
  r'|(?:答え?|解答|回答|正解|正答|答案|정답) ?)+'
)
_ENDING = re.compile(
  r'(?: is (?:(?:the )?(?:correct|right|best|final)'
  r'(?: (?:answer|option|choice|one))?|the answer)'
  r'|[.,]? ?i hope it is correct'
  r'|が(?:正解|正答|答え|正しい|最も適切|適切)(?:です|だ|である|と思います)?'
  r'|を選(?:びます|ぶ|択します)|だ|である|でしょう|(?:だ)?と思います'
  r'|(?:に|と)なります'
  r'|(?:是|为|為)?(?:正确|正確|对|對)(?:的|答案|选项|選項)*)+\.?\Z'
)
_WRAPPED = re.compile(r'\A[(\[{]([^()\[\]{}]+)[)\]}]\Z')
_LATEX = re.compile(rf'{markup.LATEX_COMMAND}\s*\{{([^{{}}]*)\}}')
_TYPESETTING = re.compile(
  r'\\[()\[\] ,;:!]|[$`*]|</?(?:b|strong|em)>|\b__?|__?\b'
  r'|(?<=[^\s~])~(?=[^\s~])'  # LaTeX's space; ~~B~~ is struck out
)


def choice(text: str, options: Sequence[str] = ()) -> str | None:
  """Parses the letter of the chosen option.

  An answer may be a letter, the text of an option, or a letter with the text of
  its option. It may be surrounded by brackets, an introduction, emphasis and
  LaTeX: 'B', '(b)', 'Answer: B', '答えはBです。', 'Paris', 'B) Paris', 'The
  answer is (B) Paris.', '$\\boxed{B}$'. A letter with the text of another
  option, or any other text that names two options, is not an answer.

  Args:
    text: the answer.
    options: texts of the options, A first; () if the options are unknown and
      every letter is accepted.

  Returns:
    A capital letter, or None if the text is not an answer.
  """
  if len(text) > _MAX_LENGTH:
    return None
  # Typesetting is removed only if the unchanged text does not match an option,
  # because it may be part of an option, as in 2*3.
  for normalize_one in (answers.words, _without_typesetting):
    texts = _normalize_all(tuple(options), normalize_one)
    index = _find(normalize_one(text), texts)
    if index is not None:
      return string.ascii_uppercase[index]
  return None


@functools.lru_cache(maxsize=64)  # up to 26 orders, in two forms
def _normalize_all(
  options: tuple[str, ...], normalize_one: Callable[[str], str | None]
) -> tuple[str | None, ...]:
  return tuple(map(normalize_one, options))


def _without_typesetting(text: str) -> str | None:
  """Returns the words of a text without LaTeX, Markdown and HTML."""
  before = None
  while text != before:
    before, text = text, _LATEX.sub(r'\1', text)
  return answers.words(_TYPESETTING.sub(' ', text))


def _find(answer: str | None, texts: Sequence[str | None]) -> int | None:
  """Returns the index of the option that a text names, None if unclear."""
  num_letters = len(texts) or len(string.ascii_lowercase)
  for _ in range(_MAX_LAYERS):
    if answer is None:
      return None
    # Texts are checked before letters: an option's text may be a letter.
    if texts.count(answer) == 1:
      return texts.index(answer)
    if match := _LABEL.fullmatch(answer):
      index = string.ascii_lowercase.index(match['letter'])
      return index if index < num_letters else None
    for pattern in (_LABEL_FIRST, _LABEL_LAST):
      match = pattern.fullmatch(answer)
      if match and (index := _with_its_text(match, texts)) is not None:
        return index
    shorter = _peel(answer)
    if shorter == answer:
      return None
    answer = shorter
  return None


def _with_its_text(match: re.Match, texts: Sequence[str | None]) -> int | None:
  """Returns the letter's index if the rest is the text of its option."""
  index = string.ascii_lowercase.index(match['letter'])
  rest = match['rest'].lstrip(_CLOSING)
  without_dash = rest.lstrip(_CLOSING + _DASHES)
  without_particle = re.sub(r'\A[のは]', '', without_dash)
  for candidate in (rest, without_dash, without_particle):
    for text in (answers.words(candidate), answers.short_text(candidate)):
      if text is not None and text in texts:
        return index if index < len(texts) and texts[index] == text else None
  return None


def _peel(answer: str) -> str | None:
  """Removes one layer around a letter or around an option's text."""
  shorter = markup.peel(answer)
  for pattern, inside in (
    (_INTRODUCTION, ''),
    (_ENDING, ''),
    (_WRAPPED, r'\1'),
  ):
    if shorter == answer:
      shorter = pattern.sub(inside, answer)
  return answers.words(shorter)
