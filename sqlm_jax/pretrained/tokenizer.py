"""Tokenizers, which convert text to token ids and back.

The `tokenizers` library does the work. `gguf_tokenizer` and
`directory_tokenizer` read a stored tokenizer; this module turns it into the
functions and tables that a run needs.
"""

import functools
import pathlib
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Mapping,
  Sequence,
)
from typing import NamedTuple, Protocol

import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers

from sqlm_jax.pretrained import (
  chat,
  directory_tokenizer,
  gguf_tokenizer,
  model_files,
  stored_tokenizer,
  trial,
)
from sqlm_jax.pretrained import token_bytes as token_bytes_lib

# Tokens that end a turn or a text, by the families that have them.
_END_OF_TURN = (
  *('<|im_end|>', '<|endoftext|>'),  # SmolLM2, Qwen
  *('<|eot_id|>', '<|eom_id|>', '<|end_of_text|>'),  # Llama 3
  *('<end_of_turn>', '<eos>'),  # Gemma
  '</s>',  # Llama 2, Mistral
)
# The byte tokenizer has no stored chat template, but chat tasks need one.
_PLAIN_CHAT = (
  "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


class Encode(Protocol):
  """Returns the token ids of a text, see `Tokenizer.encode`."""

  def __call__(self, text: str, allow_special: bool = False) -> list[int]: ...


class Decode(Protocol):
  """Returns the text of token ids, see `Tokenizer.decode`."""

  def __call__(self, ids: Iterable[int], skip_special: bool = True) -> str: ...


class Chat(Protocol):
  """Renders messages as a prompt, see `Tokenizer.chat`."""

  def __call__(
    self, messages: Sequence[Mapping[str, str]], date: str | None = None
  ) -> str: ...


class Tokenizer(NamedTuple):
  """A tokenizer as functions and tables.

  Attributes:
    encode: `(text, allow_special=False) -> ids`, without BOS. With
      `allow_special` the text of a special token, as a chat template writes it,
      becomes that token; otherwise it stays text. Bytes that have no token are
      dropped, as in transformers.
    decode: `(ids, skip_special=True) -> text`. The text is a continuation: a
      leading space stays, which other decoders remove.
    token_bytes: the bytes that each token adds to the text; b'' for special
      tokens and for tokens that end a response.
    special: id -> text of the special tokens.
    prefix_ids: tokens that the model expects before a text (BOS), if any. A
      chat template may write them itself.
    stop_ids: tokens that end a response.
    chat: `(messages, date=None) -> prompt`, by the model's template, open for
      the answer. The date that the template sees is YYYY-MM-DD.
    save: writes the tokenizer into a directory, in the files of Hugging Face.
    uses_date: True if the chat template may write the date.
  """

  encode: Encode
  decode: Decode
  token_bytes: tuple[bytes, ...]
  special: Mapping[int, str]
  prefix_ids: tuple[int, ...]
  stop_ids: tuple[int, ...]
  chat: Chat
  save: Callable[[pathlib.Path], None]
  uses_date: bool = False

  @property
  def vocab_size(self) -> int:
    return len(self.token_bytes)

  @property
  def special_strings(self) -> tuple[str, ...]:
    return tuple(self.special.values())

  def __repr__(self) -> str:
    # The tables would fill a hundred screens of an error message.
    return f'Tokenizer(vocab_size={self.vocab_size})'


def load_tokenizer(
  path: pathlib.Path, *, trusted: bool = False, needs_chat: bool = True
) -> Tokenizer:
  """Loads the tokenizer of a GGUF file or of a Hugging Face directory.

  Args:
    path: the file or the directory.
    trusted: True if the content is known. Otherwise tokenizer.json and the
      chat template are first tried in a process that can be killed.
    needs_chat: False if the chat template will not be used. A template that
      fails its trial is then reported in a warning.

  Raises:
    ValueError: if the tokenizer is damaged, harmful, or of an unknown kind.
  """
  read = from_directory if path.is_dir() else from_gguf
  return read(path, trusted=trusted, needs_chat=needs_chat)


def cut(tokens: Tokenizer, num_rows: int) -> Tokenizer:
  """Removes special tokens that have no row in the embedding.

  Gemma 3's tokenizer has a token for images, which its text-only models lack.

  Args:
    tokens: the tokenizer.
    num_rows: number of rows of the embedding.

  Raises:
    ValueError: if a token without a row is not special. `encode` of the result
      raises it for a text with a removed token.
  """
  if not tokens.special.keys() >= set(range(num_rows, tokens.vocab_size)):
    raise ValueError(
      f'a tokenizer of {tokens.vocab_size} tokens: expected at most the '
      f'{num_rows} rows of the embedding'
    )

  def encode(text: str, allow_special: bool = False) -> list[int]:
    ids = tokens.encode(text, allow_special)
    if cut_off := {i for i in ids if i >= num_rows}:
      names = ', '.join(tokens.special[i] for i in sorted(cut_off))
      raise ValueError(f'{names}: the model has no embedding for this token')
    return ids

  return tokens._replace(
    encode=encode,
    token_bytes=tokens.token_bytes[:num_rows],
    stop_ids=tuple(i for i in tokens.stop_ids if i < num_rows),
  )


def byte_tokenizer() -> Tokenizer:
  """Returns a tokenizer with one token per byte and an end-of-text token.

  It needs no files.
  """
  vocabulary = {
    letter: byte for byte, letter in token_bytes_lib.byte_alphabet().items()
  }
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  backend.decoder = decoders.ByteLevel()
  end = '<|endoftext|>'  # the next id, 256
  backend.add_special_tokens([end])
  return _wrap(
    stored_tokenizer.StoredTokenizer(
      backend,
      named={'eos_token': end},
      templates={stored_tokenizer.DEFAULT_TEMPLATE: _PLAIN_CHAT},
    )
  )


def from_gguf(
  path: pathlib.Path, *, trusted: bool = False, needs_chat: bool = True
) -> Tokenizer:
  """Builds the tokenizer that a GGUF file carries; see `load_tokenizer`."""
  stored, stops = gguf_tokenizer.read(path)
  if not trusted:
    _try_template(stored, f'{path}: tokenizer.chat_template', needs_chat)
  return _wrap(stored, stops)


def from_directory(
  path: pathlib.Path, *, trusted: bool = False, needs_chat: bool = True
) -> Tokenizer:
  """Reads the tokenizer of a Hugging Face directory; see `load_tokenizer`."""
  stored = directory_tokenizer.read(path, trusted=trusted)
  if not trusted:
    source = directory_tokenizer.template_file(path)
    _try_template(stored, source, needs_chat)
  size = max(stored.backend.get_vocab().values()) + 1
  stops = [
    i
    for name in ('generation_config.json', 'config.json')
    for i in _eos_ids(path / name, size)
  ]
  try:
    return _wrap(stored, stops)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _try_template(
  stored: stored_tokenizer.StoredTokenizer, source: str, needs_chat: bool
) -> None:
  if stored.template is None:
    return
  try:
    trial.try_template(stored.template, stored.named)
  except ValueError as error:
    if needs_chat:
      raise ValueError(f'{source}: {error}') from None
    logging.warning('Ignoring an unused chat template: %s: %s', source, error)


def _eos_ids(path: pathlib.Path, vocab_size: int) -> list[int]:
  """Reads `eos_token_id`, which is an id, a list of ids, or missing."""
  value = model_files.read_optional_json(path).get('eos_token_id')
  if value is None:
    return []
  ids = value if isinstance(value, list) else [value]
  for i in ids:
    if type(i) is not int or not 0 <= i < vocab_size:
      raise ValueError(
        f'{path}: eos_token_id={value!r}: expected ids less than {vocab_size}'
      )
  return ids


def _wrap(
  stored: stored_tokenizer.StoredTokenizer, stops: Collection[int] = ()
) -> Tokenizer:
  backend = stored.backend
  # A file may keep the padding and truncation of its training batches.
  backend.no_truncation()
  backend.no_padding()
  special = _special(stored)
  unsplit = _without_special(backend, special)
  all_bytes = token_bytes_lib.token_bytes(backend, special)
  silent = {i: all_bytes[i] for i in stops}
  silent |= {i: text.encode() for i, text in special.items()}
  token_bytes = tuple(
    b'' if i in silent else text for i, text in enumerate(all_bytes)
  )

  def encode(text: str, allow_special: bool = False) -> list[int]:
    chosen = backend if allow_special else unsplit
    text = _without_surrogates(text)
    return chosen.encode(text, add_special_tokens=False).ids

  def decode(ids: Iterable[int], skip_special: bool = True) -> str:
    shown = {} if skip_special else silent
    # Embeddings are padded: a model may sample an id that has no token.
    pieces = (shown.get(i, token_bytes[i]) for i in ids if i < len(token_bytes))
    return b''.join(pieces).decode(errors='replace')

  _check_decoding(backend, encode, decode)
  eos = stored.named.get('eos_token')
  ends = {
    i for i, text in special.items() if text == eos or text in _END_OF_TURN
  }
  return Tokenizer(
    encode=encode,
    decode=decode,
    token_bytes=token_bytes,
    special=special,
    prefix_ids=_prefix_ids(backend),
    stop_ids=tuple(sorted(ends.union(stops))),
    chat=functools.partial(_chat, stored),
    save=stored.save,
    uses_date=chat.uses_date(stored.template),
  )


# Texts that a decoder may change: spaces, bytes and composed letters.
_DECODED = ('The dog, 12 + 3 = 15.', '  two\n\n\tx', 'naïve 日本語 🙂 e\u0301')


def _check_decoding(
  backend: tokenizers.Tokenizer, encode: Encode, decode: Decode
) -> None:
  """Refuses a decoder whose text differs from the bytes of the tokens."""
  for text in _DECODED:
    ids = encode(text)
    expected = backend.decode(ids, skip_special_tokens=False)
    joined = decode(ids, skip_special=False)
    # A decoder may remove the space that an encoder puts before a text.
    if expected not in (joined, joined.removeprefix(' ')):
      raise ValueError(
        f'decoder: expected the text of the tokens, {joined!r}, but it writes '
        f'{expected!r}'
      )


def _without_special(
  backend: tokenizers.Tokenizer, special: Mapping[int, str]
) -> tokenizers.Tokenizer:
  """Returns a copy that never turns text into a special token."""
  copy = tokenizers.Tokenizer.from_str(backend.to_str())
  # A file may list BOS or EOS as tokens that are not special.
  for i, token in backend.get_added_tokens_decoder().items():
    if i in special and not token.special:
      token.special = True
      copy.add_special_tokens([token])
  copy.encode_special_tokens = True
  return copy


def _special(stored: stored_tokenizer.StoredTokenizer) -> dict[int, str]:
  """Returns special tokens by id, always with BOS and EOS."""
  special = {
    i: token.content
    for i, token in stored.backend.get_added_tokens_decoder().items()
    if token.special
  }
  for role in ('bos_token', 'eos_token'):
    text = stored.named.get(role)
    i = stored.backend.token_to_id(text) if text else None
    if text and i is not None:
      special[i] = text
  return dict(sorted(special.items()))


def _prefix_ids(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
  """Returns the tokens that the post-processor puts before a text."""
  processed = bare = []
  for text in ('a', '0', '.', '▁', ' '):  # a small vocabulary may lack some
    bare = backend.encode(text, add_special_tokens=False).ids
    processed = backend.encode(text).ids
    if bare:
      break
  for start in range(len(processed) - len(bare) + 1):
    if bare and processed[start:][: len(bare)] == bare:
      return tuple(processed[:start])
  if processed == bare:
    return ()
  raise ValueError(
    f'post_processor: expected the tokens of the text, {bare}, in its output, '
    f'but it returns {processed}'
  )


def _without_surrogates(text: str) -> str:
  """Replaces lone surrogates, which the library refuses, by U+FFFD."""
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _chat(
  stored: stored_tokenizer.StoredTokenizer,
  messages: Sequence[Mapping[str, str]],
  date: str | None = None,
) -> str:
  if not stored.template:
    raise ValueError(
      "task.style='chat': expected a model with a chat template; use 'plain'"
    )
  try:
    return chat.render(stored.template, stored.named, messages, date=date)
  except ValueError as error:
    raise ValueError(f"the model's chat template: {error}") from None
