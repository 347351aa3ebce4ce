"""Removes introductions and typesetting around an answer.

'The answer is 5.', **5**, \\boxed{5}, "5" and 答えは5です。 all become 5. Only
unambiguous wordings are removed. Any other text is left unchanged.
"""

import re

from sqlm_jax.grading import symbols
from sqlm_jax.text import normalize

MAX_LENGTH = 1000  # characters; a longer text is left unchanged

_ADJECTIVES = r'(?:(?:correct|final|right|best|most|likely|only) )*'
# The end of a word in a Latin script. A Japanese word may follow immediately.
_WORD_END = r'(?![a-z\u00c0-\u024f])'
_IS = rf'(?: (?:is|would be|must be|should be){_WORD_END}(?: ?:)?| ?[:=])'
_JAPANESE = (
  r'(?:(?:正しい|最終的な|最終|最も適切な|適切な|私の)の?)*'
  r'(?:答え?|こたえ|解答|回答|正解|正答|結論)'
)
_CHINESE = (
  r'(?:(?:所以|因此|故|,)+)?(?:(?:正确|正確|最终|最終|最佳|我)的?)*'
  r'(?:答案|解答|回答)'
)
_KOREAN = r'(?:(?:최종|정확한|올바른) ?)*(?:정답|답변|답)'
_ROMANCE = (
  r'(?:(?:la|a) )?(?:bonne |meilleure |mejor |melhor )?'
  r'(?:réponse|respuesta|risposta|resposta|solución|solution)'
  r'(?: (?:correcte|correcta|corretta|correta|finale?|giusta|certa|exacte))?'
)
_GERMAN = (
  r'(?:die )?(?:(?:richtige|korrekte|endgültige|beste) )*(?:antwort|lösung)'
)
# Patterns for texts that `normalize.plain` returns: punctuation is ASCII, and
# there are no spaces next to Japanese or Chinese characters.
_INTRODUCTIONS = (
  r'#{1,6} ',
  r'\[(?:answer|final answer|答え|解答|回答|正解|答案)\] ?:? ?',
  r'(?:(?:so|thus|hence|therefore|finally|then),? )?'
  r'(?:i (?:think|believe)(?: that)? )?(?:(?:the|my|our) )?'
  rf'{_ADJECTIVES}(?:answer|solution){_IS} ?',
  rf'{_GERMAN}(?: (?:ist|lautet){_WORD_END}(?: ?:)?| ?:) ?',
  rf'{_ROMANCE}(?: (?:est|es|è|é){_WORD_END}(?: ?:)?| ?:) ?',
  rf'{_JAPANESE}(?:は[,:]?|:|=) ?',
  rf'{_CHINESE}(?:应该|應該)?(?:是|为|為)?[:=] ?',
  rf'{_CHINESE}(?:应该|應該)?(?:是|为|為)',
  rf'{_KOREAN}(?:은|는| ?[:=]) ?',
)
# Matches repetitions, because a model may repeat an introduction endlessly.
_INTRODUCTION = re.compile(f'(?:{"|".join(_INTRODUCTIONS)})+', re.IGNORECASE)
# The end of a sentence that began with an introduction. Words may end in だ,
# except nouns that are written in kanji, katakana or digits.
_AFTER_INTRODUCTION = re.compile(
  r'(?:です|である|でしょう|(?:に|と)なります|(?:だ)?と思います'
  r'|(?<=[0-9A-Za-z\u30a1-\u30ff\u4e00-\u9fff)\]"%])だ'
  r'|입니다|이다|이에요|예요)[.!]?\Z'
)
_COPULA = re.compile(r'(?<=.)(?:です|であります|でございます)+[.!]?\Z')

_EMPHASIS = re.compile(
  r'(?<![A-Za-z0-9*\\])(\*{1,3})(?=[^\s*])([^*]+?)(?<=[^\s*])\1(?![A-Za-z0-9*])'
)
_BRACED = r'[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*'
LATEX_COMMAND = (
  r'\\(?:boxed|fbox|mbox|emph|underline|text[a-z]*|math[a-z]+|operatorname)'
)
_PHRASE = rf"(?:(?![\d_])[\w .'{normalize.UNSPACED}])+"
_BARE_NUMBER = r'[-+]?[\d./%]+'
# `normalize.plain` cannot be used for mathematics, in which line breaks
# separate statements.
_IN_MATHEMATICS = str.maketrans(
  {char: symbols.SIGNS[char] for char in '。｡、､：＝'}
)
_QUOTED = re.compile(r'\A[「『【〔](.*)[」』】〕]\s*\.?\Z', re.DOTALL)
_WRAPPERS = tuple(
  re.compile(rf'\s*{pattern}\s*\.?\s*', re.DOTALL)
  for pattern in (
    rf'{LATEX_COMMAND}\s*\{{({_BRACED})\}}',
    r'\$\$?([^$]+)\$\$?',
    r'\\\(((?:(?!\\[()]).)+)\\\)',
    r'\\\[((?:(?!\\[\[\]]).)+)\\\]',
    r'`{1,3}([^`]+)`{1,3}',
    r'"([^"]+)"',
    r"'([^']+)'",
    r'<(?:b|strong|em|answer)>([^<>]+)</(?:b|strong|em|answer)>',
    # Brackets around any other text may be part of the answer: [0, 1].
    rf'\(({_PHRASE}|{_BARE_NUMBER})\)',
    rf'\[({_PHRASE}|{_BARE_NUMBER})\]',
  )
)


def around_mathematics(text: str) -> str:
  """Removes introductions, Japanese punctuation and Japanese quotation marks.

  LaTeX and other typesetting are left to `plain_text.clean`.
  """
  text = text.translate(_IN_MATHEMATICS).strip()
  before = None
  while text != before and len(text) <= MAX_LENGTH:
    before = text
    text = _without_copula(without_introduction(_QUOTED.sub(r'\1', text)))
    text = text.strip()
  return text


def peel(text: str) -> str:
  """Removes one layer around an answer: typesetting or an introduction.

  Args:
    text: the output of `normalize.plain`.

  Returns:
    The shorter text, or the same text if there is nothing to remove.
  """
  for remove in (without_markup, without_introduction, _without_copula):
    shorter = remove(text)
    if shorter != text:
      return shorter
  return text


def without_introduction(text: str) -> str:
  """Removes introductions and the end of the sentence that they began."""
  match = _INTRODUCTION.match(text)
  if match is None:
    return text
  return _AFTER_INTRODUCTION.sub('', text[match.end() :])


def without_markup(text: str) -> str:
  """Removes emphasis, and one layer of LaTeX, quotes or brackets."""
  text = _EMPHASIS.sub(r'\2', text)
  for wrapper in _WRAPPERS:
    if match := wrapper.fullmatch(text):
      return match[1].strip()
  return text


def _without_copula(text: str) -> str:
  return _COPULA.sub('', text)
