"""Tokenizers of tiny files, whole and damaged, and of the real one."""

import json
import os
import pathlib
import subprocess
import sys

import hypothesis
import pytest
import tokenizers
import transformers
from hypothesis import strategies
from tokenizers import decoders, models, pre_tokenizers

from sqlm_jax.text import tokenizer
from tests.weights import test_gguf

# GPT-2's printable stand-ins for bytes: most stand for themselves, the other
# 68 are counted from 256 on, so that space, the 33rd of them, is 288.
ALPHABET = [
  chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))
] + [chr(256 + i) for i in range(68)]
SPACE = chr(288)
LEARNED = ['he', 'll', 'hell', '12', SPACE + 'he', '<|end|>', '<tool>', '<x>']
TOKENS = ALPHABET + LEARNED  # 'he' is 256, and so on
MERGES = ['h e', 'l l', 'he ll', '1 2', f'{SPACE} he']
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
TYPES = [NORMAL] * 261 + [CONTROL, USER_DEFINED, UNUSED]
END = 261
TEXTS = strategies.text() | strategies.lists(
  strategies.sampled_from(
    ['hello', ' he', '12', '<|end|>', '<tool>', '\n', '  ', '\t', 'ü', '🙂']
  )
).map(''.join)


def write(path: pathlib.Path, tensors=None, **changed) -> pathlib.Path:
  """Writes a tiny tokenizer, beside tensors.

  Names of fields are those behind `tokenizer.ggml.`; a field that is changed
  to None is left out.
  """
  fields = {
    'model': 'gpt2',
    'pre': 'smollm',
    'tokens': TOKENS,
    'token_type': TYPES,
    'merges': MERGES,
    'eos_token_id': END,
  }
  fields = {
    f'tokenizer.ggml.{name}': value
    for name, value in (fields | changed).items()
  }
  return test_gguf.write(path, tensors or {}, **fields)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  path = tmp_path_factory.mktemp('tiny') / 'tiny.gguf'
  return tokenizer.load_tokenizer(write(path))


def ids_of(*pieces):
  return [TOKENS.index(piece) for piece in pieces]


@pytest.mark.parametrize(
  'text, pieces',
  [
    ('', []),
    ('hello', ['hell', 'o']),
    # By rank: h e, then l l, then he ll; nothing joins the space and 'hell'.
    (' hello', [SPACE, 'hell', 'o']),
    (' he', [SPACE + 'he']),
    ('12', ['1', '2']),  # every digit alone
    ('he<|end|>', ['he', *'<|end|>']),  # typed, so it is text
    ('he<tool>he', ['he', '<tool>', 'he']),  # added, and no special token
  ],
)
def test_tokens_of_smollm(tiny, text, pieces):
  assert tiny.encode(text) == ids_of(*pieces)
  assert tiny.decode(ids_of(*pieces)) == text


def test_bytes_of_tokens(tiny):
  assert tiny.vocab_size == len(TOKENS)
  assert sorted(tiny.token_bytes[:256]) == [bytes([i]) for i in range(256)]
  assert tiny.token_bytes[256:] == (
    *(b'he', b'll', b'hell', b'12', b' he'),
    *(b'', b'<tool>', b'<x>'),
  )


@hypothesis.given(TEXTS)
@hypothesis.settings(deadline=None)
def test_text_survives(tiny, text):
  ids = tiny.encode(text)
  assert tiny.decode(ids) == text
  assert b''.join(tiny.token_bytes[i] for i in ids) == text.encode()
  assert END not in ids
  ids = tiny.encode(text, allow_special=True)
  assert tiny.decode(ids, skip_special=False) == text
  assert tiny.decode(ids) == text.replace('<|end|>', '')


@hypothesis.given(strategies.lists(strategies.integers(0, len(TOKENS) - 1)))
@hypothesis.settings(deadline=None)
def test_any_ids_can_be_decoded(tiny, ids):
  # What a model samples need not be UTF-8.
  raw = b''.join(tiny.token_bytes[i] for i in ids)
  assert tiny.decode(ids) == raw.decode(errors='replace')


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'merges': ['h e', 'hello']}, r"ggml\.merges: 'hello': expected two"),
    ({'merges': ['h e', 'h e l']}, r"ggml\.merges: 'h e l': expected two"),
    ({'merges': ['q q']}, r"ggml\.merges: 'q q': .* a third that they make"),
    ({'tokens': [*TOKENS[:-1], 'he']}, r"ggml\.tokens: 'he' stands .* twice"),
    ({'token_type': TYPES[1:]}, r'ggml\.token_type: 263 types for 264'),
    ({'eos_token_id': 264}, r'ggml\.eos_token_id=264: expected .* 264'),
  ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, changed, message):
  path = write(tmp_path / 'tiny.gguf', **changed)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: tokenizer\.{message}'):
    tokenizer.load_tokenizer(path)


@pytest.mark.parametrize('left_out', ['token_type', 'eos_token_id'])
def test_tables_that_may_be_left_out(tmp_path, left_out):
  path = write(tmp_path / 'tiny.gguf', **{left_out: None})
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.encode('hello') == ids_of('hell', 'o')


def test_a_directory_has_the_same_tokenizer(tmp_path, tiny):
  # Written by transformers, from the same tables.
  backend = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: i for i, token in enumerate(TOKENS)},
      merges=[tuple(merge.split(' ')) for merge in MERGES],
    )
  )
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  backend.add_tokens(['<tool>'])
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token='<|end|>'
  ).save_pretrained(tmp_path)
  found = tokenizer.load_tokenizer(tmp_path)
  assert found.token_bytes == tiny.token_bytes
  assert found.special_strings == tiny.special_strings
  assert found.stop_ids == tiny.stop_ids
  for text in ('', 'hello 12 <|end|><tool>\n', 'ü🙂'):
    assert found.encode(text) == tiny.encode(text)
    allowed = found.encode(text, allow_special=True)
    assert allowed == tiny.encode(text, allow_special=True)


@pytest.mark.parametrize(
  'text', ['', '{', '{"model": 3}', '{"model": 3, "added_tokens": []}']
)
def test_a_damaged_directory_is_named(tmp_path, text):
  config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match=rf'{tmp_path}: expected a tokenizer'):
    tokenizer.load_tokenizer(tmp_path)


def test_bytes_without_a_token_are_dropped(smollm2_path):
  # SmolLM2's vocabulary lacks six control characters, and two bytes that
  # begin only characters that no version of Unicode has.
  tokens = tokenizer.load_tokenizer(smollm2_path)
  single = {raw for raw in tokens.token_bytes if len(raw) == 1}
  lacking = [i for i in range(256) if bytes([i]) not in single]
  # C0, C1 and F5 to FF are never in UTF-8.
  assert bytes(lacking) == (
    b'\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2'
    b'\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff'
  )
  for byte in b'\x04\x06\x13\x14\x16\x1d':
    text = f'7{chr(byte)} + 8'
    assert tokens.encode(text) == tokens.encode('7 + 8')
  assert tokens.decode(tokens.encode('a\U00040000b')) == 'a\ufffd\ufffd\ufffdb'


def test_without_torch_nothing_is_said(smollm2_path):
  script = """if True:
    import pathlib, sys, time
    sys.modules['torch'] = None  # as if it were not installed
    from sqlm_jax.text import tokenizer
    start = time.perf_counter()
    tokens = tokenizer.load_tokenizer(pathlib.Path(sys.argv[1]))
    assert tokens.chat([{'role': 'user', 'content': 'Hi'}])
    print(time.perf_counter() - start)
  """
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith('TRANSFORMERS_')
  }
  found = subprocess.run(
    [sys.executable, '-c', script, str(smollm2_path)],
    capture_output=True,
    text=True,
    env=environment,
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert (found.returncode, found.stderr) == (0, '')
  assert float(found.stdout) < 30  # 3 seconds; a busy machine may take longer
