"""Tokenizers of GGUF files, compared with those of their families."""

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
  """Writes fields by their names after `tokenizer.ggml.`; omits None."""
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
  """Writes a byte-level tokenizer whose special tokens come last."""
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
  """Returns a family's tokenizer, and ours for a file with its tables."""
  pre, (reference, specials, eos) = request.param, FAMILIES[request.param]
  path = write_bytes(
    tmp_path_factory.mktemp('bytes') / 'tiny.gguf',
    specials=specials,
    eos=eos,
    pre=pre,
    bos_token_id=list(files.trained(*specials)[0]).index(specials[0]),
  )
  return reference(), tokenizer.load_tokenizer(path)


@hypothesis.given(text=files.HARD)
@hypothesis.example('thistle 12345e\u0301')
@hypothesis.settings(max_examples=50, deadline=None)
def test_byte_level_tokens_agree_with_transformers(byte_level, text):
  reference, loaded = byte_level
  ids = loaded.encode(text, allow_special=True)
  assert [*loaded.prefix_ids, *ids] == reference.encode(text)
  assert loaded.decode(ids) == reference.decode(ids, skip_special_tokens=True)
  assert loaded.decode(ids, skip_special=False) == reference.decode(ids)
  assert loaded.encode(text) == reference.encode(
    text, add_special_tokens=False, split_special_tokens=True
  )


def test_special_and_stop_tokens_agree_with_transformers(byte_level):
  reference, loaded = byte_level
  assert loaded.special_strings == tuple(
    token.content for token in reference.added_tokens_decoder.values()
  )
  goes_on = ('<|im_start|>', '<|begin_of_text|>')
  assert loaded.stop_ids == tuple(
    i
    for i, token in reference.added_tokens_decoder.items()
    if token.content not in goes_on
  )


# From `tokenizer.json` of Llama 3 and families with the same rule, Qwen 3.5,
# Mistral (Tekken) and GPT-4o.
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
def merges_of_all_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Returns a vocabulary in which all pairs merge, which reveals splits."""
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  [(spelled, _)] = letters.pre_tokenize_str(''.join(files.PIECES))
  # The order merges I and ' before ' and d.
  used = sorted(set(spelled), reverse=True)
  merges = [(left, right) for left in used for right in used]
  tokens = [
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *(''.join(merge) for merge in merges),
    'thistle',
  ]
  return {token: i for i, token in enumerate(tokens)}, merges


@pytest.mark.parametrize('pre', WORDS)
def test_words_are_split_by_the_published_rules(tmp_path, pre):
  """Splits with the regex library, and merges each word separately."""
  vocab, merges = merges_of_all_pairs()
  path = write(
    tmp_path / 'tiny.gguf',
    model='gpt2',
    pre=pre,
    tokens=list(vocab),
    merges=[' '.join(merge) for merge in merges],
    add_bos_token=False,
  )
  loaded = tokenizer.load_tokenizer(path)
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
    assert loaded.encode(text) == [i for word in words for i in ids_of(word)]

  check()


def test_digits_are_split_by_the_rule(tmp_path):
  # '12' and '345' are tokens of every file. Splitting '12345' into threes, into
  # single digits or not at all leaves different merges.
  pieces_by_rule = {}
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
    pieces_by_rule[pre] = [tokens.decode([i]) for i in tokens.encode('12345')]
  assert pieces_by_rule == {
    'gpt-2': ['1', '2', '34', '5'],  # by the order of the merges
    'llama-bpe': ['1', '2', '3', '45'],
    'qwen2': ['1', '2', '3', '4', '5'],
    'smollm': ['1', '2', '3', '4', '5'],
    'tekken': ['1', '2', '3', '4', '5'],
    'gpt-4o': ['1', '2', '3', '45'],
  }


@pytest.mark.parametrize('pre', [None, 'default'])
@pytest.mark.parametrize('architecture', ['qwen2', 'qwen3', 'gpt2'])
def test_rule_of_the_architecture(tmp_path, architecture, pre, caplog):
  rule = 'gpt-2' if architecture == 'gpt2' else 'qwen2'
  path = tmp_path / 'tiny.gguf'
  texts = ['Solve:\n\n12 + 3', "I'LL 12345e\u0301", ' \n\n x']
  write_bytes(path, pre=rule)
  expected = [*map(tokenizer.load_tokenizer(path).encode, texts)]
  write_bytes(path, pre=pre, architecture=architecture)
  assert [*map(tokenizer.load_tokenizer(path).encode, texts)] == expected
  assert f'{path}: tokenizer.ggml.pre={pre!r} does not say' in caplog.text
  assert f'Using {rule!r}' in caplog.text


@pytest.mark.parametrize('architecture', ['llama', 'gemma3', 'olmo2', 'phi3'])
def test_files_without_a_rule_are_refused(tmp_path, architecture):
  path = tmp_path / 'tiny.gguf'
  write_bytes(path, pre=None, architecture=architecture)
  expected = (
    rf'tiny\.gguf: tokenizer\.ggml\.pre: missing, and .*{architecture}.* '
    r'have different rules\. Expected one of default, gpt-2'
  )
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(path)


def test_the_default_rule_causes_a_warning(tmp_path, caplog):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='default')
  tokenizer.load_tokenizer(path)
  assert "pre='default': text is split by GPT-2's rule" in caplog.text


def test_special_tokens_are_kept(tmp_path):
  """As for Gemma, the file's pad token is kept for other tools."""
  path = write_pieces(
    tmp_path / 'tiny.gguf',
    files.sentencepiece_model(
      has_prefix=False, specials=('<bos>', '<eos>', '<pad>', '<mask>')
    ),
    unknown_token_id=0,
    padding_token_id=3,
    mask_token_id=4,
    seperator_token_id=2,
    cls_token_id=2**32 - 1,  # stands for a missing token in some files
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
def test_invalid_special_token_ids_are_refused(tmp_path, key):
  field = f'{key}_token_id'
  path = write_bytes(tmp_path / 'tiny.gguf', **{field: 10**6})
  with pytest.raises(ValueError, match=rf'tokenizer\.ggml\.{field}=1000000'):
    tokenizer.load_tokenizer(path)


def test_pad_tokens_without_a_row_are_ignored(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf')
  size = tokenizer.load_tokenizer(path).vocab_size
  path = write_bytes(tmp_path / 'padded.gguf', padding_token_id=size)
  tokenizer.load_tokenizer(path).save(tmp_path / 'out')
  config = json.loads((tmp_path / 'out' / 'tokenizer_config.json').read_text())
  assert 'pad_token' not in config


SPECIALS = {True: ('<s>', '</s>'), False: ('<bos>', '<eos>', '<end_of_turn>')}


class Pieces:
  """A SentencePiece model, and our tokenizers of its GGUF and directory."""

  def __init__(self, directory: pathlib.Path, *, has_prefix: bool):
    model = files.sentencepiece_model(
      has_prefix=has_prefix, specials=SPECIALS[has_prefix]
    )
    self.reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.loaded = tokenizer.load_tokenizer(
      write_pieces(directory / 'tiny.gguf', model)
    )
    kind = 'LlamaTokenizer' if has_prefix else 'GemmaTokenizer'
    self.fast = files.from_sentencepiece(kind, directory)
    self.of_directory = tokenizer.load_tokenizer(directory)
    self.has_prefix = has_prefix


@pytest.fixture(scope='module', params=[True, False])
def pieces(request, tmp_path_factory):
  return Pieces(tmp_path_factory.mktemp('pieces'), has_prefix=request.param)


@hypothesis.given(text=files.HARD)
@hypothesis.settings(max_examples=80, deadline=None)
def test_pieces_agree_with_sentencepiece(pieces, text):
  if pieces.has_prefix:
    # SentencePiece puts the prefix space before a user-defined token. We put it
    # after the token, like llama.cpp and Llama 2's tokenizer.json.
    text = text.replace('<tool>', '<too>')
  ids = pieces.loaded.encode(text)
  assert ids == pieces.reference.encode(text)
  assert ids == pieces.of_directory.encode(text)
  # Both write a space as ▁. SentencePiece removes a leading space.
  expected = text.replace('▁', ' ')
  assert pieces.reference.decode(ids) == expected
  prefix = ' ' if pieces.has_prefix and text else ''
  assert pieces.loaded.decode(ids) == prefix + expected


@hypothesis.given(text=files.HARD)
@hypothesis.settings(max_examples=80, deadline=None)
def test_pieces_agree_with_transformers(pieces, text):
  # transformers does not read user-defined tokens from `tokenizer.model`.
  specials = ['<tool>']
  if pieces.has_prefix:
    # LlamaTokenizer adds a space only before the first piece of a text, and
    # none if the text begins with a space; SentencePiece always adds one.
    text = 'a' + text
    specials += ['<s>', '</s>']
  for special in specials:
    text = text.replace(special, '<too>')
  ids = pieces.loaded.encode(text, allow_special=True)
  assert [*pieces.loaded.prefix_ids, *ids] == pieces.fast.encode(text)
  decoded = pieces.loaded.decode(ids, skip_special=False)
  expected = pieces.fast.decode(ids)
  assert decoded == ' ' * pieces.has_prefix + expected


def test_directories_and_gguf_files_agree(pieces):
  """The directory has a tokenizer.model, but no tokenizer.json."""
  expected, loaded = pieces.loaded, pieces.of_directory
  assert loaded.token_bytes == expected.token_bytes
  assert loaded.special == expected.special
  assert loaded.prefix_ids == expected.prefix_ids
  assert loaded.stop_ids == expected.stop_ids


def test_each_part_starts_with_a_space(tmp_path):
  tokens = Pieces(tmp_path, has_prefix=True).loaded
  pieces = [
    tokens.token_bytes[i] or i
    for i in tokens.encode('the</s>the<tool> the', allow_special=True)
  ]
  # SentencePiece encodes each of the three texts this way.
  assert pieces == [b' the', 2, b' the', b'<tool>', b' ', b' the']


def test_user_defined_tokens_of_spaces(tmp_path):
  # Gemma's runs of spaces, written by a converter as ▁ or as spaces.
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
    # Longest match from the left, without merges, as in SentencePiece.
    assert tokens.encode('a     a \n') == [5, 3, 6, 5, 4, 7]
    assert tokens.token_bytes[3:] == (b'   ', b' ', b'a', b'  ', b'\n')
    assert tokens.decode([3, 5]) == '   a'
    # llama.cpp's defaults for a file without ids.
    assert (tokens.prefix_ids, tokens.stop_ids) == ((1,), (2,))


def test_merges_are_ordered_by_score(tmp_path):
  # By position in the file, 'ab' would come first.
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
  # Without byte tokens, consecutive unknown letters are one unknown token.
  assert tokens.encode('azzb') == [1, 0, 2]
  assert tokens.prefix_ids == ()


@pytest.mark.parametrize('type_', [UNKNOWN, CONTROL, BYTE])
def test_typed_text_never_becomes_a_special_token(tmp_path, type_):
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
def test_prefix_ids(tmp_path, kind, fields, prefix):
  if kind == 'bytes':
    path = write_bytes(tmp_path / 'tiny.gguf', **{'bos_token_id': 7} | fields)
  else:
    model = files.sentencepiece_model(has_prefix=True)
    path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.prefix_ids == prefix
  assert tokens.encode('a')[:1] != list(prefix)


def test_further_tokens_that_end_a_turn(tmp_path):
  path = write_bytes(
    tmp_path / 'tiny.gguf',
    pre='gpt-2',
    specials=files.QWEN,
    eos_token_id=7,
    eot_token_id=9,
    eom_token_id=8,
  )
  loaded = tokenizer.load_tokenizer(path)
  vocab, _ = files.trained(*files.QWEN)
  # These names end a turn in every file that has them.
  named = (vocab['<|endoftext|>'], vocab['<|im_end|>'])
  assert loaded.stop_ids == (7, 8, 9, *named)


def test_stop_ids(tmp_path):
  # Gemma's files specify one of them as eos.
  model = files.sentencepiece_model(has_prefix=False, specials=SPECIALS[False])
  for eos in (2, 3):
    path = write_pieces(tmp_path / 'tiny.gguf', model, eos_token_id=eos)
    tokens = tokenizer.load_tokenizer(path)
    assert tokens.special_strings[2:] == ('<eos>', '<end_of_turn>')
    assert tokens.stop_ids == (2, 3)


def test_user_defined_tokens_are_text(tmp_path):
  # In GPT-2's alphabet, é stands for the byte E9.
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
def test_byte_level_tokenizers_are_saved(
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
  # transformers chooses a class by the model's config.
  (tmp_path / 'new').mkdir()
  config = json.dumps({'model_type': model_type})
  (tmp_path / 'new' / 'config.json').write_text(config)
  files.assert_saved(tokens, tmp_path / 'new')


@pytest.mark.parametrize('model_type', ['', 'llama', 'gemma2', 'gemma3_text'])
def test_sentencepiece_tokenizers_are_saved(pieces, tmp_path, model_type):
  if model_type:
    config = json.dumps({'model_type': model_type})
    (tmp_path / 'config.json').write_text(config)
  files.assert_saved(pieces.loaded, tmp_path)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'scores': None}, r'ggml\.scores: 0 scores for 460 tokens'),
    ({'scores': [0.0, 1.0]}, r'ggml\.scores: 2 scores for 460 tokens'),
    ({'token_type': [NORMAL]}, r'ggml\.token_type: 1 types for 460'),
    ({'tokens': ['a', 'a'], 'token_type': None}, "ggml.tokens: 'a' appears"),
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
def test_inconsistent_tables_are_refused(tmp_path, fields, message):
  model = files.sentencepiece_model(has_prefix=True)
  path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: tokenizer\.{message}'):
    tokenizer.load_tokenizer(path)


def test_kept_whitespace(tmp_path):
  model = files.sentencepiece_model(has_prefix=True)
  fields = {'remove_extra_whitespaces': False}
  path = write_pieces(tmp_path / 'tiny.gguf', model, **fields)
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.decode(tokens.encode('a  b ')) == ' a  b '


def test_add_bos_token_requires_a_bos_id(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='llama-bpe')
  message = r'tiny\.gguf: tokenizer\.ggml\.bos_token_id: missing'
  with pytest.raises(ValueError, match=message):
    tokenizer.load_tokenizer(path)


def test_unknown_rules_are_refused(tmp_path):
  path = write_bytes(tmp_path / 'tiny.gguf', pre='olmo')
  with pytest.raises(
    ValueError, match=r"ggml\.pre='olmo': expected one of default, gpt-2, .*,"
  ):
    tokenizer.load_tokenizer(path)
