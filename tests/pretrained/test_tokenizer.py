import functools
import itertools
import pathlib

import gguf
import hypothesis
import pytest
import regex
import tokenizers
import transformers
from hypothesis import strategies as st

from sqlm_jax.pretrained import tokenizer

IM_START, IM_END, END_OF_TEXT = '<|im_start|>', '<|im_end|>', '<|endoftext|>'
# Bytes without a token in SmolLM2. transformers also drops them.
LOST = '\x04\x06\x13\x14\x16\x1d'
# Texts that a user may type, including complete and partial special tokens.
TEXTS = st.lists(
  st.one_of(
    # Higher planes of Unicode have no letters and are also dropped.
    st.text(
      st.characters(
        codec='utf-8', exclude_characters=LOST, max_codepoint=0x3FFFF
      )
    ),
    st.sampled_from([IM_START, IM_END, END_OF_TEXT, '<|im', '_end|>', '▁']),
    st.sampled_from(
      ['  ', '\n\n', '\r\n', '\t', '12', '½', '👩‍👧', "'ll", 'Ġ']
    ),
  )
).map(''.join)

# `tokenizer.ggml.pre` smollm: each number separately, then GPT-2's rule.
NUMBER = regex.compile(r'(\p{N})')
WORD = regex.compile(
  r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope='module')
def smollm2(smollm2_path):
  return tokenizer.load_tokenizer(smollm2_path)


@pytest.fixture(scope='module')
def plain():
  return tokenizer.byte_tokenizer()


@pytest.fixture(scope='module', params=['smollm2', 'plain'])
def any_tokenizer(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(scope='module')
def slow_encode(smollm2_path):
  """Encodes a text by the rules of SmolLM2's file, step by step.

  Byte-pair encoding of Sennrich et al. (2016), algorithm 1.
  """
  fields = gguf.GGUFReader(smollm2_path).fields
  tokens = fields['tokenizer.ggml.tokens'].contents()
  merges = fields['tokenizer.ggml.merges'].contents()
  ids = {token: i for i, token in enumerate(tokens)}
  rank = {tuple(merge.split(' ')): i for i, merge in enumerate(merges)}
  # GPT-2: printable bytes stand for themselves, others start at chr(256).
  printable = {b for b in range(256) if chr(b).isprintable() and b != 32}
  others = [b for b in range(256) if b not in printable]
  letters = [
    chr(b if b in printable else 256 + others.index(b)) for b in range(256)
  ]

  @functools.cache
  def encode_word(word):
    # Bytes without a token are dropped first, so their neighbors may merge.
    all_letters = [letters[byte] for byte in word.encode()]
    pieces = [letter for letter in all_letters if letter in ids]
    while pairs := set(itertools.pairwise(pieces)) & rank.keys():
      first = min(pairs, key=rank.get)
      merged, rest = [], pieces
      while rest:
        size = 2 if tuple(rest[:2]) == first else 1
        merged.append(''.join(rest[:size]))
        rest = rest[size:]
      pieces = merged
    return [ids[piece] for piece in pieces]

  return lambda text: [
    i
    for part in NUMBER.split(text)
    for word in WORD.findall(part)
    for i in encode_word(word)
  ]


def join(tokens, ids) -> bytes:
  return b''.join(tokens.token_bytes[i] for i in ids)


@hypothesis.given(text=TEXTS)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_round_trips(any_tokenizer, text):
  ids = any_tokenizer.encode(text)
  assert any_tokenizer.decode(ids) == text
  assert join(any_tokenizer, ids) == text.encode()
  # Typed text never becomes a special token.
  assert all(any_tokenizer.token_bytes[i] for i in ids)


@hypothesis.given(text=TEXTS)
@hypothesis.settings(max_examples=200, deadline=None)
def test_special_tokens_round_trip(any_tokenizer, text):
  ids = any_tokenizer.encode(text, allow_special=True)
  assert any_tokenizer.decode(ids, skip_special=False) == text
  special = '|'.join(map(regex.escape, any_tokenizer.special_strings))
  without = regex.sub(special, '', text)
  assert any_tokenizer.decode(ids) == without
  assert join(any_tokenizer, ids) == without.encode()


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '1234567890',
    '3.14159 and 1,000,000 or 10^-3',
    'x1 y22 z333',
    ' 12  34   56',
    '\n\n\n',
    ' \n \t\n  indented\r\n',
    '     five spaces',
    'trailing   ',
    "it's we'll I'd they've 'tis DON'T",
    'naïve café Ångström ß ﬁ',
    '日本語のテキスト 中文 한국어',
    'Привет, мир! שלום عالم',
    '🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji',
    '\u200b\u00a0\ufeff odd spaces',
    'a\u0301 combining',
    '½ ² ٣ ५ Ⅷ 1½',
    '<|im_end|> as a user types it',
    '\x00\x01\x7f control',
    LOST + '\U00040000',
    '"\x16:',
  ],
)
def test_unusual_texts_follow_the_rules(smollm2, slow_encode, text):
  assert smollm2.encode(text) == slow_encode(text)


@hypothesis.given(
  # Not every Unicode table knows the newest letters. Letters are dropped before
  # merging, so that their neighbors may merge.
  text=st.text(
    st.one_of(
      st.sampled_from(' \n\t\'".,-+=<|>_0123456789'),
      st.characters(max_codepoint=0x24F, exclude_characters=LOST),
    ),
    max_size=40,
  )
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_follows_the_rules(smollm2, slow_encode, text):
  assert smollm2.encode(text) == slow_encode(text)


def test_every_digit_is_a_token(smollm2):
  ids = smollm2.encode('9876543210')
  assert [smollm2.token_bytes[i].decode() for i in ids] == list('9876543210')


def test_stop_ids(smollm2):
  assert smollm2.stop_ids == (0, 2)
  assert smollm2.vocab_size == len(smollm2.token_bytes) == 49152
  text = END_OF_TEXT + IM_START + IM_END
  assert smollm2.encode(text, allow_special=True) == [0, 1, 2]
  assert {END_OF_TEXT, IM_START, IM_END} < set(smollm2.special_strings)


def test_special_tokens_add_no_text(smollm2):
  none = [i for i, added in enumerate(smollm2.token_bytes) if not added]
  assert none == list(range(17))
  assert smollm2.decode([0, 1, 2]) == ''


def test_chat_template_of_smollm2(smollm2):
  # From its model card; the system prompt is added automatically.
  turn = {'role': 'user', 'content': 'Hi {x}!'}
  prompt = smollm2.chat([turn])
  assert prompt == (
    '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained'
    ' by Hugging Face<|im_end|>\n'
    '<|im_start|>user\nHi {x}!<|im_end|>\n'
    '<|im_start|>assistant\n'
  )
  prompt = smollm2.chat([{'role': 'system', 'content': 'Be kind.'}, turn])
  assert prompt.startswith(
    '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>u'
  )
  ids = smollm2.encode(prompt, allow_special=True)
  assert [i for i in ids if i < 17] == [1, 2, 1, 2, 1]


def test_incomplete_characters_are_decoded(smollm2):
  ids = smollm2.encode('語')
  assert len(ids) > 1
  assert smollm2.decode(ids[:1]) == '�'


def test_lone_surrogates_are_encoded(any_tokenizer):
  # Latin-1 input that Python decodes with surrogates.
  text = b'caf\xe9 12'.decode(errors='surrogateescape')
  assert any_tokenizer.decode(any_tokenizer.encode(text)) == 'caf\ufffd 12'
  ids = any_tokenizer.encode(text + END_OF_TEXT, allow_special=True)
  assert any_tokenizer.decode(ids) == 'caf\ufffd 12'


def test_byte_tokenizer(plain):
  assert plain.vocab_size == 257
  assert plain.encode('é<|endoftext|>')[:3] == [0xC3, 0xA9, ord('<')]
  assert plain.encode(f'a{END_OF_TEXT}b', allow_special=True) == [97, 256, 98]
  assert plain.decode([97, 256, 98]) == 'ab'
  assert plain.decode([97, 256], skip_special=False) == f'a{END_OF_TEXT}'
  assert plain.stop_ids == (256,)
  # Ids of additional embedding rows may be sampled, too.
  assert plain.decode([97, 257, 300, 98], skip_special=False) == 'ab'


def test_chat_of_the_byte_tokenizer(plain):
  turns = [
    {'role': 'system', 'content': ' <b> & "ü" {{ x }}\n'},
    {'role': 'user', 'content': 'Hi'},
  ]
  assert plain.chat(turns) == (
    'system:  <b> & "ü" {{ x }}\n\nuser: Hi\nassistant: '
  )


FIELDS = {
  'tokenizer.ggml.model': 'gpt2',
  'tokenizer.ggml.pre': 'gpt-2',
  # Ġ stands for a space. 3: control, 4: user-defined, 1: normal.
  'tokenizer.ggml.tokens': ['<s>', '<tool>', 'a', 'b', 'Ġ', 'ab', 'Ġab', '1'],
  'tokenizer.ggml.token_type': [3, 4, 1, 1, 1, 1, 1, 1],
  'tokenizer.ggml.merges': ['a b', 'Ġ ab'],
  'tokenizer.ggml.eos_token_id': 0,
}


def write(path: pathlib.Path, **changed) -> pathlib.Path:
  """Writes the tokenizer of a GGUF file; fields that are None are omitted."""
  writer = gguf.GGUFWriter(path, 'llama')
  for name, value in (FIELDS | changed).items():
    match value:
      case list():
        writer.add_array(name, value)
      case str():
        writer.add_string(name, value)
      case int():
        writer.add_uint32(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize('split', ['gpt-2', 'default'])
def test_a_small_tokenizer_by_hand(tmp_path, split):
  path = tmp_path / 'tiny.gguf'
  tokens = tokenizer.load_tokenizer(
    write(path, **{'tokenizer.ggml.pre': split})
  )
  # 'ab' is merged, ' ab' is merged further, 'b' and 'a' are unchanged.
  assert tokens.encode('ab ab ba') == [5, 6, 4, 3, 2]
  # A user-defined token is text; a control token is not.
  assert tokens.encode('a<tool>') == [2, 1]
  assert tokens.encode('a<s>', allow_special=True) == [2, 0]
  assert tokens.decode([0, 2, 1, 6]) == 'a<tool> ab'
  assert tokens.token_bytes == (
    (b'', b'<tool>', b'a', b'b', b' ', b'ab', b' ab', b'1')
  )
  assert tokens.stop_ids == (0,)
  assert tokens.special_strings == ('<s>',)


def test_error_without_a_chat_template(tmp_path):
  tokens = tokenizer.from_gguf(write(tmp_path / 'tiny.gguf'))
  with pytest.raises(ValueError, match='expected a model with a chat template'):
    tokens.chat([{'role': 'user', 'content': 'Hi'}])


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('model', 'bert', "tokenizer.ggml.model='bert': expected gpt2"),
    ('model', None, 'tokenizer.ggml.model=None: expected gpt2'),
    ('pre', 'viking', "tokenizer.ggml.pre='viking': expected one of default"),
    ('tokens', None, 'tokenizer.ggml.tokens: missing'),
    ('merges', None, 'tokenizer.ggml.merges: missing'),
  ],
)
def test_unknown_kinds_are_refused(tmp_path, field, value, message):
  path = write(tmp_path / 'tiny.gguf', **{f'tokenizer.ggml.{field}': value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: {message}'):
    tokenizer.load_tokenizer(path)


@pytest.mark.parametrize(
  'keep, expected',
  [
    (0, "a GGUF file .* begins with b''"),
    (3, "a GGUF file .* begins with b'GGU'"),
    (100, 'a complete GGUF file'),
    (-8, 'a complete GGUF file'),
  ],
)
def test_damaged_files_are_refused(tmp_path, keep, expected):
  path = write(tmp_path / 'tiny.gguf')
  path.write_bytes(path.read_bytes().rstrip(b'\0')[:keep])
  with pytest.raises(ValueError, match=rf'tiny\.gguf: expected {expected}'):
    tokenizer.load_tokenizer(path)


def save(directory, model, decoder, **changed):
  """Saves a Hugging Face tokenizer with transformers."""
  backend = tokenizers.Tokenizer(model)
  backend.decoder = decoder
  for name, value in changed.items():
    setattr(backend, name, value)
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    eos_token='</s>',
    chat_template='{{ messages[0].content }}</s>',
  ).save_pretrained(directory)


def test_directory_with_gpt2_bytes(tmp_path):
  save(
    tmp_path,
    tokenizers.models.BPE(
      vocab={'</s>': 0, 'a': 1, 'Ġ': 2, 'Ġa': 3, 'Ã': 4, '©': 5},
      merges=[('Ġ', 'a')],
    ),
    tokenizers.decoders.ByteLevel(),
    pre_tokenizer=tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
  )
  tokens = tokenizer.load_tokenizer(tmp_path)
  assert tokens.encode('a aé') == [1, 3, 4, 5]
  assert tokens.token_bytes == (b'', b'a', b' ', b' a', b'\xc3', b'\xa9')
  assert tokens.stop_ids == (0,)
  assert tokens.chat([{'role': 'user', 'content': 'a'}]) == 'a</s>'


def test_directory_with_sentencepiece_bytes(tmp_path):
  # As in Llama 2: ▁ for a space, and named bytes for missing letters.
  pieces = ['<unk>', '</s>', '<0xC3>', '<0xA9>', '▁', 'a', '▁a']
  save(
    tmp_path,
    tokenizers.models.BPE(
      vocab={piece: i for i, piece in enumerate(pieces)},
      merges=[('▁', 'a')],
      unk_token='<unk>',
      byte_fallback=True,
    ),
    tokenizers.decoders.Sequence(
      [
        tokenizers.decoders.Replace('▁', ' '),
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
      ]
    ),
    normalizer=tokenizers.normalizers.Replace(' ', '▁'),
  )
  tokens = tokenizer.load_tokenizer(tmp_path)
  ids = tokens.encode('a aé')
  assert ids == [5, 6, 2, 3]
  assert join(tokens, ids) == 'a aé'.encode()
  assert tokens.decode(ids) == 'a aé'
  assert tokens.token_bytes[1:] == (b'', b'\xc3', b'\xa9', b' ', b'a', b' a')


def test_unknown_decoders_are_refused(tmp_path):
  save(
    tmp_path,
    tokenizers.models.WordPiece(vocab={'[UNK]': 0, 'a': 1, '</s>': 2}),
    tokenizers.decoders.WordPiece(),
  )
  with pytest.raises(ValueError, match=r"\['WordPiece'\]: expected ByteLevel"):
    tokenizer.load_tokenizer(tmp_path)


def test_directories_without_a_tokenizer_are_refused(tmp_path):
  with pytest.raises(ValueError, match='expected a tokenizer'):
    tokenizer.load_tokenizer(tmp_path)


def test_model_code_is_not_run(tmp_path):
  save(
    tmp_path,
    tokenizers.models.BPE(vocab={'</s>': 0}, merges=[]),
    tokenizers.decoders.ByteLevel(),
  )
  config = tmp_path / 'tokenizer_config.json'
  mine = '{"auto_map": {"AutoTokenizer": ["mine.Mine", null]}, '
  config.write_text(config.read_text().replace('{', mine, 1))
  (tmp_path / 'mine.py').write_text('raise SystemExit("was run")')
  tokens = tokenizer.load_tokenizer(tmp_path)
  assert tokens.stop_ids == (0,)
