"""Tokenizers: text to token ids and back, with the bytes of every token.

The work is done by the `tokenizers` library, and chat templates are rendered
by transformers. What stands here is where they come from.
"""

import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import gguf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

# transformers says on import that torch is missing; it is not needed here.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
import transformers

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type of added tokens
_END_OF_TURN = ('<|im_end|>', '<|endoftext|>', '<|eot_id|>', '</s>')


class Tokenizer(NamedTuple):
  """A tokenizer as functions and tables.

  Attributes:
    encode: `(text, allow_special=False) -> ids`. Nothing is put in front.
      Only with `allow_special` does the text of a special token, as a chat
      template writes it, become that token. Bytes that no token stands for
      are dropped, as transformers does.
    decode: `(ids, skip_special=True) -> text`.
    token_bytes: what each token adds to the text, b'' for special ones.
    special_strings: texts of special tokens.
    stop_ids: tokens that end a response.
    chat: `messages -> prompt`, by the model's template, open for the answer.
  """

  encode: Callable[..., list[int]]
  decode: Callable[..., str]
  token_bytes: tuple[bytes, ...]
  special_strings: tuple[str, ...]
  stop_ids: tuple[int, ...]
  chat: Callable[[Sequence[Mapping[str, str]]], str]

  @property
  def vocab_size(self) -> int:
    return len(self.token_bytes)

  def __repr__(self) -> str:
    # All tables would fill a hundred screens of an error message.
    return f'Tokenizer(vocab_size={self.vocab_size})'


def load_tokenizer(path: pathlib.Path) -> Tokenizer:
  """The tokenizer of a GGUF file or of a Hugging Face directory."""
  return from_directory(path) if path.is_dir() else from_gguf(path)


def byte_tokenizer() -> Tokenizer:
  """Bytes as tokens, and one more that ends a text. Needs no files."""
  end = 256
  text = '<|endoftext|>'

  def encode(prompt, allow_special=False):
    prompt = _without_surrogates(prompt)
    if not allow_special:
      return list(prompt.encode())
    parts = prompt.split(text)
    ids = list(parts[0].encode())
    for part in parts[1:]:
      ids += [end, *part.encode()]
    return ids

  def decode(ids, skip_special=True):
    shown = b'' if skip_special else text.encode()
    joined = b''.join(bytes([i]) if i < end else shown for i in ids)
    return joined.decode(errors='replace')

  return Tokenizer(
    encode=encode,
    decode=decode,
    token_bytes=(*(bytes([i]) for i in range(end)), b''),
    special_strings=(text,),
    stop_ids=(end,),
    chat=_plain_chat,
  )


def from_gguf(path: pathlib.Path) -> Tokenizer:
  """Builds the tokenizer that a GGUF file carries.

  transformers can read it, too, but only with torch, and it does not know
  every `tokenizer.ggml.pre`.

  Raises:
    ValueError: for a tokenizer of a kind that is not known here.
  """
  try:
    fields = gguf.GGUFReader(path).fields
  except (ValueError, KeyError, IndexError, OverflowError) as error:
    raise ValueError(f'{path}: expected a whole GGUF file, {error}') from None
  get = lambda name, default=None: (
    fields[name].contents() if name in fields else default
  )
  kind = get('tokenizer.ggml.model')
  if kind != 'gpt2':
    raise ValueError(
      f'{path}: tokenizer.ggml.model={kind!r}: expected gpt2 (byte-level BPE)'
    )
  split = get('tokenizer.ggml.pre', 'default')
  if split not in _PRE_TOKENIZERS:
    raise ValueError(
      f'{path}: tokenizer.ggml.pre={split!r}: expected one of '
      f'{", ".join(_PRE_TOKENIZERS)}'
    )
  for name in ('tokenizer.ggml.tokens', 'tokenizer.ggml.merges'):
    if name not in fields:
      raise ValueError(f'{path}: {name}: missing')
  tokens = get('tokenizer.ggml.tokens')
  vocabulary = {token: i for i, token in enumerate(tokens)}
  if len(vocabulary) < len(tokens):
    repeated = next(t for i, t in enumerate(tokens) if vocabulary[t] != i)
    raise ValueError(
      f'{path}: tokenizer.ggml.tokens: {repeated!r} stands there twice'
    )
  merges = [tuple(merge.split(' ')) for merge in get('tokenizer.ggml.merges')]
  for merge in merges:
    if len(merge) != 2 or not {*merge, ''.join(merge)} <= vocabulary.keys():
      raise ValueError(
        f'{path}: tokenizer.ggml.merges: {" ".join(merge)!r}: expected two '
        'tokens, and a third that they make'
      )
  types = get('tokenizer.ggml.token_type', [None] * len(tokens))
  if len(types) != len(tokens):
    raise ValueError(
      f'{path}: tokenizer.ggml.token_type: {len(types)} types for '
      f'{len(tokens)} tokens'
    )
  named = {}
  for name in ('bos', 'eos'):
    key = f'tokenizer.ggml.{name}_token_id'
    i = get(key)
    if i is not None and i >= len(tokens):
      raise ValueError(f'{path}: {key}={i}: expected less than {len(tokens)}')
    if i is not None:
      named[f'{name}_token'] = tokens[i]
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
  backend.pre_tokenizer = _PRE_TOKENIZERS[split]()
  backend.decoder = decoders.ByteLevel()
  backend.add_tokens(
    [
      tokenizers.AddedToken(token, normalized=False, special=type_ == _CONTROL)
      for token, type_ in zip(tokens, types, strict=True)
      if type_ in (_CONTROL, _USER_DEFINED)
    ]
  )
  return _wrap(
    transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend,
      chat_template=get('tokenizer.chat_template'),
      clean_up_tokenization_spaces=False,
      **named,
    )
  )


def from_directory(path: pathlib.Path) -> Tokenizer:
  """The fast tokenizer of a Hugging Face directory.

  Raises:
    ValueError: if there is none that transformers can read.
  """
  try:
    fast = transformers.AutoTokenizer.from_pretrained(
      path, local_files_only=True, trust_remote_code=False
    )
  except Exception as error:  # a damaged file raises anything
    raise ValueError(f'{path}: expected a tokenizer, {error!r}') from None
  if not fast.is_fast:
    raise ValueError(f'{path}: expected a fast tokenizer (tokenizer.json)')
  try:
    return _wrap(fast)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


# tokenizer.ggml.pre -> how text is cut before it is merged.
_PRE_TOKENIZERS = {
  'default': functools.partial(
    pre_tokenizers.ByteLevel, add_prefix_space=False
  ),
  'gpt-2': functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False),
  # Every digit is a token of its own.
  'smollm': lambda: pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  ),
}


def _wrap(fast: transformers.PreTrainedTokenizerFast) -> Tokenizer:
  backend = fast.backend_tokenizer
  special = {
    i: token.content
    for i, token in fast.added_tokens_decoder.items()
    if token.special
  }
  unsplit = tokenizers.Tokenizer.from_str(backend.to_str())
  unsplit.encode_special_tokens = True

  def encode(text, allow_special=False):
    chosen = backend if allow_special else unsplit
    text = _without_surrogates(text)
    return chosen.encode(text, add_special_tokens=False).ids

  def decode(ids, skip_special=True):
    return backend.decode(ids, skip_special_tokens=skip_special)

  stops = {
    i
    for i, text in special.items()
    if text == fast.eos_token or text in _END_OF_TURN
  }
  return Tokenizer(
    encode=encode,
    decode=decode,
    token_bytes=_token_bytes(fast, special),
    special_strings=tuple(special.values()),
    stop_ids=tuple(sorted(stops)),
    chat=functools.partial(_chat, fast) if fast.chat_template else _no_template,
  )


def _without_surrogates(text: str) -> str:
  """Python's stand-ins for bytes that are not UTF-8 become \ufffd.

  They come from a pipe or a file name; no encoder takes them.
  """
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _token_bytes(fast, special: Mapping[int, str]) -> tuple[bytes, ...]:
  """What each token adds to the text; ids that stand for nothing add none."""
  backend = fast.backend_tokenizer
  to_bytes = _piece_to_bytes(json.loads(backend.to_str())['decoder'] or {})
  pieces = {i: piece for piece, i in backend.get_vocab().items()}
  added = {i: t.content for i, t in fast.added_tokens_decoder.items()}

  def bytes_of(i):
    if i in special or i not in pieces:
      return b''
    return added[i].encode() if i in added else to_bytes(pieces[i])

  return tuple(bytes_of(i) for i in range(max(pieces) + 1))


def _piece_to_bytes(decoder: Mapping) -> Callable[[str], bytes]:
  """How a vocabulary writes bytes, by the decoder that reads it."""
  kinds = [d['type'] for d in decoder.get('decoders', [decoder]) if d]
  if 'ByteLevel' in kinds:
    byte_of = {char: byte for byte, char in _byte_alphabet().items()}
    # What is not in the alphabet is text, as it is for the decoder.
    return lambda piece: (
      bytes(byte_of[char] for char in piece)
      if byte_of.keys() >= set(piece)
      else piece.encode()
    )
  if 'ByteFallback' not in kinds:
    raise ValueError(
      f'tokenizer with decoders {kinds}: expected ByteLevel or ByteFallback'
    )

  def sentencepiece(piece):
    byte = re.fullmatch('<0x([0-9A-F]{2})>', piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace('▁', ' ').encode()

  return sentencepiece


def _byte_alphabet() -> dict[int, str]:
  """Byte -> the printable character that stands for it (GPT-2)."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {byte: chr(byte) for byte in printable} | {
    byte: chr(256 + i) for i, byte in enumerate(others)
  }


def _chat(fast, messages) -> str:
  return fast.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True
  )


def _plain_chat(messages) -> str:
  """A template for models that know none, so that chat tasks can be tried."""
  turns = [f'{m["role"]}: {m["content"]}\n' for m in messages]
  return ''.join(turns) + 'assistant: '


def _no_template(messages) -> str:
  raise ValueError(
    "task.style='chat': expected a model with a chat template, use 'plain'"
  )
