"""Stop tokens and stop strings as a transition table for compiled loops.

A stop string may begin in the middle of one token and end in another. The table
is the automaton that searches for all stop strings at once (Aho and Corasick,
1975), stepped by tokens instead of bytes. It is an array of fixed shape, so
other stop strings do not require a recompilation.
"""

from collections.abc import Sequence

import numpy as np

STOPPED = 1
_STATES = 16  # tables are padded to a multiple of this
_MAX_STATES = 256  # states are stored as bytes


def stop_table(
  token_bytes: Sequence[bytes],
  stop_ids: Sequence[int],
  stop_strings: Sequence[str],
) -> np.ndarray:
  """Returns a table with `next_state = table[state, token]`.

  State 0 is the initial state, and state 1 means that the response has stopped.
  The other states stand for a partial match of a stop string.

  Args:
    token_bytes: the bytes that each token adds to the text.
    stop_ids: tokens that end a response.
    stop_strings: strings that end a response. The token that completes a string
      is the last token of the response.

  Returns:
    uint8 [states, V], where the number of states is a multiple of 16.
  """
  stops = [stop.encode() for stop in stop_strings]
  if b'' in stops:
    raise ValueError('stop strings: expected text, found an empty string')
  prefixes = sorted({stop[:n] for stop in stops for n in range(1, len(stop))})
  state_of = {b'': 0} | {prefix: i + 2 for i, prefix in enumerate(prefixes)}
  num_states = len(state_of) + 1
  if num_states > _MAX_STATES:
    raise ValueError(
      f'stop strings have {sum(map(len, stops))} bytes in total: expected at '
      f'most {_MAX_STATES - 2}'
    )
  by_byte = np.full((num_states, 256), STOPPED, np.uint8)
  for seen, state in state_of.items():
    for byte in range(256):
      text = seen + bytes([byte])
      if not any(text.endswith(stop) for stop in stops):
        suffixes = (text[i:] for i in range(len(text) + 1))
        by_byte[state, byte] = next(
          state_of[s] for s in suffixes if s in state_of
        )
  table = _by_token(by_byte, token_bytes)
  table[:, list(stop_ids)] = STOPPED
  return np.pad(
    table, ((0, -num_states % _STATES), (0, 0)), constant_values=STOPPED
  )


def _by_token(by_byte: np.ndarray, token_bytes: Sequence[bytes]) -> np.ndarray:
  """Returns the table by token, from the table by byte."""
  lengths = np.array([len(b) for b in token_bytes])
  flat = np.frombuffer(b''.join(token_bytes), np.uint8)
  starts = np.cumsum(lengths) - lengths
  table = np.repeat(
    np.arange(len(by_byte), dtype=np.uint8)[:, None], len(lengths), axis=1
  )
  for i in range(lengths.max(initial=0)):
    live = np.flatnonzero(lengths > i)
    table[:, live] = by_byte[table[:, live], flat[starts[live] + i]]
  return table
