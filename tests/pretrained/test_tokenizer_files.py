"""Tokenizers of tiny files, intact and damaged, and of the real model."""

import functools
import io
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import hypothesis
import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import strategies
from tokenizers import decoders, models, pre_tokenizers, trainers

from sqlm_jax.pretrained import tokenizer
from tests.pretrained import test_gguf

# GPT-2's printable characters for bytes: most stand for themselves, and the
# other 68 start at 256. A space, the 33rd of them, is 288.
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

# Texts that the families' tokenizers split or compose differently.
PIECES = [
  *(' ', '  ', '    ', '\n', '\n\n', '\r\n', '\t', '\u00a0', '\u3000'),
  *('12345', '1,000', '٣٤٥', '½', 'Ⅷ', '²', '３'),
  *("'s", "'LL", "don't", "I'd", "'ſ", '_', '/', '=====', '...'),
  *('the', ' the', 'thing', 'THE', 'thistle', 'iPhone', 'naïve', 'ǅ', 'ß'),
  *('e\u0301', 'é', '\u0301', 'กำ', 'हिन्दी', '\u1100\u1161\u11a8', 'ﬁ', 'Å'),
  *(
    '日本語',
    '한국어',
    'שלום',
    '。',
    '🙂',
    '👩‍👩‍👧',
    '🏳️‍🌈',
    '\u200b',
    '\ufeff',
    '\0',
  ),
  *('<s>', '</s>', '<bos>', '<|im_end|>', '<|eot_id|>', '<end_of_turn>'),
  *('<tool>', '<0x41>', 'Ġ', '▁'),
]
HARD = strategies.lists(
  strategies.sampled_from(PIECES) | strategies.text(max_size=4)
).map(''.join)
CORPUS = """\
The quick brown fox jumps over the lazy dog, and the dog didn't mind it.
It's 12345 + 89 = 12434; they've we'll I'd HE'S DON'T 'tis.
def f(x):
    return x ** 2  # naïve café, Å e\u0301

日本語のテキスト。中文字符，한국어 문장. Привет, мир! שלום हिन्दी กำ
the thing is that the other things are there =====, then this... that 🙂
"""
CHAT = (
  "{{ bos_token or '' }}{% for m in messages %}[{{ m['role'] }}]"
  "{{ m['content'] }}{{ eos_token }}{% endfor %}"
  '{% if add_generation_prompt %}[me] {% endif %}'
)
MESSAGES = [
  {'role': 'user', 'content': ' What is\n 2 + 2? '},
  {'role': 'assistant', 'content': '**4**'},
  {'role': 'user', 'content': 'é'},
]
QWEN = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
LLAMA3 = ('<|begin_of_text|>', '<|end_of_text|>', '<|eom_id|>', '<|eot_id|>')
# From the `tokenizer.json` that Meta published.
LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


@functools.cache
def trained(
  *specials: str,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Returns a vocabulary in GPT-2's letters and its merges."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.train_from_iterator(
    CORPUS.splitlines(keepends=True) * 2,
    trainers.BpeTrainer(
      vocab_size=400,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  model = json.loads(backend.to_str())['model']
  # No merges lead to 'thistle', so only tokenizers of whole words find it.
  tokens = [*model['vocab'], 'thistle', *specials]
  merges = [tuple(merge) for merge in model['merges']]
  return {token: i for i, token in enumerate(tokens)}, merges


@functools.cache
def sentencepiece_model(
  *, has_prefix: bool, specials: tuple[str, ...] = ('<s>', '</s>')
) -> bytes:
  """Returns a SentencePiece model with bytes as a fallback."""
  out = io.BytesIO()
  bos, eos = specials[:2]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS.splitlines() * 3),
    model_writer=out,
    model_type='bpe',
    vocab_size=460,
    byte_fallback=True,
    add_dummy_prefix=has_prefix,
    remove_extra_whitespaces=False,
    normalization_rule_name='identity',
    allow_whitespace_only_pieces=True,
    split_digits=True,
    bos_piece=bos,
    eos_piece=eos,
    control_symbols=list(specials[2:]),
    user_defined_symbols=['<tool>'],
    num_threads=1,
    minloglevel=2,
  )
  return out.getvalue()


def qwen2() -> transformers.PreTrainedTokenizerFast:
  vocab, merges = trained(*QWEN)
  return transformers.Qwen2Tokenizer(
    vocab=vocab,
    merges=merges,
    eos_token='<|im_end|>',
    extra_special_tokens=['<|im_start|>'],
    chat_template=CHAT,
  )


def llama3() -> transformers.PreTrainedTokenizerFast:
  vocab, merges = trained(*LLAMA3)
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=merges, ignore_merges=True)
  )
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single='<|begin_of_text|> $A',
    special_tokens=[('<|begin_of_text|>', vocab['<|begin_of_text|>'])],
  )
  backend.add_special_tokens(list(LLAMA3))
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    bos_token='<|begin_of_text|>',
    eos_token='<|end_of_text|>',
    chat_template=CHAT,
  )


def gpt2() -> transformers.PreTrainedTokenizerFast:
  vocab, merges = trained('<|endoftext|>')
  return transformers.GPT2Tokenizer(
    vocab=vocab, merges=merges, chat_template=CHAT
  )


def from_sentencepiece(
  kind: str, directory: pathlib.Path
) -> transformers.PreTrainedTokenizerFast:
  """Returns transformers' tokenizer of a SentencePiece model."""
  directory.mkdir(exist_ok=True)
  gemma = kind == 'GemmaTokenizer'
  model = sentencepiece_model(
    has_prefix=not gemma,
    specials=('<bos>', '<eos>', '<end_of_turn>') if gemma else ('<s>', '</s>'),
  )
  (directory / 'tokenizer.model').write_bytes(model)
  config = {
    'tokenizer_class': kind,
    'chat_template': CHAT,
    'add_bos_token': True,
    'bos_token': '<bos>' if gemma else '<s>',
    'eos_token': '<eos>' if gemma else '</s>',
    'unk_token': '<unk>',
  }
  if gemma:
    config['extra_special_tokens'] = ['<end_of_turn>']
    config['pad_token'] = config['mask_token'] = '<unk>'
  (directory / 'tokenizer_config.json').write_text(json.dumps(config))
  return transformers.AutoTokenizer.from_pretrained(directory)


def write(path: pathlib.Path, tensors=None, **changed) -> pathlib.Path:
  """Writes a tiny tokenizer to a GGUF file with tensors.

  Fields are named without `tokenizer.ggml.`; fields that are None are omitted.
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
    # By rank: h e, then l l, then he ll; no merge joins the space and 'hell'.
    (' hello', [SPACE, 'hell', 'o']),
    (' he', [SPACE + 'he']),
    ('12', ['1', '2']),  # single digits
    ('he<|end|>', ['he', *'<|end|>']),  # typed text, not a special token
    (
      'he<tool>he',
      ['he', '<tool>', 'he'],
    ),  # an added token that is not special
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
def test_text_round_trips(tiny, text):
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
  # Sampled tokens need not be valid UTF-8.
  raw = b''.join(tiny.token_bytes[i] for i in ids)
  assert tiny.decode(ids) == raw.decode(errors='replace')


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'merges': ['h e', 'hello']}, r"ggml\.merges: 'hello': expected two"),
    ({'merges': ['h e', 'h e l']}, r"ggml\.merges: 'h e l': expected two"),
    ({'merges': ['q q']}, r"ggml\.merges: 'q q': expected two tokens whose"),
    ({'tokens': [*TOKENS[:-1], 'he']}, r"ggml\.tokens: 'he' appears twice"),
    ({'token_type': TYPES[1:]}, r'ggml\.token_type: 263 types for 264'),
    ({'eos_token_id': 264}, r'ggml\.eos_token_id=264: expected .* 264'),
  ],
)
def test_inconsistent_tables_are_refused(tmp_path, changed, message):
  path = write(tmp_path / 'tiny.gguf', **changed)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: tokenizer\.{message}'):
    tokenizer.load_tokenizer(path)


@pytest.mark.parametrize('left_out', ['token_type', 'eos_token_id'])
def test_optional_tables(tmp_path, left_out):
  path = write(tmp_path / 'tiny.gguf', **{left_out: None})
  tokens = tokenizer.load_tokenizer(path)
  assert tokens.encode('hello') == ids_of('hell', 'o')


def test_directories_and_gguf_files_agree(tmp_path, tiny):
  # Written by transformers from the same tables.
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
  loaded = tokenizer.load_tokenizer(tmp_path)
  assert loaded.token_bytes == tiny.token_bytes
  assert loaded.special_strings == tiny.special_strings
  assert loaded.stop_ids == tiny.stop_ids
  for text in ('', 'hello 12 <|end|><tool>\n', 'ü🙂'):
    assert loaded.encode(text) == tiny.encode(text)
    allowed = loaded.encode(text, allow_special=True)
    assert allowed == tiny.encode(text, allow_special=True)


@pytest.mark.parametrize(
  'text', ['', '{', '{"model": 3}', '{"model": 3, "added_tokens": []}']
)
def test_damaged_directories_are_refused(tmp_path, text):
  config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match=rf'{tmp_path}: cannot read'):
    tokenizer.load_tokenizer(tmp_path)


def test_bytes_without_a_token_are_dropped(smollm2_path):
  # SmolLM2's vocabulary lacks six control characters, and two bytes that
  # begin only characters that no version of Unicode has.
  tokens = tokenizer.load_tokenizer(smollm2_path)
  single = {raw for raw in tokens.token_bytes if len(raw) == 1}
  lacking = [i for i in range(256) if bytes([i]) not in single]
  # UTF-8 never contains C0, C1 and F5 to FF.
  assert bytes(lacking) == (
    b'\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2'
    b'\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff'
  )
  for byte in b'\x04\x06\x13\x14\x16\x1d':
    text = f'7{chr(byte)} + 8'
    assert tokens.encode(text) == tokens.encode('7 + 8')
  assert tokens.decode(tokens.encode('a\U00040000b')) == 'a\ufffd\ufffd\ufffdb'


def test_no_output_without_torch(smollm2_path, tmp_path):
  script = """if True:
    import pathlib, sys, time
    sys.modules['torch'] = None  # simulates that it is not installed
    from sqlm_jax.pretrained import tokenizer
    start = time.perf_counter()
    tokens = tokenizer.load_tokenizer(pathlib.Path(sys.argv[1]))
    assert tokens.chat([{'role': 'user', 'content': 'Hi'}])
    tokens.save(pathlib.Path(sys.argv[2]))
    saved = tokenizer.load_tokenizer(pathlib.Path(sys.argv[2]))
    assert saved.token_bytes == tokens.token_bytes
    print(time.perf_counter() - start)
  """
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith('TRANSFORMERS_')
  }
  process = subprocess.run(
    [sys.executable, '-c', script, str(smollm2_path), str(tmp_path)],
    capture_output=True,
    text=True,
    env=environment,
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert (process.returncode, process.stderr) == (0, '')
  assert float(process.stdout) < 30  # 3 seconds; a busy machine may take longer


FAMILIES = {
  'qwen2': ((), ('<|endoftext|>', '<|im_end|>')),
  'llama3': (
    ('<|begin_of_text|>',),
    ('<|end_of_text|>', '<|eom_id|>', '<|eot_id|>'),
  ),
  'gpt2': ((), ('<|endoftext|>',)),
  'LlamaTokenizer': (('<s>',), ('</s>',)),
  'GemmaTokenizer': (('<bos>',), ('<eos>', '<end_of_turn>')),
}


class Family(NamedTuple):
  """A directory, and the tokenizers that transformers and we read from it."""

  name: str
  directory: pathlib.Path
  reference: transformers.PreTrainedTokenizerFast
  loaded: tokenizer.Tokenizer


@pytest.fixture(scope='module', params=FAMILIES)
def family(request, tmp_path_factory):
  name, directory = request.param, tmp_path_factory.mktemp(request.param)
  if name.endswith('Tokenizer'):
    reference = from_sentencepiece(name, directory)
    reference.save_pretrained(
      directory
    )  # both tokenizer.json and tokenizer.model
  else:
    reference = {'qwen2': qwen2, 'llama3': llama3, 'gpt2': gpt2}[name]()
    reference.save_pretrained(directory)
  return Family(name, directory, reference, tokenizer.load_tokenizer(directory))


@hypothesis.given(text=HARD)
@hypothesis.settings(max_examples=60, deadline=None)
def test_directories_agree_with_transformers(family, text):
  reference, loaded = family.reference, family.loaded
  ids = loaded.encode(text, allow_special=True)
  assert ids == reference.encode(text, add_special_tokens=False)
  assert [*loaded.prefix_ids, *ids] == reference.encode(text)
  for skip_special in (True, False):
    expected = reference.decode(ids, skip_special_tokens=skip_special)
    decoded = loaded.decode(ids, skip_special)
    # Llama's decoder removes the leading space, as for a complete text.
    if family.name == 'LlamaTokenizer':
      decoded = decoded.removeprefix(' ')
    assert decoded == expected
  typed = loaded.encode(text)
  assert typed == reference.encode(
    text, add_special_tokens=False, split_special_tokens=True
  )
  assert not {loaded.encode(s, True)[-1] for s in loaded.special_strings} & {
    *typed
  }


def test_prefix_and_stop_ids(family):
  prefix, stops = FAMILIES[family.name]
  to_ids = family.reference.convert_tokens_to_ids
  assert family.loaded.prefix_ids == tuple(to_ids(list(prefix)))
  assert family.loaded.stop_ids == tuple(sorted(to_ids(list(stops))))


def test_suffixes_are_not_prefixes(tmp_path):
  reference = llama3()
  bos, eos = '<|begin_of_text|>', '<|end_of_text|>'
  ids = reference.convert_tokens_to_ids([bos, eos])
  reference.backend_tokenizer.post_processor = (
    tokenizers.processors.TemplateProcessing(
      single=f'{bos} $A {eos}',
      special_tokens=list(zip([bos, eos], ids, strict=True)),
    )
  )
  reference.save_pretrained(tmp_path)
  assert reference('a').input_ids[-1] == ids[1]
  assert tokenizer.load_tokenizer(tmp_path).prefix_ids == (ids[0],)


def test_continuations_keep_leading_spaces(family):
  ids = family.loaded.encode('the dog')
  assert family.loaded.decode(ids).lstrip() == 'the dog'
  last = family.loaded.decode(ids[-1:])
  assert last == ' dog'


def assert_saved(tokens: tokenizer.Tokenizer, directory: pathlib.Path) -> None:
  """Checks that transformers reads the same ids and chats from a saved copy."""
  tokens.save(directory)
  saved = transformers.AutoTokenizer.from_pretrained(directory)
  chat = saved.apply_chat_template(
    MESSAGES, tokenize=False, add_generation_prompt=True
  )
  assert tokens.chat(MESSAGES) == chat
  # A complete text, so without a leading space.
  assert saved.decode(tokens.encode('the dog')) == 'the dog'
  texts = [CORPUS, '', ' hi', '  12345', 'e\u0301', 'the thistle', '🙂\n\n the']
  for text in [*texts, *tokens.special_strings, chat]:
    ids = tokens.encode(text, allow_special=True)
    assert saved.encode(text) == [*tokens.prefix_ids, *ids]
  again = tokenizer.load_tokenizer(directory)
  assert again.token_bytes == tokens.token_bytes
  assert again.special_strings == tokens.special_strings
  assert (again.prefix_ids, again.stop_ids) == (
    tokens.prefix_ids,
    tokens.stop_ids,
  )


def test_directories_are_saved(family, tmp_path):
  assert_saved(family.loaded, tmp_path / 'new')


def test_the_byte_tokenizer_is_saved(tmp_path):
  assert_saved(tokenizer.byte_tokenizer(), tmp_path / 'new')


@pytest.mark.parametrize('name', ['generation_config.json', 'config.json'])
@pytest.mark.parametrize(
  'value, stops', [(7, (7,)), ([9, 7], (7, 9)), ([], ()), (None, ())]
)
def test_configs_add_stop_ids(tmp_path, name, value, stops):
  reference = qwen2()
  reference.save_pretrained(tmp_path)
  config = {'model_type': 'qwen2', 'eos_token_id': value}
  (tmp_path / name).write_text(json.dumps(config))
  default_stops = reference.convert_tokens_to_ids(
    ['<|endoftext|>', '<|im_end|>']
  )
  stop_ids = tokenizer.load_tokenizer(tmp_path).stop_ids
  assert stop_ids == tuple(sorted([*stops, *default_stops]))


@pytest.mark.parametrize(
  'text, message',
  [
    (
      '{"eos_token_id": [7, 404]}',
      r'eos_token_id=\[7, 404\]: .* less than 404',
    ),
    ('{"eos_token_id": -1}', 'eos_token_id=-1: expected ids less than 404'),
    ('{"eos_token_id": "<eos>"}', "eos_token_id='<eos>': expected ids"),
    ('{"eos_token_id": true}', 'eos_token_id=True: expected ids'),
    ('{"eos_token_id"', 'expected JSON: '),
    ('[]', 'expected a JSON object'),
    ('\udcff', 'expected JSON: '),
  ],
)
def test_damaged_generation_configs_are_refused(tmp_path, text, message):
  reference = qwen2()
  reference.save_pretrained(tmp_path)
  assert len(reference) == 404
  path = tmp_path / 'generation_config.json'
  path.write_text(text, errors='surrogateescape')
  with pytest.raises(ValueError, match=rf'generation_config\.json: {message}'):
    tokenizer.load_tokenizer(tmp_path)


def test_directories_without_a_tokenizer_are_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "qwen2"}')
  with pytest.raises(ValueError, match=r'expected a tokenizer, one of token'):
    tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
  'batching',
  [
    lambda backend: backend.enable_truncation(8),
    lambda backend: backend.enable_padding(length=64),
    lambda backend: backend.enable_padding(pad_to_multiple_of=8),
  ],
)
def test_padding_and_truncation_are_ignored(tmp_path, batching):
  """Training libraries leave these settings in tokenizer.json."""
  reference = llama3()
  text = 'The quick brown fox jumps over the lazy dog, again and again.'
  expected = reference.encode(text, add_special_tokens=False)
  batching(reference.backend_tokenizer)
  reference.save_pretrained(tmp_path)
  loaded = tokenizer.from_directory(tmp_path)
  assert loaded.encode(text) == expected
  assert len(loaded.prefix_ids) == 1


def test_stops_that_are_not_special_add_no_text(tmp_path):
  reference = qwen2()
  reference.add_tokens([tokenizers.AddedToken('<|end|>', special=False)])
  reference.save_pretrained(tmp_path)
  end = reference.convert_tokens_to_ids('<|end|>')
  config = {'eos_token_id': [end]}
  (tmp_path / 'generation_config.json').write_text(json.dumps(config))
  loaded = tokenizer.load_tokenizer(tmp_path)
  ids = [*loaded.encode('42'), end]
  assert loaded.decode(ids) == '42'
  assert loaded.decode(ids, skip_special=False) == '42<|end|>'
  assert loaded.token_bytes[end] == b''


def test_special_tokens_without_an_embedding_are_removed(tmp_path):
  """Gemma 3 has one for images; a missing row of a word is an error."""
  reference = qwen2()
  reference.save_pretrained(tmp_path)
  full = tokenizer.load_tokenizer(tmp_path)
  last = full.vocab_size - 1
  assert last in full.special
  cut = tokenizer.cut(full, last)
  assert cut.vocab_size == last
  assert last not in cut.stop_ids
  assert cut.encode('Some words.') == full.encode('Some words.')
  with pytest.raises(ValueError, match='has no embedding for this token'):
    cut.encode(full.special[last], allow_special=True)
  words = min(full.special) - 1
  with pytest.raises(ValueError, match=f'expected at most the {words} rows'):
    tokenizer.cut(full, words)
