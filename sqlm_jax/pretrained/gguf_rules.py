"""Rules by which byte-level tokenizers split text, by their names in GGUF."""

import functools
from typing import NamedTuple

import tokenizers
from absl import logging
from tokenizers import pre_tokenizers


class Rule(NamedTuple):
  """A rule that prepares text before its pieces are merged.

  Attributes:
    cut: splits text into words and writes their bytes in GPT-2's letters.
    composes: True if characters are composed first (NFC).
    whole_words: True if a word that is itself a token bypasses the merges.
    bos: True if text begins with BOS unless the file says otherwise.
  """

  cut: pre_tokenizers.PreTokenizer
  composes: bool = False
  whole_words: bool = False
  bos: bool = False


def find(name: str | None, architecture: str | None, source: str) -> Rule:
  """Finds the rule that a file names, or the rule of its architecture.

  An architecture has its own rule if all its models share a rule. The models of
  'llama' do not: Llama 3, SmolLM and Mistral differ.

  Args:
    name: the rule that the file names, None if it names no rule.
    architecture: the model's architecture.
    source: name of the file, for warnings.

  Raises:
    ValueError: if the rule is unknown, or the file names no rule and the
      architecture does not have its own.
  """
  rules = _rules()
  if name in (None, 'default') and architecture in _OWN_RULES:
    default = _OWN_RULES[architecture]
    logging.warning(
      '%s: tokenizer.ggml.pre=%r does not say how text is split. Using %r, '
      'the rule of architecture %r.',
      *(source, name, default, architecture),
    )
    return rules[default]
  if name is None:
    raise ValueError(
      'tokenizer.ggml.pre: missing, and models of architecture '
      f'{architecture!r} have different rules. Expected one of '
      f'{", ".join(rules)}'
    )
  if name not in rules:
    raise ValueError(
      f'tokenizer.ggml.pre={name!r}: expected one of {", ".join(rules)}'
    )
  if name == 'default':
    logging.warning(
      "%s: tokenizer.ggml.pre='default': text is split by GPT-2's rule. If the "
      'model was trained with another rule, it now sees other tokens.',
      source,
    )
  return rules[name]


# Architecture -> the rule that all its models with byte-level BPE share.
_OWN_RULES = {
  'gpt2': 'gpt-2',
  'qwen2': 'qwen2',
  'qwen2moe': 'qwen2',
  'qwen3': 'qwen2',
  'qwen3moe': 'qwen2',
}


@functools.cache
def _rules() -> dict[str, Rule]:
  """Returns the rules by the names that `tokenizer.ggml.pre` gives them.

  The names, `bos` and `whole_words` come from llama.cpp (`llama-vocab.cpp`).
  `composes` comes from the Hugging Face tokenizers; llama.cpp ignores NFC.
  """
  gpt2 = Rule(pre_tokenizers.ByteLevel(add_prefix_space=False))
  digits = pre_tokenizers.Digits(individual_digits=True)
  smollm = Rule(pre_tokenizers.Sequence([digits, gpt2.cut]))
  llama3 = Rule(_cut(_words(_L, numbers=_UP_TO_3)), whole_words=True, bos=True)
  # Other models split words as Llama 3 does, but do not share its other rules.
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


_L, _LM = r'\p{L}', r'\p{L}\p{M}'  # letters, letters and their marks
_ONE, _UP_TO_3 = r'\p{N}', r'\p{N}{1,3}'
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r'\s*[\r\n]+|\s+(?!\S)|\s+'


def _words(letters: str, *, numbers: str) -> str:
  """Returns the pattern of cl100k and its successors."""
  letter = letters if letters == _L else f'[{letters}]'
  return (
    rf'{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{numbers}'
    rf'| ?[^\s{letters}\p{{N}}]+[\r\n]*|{_SPACES}'
  )


def _cased_words(*, numbers: str, contraction: str) -> str:
  """Returns the pattern of o200k, in which a capital begins a word."""
  upper = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]'
  lower = r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
  before = r'[^\r\n\p{L}\p{N}]?'
  return (
    f'{before}{upper}*{lower}+{contraction}'
    f'|{before}{upper}+{lower}*{contraction}'
    rf'|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}'
  )


def _cut(pattern: str) -> pre_tokenizers.PreTokenizer:
  """Splits text by a pattern, then writes bytes in GPT-2's letters."""
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(pattern), behavior='isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
