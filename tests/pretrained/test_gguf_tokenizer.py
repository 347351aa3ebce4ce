"""Tokenizers of GGUF files against those of the families they come from."""

import functools
import json
import pathlib
import unicodedata

import gguf
import hypothesis
import pytest
import regex
import sentencepiece
import transformers
from hypothesis import strategies
from sentencepiece import sentencepiece_model_pb2
from tokenizers import models, pre_tokenizers

from sqlm_jax.pretrained import tokenizer
from tests.pretrained import test_tokenizer_files as files

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def write(
  path: pathlib.Path, *, architecture: str = 'llama', **fields
) -> pathlib.Path:
  """Writes fields by their names after `tokenizer.ggml.`, but for None."""
  writer = gguf.GGUFWriter(path, architecture)
  for name, value in fields.items():
    key = f'tokenizer.ggml.{name}'
    match value:
      case bool():
        writer.add_bool(key, value)
      case int():
        writer.add_uint32(key, value)
      case str():
        writer.add_string(key, value)
      case list():
        writer.add_array(key, value)
  writer.add_chat_template(files.CHAT)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def write_bytes(path, *, specials=(), eos=None, **fields) -> pathlib.Path:
  """Writes a byte-level tokenizer, special tokens last."""
  vocab, merges = files.trained(*specials)
  fields = {
    'model': 'gpt2',
    'pre': 'gpt-2',
    'tokens': list(vocab),
    'token_type': [CONTROL if t in specials else NORMAL for t in vocab],
    'merges': [' '.join(merge) for merge in merges],
    'eos_token_id': vocab[eos] if eos else None,
  } | fields
  return write(path, **fields)


def write_pieces(path, model: bytes, /, **fields) -> pathlib.Path:
  """Writes a SentencePiece model as llama.cpp's converter does."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  fields = {
    'model': 'llama',
    'pre': 'default',
    'tokens': [piece.piece for piece in proto.pieces],
    'scores': [piece.score for piece in proto.pieces],
    'token_type': [piece.type for piece in proto.pieces],
    'bos_token_id': proto.trainer_spec.bos_id,
    'eos_token_id': proto.trainer_spec.eos_id,
    'add_space_prefix': proto.normalizer_spec.add_dummy_prefix,
  } | fields
  return write(path, **fields)


FAMILIES = {
  'qwen2': (files.qwen2, files.QWEN, '<|im_end|>'),
  'deepseek-r1-qwen': (files.qwen2, files.QWEN, '<|im_end|>'),
  'llama-bpe': (files.llama3, files.LLAMA3, '<|end_of_text|>'),
  'llama3': (files.llama3, files.LLAMA3, '<|end_of_text|>'),
  'llama-v3': (files.llama3, files.LLAMA3, '<|end_of_text|>'),
  'gpt-2': (files.gpt2, ('<|endoftext|>',), '<|endoftext|>'),
  'default': (files.gpt2, ('<|endoftext|>',), '<|endoftext|>'),
}


@pytest.fixture(scope='module', params=FAMILIES)
def byte_level(request, tmp_path_factory):
  """The tokenizer of a family, and ours of a file with the same tables."""
  pre, (theirs, specials, eos) = request.param, FAMILIES[request.param]
  path = write_bytes(
    tmp_path_factory.mktemp('bytes') / 'tiny.gguf',
    specials=specials,
    eos=eos,
    pre=pre,
    bos_token_id=list(files.trained(*specials)[0]).index(specials[0]),
  )
  return theirs(), tokenizer.load_tokenizer(path)


@hypothesis.given(text=files.HARD)
@hypothesis.example('thistle 12345e\u0301')
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_byte_level_file_has_the_tokens_of_its_family(byte_level, text):
  theirs, ours = byte_level
  ids = ours.encode(text, allow_special=True)
  assert [*ours.prefix_ids, *ids] == theirs.encode(text)
  assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
  assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
  assert ours.encode(text) == theirs.encode(
    text, add_special_tokens=False, split_special_tokens=True
  )


def test_what_is_known_of_a_file(byte_level):
  theirs, ours = byte_level
  assert ours.special_strings == tuple(
    token.content for token in theirs.added_tokens_decoder.values()
  )
  goes_on = ('<|im_start|>', '<|begin_of_text|>')
  assert ours.stop_ids == tuple(
    i
    for i, token in theirs.added_tokens_decoder.items()
    if token.content not in goes_on
  )


# From the families' `tokenizer.json`: Llama 3 and those that cut alike, Qwen
# 3.5, Mistral (Tekken) and GPT-4o.
UPPER = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]'
LOWER = r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
FRONT = r'[^\r\n\p{L}\p{N}]?'
TAIL = r'\s*[\r\n]+|\s+(?!\S)|\s+'
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = {
  'llama-bpe': files.LLAMA3_WORDS,
  'dbrx': files.LLAMA3_WORDS,
  'smaug-bpe': files.LLAMA3_WORDS,
  'qwen35': (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r'| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
  ),
  'tekken': (
    rf'{FRONT}{UPPER}*{LOWER}+|{FRONT}{UPPER}+{LOWER}*|\p{{N}}'
    rf'| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}'
  ),
  'gpt-4o': (
    rf'{FRONT}{UPPER}*{LOWER}+{SHORT}|{FRONT}{UPPER}+{LOWER}*{SHORT}'
    rf'|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}'
  ),
}
TAKE_WHOLE_WORDS = ('llama-bpe', 'tekken')
COMPOSE = ('qwen35',)
PIECES = strategies.lists(strategies.sampled_from(files.PIECES)).map(''.join)


@functools.cache
def any_two() -> tuple[dict[str, int], list[tuple[str, str]]]:
  """A vocabulary where any two letters merge, so that every cut shows."""
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  [(spelled, _)] = letters.pre_tokenize_str(''.join(files.PIECES))
  # In an order that merges I and ' before ' and d.
  used = sorted(set(spelled), reverse=True)
  merges = [(left, right) for left in used for right in used]
  tokens = [
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *(''.join(merge) for merge in merges),
    'thistle',
  ]
  return {token: i for i, token in enumerate(tokens)}, merges


@pytest.mark.parametrize('pre', WORDS)
def test_words_are_cut_as_published(tmp_path, pre):
  """By the regex library, and each word merged alone."""
  vocab, merges = any_two()
  path = write(
    tmp_path / 'tiny.gguf',
    model='gpt2',
    pre=pre,
    tokens=list(vocab),
    merges=[' '.join(merge) for merge in merges],
    add_bos_token=False,
  )
  ours = tokenizer.load_tokenizer(path)
  merged = models.BPE(vocab=vocab, merges=merges)
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

  def ids_of(word):
    [(spelled, _)] = letters.pre_tokenize_str(word)
    if pre in TAKE_WHOLE_WORDS and spelled in vocab:
      return [vocab[spelled]]
    return [token.id for token in merged.tokenize(spelled)]

  @hypothesis.given(text=PIECES)
  @hypothesis.example("thistle iPhone I'LL I'd a..\n/b हिन्दी e\u0301 12345")
  @hypothesis.settings(max_examples=60, deadline=None)
  def check(text):
    normal = unicodedata.normalize('NFC', text) if pre in COMPOSE else text
    words = regex.findall(WORDS[pre], normal)
    assert ''.join(words) == normal
    assert ours.encode(text) == [i for word in words for i in ids_of(word)]

  check()


def test_numbers_by_three_and_one_by_one(tmp_path):
  # '12' is a token of every file; so is '345'. A cut of '12345' after three
  # digits, after each, or not at all leaves others to merge.
  found = {}
  for pre in ('gpt-2', 'llama-bpe', 'qwen2', 'smollm', 'tekken', 'gpt-4o'):
    path = write(
      tmp_path / f'{pre}.gguf',
      model='gpt2',
      pre=pre,
      tokens=['1', '2', '3', '4', '5', '34', '45'],
      merges=['3 4', '4 5'],
      add_bos_token=False,
    )
    tokens = tokenizer.load_tokenizer(path)
    found[pre] = [tokens.decode([i]) for i in tokens.encode('12345')]
  assert found == {
    'gpt-2': ['1', '2', '34', '5'],  # in the order of the merges
    'llama-bpe': ['1', '2', '3', '45'],
    'qwen2': ['1', '2', '3', '4', '5'],
    'smollm': ['1', '2', '3', '4', '5'],
    'tekken': ['1', '2', '3', '4', '5'],
    'gpt-4o': ['1', '2', '3', '45'],
  }


@pytest.mark.parametrize('pre', [None, 'default'])
@pytest.mark.parametrize('architecture', ['qwen2', 'qwen3', 'gpt2'])
def test_a_file_without_a_rule_takes_that_of_its_architecture(
  tmp_path, architecture, pre, caplog
):
  rule = 'gpt-2' if architecture == 'gpt2' else 'qwen2'
  path = tmp_path / 'tiny.gguf'
  texts = ['Solve:\n\n12 + 3', "I'LL 12345e\u0301", ' \n\n x']
  write_bytes(path, pre=rule)
  expected = [*map(tokenizer.load_tokenizer(path).encode, texts)]
  write_bytes(path, pre=pre, architecture=architecture)
  assert [*map(tokenizer.load_tokenizer(path).encode, texts)] == expected
  assert f'{path}: tokenizer.ggml.pre={pre!r} does not say' in caplog.text
  assert f'{rule!r} is used' in caplog.text


@pytest.mark.parametrize('architecture', ['llama', 'gemma3', 'olmo2', 'phi3'])
def test_a_file_without_a_rule_is_refused(tmp_path, architecture):
  path = tmp_path / 'tiny.gguf'
  write_bytes(path, pre=None, architecture=architecture)
  expected = (
    rf'tiny\.gguf: tokenizer\.ggml\.pre: missing, and .*{architecture}.*: '
    'expected one of default, gpt-2'
  )
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(path)


def test_a_default_rule_is_warned_of(tmp_path, caplog):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='default')
  tokenizer.load_tokenizer(path)
  assert "pre='default': text is split by GPT-2's rule" in caplog.text


def test_special_tokens_of_a_file_are_kept(tmp_path):
  """Gemma's are so: other tools pad with the token of the file."""
  path = write_pieces(
    tmp_path / 'tiny.gguf',
    files.sentencepiece_model(
      has_prefix=False, specials=('<bos>', '<eos>', '<pad>', '<mask>')
    ),
    unknown_token_id=0,
    padding_token_id=3,
    mask_token_id=4,
    seperator_token_id=2,
    cls_token_id=2**32 - 1,  # some files store this for a missing token
  )
  tokenizer.load_tokenizer(path).save(tmp_path / 'out')
  saved = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert saved.special_tokens_map == {
    'bos_token': '<bos>',
    'eos_token': '<eos>',
    'unk_token': '<unk>',
    'sep_token': '<eos>',
    'pad_token': '<pad>',
    'mask_token': '<mask>',
    **{
      key: value
      for key, value in saved.special_tokens_map.items()
      if key in ('additional_special_tokens', 'extra_special_tokens')
    },
  }
  short, long = saved(['the', 'the thing is'], padding=True).input_ids
  assert {saved.pad_token_id} == {*short} - {*long}
  again = tokenizer.load_tokenizer(tmp_path / 'out')
  assert again.special_strings == ('<unk>', '<bos>', '<eos>', '<pad>', '<mask>')


@pytest.mark.parametrize('key', ['padding', 'unknown', 'eot'])
def test_a_special_token_that_is_none_is_named(tmp_path, key):
  field = f'{key}_token_id'
  path = write_bytes(tmp_path / 'tiny.gguf', **{field: 10**6})
  with pytest.raises(ValueError, match=rf'tokenizer\.ggml\.{field}=1000000'):
    tokenizer.load_tokenizer(path)


def test_a_pad_token_without_a_row_is_no_token(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf')
  size = tokenizer.load_tokenizer(path).vocab_size
  path = write_bytes(tmp_path / 'padded.gguf', padding_token_id=size)
  tokenizer.load_tokenizer(path).save(tmp_path / 'out')
  config = json.loads((tmp_path / 'out' / 'tokenizer_config.json').read_text())
  assert 'pad_token' not in config


SPECIALS = {True: ('<s>', '</s>'), False: ('<bos>', '<eos>', '<end_of_turn>')}


class Pieces:
  """A SentencePiece model, and ours of a GGUF and of a directory with it."""

  def __init__(self, directory: pathlib.Path, *, has_prefix: bool):
    model = files.sentencepiece_model(
      has_prefix=has_prefix, specials=SPECIALS[has_prefix]
    )
    self.theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.ours = tokenizer.load_tokenizer(
      write_pieces(directory / 'tiny.gguf', model)
    )
    kind = 'LlamaTokenizer' if has_prefix else 'GemmaTokenizer'
    self.fast = files.of_sentencepiece(kind, directory)
    self.of_directory = tokenizer.load_tokenizer(directory)
    self.has_prefix = has_prefix


@pytest.fixture(scope='module', params=[True, False])
def pieces(request, tmp_path_factory):
  return Pieces(tmp_path_factory.mktemp('pieces'), has_prefix=request.param)


@hypothesis.given(text=files.HARD)
@hypothesis.settings(max_examples=80, deadline=None)
def test_a_file_has_the_tokens_of_sentencepiece(pieces, text):
  if pieces.has_prefix:
    # The space in front goes before a token of the user's there, and behind
    # it here, as with llama.cpp and with Llama 2's tokenizer.json.
    text = text.replace('<tool>', '<too>')
  ids = pieces.ours.encode(text)
  assert ids == pieces.theirs.encode(text)
  assert ids == pieces.of_directory.encode(text)
  # Both spell a space and ▁ alike. SentencePiece takes a space in front away.
  expected = text.replace('▁', ' ')
  assert pieces.theirs.decode(ids) == expected
  prefix = ' ' if pieces.has_prefix and text else ''
  assert pieces.ours.decode(ids) == prefix + expected


@hypothesis.given(text=files.HARD)
@hypothesis.settings(max_examples=80, deadline=None)
def test_a_file_has_the_tokens_of_transformers(pieces, text):
  # What a model's users defined is not read from `tokenizer.model` there.
  specials = ['<tool>']
  if pieces.has_prefix:
    # LlamaTokenizer puts a space in front of the first piece of a text only,
    # and none if there is one, where SentencePiece puts another.
    text = 'a' + text
    specials += ['<s>', '</s>']
  for special in specials:
    text = text.replace(special, '<too>')
  ids = pieces.ours.encode(text, allow_special=True)
  assert [*pieces.ours.prefix_ids, *ids] == pieces.fast.encode(text)
  decoded = pieces.ours.decode(ids, skip_special=False)
  expected = pieces.fast.decode(ids)
  assert decoded == ' ' * pieces.has_prefix + expected


def test_a_directory_of_pieces_is_that_of_the_file(pieces):
  """The directory has a tokenizer.model, and no tokenizer.json."""
  ours, found = pieces.ours, pieces.of_directory
  assert found.token_bytes == ours.token_bytes
  assert found.special == ours.special
  assert found.prefix_ids == ours.prefix_ids
  assert found.stop_ids == ours.stop_ids


def test_a_space_stands_in_front_of_each_part(tmp_path):
  tokens = Pieces(tmp_path, has_prefix=True).ours
  pieces = [
    tokens.token_bytes[i] or i
    for i in tokens.encode('the</s>the<tool> the', allow_special=True)
  ]
  # As SentencePiece encodes each of the three texts alone.
  assert pieces == [b' the', 2, b' the', b'<tool>', b' ', b' the']


def test_spaces_of_a_users_token(tmp_path):
  # Gemma's runs of spaces, as a converter writes them, or as they are.
  for spelled in ('▁▁▁', '   '):
    path = write(
      tmp_path / 'tiny.gguf',
      model='llama',
      tokens=['<unk>', '<bos>', '<eos>', spelled, '▁', 'a', '▁▁', '<0x0A>'],
      scores=[0.0, 0.0, 0.0, -1000.0, -2.0, -3.0, -1.0, 0.0],
      token_type=[UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * 3, BYTE],
      add_space_prefix=False,
    )
    tokens = tokenizer.load_tokenizer(path)
    # The longest from the left, as SentencePiece finds them; no merge is tried.
    assert tokens.encode('a     a \n') == [5, 3, 6, 5, 4, 7]
    assert tokens.token_bytes[3:] == (b'   ', b' ', b'a', b'  ', b'\n')
    assert tokens.decode([3, 5]) == '   a'
    # llama.cpp's numbers for a file that names none.
    assert (tokens.prefix_ids, tokens.stop_ids) == ((1,), (2,))


def test_merges_go_by_score(tmp_path):
  # By place in the file 'ab' would come first.
  path = write(
    tmp_path / 'tiny.gguf',
    model='llama',
    tokens=['<unk>', 'a', 'b', 'c', 'ab', 'bc'],
    scores=[0.0, -5.0, -5.0, -5.0, -2.0, -1.0],
    token_type=[UNKNOWN, *[NORMAL] * 5],
    add_space_prefix=False,
    add_bos_token=False,
  )
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.encode('abcab') == [1, 5, 4]
  # Without tokens for bytes letters in a row are one unknown.
  assert tokens.encode('azzb') == [1, 0, 2]
  assert tokens.prefix_ids == ()


@pytest.mark.parametrize('type_', [UNKNOWN, CONTROL, BYTE])
def test_typed_text_is_merged_to_nothing_special(tmp_path, type_):
  path = write(
    tmp_path / 'tiny.gguf',
    model='llama',
    tokens=['a', 'b', 'ab'],
    scores=[-2.0, -2.0, -1.0],
    token_type=[NORMAL, NORMAL, type_],
    add_space_prefix=False,
    add_bos_token=False,
    eos_token_id=0,
  )
  assert tokenizer.load_tokenizer(path).encode('ab') == [0, 1]


@pytest.mark.parametrize(
  'kind, fields, prefix',
  [
    ('bytes', {'pre': 'gpt-2'}, ()),
    ('bytes', {'pre': 'qwen2'}, ()),
    ('bytes', {'pre': 'smaug-bpe'}, ()),
    ('bytes', {'pre': 'llama-v3'}, (7,)),
    ('bytes', {'pre': 'tekken'}, (7,)),
    ('bytes', {'pre': 'tekken', 'add_bos_token': False}, ()),
    ('bytes', {'pre': 'qwen2', 'add_bos_token': True}, (7,)),
    ('pieces', {}, (1,)),
    ('pieces', {'add_bos_token': False}, ()),
    ('pieces', {'bos_token_id': 2}, (2,)),
  ],
)
def test_what_stands_before_a_text(tmp_path, kind, fields, prefix):
  if kind == 'bytes':
    path = write_bytes(tmp_path / 'tiny.gguf', **{'bos_token_id': 7} | fields)
  else:
    model = files.sentencepiece_model(has_prefix=True)
    path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.prefix_ids == prefix
  assert tokens.encode('a')[:1] != list(prefix)


def test_more_tokens_that_end_a_turn(tmp_path):
  path = write_bytes(
    tmp_path / 'tiny.gguf',
    pre='gpt-2',
    specials=files.QWEN,
    eos_token_id=7,
    eot_token_id=9,
    eom_token_id=8,
  )
  found = tokenizer.load_tokenizer(path)
  vocab, _ = files.trained(*files.QWEN)
  # Those by name are ends in every file that has them.
  named = (vocab['<|endoftext|>'], vocab['<|im_end|>'])
  assert found.stop_ids == (7, 8, 9, *named)


def test_the_end_of_a_turn_and_of_a_text(tmp_path):
  # Gemma's files name one of them as eos.
  model = files.sentencepiece_model(has_prefix=False, specials=SPECIALS[False])
  for eos in (2, 3):
    path = write_pieces(tmp_path / 'tiny.gguf', model, eos_token_id=eos)
    tokens = tokenizer.load_tokenizer(path)
    assert tokens.special_strings[2:] == ('<eos>', '<end_of_turn>')
    assert tokens.stop_ids == (2, 3)


def test_a_users_token_is_text_and_no_letters(tmp_path):
  # In GPT-2's letters é would stand for the byte E9.
  path = write(
    tmp_path / 'tiny.gguf',
    model='gpt2',
    pre='gpt-2',
    tokens=['é', 'a', 'aa'],
    token_type=[USER_DEFINED, NORMAL, NORMAL],
    merges=['a a'],
  )
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.token_bytes == ('é'.encode(), b'a', b'aa')
  assert tokens.decode(tokens.encode('aé')) == 'aé'


@pytest.mark.parametrize(
  'model_type, pre, specials, bos, eos',
  [
    ('qwen2', 'qwen2', files.QWEN, None, '<|im_end|>'),
    ('qwen3', 'qwen2', files.QWEN, None, '<|im_end|>'),
    ('qwen2', 'deepseek-r1-qwen', files.QWEN, '<|im_start|>', '<|im_end|>'),
    (
      *('llama', 'llama-bpe', files.LLAMA3),
      *('<|begin_of_text|>', '<|end_of_text|>'),
    ),
    ('mistral', 'tekken', ('<s>', '</s>'), '<s>', '</s>'),
    ('llama', 'smollm', files.QWEN, None, '<|endoftext|>'),
  ],
)
def test_a_byte_level_tokenizer_is_saved(
  tmp_path, model_type, pre, specials, bos, eos
):
  vocab, _ = files.trained(*specials)
  path = write_bytes(
    tmp_path / 'tiny.gguf',
    pre=pre,
    specials=specials,
    eos=eos,
    bos_token_id=vocab[bos] if bos else None,
    add_bos_token=bool(bos),
  )
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.prefix_ids == ((vocab[bos],) if bos else ())
  # transformers chooses a class by the model beside it.
  (tmp_path / 'new').mkdir()
  config = json.dumps({'model_type': model_type})
  (tmp_path / 'new' / 'config.json').write_text(config)
  files.assert_saved(tokens, tmp_path / 'new')


@pytest.mark.parametrize('model_type', ['', 'llama', 'gemma2', 'gemma3_text'])
def test_a_sentencepiece_tokenizer_is_saved(pieces, tmp_path, model_type):
  if model_type:
    config = json.dumps({'model_type': model_type})
    (tmp_path / 'config.json').write_text(config)
  files.assert_saved(pieces.ours, tmp_path)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'scores': None}, r'ggml\.scores: 0 scores for 460 tokens'),
    ({'scores': [0.0, 1.0]}, r'ggml\.scores: 2 scores for 460 tokens'),
    ({'token_type': [NORMAL]}, r'ggml\.token_type: 1 types for 460'),
    ({'tokens': ['a', 'a'], 'token_type': None}, "ggml.tokens: 'a' stands"),
    ({'tokens': None}, r'ggml\.tokens: missing'),
    ({'bos_token_id': 460}, r'ggml\.bos_token_id=460: expected less than 460'),
    ({'eot_token_id': 461}, r'ggml\.eot_token_id=461: expected less than 460'),
    (
      {'remove_extra_whitespaces': True},
      r'ggml\.remove_extra_whitespaces=True: expected False',
    ),
    ({'model': 'bert'}, r"ggml\.model='bert': expected gpt2 .* or llama"),
  ],
)
def test_tables_of_pieces_that_do_not_fit_are_named(tmp_path, fields, message):
  model = files.sentencepiece_model(has_prefix=True)
  path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: tokenizer\.{message}'):
    tokenizer.load_tokenizer(path)


def test_whitespace_that_stays_is_no_error(tmp_path):
  model = files.sentencepiece_model(has_prefix=True)
  fields = {'remove_extra_whitespaces': False}
  path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.decode(tokens.encode('a  b ')) == ' a  b '


def test_a_text_cannot_begin_with_a_token_that_is_not_named(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='llama-bpe')
  message = r'tiny\.gguf: tokenizer\.ggml\.bos_token_id: missing'
  with pytest.raises(ValueError, match=message):
    tokenizer.load_tokenizer(path)


def test_an_unknown_rule_is_named_beside_the_known(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='olmo')
  with pytest.raises(
    ValueError, match=r"ggml\.pre='olmo': expected one of default, gpt-2, .*,"
  ):
    tokenizer.load_tokenizer(path)
