"""The tokenizer of a Hugging Face directory.

tokenizer.json alone decides how a text is cut, whatever class
tokenizer_config.json names and whatever other files say: transformers builds
the rules of some classes anew, and they need not be the ones in the file. The
other files add names of tokens and the chat template. A directory without
tokenizer.json holds tables, which `gguf_tokenizer` reads; they are accepted
only if they leave no doubt about the rules.
"""

import importlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from absl import logging

from sqlm_jax.text import gguf_tokenizer, stored_tokenizer, trial

_SENTENCEPIECE_FILE = 'tokenizer.model'
_VOCABULARY_FILE, _MERGES_FILE = 'vocab.json', 'merges.txt'
_TEMPLATE_FILE = 'chat_template.jinja'
_ADDED_FILE, _NAMED_FILE = 'added_tokens.json', 'special_tokens_map.json'
_FILES = (
  stored_tokenizer.TOKENIZER_FILE,
  _SENTENCEPIECE_FILE,
  _VOCABULARY_FILE,
)
# Classes whose rules are those of every model that names them. The models of
# GPT2Tokenizer are cut in many ways, which only tokenizer.json says.
_RULES = {'Qwen2Tokenizer': 'qwen2', 'Qwen2TokenizerFast': 'qwen2'}
_KEPT = ('model_max_length', 'padding_side', 'truncation_side')
_BPE = 2  # SentencePiece's number of the kind


def read(
  directory: pathlib.Path, *, trusted: bool = False
) -> stored_tokenizer.StoredTokenizer:
  """Reads the tokenizer of a directory.

  Args:
    directory: with the files of Hugging Face.
    trusted: if the files need not be tried in a process of their own first.

  Raises:
    ValueError: by file, if one is missing or damaged, or the directory does
      not say how a text is cut.
  """
  present = [name for name in _FILES if (directory / name).exists()]
  if not present:
    raise ValueError(
      f'{directory}: expected a tokenizer, one of {", ".join(_FILES)}'
    )
  config = read_json(directory / stored_tokenizer.CONFIG_FILE)
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
        lambda name, default=None: fields.get(name, default),
        source=str(directory / present[0]),
      )
      backend, named = built.backend, {**built.named, **named}
  except ValueError as error:
    raise ValueError(
      f'{directory}: expected a tokenizer, {present[0]}: {error}'
    ) from None
  named = _known(directory, config, named, backend)
  return stored_tokenizer.StoredTokenizer(
    backend,
    named,
    _templates(directory, config),
    {key: config[key] for key in _KEPT if key in config},
  )


def template_file(directory: pathlib.Path) -> str:
  """Returns where the chat template is, for an error."""
  if (directory / _TEMPLATE_FILE).exists():
    return str(directory / _TEMPLATE_FILE)
  return f'{directory / stored_tokenizer.CONFIG_FILE}: chat_template'


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object, {} if there is no file.

  Raises:
    ValueError: if the file holds something else.
  """
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return found


def _load(path: pathlib.Path, *, trusted: bool) -> tokenizers.Tokenizer:
  if not trusted:
    trial.try_tokenizer(path)
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises nothing more precise
    raise ValueError(str(error)) from None
  if getattr(backend.model, 'dropout', None):
    logging.warning(
      '%s: model.dropout=%s cuts a text in another way each time: it is for '
      'training a tokenizer, and is switched off.',
      *(path, backend.model.dropout),
    )
    backend.model.dropout = None
  return backend


def _named(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, str]:
  """Tokens by their role, from the two files that name them."""
  path = directory / stored_tokenizer.CONFIG_FILE
  found = dict(_roles(path, config))
  path = directory / _NAMED_FILE
  older = dict(_roles(path, read_json(path)))
  differing = [
    f'{role}={older[role]!r}, not {found[role]!r}'
    for role in sorted(older.keys() & found.keys())
    if older[role] != found[role]
  ]
  if differing:
    logging.warning(
      '%s: %s differs (%s): taking tokenizer_config.json.',
      *(directory, _NAMED_FILE, '; '.join(differing)),
    )
  return older | found


def _roles(
  path: pathlib.Path, values: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
  for key, value in values.items():
    if key.endswith('_token') and isinstance(value, str | dict):
      yield key, _content(value, f'{path}: {key}')


def _content(value: Any, key: str) -> str:
  """The text of a token, which may be stored with its flags."""
  text = value.get('content') if isinstance(value, dict) else value
  if not isinstance(text, str):
    raise ValueError(f'{key}={value!r}: expected the text of a token')
  return text


def _known(
  directory: pathlib.Path,
  config: Mapping[str, Any],
  named: Mapping[str, str],
  backend: tokenizers.Tokenizer,
) -> dict[str, str]:
  """The named tokens that the tokenizer has; warns of what it contradicts.

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
    found = backend.token_to_id(content)
    if found is None or i not in (None, found):
      expected = 'a token' if i is None else f'id {i}'
      wrong[content] = f'{content!r} is not {expected} but ' + (
        'text' if found is None else f'id {found}'
      )
  if wrong:
    logging.warning(
      '%s: tokenizer_config.json, %s or %s name other tokens than the '
      'tokenizer has, and are not followed: %s.',
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
  """Tokens that were added: id -> text, and if it is special."""
  path = directory / stored_tokenizer.CONFIG_FILE
  listed = config.get('added_tokens_decoder') or {}
  special = _special(path, config)
  try:
    found = {
      int(i): (_content(token, str(path)), bool(token.get('special')))
      for i, token in listed.items()
    }
  except (AttributeError, ValueError):
    raise ValueError(
      f'{path}: added_tokens_decoder={listed!r:.200}: expected tokens by id'
    ) from None
  path = directory / _ADDED_FILE
  for content, i in read_json(path).items():
    if type(i) is not int:
      raise ValueError(f'{path}: {content!r}: {i!r}: expected an id')
    found.setdefault(i, (content, False))
  return {
    i: (content, is_special or content in special)
    for i, (content, is_special) in sorted(found.items())
  }


def _special(path: pathlib.Path, config: Mapping[str, Any]) -> set[str]:
  """Texts that tokenizer_config.json calls special, without their ids."""
  found = {
    text
    for role, text in _roles(path, config)
    if role in ('bos_token', 'eos_token')
  }
  for key in ('additional_special_tokens', 'extra_special_tokens'):
    extra = config.get(key) or ()
    if not isinstance(extra, list | tuple | dict):
      raise ValueError(f'{path}: {key}={extra!r:.200}: expected tokens')
    extra = extra.values() if isinstance(extra, dict) else extra
    found |= {_content(token, f'{path}: {key}') for token in extra}
  return found


def _templates(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, str]:
  """Chat templates by name; a file of its own replaces the others."""
  default = stored_tokenizer.DEFAULT_TEMPLATE
  path = directory / _TEMPLATE_FILE
  if path.exists():
    try:
      return {default: path.read_text(encoding='utf-8')}
    except UnicodeDecodeError as error:
      raise ValueError(f'{path}: expected UTF-8, {error}') from None
  found = config.get('chat_template')
  if not found:
    return {}
  if isinstance(found, str):
    return {default: found}
  try:
    templates = {one['name']: one['template'] for one in found}
  except (KeyError, TypeError):
    templates = {None: None}
  if not all(isinstance(x, str) for x in (*templates, *templates.values())):
    raise ValueError(
      f'{template_file(directory)}: expected a template, or a list of '
      f'templates with their names, found {found!r:.200}'
    )
  return templates


def _sentencepiece_fields(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads tokenizer.model as the fields of a GGUF file."""
  try:
    proto = _sentencepiece_proto()
    proto.ParseFromString((directory / _SENTENCEPIECE_FILE).read_bytes())
  except ImportError as error:
    raise ValueError(f'needs a library that is missing: {error}') from None
  except Exception as error:  # protobuf's own class is not public
    raise ValueError(f'expected a SentencePiece model, {error}') from None
  if not proto.pieces:
    raise ValueError('expected a SentencePiece model, it has no pieces')
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  prefix = normalizer.add_dummy_prefix
  for key, found, expected in (
    ('model_type', trainer.model_type, _BPE),
    ('byte_fallback', trainer.byte_fallback, True),
    ('treat_whitespace_as_suffix', trainer.treat_whitespace_as_suffix, False),
    ('escape_whitespaces', normalizer.escape_whitespaces, True),
    ('precompiled_charsmap', bool(normalizer.precompiled_charsmap), False),
    # Classes put no space before a text, or only before its first part.
    ('legacy', config.get('legacy') is not False or not prefix, True),
    ('add_prefix_space', config.get('add_prefix_space', prefix), prefix),
  ):
    if found != expected:
      raise ValueError(f'{key}={found!r}: expected {expected!r}. {_SAVE_JSON}')
  ids = {
    'bos': trainer.bos_id,
    'eos': trainer.eos_id,
    'unknown': trainer.unk_id,
    'padding': trainer.pad_id,
  }
  tokens = [piece.piece for piece in proto.pieces]
  types = [piece.type for piece in proto.pieces]
  scores = [piece.score for piece in proto.pieces]
  _add_tokens(directory, config, tokens, types)
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


def _sentencepiece_proto():
  """An empty model, of whichever library has the format."""
  # Not the module of that name in transformers, which is a function by then.
  module = importlib.import_module('transformers.convert_slow_tokenizer')
  return module.import_protobuf().ModelProto()


def _vocabulary_fields(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads vocab.json and merges.txt as the fields of a GGUF file."""
  kind = config.get('tokenizer_class')
  if kind not in _RULES:
    raise ValueError(
      f'a vocabulary does not say how a text is cut, nor does '
      f'tokenizer_class={kind!r}: expected one of {", ".join(_RULES)}. '
      f'{_SAVE_JSON}'
    )
  vocabulary = read_json(directory / _VOCABULARY_FILE)
  ids = list(vocabulary.values())
  if not all(type(i) is int for i in ids) or sorted(ids) != [*range(len(ids))]:
    raise ValueError('expected tokens with the ids 0, 1, 2 and so on')
  tokens = sorted(vocabulary, key=vocabulary.get)
  path = directory / _MERGES_FILE
  if not path.exists():
    raise ValueError(f'expected {_MERGES_FILE} beside it')
  lines = path.read_text(encoding='utf-8').split('\n')
  if lines[0].startswith('#version'):
    del lines[0]
  types = [gguf_tokenizer.NORMAL] * len(tokens)
  _add_tokens(directory, config, tokens, types)
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
  tokens: list[str],
  types: list[int],
) -> None:
  """Appends the added tokens, and marks special ones that are present."""
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
        f'added token {content!r} with id {i}: expected {expected} there'
      )
  for i, content in enumerate(tokens):
    if content in special and types[i] != gguf_tokenizer.UNKNOWN:
      types[i] = gguf_tokenizer.CONTROL
