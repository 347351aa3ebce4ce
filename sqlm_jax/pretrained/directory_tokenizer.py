"""The tokenizer of a Hugging Face directory.

tokenizer.json alone determines how text is split into tokens, regardless of the
class that tokenizer_config.json names and of all other files. (transformers
rebuilds the rules of some classes, and its rules may differ from those in the
file.) The other files add names of tokens and the chat template. A directory
without tokenizer.json holds tables, which `gguf_tokenizer` reads; they are
accepted only if they determine the rules unambiguously.
"""

import importlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from absl import logging

from sqlm_jax.pretrained import (
  gguf_tokenizer,
  model_files,
  stored_tokenizer,
  trial,
)

_MAX_TOKENIZER_BYTES = 2**28  # Gemma 3's tokenizer.json has 33 MB
_SENTENCEPIECE_FILE = 'tokenizer.model'
_VOCABULARY_FILE, _MERGES_FILE = 'vocab.json', 'merges.txt'
_TEMPLATE_FILE = 'chat_template.jinja'
_ADDED_FILE, _NAMED_FILE = 'added_tokens.json', 'special_tokens_map.json'
_FILES = (
  stored_tokenizer.TOKENIZER_FILE,
  _SENTENCEPIECE_FILE,
  _VOCABULARY_FILE,
)
# Classes with the same rules for every model that names them. GPT2Tokenizer is
# not listed: the rules of its models differ, and only tokenizer.json has them.
_RULES = {'Qwen2Tokenizer': 'qwen2', 'Qwen2TokenizerFast': 'qwen2'}
_KEPT = ('model_max_length', 'padding_side', 'truncation_side')
_BPE = 2  # SentencePiece's `model_type` for BPE


def read(
  directory: pathlib.Path, *, trusted: bool = False
) -> stored_tokenizer.StoredTokenizer:
  """Reads the tokenizer of a directory.

  Args:
    directory: a directory with the files of Hugging Face.
    trusted: True if tokenizer.json need not be tried in a separate process.

  Raises:
    ValueError: if a file is missing or damaged, or the files do not say how
      text is split. The message names the file.
  """
  present = [
    name for name in _FILES if model_files.is_present(directory / name)
  ]
  if not present:
    raise ValueError(
      f'{directory}: expected a tokenizer, one of {", ".join(_FILES)}'
    )
  model_files.size_of(directory / present[0], _MAX_TOKENIZER_BYTES)
  path = directory / stored_tokenizer.CONFIG_FILE
  config = model_files.read_optional_json(path)
  named = _named(directory, config)
  try:
    if present[0] == stored_tokenizer.TOKENIZER_FILE:
      backend = _load(directory / present[0], trusted=trusted)
    else:
      fields = (
        _sentencepiece_fields(directory, config)
        if present[0] == _SENTENCEPIECE_FILE
        else _vocabulary_fields(directory, config)
      )
      built, _ = gguf_tokenizer.build(
        fields.get,
        source=str(directory / present[0]),
      )
      backend, named = built.backend, {**built.named, **named}
  except ValueError as error:
    raise ValueError(
      f'{directory}: cannot read {present[0]}: {error}'
    ) from None
  named = _known(directory, config, named=named, backend=backend)
  return stored_tokenizer.StoredTokenizer(
    backend,
    named,
    _templates(directory, config),
    {key: config[key] for key in _KEPT if key in config},
  )


def template_file(directory: pathlib.Path) -> str:
  """Returns the chat template's file and key, for error messages."""
  if model_files.is_present(directory / _TEMPLATE_FILE):
    return str(directory / _TEMPLATE_FILE)
  return f'{directory / stored_tokenizer.CONFIG_FILE}: chat_template'


def _load(path: pathlib.Path, *, trusted: bool) -> tokenizers.Tokenizer:
  if not trusted:
    trial.try_tokenizer(path)
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises nothing more precise
    raise ValueError(str(error)) from None
  if getattr(backend.model, 'dropout', None):
    logging.warning(
      '%s: model.dropout=%s splits the same text differently each time. It is '
      'meant for training, and is switched off.',
      *(path, backend.model.dropout),
    )
    backend.model.dropout = None
  return backend


def _named(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, str]:
  """Returns the named tokens by role, from the two files that name them."""
  path = directory / stored_tokenizer.CONFIG_FILE
  named = dict(_roles(path, config))
  path = directory / _NAMED_FILE
  older = dict(_roles(path, model_files.read_optional_json(path)))
  differing = [
    f'{role}={older[role]!r}, not {named[role]!r}'
    for role in sorted(older.keys() & named.keys())
    if older[role] != named[role]
  ]
  if differing:
    logging.warning(
      '%s: %s differs (%s). Using tokenizer_config.json.',
      *(directory, _NAMED_FILE, '; '.join(differing)),
    )
  return older | named


def _roles(
  path: pathlib.Path, values: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
  """Yields the role and the text of each token that a file names."""
  for key, value in values.items():
    if key.endswith('_token') and isinstance(value, str | dict):
      yield key, _content(value, f'{path}: {key}')


def _content(value: Any, key: str) -> str:
  """Returns the text of a token, which may be stored with its flags."""
  text = value.get('content') if isinstance(value, dict) else value
  if not isinstance(text, str):
    raise ValueError(f'{key}={value!r}: expected a token')
  return text


def _known(
  directory: pathlib.Path,
  config: Mapping[str, Any],
  *,
  named: Mapping[str, str],
  backend: tokenizers.Tokenizer,
) -> dict[str, str]:
  """Returns the named tokens that the tokenizer has.

  Warns of tokens that other files name and the tokenizer lacks, or has under
  another id.

  Raises:
    ValueError: if the tokenizer lacks the token that ends a text.
  """
  eos = named.get('eos_token')
  if eos is not None and backend.token_to_id(eos) is None:
    name = stored_tokenizer.CONFIG_FILE
    if not config.get('eos_token'):
      name = _NAMED_FILE
    raise ValueError(
      f'{directory / name}: eos_token={eos!r}: expected a token of the '
      'tokenizer'
    )
  stated = [(content, None) for content in named.values()]
  stated += [(text, i) for i, (text, _) in _added(directory, config).items()]
  wrong = {}
  for content, i in stated:
    actual = backend.token_to_id(content)
    if actual is None or i not in (None, actual):
      expected = 'a token' if i is None else f'id {i}'
      wrong[content] = f'{content!r} is not {expected} but ' + (
        'text' if actual is None else f'id {actual}'
      )
  if wrong:
    logging.warning(
      '%s: tokenizer_config.json, %s or %s contradicts the tokenizer and is '
      'ignored: %s.',
      *(directory, _ADDED_FILE, _NAMED_FILE, '; '.join([*wrong.values()][:5])),
    )
  return {
    role: content
    for role, content in named.items()
    if backend.token_to_id(content) is not None
  }


def _added(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[int, tuple[str, bool]]:
  """Returns the added tokens: id -> text, and True if it is special."""
  path = directory / stored_tokenizer.CONFIG_FILE
  listed = config.get('added_tokens_decoder') or {}
  special = _special(path, config)
  try:
    added = {
      int(i): (_content(token, str(path)), bool(token.get('special')))
      for i, token in listed.items()
    }
  except (AttributeError, ValueError):
    raise ValueError(
      f'{path}: added_tokens_decoder={listed!r:.200}: expected tokens by id'
    ) from None
  path = directory / _ADDED_FILE
  for content, i in model_files.read_optional_json(path).items():
    if type(i) is not int:
      raise ValueError(f'{path}: {content!r}={i!r}: expected an id')
    added.setdefault(i, (content, False))
  return {
    i: (content, is_special or content in special)
    for i, (content, is_special) in sorted(added.items())
  }


def _special(path: pathlib.Path, config: Mapping[str, Any]) -> set[str]:
  """Returns the texts that tokenizer_config.json calls special."""
  special = {
    text
    for role, text in _roles(path, config)
    if role in ('bos_token', 'eos_token')
  }
  for key in ('additional_special_tokens', 'extra_special_tokens'):
    extra = config.get(key) or ()
    if not isinstance(extra, list | tuple | dict):
      raise ValueError(f'{path}: {key}={extra!r:.200}: expected tokens')
    extra = extra.values() if isinstance(extra, dict) else extra
    special |= {_content(token, f'{path}: {key}') for token in extra}
  return special


def _templates(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, str]:
  """Returns chat templates by name.

  A chat_template.jinja comes before the templates of tokenizer_config.json, as
  in transformers.
  """
  default = stored_tokenizer.DEFAULT_TEMPLATE
  path = directory / _TEMPLATE_FILE
  if model_files.is_present(path):
    return {default: model_files.read_utf8(path)}
  stated = config.get('chat_template')
  if not stated:
    return {}
  if isinstance(stated, str):
    return {default: stated}
  try:
    templates = {entry['name']: entry['template'] for entry in stated}
  except (KeyError, TypeError):
    templates = None
  if templates is None or not all(
    isinstance(x, str) for x in (*templates, *templates.values())
  ):
    raise ValueError(
      f'{template_file(directory)}: expected a template, or a list of '
      f'templates with their names, found {stated!r:.200}'
    )
  return templates


def _sentencepiece_fields(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads tokenizer.model as the fields of a GGUF file."""
  content = model_files.read_bytes(directory / _SENTENCEPIECE_FILE)
  try:
    proto = _sentencepiece_proto()
    proto.ParseFromString(content)
  except ImportError as error:
    raise ValueError(f'needs a library that is missing: {error}') from None
  except Exception as error:  # protobuf's own class is not public
    raise ValueError(f'expected a SentencePiece model: {error}') from None
  if not proto.pieces:
    raise ValueError('expected a SentencePiece model with pieces, found none')
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  prefix = normalizer.add_dummy_prefix
  for key, value, expected in (
    ('model_type', trainer.model_type, _BPE),
    ('byte_fallback', trainer.byte_fallback, True),
    ('treat_whitespace_as_suffix', trainer.treat_whitespace_as_suffix, False),
    ('escape_whitespaces', normalizer.escape_whitespaces, True),
    ('precompiled_charsmap', bool(normalizer.precompiled_charsmap), False),
    # Classes put no space before a text, or only before its first part.
    ('legacy', config.get('legacy') is not False or not prefix, True),
    ('add_prefix_space', config.get('add_prefix_space', prefix), prefix),
  ):
    if value != expected:
      raise ValueError(f'{key}={value!r}: expected {expected!r}. {_SAVE_JSON}')
  ids = {
    'bos': trainer.bos_id,
    'eos': trainer.eos_id,
    'unknown': trainer.unk_id,
    'padding': trainer.pad_id,
  }
  tokens = [piece.piece for piece in proto.pieces]
  types = [piece.type for piece in proto.pieces]
  scores = [piece.score for piece in proto.pieces]
  _add_tokens(directory, config, tokens=tokens, types=types)
  return {
    'ggml.model': 'llama',
    'ggml.tokens': tokens,
    'ggml.token_type': types,
    'ggml.scores': scores + [0.0] * (len(tokens) - len(scores)),
    'ggml.add_space_prefix': prefix,
    'ggml.remove_extra_whitespaces': normalizer.remove_extra_whitespaces,
    'ggml.add_bos_token': config.get('add_bos_token', trainer.bos_id >= 0),
    **{f'ggml.{key}_token_id': i if i >= 0 else None for key, i in ids.items()},
  }


def _sentencepiece_proto() -> Any:
  """Returns an empty model, from whichever library defines the format."""
  # `from transformers import convert_slow_tokenizer` would import a function.
  module = importlib.import_module('transformers.convert_slow_tokenizer')
  return module.import_protobuf().ModelProto()


def _vocabulary_fields(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads vocab.json and merges.txt as the fields of a GGUF file."""
  kind = config.get('tokenizer_class')
  if kind not in _RULES:
    raise ValueError(
      f'a vocabulary alone does not determine how text is split. '
      f'tokenizer_class={kind!r}: expected one of {", ".join(_RULES)}. '
      f'{_SAVE_JSON}'
    )
  vocabulary = model_files.read_json(directory / _VOCABULARY_FILE)
  ids = list(vocabulary.values())
  if not all(type(i) is int for i in ids) or sorted(ids) != [*range(len(ids))]:
    raise ValueError('expected tokens with the ids 0, 1, 2, …')
  tokens = sorted(vocabulary, key=vocabulary.__getitem__)
  path = directory / _MERGES_FILE
  if not model_files.is_present(path):
    raise ValueError(f'expected {_MERGES_FILE} in the same directory')
  lines = model_files.read_utf8(path).split('\n')
  if lines[0].startswith('#version'):
    del lines[0]
  types = [gguf_tokenizer.NORMAL] * len(tokens)
  _add_tokens(directory, config, tokens=tokens, types=types)
  return {
    'ggml.model': 'gpt2',
    'ggml.pre': _RULES[kind],
    'ggml.tokens': tokens,
    'ggml.token_type': types,
    'ggml.merges': [line for line in lines if line],
    'ggml.add_bos_token': False,
  }


_SAVE_JSON = (
  'Save the tokenizer as tokenizer.json first, with the library that it was '
  'trained with'
)


def _add_tokens(
  directory: pathlib.Path,
  config: Mapping[str, Any],
  *,
  tokens: list[str],
  types: list[int],
) -> None:
  """Appends the added tokens, and marks the special tokens as such."""
  special = _special(directory / stored_tokenizer.CONFIG_FILE, config)
  for i, (content, is_special) in _added(directory, config).items():
    if is_special:
      special.add(content)
    if i == len(tokens):
      tokens.append(content)
      types.append(gguf_tokenizer.USER_DEFINED)
    elif i > len(tokens) or tokens[i] != content:
      expected = repr(tokens[i]) if i < len(tokens) else 'no gap'
      raise ValueError(
        f'added token {content!r} with id {i}: expected {expected} at this id'
      )
  for i, content in enumerate(tokens):
    if content in special and types[i] != gguf_tokenizer.UNKNOWN:
      types[i] = gguf_tokenizer.CONTROL
