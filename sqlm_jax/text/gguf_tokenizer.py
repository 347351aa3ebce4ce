"""The tokenizer that a GGUF file carries, as one of transformers.

A file holds tables: tokens, their types, and merges or scores. The rules that
read them are known by a name only, `tokenizer.ggml.model` for the kind and
`tokenizer.ggml.pre` for the cut into words; they stand here. transformers can
read such a file, too, but without what Llama 3 does to whole words, Qwen to
composed characters, and SentencePiece to spaces in front.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import tokenization_utils_base

from sqlm_jax import gguf_file

# tokenizer.ggml.token_type; 5 is an unused one.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4

# Looks a field up by the name behind `tokenizer.`: `(name, default=None)`.
_Get = Callable[..., Any]


class _Tables(NamedTuple):
  """What both kinds of tokenizer have: token i is of type i."""

  tokens: Sequence[str]
  types: Sequence[int]

  @property
  def ids(self) -> dict[str, int]:
    return {token: i for i, token in enumerate(self.tokens)}


class _Rule(NamedTuple):
  """How text is treated before it is merged.

  Attributes:
    cut: cuts text into words and writes their bytes in GPT-2's letters.
    composes: whether characters are composed first (NFC).
    whole_words: whether a word that is a token is not merged at all.
    bos: whether a text begins with BOS if the file says nothing.
  """

  cut: pre_tokenizers.PreTokenizer
  composes: bool = False
  whole_words: bool = False
  bos: bool = False


def read(
  path: pathlib.Path,
) -> tuple[transformers.PreTrainedTokenizerFast, tuple[int, ...]]:
  """Reads the tokenizer, and the ids of tokens that end a turn.

  Raises:
    ValueError: for a tokenizer of a kind that is not known here, or tables
      that do not fit.
  """
  fields = gguf_file.open_file(path).fields

  def get(name, default=None):
    field = fields.get(f'tokenizer.{name}')
    return default if field is None else field.contents()

  try:
    return _read(get)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _read(get: _Get):
  kind = get('ggml.model')
  if kind == 'gpt2':
    rule = _rule(get)
    tables = _tables(get)
    backend, add_bos = _byte_level(get, tables, rule), rule.bos
  elif kind == 'llama':
    tables = _tables(get)
    backend, add_bos = _sentencepiece(get, tables), True
  else:
    raise ValueError(
      f'tokenizer.ggml.model={kind!r}: expected gpt2 (byte-level BPE) or '
      'llama (SentencePiece)'
    )
  add_bos = get('ggml.add_bos_token', add_bos)
  # What llama.cpp assumes of a SentencePiece file.
  assumed = {'bos': 1, 'eos': 2} if kind == 'llama' else {}
  ids = {
    name: _token_id(get, name, assumed.get(name), len(tables.tokens))
    for name in ('bos', 'eos', 'eot', 'eom')
  }
  if add_bos and ids['bos'] is None:
    raise ValueError(
      'tokenizer.ggml.bos_token_id: missing, but a text begins with it'
    )
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    chat_template=get('chat_template'),
    clean_up_tokenization_spaces=False,
    add_bos_token=add_bos,
    **{
      f'{name}_token': backend.id_to_token(ids[name])
      for name in ('bos', 'eos')
      if ids[name] is not None
    },
  )
  stops = (ids[name] for name in ('eos', 'eot', 'eom'))
  return fast, tuple(i for i in stops if i is not None)


def _tables(get: _Get) -> _Tables:
  tokens = get('ggml.tokens')
  if tokens is None:
    raise ValueError('tokenizer.ggml.tokens: missing')
  types = get('ggml.token_type', [_NORMAL] * len(tokens))
  if len(types) != len(tokens):
    raise ValueError(
      f'tokenizer.ggml.token_type: {len(types)} types for {len(tokens)} tokens'
    )
  tables = _Tables(tokens, types)
  _refuse_repeated(tables)
  return tables


def _refuse_repeated(tables: _Tables) -> None:
  ids = tables.ids
  if len(ids) < len(tables.tokens):
    repeated = next(t for i, t in enumerate(tables.tokens) if ids[t] != i)
    raise ValueError(f'tokenizer.ggml.tokens: {repeated!r} stands there twice')


def _token_id(
  get: _Get, name: str, assumed: int | None, num_tokens: int
) -> int | None:
  key = f'ggml.{name}_token_id'
  i = get(key, assumed)
  if i is not None and i >= num_tokens:
    raise ValueError(f'tokenizer.{key}={i}: expected less than {num_tokens}')
  return i


def _byte_level(get: _Get, tables: _Tables, rule: _Rule):
  """BPE on bytes, which are written in GPT-2's letters."""
  vocabulary = tables.ids
  merges = get('ggml.merges')
  if merges is None:
    raise ValueError('tokenizer.ggml.merges: missing')
  merges = [tuple(merge.split(' ')) for merge in merges]
  for merge in merges:
    if len(merge) != 2 or not {*merge, ''.join(merge)} <= vocabulary.keys():
      raise ValueError(
        f'tokenizer.ggml.merges: {" ".join(merge)!r}: expected two tokens, '
        'and a third that they make'
      )
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.whole_words)
  )
  if rule.composes:
    backend.normalizer = normalizers.NFC()
  backend.pre_tokenizer = rule.cut
  backend.decoder = decoders.ByteLevel()
  return _with_added(backend, tables)


def _sentencepiece(get: _Get, tables: _Tables):
  """BPE on characters, ▁ for a space, bytes for what has no token."""
  key = 'ggml.remove_extra_whitespaces'
  if get(key):
    raise ValueError(f'tokenizer.{key}=True: expected False')
  scores = get('ggml.scores')
  if scores is None or len(scores) != len(tables.tokens):
    raise ValueError(
      f'tokenizer.ggml.scores: {len(scores or ())} scores for '
      f'{len(tables.tokens)} tokens'
    )
  # Those are looked for in the text as it is typed. Some files spell spaces
  # in them as SentencePiece does.
  tables = tables._replace(
    tokens=[
      token.replace('▁', ' ') if type_ == _USER_DEFINED else token
      for token, type_ in zip(tables.tokens, tables.types, strict=True)
    ]
  )
  _refuse_repeated(tables)
  backend = tokenizers.Tokenizer(
    models.BPE(
      vocab=tables.ids,
      merges=_merges(tables, scores),
      byte_fallback=True,
      fuse_unk=True,
      unk_token=next(
        (
          token
          for token, type_ in zip(tables.tokens, tables.types, strict=True)
          if type_ == _UNKNOWN
        ),
        None,
      ),
    )
  )
  has_prefix = get('ggml.add_space_prefix', True)
  # As a normalizer and not as `Metaspace`, which would put no space in front
  # of a text that begins with one.
  backend.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁')] * has_prefix + [normalizers.Replace(' ', '▁')]
  )
  backend.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      *[decoders.Strip(content=' ', left=1)] * has_prefix,
    ]
  )
  return _with_added(backend, tables)


def _merges(tables: _Tables, scores: Sequence[float]) -> list[tuple[str, str]]:
  """Every cut of a normal token in two, those of high scores first.

  Other tokens are never merged: users' own are found before, and typed text
  becomes no control token.
  """
  normal = [i for i, type_ in enumerate(tables.types) if type_ == _NORMAL]
  return tokenization_utils_base.generate_merges(
    {tables.tokens[i]: i for i in normal},
    {tables.tokens[i]: scores[i] for i in normal},
  )


def _with_added(
  backend: tokenizers.Tokenizer, tables: _Tables
) -> tokenizers.Tokenizer:
  """Adds the tokens that are found before a text is cut."""
  backend.add_tokens(
    [
      tokenizers.AddedToken(
        token, normalized=False, special=type_ != _USER_DEFINED
      )
      for token, type_ in zip(tables.tokens, tables.types, strict=True)
      if type_ in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
  )
  return backend


def _rule(get: _Get) -> _Rule:
  name = get('ggml.pre', 'default')
  rules = _rules()
  if name not in rules:
    raise ValueError(
      f'tokenizer.ggml.pre={name!r}: expected one of {", ".join(rules)}'
    )
  return rules[name]


@functools.cache
def _rules() -> dict[str, _Rule]:
  """`tokenizer.ggml.pre` -> the rule of the family's own tokenizer.

  llama.cpp names them (`llama-vocab.cpp`), and knows who begins with BOS and
  who takes whole words; NFC, which it leaves out, is of the Hugging Face
  tokenizers.
  """
  gpt2 = _Rule(pre_tokenizers.ByteLevel(add_prefix_space=False))
  digits = pre_tokenizers.Digits(individual_digits=True)
  smollm = _Rule(pre_tokenizers.Sequence([digits, gpt2.cut]))
  llama3 = _Rule(_cut(_words(_L, numbers=_UP_TO_3)), whole_words=True, bos=True)
  # Llama 3's words, by models that did not take over the rest.
  dbrx = _Rule(llama3.cut)
  qwen2 = _Rule(_cut(_words(_L, numbers=_ONE)), composes=True)
  qwen35 = _Rule(_cut(_words(_LM, numbers=_ONE)), composes=True)
  tekken = _Rule(
    _cut(_cased_words(numbers=_ONE, contraction='')),
    whole_words=True,
    bos=True,
  )
  gpt4o = _Rule(
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
  """The pattern of cl100k and of those that followed it."""
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
