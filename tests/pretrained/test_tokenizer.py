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
# Bytes that no token of SmolLM2 has. transformers drops them, and so do we.
LOST = '\x04\x06\x13\x14\x16\x1d'
# Text that a user may type, special tokens and broken pieces of them included.
TEXTS = st.lists(
  st.one_of(
    # Above lie planes of Unicode without letters, which are lost, too.
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

# `tokenizer.ggml.pre` smollm: each number alone, then GPT-2's rule.
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
def either(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(scope='module')
def slow_encode(smollm2_path):
  """The rules of SmolLM2's file carried out step by step.

  Byte-pair encoding as Sennrich et al. (2016) put it, algorithm 1.
  """
  fields = gguf.GGUFReader(smollm2_path).fields
  tokens = fields['tokenizer.ggml.tokens'].contents()
  merges = fields['tokenizer.ggml.merges'].contents()
  ids = {token: i for i, token in enumerate(tokens)}
  rank = {tuple(merge.split(' ')): i for i, merge in enumerate(merges)}
  # GPT-2: printable bytes are themselves, others follow from chr(256) on.
  printable = {b for b in range(256) if chr(b).isprintable() and b != 32}
  others = [b for b in range(256) if b not in printable]
  letters = [
    chr(b if b in printable else 256 + others.index(b)) for b in range(256)
  ]

  @functools.cache
  def encode_word(word):
    # What has no token is dropped first, so that its neighbours may merge.
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


def joined(tokens, ids) -> bytes:
  return b''.join(tokens.token_bytes[i] for i in ids)


@hypothesis.given(text=TEXTS)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_survives(either, text):
  ids = either.encode(text)
  assert either.decode(ids) == text
  assert joined(either, ids) == text.encode()
  # Nothing that is typed becomes a special token.
  assert all(either.token_bytes[i] for i in ids)


@hypothesis.given(text=TEXTS)
@hypothesis.settings(max_examples=200, deadline=None)
def test_special_tokens_of_a_template_survive(either, text):
  ids = either.encode(text, allow_special=True)
  assert either.decode(ids, skip_special=False) == text
  special = '|'.join(map(regex.escape, either.special_strings))
  without = regex.sub(special, '', text)
  assert either.decode(ids) == without
  assert joined(either, ids) == without.encode()


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
def test_odd_texts_are_cut_and_merged_by_the_rules(smollm2, slow_encode, text):
  assert smollm2.encode(text) == slow_encode(text)


@hypothesis.given(
  # The newest letters are not known to every table of Unicode. What is lost
  # is lost before merging, so that its neighbours may merge.
  text=st.text(
    st.one_of(
      st.sampled_from(' \n\t\'".,-+=<|>_0123456789'),
      st.characters(max_codepoint=0x24F, exclude_characters=LOST),
    ),
    max_size=40,
  )
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_is_cut_and_merged_by_the_rules(smollm2, slow_encode, text):
  assert smollm2.encode(text) == slow_encode(text)


def test_every_digit_is_a_token(smollm2):
  ids = smollm2.encode('9876543210')
  assert [smollm2.token_bytes[i].decode() for i in ids] == list('9876543210')


def test_tokens_that_end_a_response(smollm2):
  assert smollm2.stop_ids == (0, 2)
  assert smollm2.vocab_size == len(smollm2.token_bytes) == 49152
  text = END_OF_TEXT + IM_START + IM_END
  assert smollm2.encode(text, allow_special=True) == [0, 1, 2]
  assert {END_OF_TEXT, IM_START, IM_END} < set(smollm2.special_strings)


def test_special_tokens_add_nothing_to_the_text(smollm2):
  none = [i for i, added in enumerate(smollm2.token_bytes) if not added]
  assert none == list(range(17))
  assert smollm2.decode([0, 1, 2]) == ''


def test_chat_template_of_smollm2(smollm2):
  # As its model card shows it; the system prompt comes by itself.
  turn = {'role': 'user', 'content': 'Hi {x}!'}
  prompt = smollm2.chat([turn])
  assert prompt == (
    '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained'
    ' by Hugging Face<|im_end|>\n'
    '<|im_start|>user\nHi {x}!<|im_end|>\n'
    '<|im_start|>assistant\n'
  )
  own = smollm2.chat([{'role': 'system', 'content': 'Be kind.'}, turn])
  assert own.startswith('<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>u')
  ids = smollm2.encode(prompt, allow_special=True)
  assert [i for i in ids if i < 17] == [1, 2, 1, 2, 1]


def test_half_a_character_is_shown_and_not_a_crash(smollm2):
  ids = smollm2.encode('語')
  assert len(ids) > 1
  assert smollm2.decode(ids[:1]) == '�'


def test_bytes_that_are_not_text_do_not_crash(either):
  # What a pipe of Latin-1 becomes where Python lets it through.
  text = b'caf\xe9 12'.decode(errors='surrogateescape')
  assert either.decode(either.encode(text)) == 'caf\ufffd 12'
  ids = either.encode(text + END_OF_TEXT, allow_special=True)
  assert either.decode(ids) == 'caf\ufffd 12'


def test_bytes_and_one_token_more(plain):
  assert plain.vocab_size == 257
  assert plain.encode('é<|endoftext|>')[:3] == [0xC3, 0xA9, ord('<')]
  assert plain.encode(f'a{END_OF_TEXT}b', allow_special=True) == [97, 256, 98]
  assert plain.decode([97, 256, 98]) == 'ab'
  assert plain.decode([97, 256], skip_special=False) == f'a{END_OF_TEXT}'
  assert plain.stop_ids == (256,)
  # What an embedding has more rows for is sampled, too.
  assert plain.decode([97, 257, 300, 98], skip_special=False) == 'ab'


def test_a_chat_of_bytes(plain):
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
  """Writes the tokenizer of a GGUF; a field changed to None is left out."""
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
def test_a_tokenizer_worked_out_by_hand(tmp_path, split):
  path = tmp_path / 'tiny.gguf'
  tokens = tokenizer.load_tokenizer(
    write(path, **{'tokenizer.ggml.pre': split})
  )
  # 'ab' is merged, ' ab' is merged further, 'b' and 'a' stay.
  assert tokens.encode('ab ab ba') == [5, 6, 4, 3, 2]
  # A user-defined token is text; a control token is none.
  assert tokens.encode('a<tool>') == [2, 1]
  assert tokens.encode('a<s>', allow_special=True) == [2, 0]
  assert tokens.decode([0, 2, 1, 6]) == 'a<tool> ab'
  assert tokens.token_bytes == (
    (b'', b'<tool>', b'a', b'b', b' ', b'ab', b' ab', b'1')
  )
  assert tokens.stop_ids == (0,)
  assert tokens.special_strings == ('<s>',)


def test_a_model_without_chat_template_says_so(tmp_path):
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
def test_another_kind_of_tokenizer_is_named(tmp_path, field, value, message):
  path = write(tmp_path / 'tiny.gguf', **{f'tokenizer.ggml.{field}': value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: {message}'):
    tokenizer.load_tokenizer(path)


@pytest.mark.parametrize(
  'keep, expected',
  [
    (0, "a GGUF file .* begins with b''"),
    (3, "a GGUF file .* begins with b'GGU'"),
    (100, 'a whole GGUF file'),
    (-8, 'a whole GGUF file'),
  ],
)
def test_a_damaged_file_is_named(tmp_path, keep, expected):
  path = write(tmp_path / 'tiny.gguf')
  path.write_bytes(path.read_bytes().rstrip(b'\0')[:keep])
  with pytest.raises(ValueError, match=rf'tiny\.gguf: expected {expected}'):
    tokenizer.load_tokenizer(path)


def save(directory, model, decoder, **changed):
  """Saves a Hugging Face tokenizer, by transformers."""
  backend = tokenizers.Tokenizer(model)
  backend.decoder = decoder
  for name, value in changed.items():
    setattr(backend, name, value)
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    eos_token='</s>',
    chat_template='{{ messages[0].content }}</s>',
  ).save_pretrained(directory)


def test_a_directory_with_bytes_in_gpt2_letters(tmp_path):
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


def test_a_directory_with_bytes_in_sentencepiece_letters(tmp_path):
  # As Llama 2 has it: ▁ for a space, and bytes by name where a letter lacks.
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
  assert joined(tokens, ids) == 'a aé'.encode()
  assert tokens.decode(ids) == 'a aé'
  assert tokens.token_bytes[1:] == (b'', b'\xc3', b'\xa9', b' ', b'a', b' a')


def test_a_vocabulary_of_unknown_letters_is_refused(tmp_path):
  save(
    tmp_path,
    tokenizers.models.WordPiece(vocab={'[UNK]': 0, 'a': 1, '</s>': 2}),
    tokenizers.decoders.WordPiece(),
  )
  with pytest.raises(ValueError, match=r"\['WordPiece'\]: expected ByteLevel"):
    tokenizer.load_tokenizer(tmp_path)


def test_a_directory_without_tokenizer_is_refused(tmp_path):
  with pytest.raises(ValueError, match='expected a tokenizer'):
    tokenizer.load_tokenizer(tmp_path)


def test_code_of_a_model_is_not_run(tmp_path):
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
