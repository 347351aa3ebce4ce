"""Warns about prompts that end in a space.

Most tokenizers join a space with the word after it. A prompt that ends in a
space therefore ends in a token that a model has rarely seen before a word, and
small models then generate noise. If a tokenizer splits numbers into digits, a
space before a number is a separate token anyway.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from sqlm_jax.distributed import processes

_SPACES = ' \t\u00a0\u3000'
_SHOWN = 30  # number of characters of a prompt's end in the warning


def warn(
  templates: Mapping[str, Sequence[str]], encode: Callable[[str], list[int]]
) -> None:
  """Warns about each config key that has a template with a harmful end.

  Args:
    templates: the prompt templates of each config key.
    encode: `text -> token ids`.
  """
  for key, key_templates in templates.items():
    for template in key_templates:
      if is_harmful(template, encode) and processes.is_first():
        logging.warning(
          '%s=%s%r ends in a space. Most tokenizers join a space with the word '
          'after it, so such a prompt is unlike the training texts of a model, '
          'which may then generate noise. Remove the space.',
          key,
          '…' if len(template) > _SHOWN else '',
          template[-_SHOWN:],
        )


def is_harmful(template: str, encode: Callable[[str], list[int]]) -> bool:
  """Returns whether a template ends in a space that should be removed.

  The space is harmless if the template shows example responses, as
  'Question: 7 + 4' does for 'Question: ', and if none of them begins with a
  letter or shares a token with the space before it.
  """
  if not template.endswith(tuple(_SPACES)):
    return False
  shown = _shown_responses(template)
  before = encode(template)
  return not shown or any(
    text[0].isalpha() or encode(template + text)[: len(before)] != before
    for text in shown
  )


def _shown_responses(template: str) -> list[str]:
  """Returns the texts that follow earlier copies of a template's last words."""
  last_words = re.split(r'\n|\{\w+\}', template)[-1]
  if not last_words.strip():
    return []
  return re.findall(re.escape(last_words) + r'(\S.*)', template)
