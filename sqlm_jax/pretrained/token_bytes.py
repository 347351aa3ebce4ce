"""The bytes that each token adds to a text."""

import json
import re
from collections.abc import Callable, Mapping

import tokenizers


def token_bytes(
  backend: tokenizers.Tokenizer, special: Mapping[int, str]
) -> tuple[bytes, ...]:
  """Returns the bytes that each token adds to the text, b'' if special."""
  decoder = json.loads(backend.to_str())['decoder'] or {}
  to_bytes = _piece_to_bytes(decoder)
  pieces = {i: piece for piece, i in backend.get_vocab().items()}
  added = backend.get_added_tokens_decoder()

  def bytes_of(i: int) -> bytes:
    if i in special or i not in pieces:
      return b''
    return to_bytes(pieces[i], i in added)

  return tuple(bytes_of(i) for i in range(max(pieces) + 1))


def _piece_to_bytes(decoder: Mapping) -> Callable[[str, bool], bytes]:
  """Returns a function `(piece, was_added) -> bytes` for a decoder."""
  kinds = [d['type'] for d in decoder.get('decoders', [decoder]) if d]
  if 'ByteLevel' in kinds:
    byte_of = {char: byte for byte, char in byte_alphabet().items()}

    # Added tokens and pieces outside of the alphabet are plain text.
    def byte_level(piece: str, was_added: bool) -> bytes:
      if was_added or not byte_of.keys() >= set(piece):
        return piece.encode()
      return bytes(byte_of[char] for char in piece)

    return byte_level
  if 'ByteFallback' not in kinds:
    raise ValueError(
      f'tokenizer with decoders {kinds}: expected ByteLevel or ByteFallback'
    )

  def sentencepiece(piece: str, was_added: bool) -> bytes:
    del was_added
    byte = re.fullmatch('<0x([0-9A-F]{2})>', piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace('▁', ' ').encode()

  return sentencepiece


def byte_alphabet() -> dict[int, str]:
  """Returns byte -> the printable character that stands for it in GPT-2."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {byte: chr(byte) for byte in printable} | {
    byte: chr(256 + i) for i, byte in enumerate(others)
  }
