"""Tokenizers: text to token ids and back, with the bytes of every token.

The work is done by the `tokenizers` library, and chat templates are rendered
by transformers. What stands here is how a run sees them; what a GGUF file says
is read by `gguf_tokenizer`.
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from sqlm_jax.text import gguf_tokenizer

# Tokens that end a turn or a text, by the families that have them.
_END_OF_TURN = (
  *('<|im_end|>', '<|endoftext|>'),  # SmolLM2, Qwen
  *('<|eot_id|>', '<|eom_id|>', '<|end_of_text|>'),  # Llama 3
  *('<end_of_turn>', '<eos>'),  # Gemma
  '</s>',  # Llama 2, Mistral
)
# What holds a vocabulary.
_FILES = ('tokenizer.json', 'tokenizer.model', 'vocab.json')
# A model of bytes knows no template; so chat tasks can be tried.
_PLAIN_CHAT = (
  "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


class Tokenizer(NamedTuple):
  """A tokenizer as functions and tables.

  Attributes:
    encode: `(text, allow_special=False) -> ids`. Nothing is put in front.
      Only with `allow_special` does the text of a special token, as a chat
      template writes it, become that token. Bytes that no token stands for
      are dropped, as transformers does.
    decode: `(ids, skip_special=True) -> text`, as a continuation: a space in
      front stays, which a decoder of whole texts would take away.
    token_bytes: what each token adds to the text, b'' for special ones and for
      those that end a response.
    special: id -> text of the special tokens.
    prefix_ids: tokens that the model expects before a text (BOS), if any. A
      chat template may write them itself.
    stop_ids: tokens that end a response.
    chat: `messages -> prompt`, by the model's template, open for the answer.
    save: writes the tokenizer into a directory, in the files of Hugging Face.
  """

  encode: Callable[..., list[int]]
  decode: Callable[..., str]
  token_bytes: tuple[bytes, ...]
  special: Mapping[int, str]
  prefix_ids: tuple[int, ...]
  stop_ids: tuple[int, ...]
  chat: Callable[[Sequence[Mapping[str, str]]], str]
  save: Callable[[pathlib.Path], None]

  @property
  def vocab_size(self) -> int:
    return len(self.token_bytes)

  @property
  def special_strings(self) -> tuple[str, ...]:
    return tuple(self.special.values())

  def __repr__(self) -> str:
    # All tables would fill a hundred screens of an error message.
    return f'Tokenizer(vocab_size={self.vocab_size})'


def load_tokenizer(path: pathlib.Path) -> Tokenizer:
  """The tokenizer of a GGUF file or of a Hugging Face directory."""
  return from_directory(path) if path.is_dir() else from_gguf(path)


def cut(tokens: Tokenizer, num_rows: int) -> Tokenizer:
  """A tokenizer without special tokens that an embedding has no rows for.

  Gemma 3 has one for images, which its models of text alone do not know.

  Args:
    tokens: the tokenizer.
    num_rows: of the embedding.

  Raises:
    ValueError: if it has more tokens and some are not special. Later, if a
      text to encode holds one of those that were cut.
  """
  if not tokens.special.keys() >= set(range(num_rows, tokens.vocab_size)):
    raise ValueError(
      f'a tokenizer of {tokens.vocab_size} tokens: expected at most the '
      f'{num_rows} rows of the embedding'
    )

  def encode(text, allow_special=False):
    ids = tokens.encode(text, allow_special)
    if cut_off := {i for i in ids if i >= num_rows}:
      names = ', '.join(tokens.special[i] for i in sorted(cut_off))
      raise ValueError(f'{names}: the model has no embedding of it')
    return ids

  return tokens._replace(
    encode=encode,
    token_bytes=tokens.token_bytes[:num_rows],
    stop_ids=tuple(i for i in tokens.stop_ids if i < num_rows),
  )


def byte_tokenizer() -> Tokenizer:
  """Bytes as tokens, and one more that ends a text. Needs no files."""
  vocabulary = {letter: byte for byte, letter in _byte_alphabet().items()}
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  backend.decoder = decoders.ByteLevel()
  return _wrap(
    transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend,
      eos_token='<|endoftext|>',  # the next id, 256
      chat_template=_PLAIN_CHAT,
      clean_up_tokenization_spaces=False,
    )
  )


def from_gguf(path: pathlib.Path) -> Tokenizer:
  """Builds the tokenizer that a GGUF file carries.

  Raises:
    ValueError: for a tokenizer of a kind that is not known here.
  """
  return _wrap(*gguf_tokenizer.read(path))


def from_directory(path: pathlib.Path) -> Tokenizer:
  """The fast tokenizer of a Hugging Face directory.

  Raises:
    ValueError: if there is none that transformers can read, or the model's
      configs name tokens that it does not have.
  """
  # Without any, transformers makes an empty one of some families.
  if not any((path / name).exists() for name in _FILES):
    raise ValueError(
      f'{path}: expected a tokenizer, one of {", ".join(_FILES)}'
    )
  try:
    fast = transformers.AutoTokenizer.from_pretrained(
      path, local_files_only=True, trust_remote_code=False
    )
  except Exception as error:  # a damaged file raises anything
    raise ValueError(f'{path}: expected a tokenizer, {error!r}') from None
  if not fast.is_fast:
    raise ValueError(f'{path}: expected a fast tokenizer (tokenizer.json)')
  size = max(fast.get_vocab().values()) + 1
  stops = [
    i
    for name in ('generation_config.json', 'config.json')
    for i in _eos_ids(path / name, size)
  ]
  try:
    return _wrap(fast, stops)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _eos_ids(path: pathlib.Path, vocab_size: int) -> list[int]:
  """What a model's config says of its last tokens, in any of three ways."""
  if not path.exists():
    return []
  try:
    config = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None
  if not isinstance(config, dict):
    raise ValueError(f'{path}: expected a JSON object')
  found = config.get('eos_token_id')
  if found is None:
    return []
  ids = found if isinstance(found, list) else [found]
  for i in ids:
    if type(i) is not int or not 0 <= i < vocab_size:
      raise ValueError(
        f'{path}: eos_token_id={found!r}: expected ids less than {vocab_size}'
      )
  return ids


def _wrap(
  fast: transformers.PreTrainedTokenizerFast, stops: Collection[int] = ()
) -> Tokenizer:
  backend = fast.backend_tokenizer
  # What a file says of them is for training in batches.
  backend.no_truncation()
  backend.no_padding()
  special = {
    i: token.content
    for i, token in fast.added_tokens_decoder.items()
    if token.special
  }
  unsplit = tokenizers.Tokenizer.from_str(backend.to_str())
  unsplit.encode_special_tokens = True
  all_bytes = _token_bytes(fast, special)
  silent = {i: all_bytes[i] for i in stops}
  silent |= {i: text.encode() for i, text in special.items()}
  token_bytes = tuple(
    b'' if i in silent else text for i, text in enumerate(all_bytes)
  )

  def encode(text, allow_special=False):
    chosen = backend if allow_special else unsplit
    text = _without_surrogates(text)
    return chosen.encode(text, add_special_tokens=False).ids

  def decode(ids, skip_special=True):
    shown = {} if skip_special else silent
    # Embeddings are padded: a model may sample what has no token.
    pieces = (shown.get(i, token_bytes[i]) for i in ids if i < len(token_bytes))
    return b''.join(pieces).decode(errors='replace')

  ends = {
    i
    for i, text in special.items()
    if text == fast.eos_token or text in _END_OF_TURN
  }
  return Tokenizer(
    encode=encode,
    decode=decode,
    token_bytes=token_bytes,
    special=special,
    prefix_ids=_prefix_ids(backend),
    stop_ids=tuple(sorted(ends.union(stops))),
    chat=functools.partial(_chat, fast),
    save=functools.partial(_save, fast),
  )


def _prefix_ids(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
  """What the post-processor puts before a text; not what it puts behind."""
  bare = backend.encode('a', add_special_tokens=False).ids
  whole = backend.encode('a').ids
  starts = range(len(whole) - len(bare) + 1)
  start = next(i for i in starts if whole[i:][: len(bare)] == bare)
  return tuple(whole[:start])


def _without_surrogates(text: str) -> str:
  """Python's stand-ins for bytes that are not UTF-8 become \ufffd.

  They come from a pipe or a file name; no encoder takes them.
  """
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _token_bytes(fast, special: Mapping[int, str]) -> tuple[bytes, ...]:
  """What each token adds to the text; ids that stand for nothing add none."""
  backend = fast.backend_tokenizer
  decoder = json.loads(backend.to_str())['decoder'] or {}
  to_bytes = _piece_to_bytes(decoder)
  pieces = {i: piece for piece, i in backend.get_vocab().items()}
  added = fast.added_tokens_decoder

  def bytes_of(i):
    if i in special or i not in pieces:
      return b''
    return to_bytes(pieces[i], i in added)

  return tuple(bytes_of(i) for i in range(max(pieces) + 1))


def _piece_to_bytes(decoder: Mapping) -> Callable[[str, bool], bytes]:
  """How a vocabulary writes bytes, by the decoder that reads it.

  Returns:
    `(piece, was_added) -> bytes`.
  """
  kinds = [d['type'] for d in decoder.get('decoders', [decoder]) if d]
  if 'ByteLevel' in kinds:
    byte_of = {char: byte for byte, char in _byte_alphabet().items()}
    # What was added or is not in the alphabet is text as it stands.
    return lambda piece, added: (
      piece.encode()
      if added or not byte_of.keys() >= set(piece)
      else bytes(byte_of[char] for char in piece)
    )
  if 'ByteFallback' not in kinds:
    raise ValueError(
      f'tokenizer with decoders {kinds}: expected ByteLevel or ByteFallback'
    )

  def sentencepiece(piece, _):
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
  if not fast.chat_template:
    raise ValueError(
      "task.style='chat': expected a model with a chat template, use 'plain'"
    )
  return fast.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True
  )


def _save(fast, directory: pathlib.Path) -> None:
  fast.save_pretrained(directory)
