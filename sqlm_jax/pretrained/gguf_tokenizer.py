"""The tokenizer that a GGUF file carries.

A file holds tables: tokens, their types, and merges or scores. The rules are
given by name only: `tokenizer.ggml.model` names the kind of tokenizer, and
`tokenizer.ggml.pre` names the rule by which text is split into words (see
`gguf_rules`). transformers also reads such files but ignores some rules: Llama
3's for whole words, Qwen's for composed characters, and SentencePiece's for a
space before the text.

Directories that have no tokenizer.json hold the same tables in other files, so
`directory_tokenizer` also builds its tokenizers with this module.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import tokenizers
from tokenizers import decoders, models, normalizers, processors
from transformers import tokenization_utils_base

from sqlm_jax.pretrained import gguf_file, gguf_rules, stored_tokenizer

# tokenizer.ggml.token_type. Type 5 marks unused tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

# `tokenizer.ggml.<key>_token_id` -> the name in Hugging Face's files. GGUF
# misspells the separator.
_NAMED = {
  'bos': 'bos_token',
  'eos': 'eos_token',
  'unknown': 'unk_token',
  'seperator': 'sep_token',
  'padding': 'pad_token',
  'cls': 'cls_token',
  'mask': 'mask_token',
}
_ENDS = ('eos', 'eot', 'eom')


class GetField(Protocol):
  """Looks up a field by its name without `tokenizer.`."""

  def __call__(self, name: str, default: Any = None, /) -> Any: ...


class _Tables(NamedTuple):
  """Tables that both kinds of tokenizer have; `types[i]` is token i's type."""

  tokens: Sequence[str]
  types: Sequence[int]

  @property
  def ids(self) -> dict[str, int]:
    return {token: i for i, token in enumerate(self.tokens)}


def read(
  path: pathlib.Path,
) -> tuple[stored_tokenizer.StoredTokenizer, tuple[int, ...]]:
  """Reads the tokenizer, and the ids of tokens that end a turn.

  Raises:
    ValueError: if the kind of tokenizer is unknown, or its tables do not match
      each other.
  """
  fields = gguf_file.open_file(path).fields
  architecture = fields.get('general.architecture')

  def get(name: str, default: Any = None) -> Any:
    field = fields.get(f'tokenizer.{name}')
    return default if field is None else field.contents()

  try:
    name = None if architecture is None else architecture.contents()
    return build(get, name, source=str(path))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def build(
  get: GetField, architecture: str | None = None, *, source: str
) -> tuple[stored_tokenizer.StoredTokenizer, tuple[int, ...]]:
  """Builds a tokenizer from tables, and the ids of tokens that end a turn.

  Args:
    get: looks up a field by its name without `tokenizer.`.
    architecture: the model's architecture, for a file that does not name its
      rule.
    source: name of the file, for warnings.

  Raises:
    ValueError: under the conditions of `read`. The message does not name the
      file.
  """
  kind = get('ggml.model')
  if kind == 'gpt2':
    rule = gguf_rules.find(get('ggml.pre'), architecture, source)
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
  # llama.cpp assumes these ids for a SentencePiece file that states no ids.
  assumed = {'bos': 1, 'eos': 2} if kind == 'llama' else {}
  ids = {
    name: _token_id(
      get, name, default=assumed.get(name), num_tokens=len(tables.tokens)
    )
    for name in (*_NAMED, *_ENDS)
  }
  if get('ggml.add_bos_token', add_bos):
    backend.post_processor = _bos_first(backend, ids['bos'])
  named = {
    name: token
    for key, name in _NAMED.items()
    if (i := ids[key]) is not None
    and (token := backend.id_to_token(i)) is not None
  }
  template = get('chat_template')
  stored = stored_tokenizer.StoredTokenizer(
    backend,
    named=named,
    templates={stored_tokenizer.DEFAULT_TEMPLATE: template} if template else {},
  )
  ends = (ids[name] for name in _ENDS)
  return stored, tuple(i for i in ends if i is not None)


def _bos_first(
  backend: tokenizers.Tokenizer, bos: int | None
) -> processors.TemplateProcessing:
  """Returns a post-processor that puts BOS before a text."""
  if bos is None:
    raise ValueError(
      'tokenizer.ggml.bos_token_id: missing, but every text begins with it'
    )
  token = backend.id_to_token(bos)
  # `single` is a list instead of a string because a token may contain a space.
  return processors.TemplateProcessing(
    single=[token, '$A'],
    pair=[token, '$A', f'{token}:1', '$B:1'],
    special_tokens=[(token, bos)],
  )


def _tables(get: GetField) -> _Tables:
  tokens = get('ggml.tokens')
  if tokens is None:
    raise ValueError('tokenizer.ggml.tokens: missing')
  types = get('ggml.token_type', [NORMAL] * len(tokens))
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
    raise ValueError(f'tokenizer.ggml.tokens: {repeated!r} appears twice')


def _token_id(
  get: GetField, name: str, *, default: int | None, num_tokens: int
) -> int | None:
  key = f'ggml.{name}_token_id'
  i = get(key, default)
  if i is None or i == gguf_file.NO_TOKEN:
    return None
  if name == 'padding' and i == num_tokens:  # added without a row in the model
    return None
  if not 0 <= i < num_tokens:
    raise ValueError(f'tokenizer.{key}={i}: expected less than {num_tokens}')
  return int(i)


def _byte_level(
  get: GetField, tables: _Tables, rule: gguf_rules.Rule
) -> tokenizers.Tokenizer:
  """Builds byte-level BPE; bytes are written in GPT-2's letters."""
  vocabulary = tables.ids
  merges = get('ggml.merges')
  if merges is None:
    raise ValueError('tokenizer.ggml.merges: missing')
  merges = [tuple(merge.split(' ')) for merge in merges]
  for merge in merges:
    if len(merge) != 2 or not {*merge, ''.join(merge)} <= vocabulary.keys():
      raise ValueError(
        f'tokenizer.ggml.merges: {" ".join(merge)!r}: expected two '
        'tokens whose concatenation is a token'
      )
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.whole_words)
  )
  if rule.composes:
    backend.normalizer = normalizers.NFC()
  backend.pre_tokenizer = rule.cut
  backend.decoder = decoders.ByteLevel()
  return _with_added(backend, tables)


def _sentencepiece(get: GetField, tables: _Tables) -> tokenizers.Tokenizer:
  """Builds BPE on characters, with ▁ for a space and bytes as a fallback."""
  key = 'ggml.remove_extra_whitespaces'
  if get(key):
    raise ValueError(f'tokenizer.{key}=True: expected False')
  scores = get('ggml.scores')
  if scores is None or len(scores) != len(tables.tokens):
    raise ValueError(
      f'tokenizer.ggml.scores: {len(scores or ())} scores for '
      f'{len(tables.tokens)} tokens'
    )
  # User-defined tokens are matched against raw text, in which a space is not
  # ▁. Some files nevertheless store them with ▁.
  tables = tables._replace(
    tokens=[
      token.replace('▁', ' ') if type_ == USER_DEFINED else token
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
          if type_ == UNKNOWN
        ),
        None,
      ),
    )
  )
  normalize = [normalizers.Replace(' ', '▁')]
  decode = [
    decoders.Replace('▁', ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if get('ggml.add_space_prefix', True):
    # `Metaspace` would not add a space before a text that begins with a space.
    normalize.insert(0, normalizers.Prepend('▁'))
    decode.append(decoders.Strip(content=' ', left=1))
  backend.normalizer = normalizers.Sequence(normalize)
  backend.decoder = decoders.Sequence(decode)
  return _with_added(backend, tables)


def _merges(tables: _Tables, scores: Sequence[float]) -> list[tuple[str, str]]:
  """Returns every split of a normal token into two, highest scores first.

  Other tokens are never merged: user-defined tokens are matched before the
  merges, and plain text never becomes a control token.
  """
  normal = [i for i, type_ in enumerate(tables.types) if type_ == NORMAL]
  return tokenization_utils_base.generate_merges(
    {tables.tokens[i]: i for i in normal},
    {tables.tokens[i]: scores[i] for i in normal},
  )


def _with_added(
  backend: tokenizers.Tokenizer, tables: _Tables
) -> tokenizers.Tokenizer:
  """Adds the tokens that are matched before a text is split into words."""
  backend.add_tokens(
    [
      tokenizers.AddedToken(
        token, normalized=False, special=type_ != USER_DEFINED
      )
      for token, type_ in zip(tables.tokens, tables.types, strict=True)
      if type_ in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
  )
  return backend
