"""Rules by which byte-level tokenizers cut a text, by their names in GGUF."""

import functools
from typing import NamedTuple

import tokenizers
from absl import logging
from tokenizers import pre_tokenizers


class Rule(NamedTuple):
  """The treatment of a text before its pieces are merged.

  Attributes:
    cut: cuts text into words and writes their bytes in GPT-2's letters.
    composes: if characters are composed first (NFC).
    whole_words: if a word that is a token is not merged at all.
    bos: if a text begins with BOS where the file says nothing.
  """

  cut: pre_tokenizers.PreTokenizer
  composes: bool = False
  whole_words: bool = False
  bos: bool = False


def find(name: str | None, architecture: str | None, source: str) -> Rule:
  """Finds the rule that a file names, or the rule of its architecture.

  An architecture has a rule of its own if all its models are cut alike. The
  models of 'llama' are not: Llama 3, SmolLM and Mistral differ.

  Args:
    name: what the file says, None if it says nothing.
    architecture: of the model.
    source: name of the file, for warnings.

  Raises:
    ValueError: if the rule is not known, or no rule is named and the
      architecture has none of its own.
  """
  rules = _rules()
  if name in (None, 'default') and architecture in _OWN_RULES:
    own = _OWN_RULES[architecture]
    logging.warning(
      '%s: tokenizer.ggml.pre=%r does not say how a text is cut: taking %r, '
      'the rule of architecture %r.',
      *(source, name, own, architecture),
    )
    return rules[own]
  if name is None:
    raise ValueError(
      'tokenizer.ggml.pre: missing, and models of architecture '
      f'{architecture!r} are cut in different ways: expected one of '
      f'{", ".join(rules)}'
    )
  if name not in rules:
    raise ValueError(
      f'tokenizer.ggml.pre={name!r}: expected one of {", ".join(rules)}'
    )
  if name == 'default':
    logging.warning(
      "%s: tokenizer.ggml.pre='default': a text is cut as by GPT-2. If that "
      'is not how the model was trained, it sees other tokens.',
      source,
    )
  return rules[name]


# Architecture -> the rule by which all its models of byte-level BPE are cut.
_OWN_RULES = {
  'gpt2': 'gpt-2',
  'qwen2': 'qwen2',
  'qwen2moe': 'qwen2',
  'qwen3': 'qwen2',
  'qwen3moe': 'qwen2',
}


@functools.cache
def _rules() -> dict[str, Rule]:
  """`tokenizer.ggml.pre` -> the rule of the family's own tokenizer.

  The names, BOS and whole words are those of llama.cpp (`llama-vocab.cpp`).
  llama.cpp leaves out NFC, which the Hugging Face tokenizers have.
  """
  gpt2 = Rule(pre_tokenizers.ByteLevel(add_prefix_space=False))
  digits = pre_tokenizers.Digits(individual_digits=True)
  smollm = Rule(pre_tokenizers.Sequence([digits, gpt2.cut]))
  llama3 = Rule(_cut(_words(_L, numbers=_UP_TO_3)), whole_words=True, bos=True)
  # Other models took over Llama 3's words, but not the rest.
  dbrx = Rule(llama3.cut)
  qwen2 = Rule(_cut(_words(_L, numbers=_ONE)), composes=True)
  qwen35 = Rule(_cut(_words(_LM, numbers=_ONE)), composes=True)
  tekken = Rule(
    _cut(_cased_words(numbers=_ONE, contraction='')),
    whole_words=True,
    bos=True,
  )
  gpt4o = Rule(
    _cut(_cased_words(numbers=_UP_TO_3, contraction=f'{_CONTRACTION}?'))
  )
  return {
    'default': gpt2,
    'gpt-2': gpt2,
    'smollm': smollm,
    'llama-bpe': llama3,
    'llama3': llama3,
    'llama-v3': llama3,
    'dbrx': dbrx,
    'smaug-bpe': dbrx,
    'qwen2': qwen2,
    'deepseek-r1-qwen': qwen2,
    'qwen35': qwen35,
    'tekken': tekken,
    'gpt-4o': gpt4o,
  }


_L, _LM = r'\p{L}', r'\p{L}\p{M}'  # letters, and with the marks on them
_ONE, _UP_TO_3 = r'\p{N}', r'\p{N}{1,3}'
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r'\s*[\r\n]+|\s+(?!\S)|\s+'


def _words(letters: str, *, numbers: str) -> str:
  """The pattern of cl100k and its successors."""
  letter = letters if letters == _L else f'[{letters}]'
  return (
    rf'{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{numbers}'
    rf'| ?[^\s{letters}\p{{N}}]+[\r\n]*|{_SPACES}'
  )


def _cased_words(*, numbers: str, contraction: str) -> str:
  """The pattern of o200k, where a capital begins a word."""
  upper = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]'
  lower = r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
  before = r'[^\r\n\p{L}\p{N}]?'
  return (
    f'{before}{upper}*{lower}+{contraction}'
    f'|{before}{upper}+{lower}*{contraction}'
    rf'|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}'
  )


def _cut(pattern: str) -> pre_tokenizers.PreTokenizer:
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(pattern), behavior='isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
