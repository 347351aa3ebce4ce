"""Tokenizers of directories, whose tokenizer.json decides how text is split."""

import io
import itertools
import json
import logging
import os
import re

import hypothesis
import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from sqlm_jax.pretrained import tokenizer
from tests.pretrained import test_tokenizer_files as files

SPECIAL = '<|endoftext|>'
TEXTS = [
  'Solve:\n\n12 + 3',
  '',
  ' ',
  '  two\n\n\n\tx 12345',
  "I'll don't WE'VE naïve e\u0301 日本語 🙂",
  f'the{SPECIAL} the thistle ',
]


def smollm() -> tokenizers.Tokenizer:
  """Returns SmolLM2's rules: single digits, then GPT-2's words."""
  vocab, merges = files.trained(SPECIAL)
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens([SPECIAL])
  return backend


def with_bos() -> tokenizers.Tokenizer:
  backend = smollm()
  i = backend.token_to_id(SPECIAL)
  backend.post_processor = processors.TemplateProcessing(
    single=f'{SPECIAL} $A', special_tokens=[(SPECIAL, i)]
  )
  return backend


def prefixed() -> tokenizers.Tokenizer:
  backend = smollm()
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  return backend


def pieces() -> tokenizers.Tokenizer:
  """Returns Llama 2's rules with a vocabulary that has few Unicode letters."""
  tokens = ['<unk>', SPECIAL, *(f'<0x{i:02X}>' for i in range(256))]
  tokens += ['▁', 't', 'h', 'e', 'th', 'the', '▁the']
  merges = [('t', 'h'), ('th', 'e'), ('▁', 'the')]
  backend = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: i for i, token in enumerate(tokens)},
      merges=merges,
      unk_token='<unk>',
      byte_fallback=True,
      fuse_unk=True,
    )
  )
  backend.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  backend.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(content=' ', left=1),
    ]
  )
  backend.add_special_tokens([SPECIAL])
  return backend


BACKENDS = {
  'smollm': smollm,
  'with_bos': with_bos,
  'prefixed': prefixed,
  'pieces': pieces,
}
CONFIGS = [
  None,  # without tokenizer_config.json
  {},
  *(
    {'tokenizer_class': kind}
    for kind in (
      'GPT2Tokenizer',
      'GPT2TokenizerFast',
      'LlamaTokenizer',
      'LlamaTokenizerFast',
      'CodeLlamaTokenizer',
      'Qwen2Tokenizer',
      'GemmaTokenizer',
      'GPTNeoXTokenizer',
      'T5Tokenizer',
      'BertTokenizer',
      'PreTrainedTokenizerFast',
      'TokenizersBackend',
      'NoSuchTokenizer',
    )
  ),
  {'tokenizer_class': 'LlamaTokenizer', 'legacy': False},
  {'tokenizer_class': 'LlamaTokenizer', 'add_prefix_space': False},
  {'tokenizer_class': 'GPT2Tokenizer', 'add_prefix_space': True},
  {'tokenizer_class': 'Qwen2Tokenizer', 'add_bos_token': True},
  {'tokenizer_class': 'PreTrainedTokenizerFast', 'add_eos_token': True},
  {'eos_token': {'content': SPECIAL, 'lstrip': True, 'normalized': True}},
]


def write(directory, backend, config=None, **others):
  """Writes a directory; `others` holds further JSON files by name."""
  backend.save(str(directory / 'tokenizer.json'))
  if config is not None:
    others['tokenizer_config'] = config
  for name, values in others.items():
    (directory / f'{name}.json').write_text(json.dumps(values))
  return directory


def assert_as_stored(loaded: tokenizer.Tokenizer, directory) -> None:
  path = directory / 'tokenizer.json'
  stored = tokenizers.Tokenizer.from_file(str(path))
  stored.no_truncation()
  stored.no_padding()
  for text in TEXTS:
    ids = stored.encode(text, add_special_tokens=False).ids
    assert loaded.encode(text, allow_special=True) == ids
    if SPECIAL not in text:
      assert loaded.encode(text) == ids
      assert [*loaded.prefix_ids, *ids] == stored.encode(text).ids


@pytest.mark.parametrize('model_type', ['llama', 'qwen2', 'gemma3_text'])
@pytest.mark.parametrize('name', BACKENDS)
def test_tokenizer_class_does_not_change_ids(tmp_path, name, model_type):
  write(tmp_path, BACKENDS[name](), config={'model_type': model_type})
  for config in CONFIGS:
    path = tmp_path / 'tokenizer_config.json'
    path.unlink(missing_ok=True)
    if config is not None:
      path.write_text(json.dumps(config))
    # `trusted` saves a process; other tests cover the trial.
    loaded = tokenizer.load_tokenizer(tmp_path, trusted=True)
    assert_as_stored(loaded, tmp_path)


def test_line_breaks_of_smollm2(tmp_path):
  """GPT2Tokenizer of transformers 5 loses the rule of single digits."""
  config = {'tokenizer_class': 'GPT2Tokenizer'}
  write(tmp_path, smollm(), config)
  loaded = tokenizer.load_tokenizer(tmp_path)
  # Digits are split off first, so both line breaks remain in one word, as at
  # the end of a text. GPT-2's rule alone would separate them.
  texts = [loaded.decode([i]) for i in loaded.encode('\n\n12')]
  assert texts[-2:] == ['1', '2']
  assert_as_stored(loaded, tmp_path)


@pytest.mark.parametrize(
  'others, named',
  [
    ({'added_tokens': {'<new>': 9000}}, "'<new>' is not id 9000 but text"),
    ({'added_tokens': {SPECIAL: 7}}, 'is not id 7 but id'),
    (
      {'config': {'added_tokens_decoder': {'5': {'content': '<five>'}}}},
      "'<five>' is not id 5 but text",
    ),
    ({'config': {'pad_token': '[PAD]'}}, "'[PAD]' is not a token but text"),
    ({'special_tokens_map': {'pad_token': '[PAD]'}}, "'[PAD]' is not a token"),
    (
      {
        'config': {'pad_token': SPECIAL},
        'special_tokens_map': {'pad_token': {'content': 'the'}},
      },
      "pad_token='the', not '<|endoftext|>'",
    ),
  ],
)
def test_other_files_do_not_change_ids(tmp_path, others, named, caplog):
  caplog.set_level(logging.WARNING)
  write(tmp_path, smollm(), **others)
  assert_as_stored(tokenizer.load_tokenizer(tmp_path), tmp_path)
  assert named in caplog.text


def test_consistent_files_cause_no_warning(tmp_path, caplog):
  caplog.set_level(logging.WARNING)
  reference = transformers.PreTrainedTokenizerFast(
    tokenizer_object=smollm(), eos_token=SPECIAL, pad_token=SPECIAL
  )
  reference.save_pretrained(tmp_path)
  tokenizer.load_tokenizer(tmp_path)
  assert not caplog.text


def test_unknown_eos_tokens_are_refused(tmp_path):
  write(tmp_path, smollm(), {'eos_token': '<|im_end|>'})
  expected = r"tokenizer_config\.json: eos_token='<\|im_end\|>': expected"
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(tmp_path)


def test_eos_tokens_that_are_not_special(tmp_path):
  backend = smollm()
  backend.add_tokens([tokenizers.AddedToken('<|end|>', special=False)])
  write(tmp_path, backend, {'eos_token': '<|end|>'})
  end = backend.token_to_id('<|end|>')
  loaded = tokenizer.load_tokenizer(tmp_path)
  assert end in loaded.stop_ids
  assert loaded.encode('a<|end|>', allow_special=True)[-1] == end
  assert end not in loaded.encode('a<|end|>')
  assert loaded.decode(loaded.encode('a<|end|>')) == 'a<|end|>'


def test_dropout_is_switched_off(tmp_path, caplog):
  backend = smollm()
  expected = backend.encode('the thing is the other').ids
  backend.model.dropout = 0.9
  write(tmp_path, backend)
  loaded = tokenizer.load_tokenizer(tmp_path)
  assert all(
    loaded.encode('the thing is the other') == expected for _ in range(9)
  )
  assert 'model.dropout=0.8' in caplog.text  # 0.9 in float32


@pytest.mark.parametrize(
  'config, message',
  [
    ({'eos_token': {'text': 'a'}}, 'eos_token=.* expected a token'),
    ({'added_tokens_decoder': [1]}, r'added_tokens_decoder=\[1\]: expected'),
    ({'added_tokens_decoder': {'x': {}}}, 'expected tokens by id'),
    ({'additional_special_tokens': 7}, 'additional_special_tokens=7: expected'),
    ({'chat_template': 7}, 'chat_template: expected a template'),
    ({'chat_template': [{'name': 'a'}]}, 'chat_template: expected a template'),
    ([], 'expected a JSON object'),
  ],
)
def test_damaged_configs_are_refused(tmp_path, config, message):
  write(tmp_path, smollm(), config)
  with pytest.raises(ValueError, match=rf'tokenizer_config\.json.*{message}'):
    tokenizer.load_tokenizer(tmp_path)


def test_chat_template_jinja_has_priority(tmp_path):
  config = {'chat_template': 'old {{ messages[0].content }}'}
  write(tmp_path, smollm(), config)
  turn = [{'role': 'user', 'content': 'Hi'}]
  assert tokenizer.load_tokenizer(tmp_path).chat(turn) == 'old Hi'
  path = tmp_path / 'chat_template.jinja'
  path.write_text('new {{ messages[0].content }}')
  assert tokenizer.load_tokenizer(tmp_path).chat(turn) == 'new Hi'
  path.write_text("{{ raise_exception('no') }}")
  with pytest.raises(ValueError, match=r'chat_template\.jinja: .*: no'):
    tokenizer.load_tokenizer(tmp_path)


def test_named_templates(tmp_path):
  template = '{{ bos_token }}{{ messages[0].content }}'
  config = {
    'bos_token': SPECIAL,
    'chat_template': [
      {'name': 'tool_use', 'template': '{{ raise_exception("tools") }}'},
      {'name': 'default', 'template': template},
    ],
  }
  write(tmp_path, smollm(), config)
  loaded = tokenizer.load_tokenizer(tmp_path)
  turn = [{'role': 'user', 'content': 'Hi'}]
  assert loaded.chat(turn) == f'{SPECIAL}Hi'
  loaded.save(tmp_path / 'out')
  reference = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert reference.apply_chat_template(turn, tokenize=False) == f'{SPECIAL}Hi'


def test_pad_tokens_that_are_ordinary_text(tmp_path):
  """Some models pad with '!', which transformers then finds in every text."""
  backend = smollm()
  config = {'pad_token': '!', 'eos_token': SPECIAL}
  loaded = tokenizer.load_tokenizer(write(tmp_path, backend, config))
  assert '!' not in loaded.special_strings
  assert loaded.decode(loaded.encode('the!')) == 'the!'
  loaded.save(tmp_path / 'out')
  reference = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  text = 'the !! the!'
  assert (
    reference.encode(text) == loaded.encode(text) == backend.encode(text).ids
  )
  ids = reference.encode(text)
  assert reference.decode(ids, skip_special_tokens=True) == text


def test_prefix_of_a_vocabulary_without_letters(tmp_path):
  backend = tokenizers.Tokenizer(
    models.BPE(vocab={'<s>': 0, '0': 1, '1': 2}, merges=[])
  )
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(['<s>'])
  backend.post_processor = processors.TemplateProcessing(
    single='<s> $A <s>', special_tokens=[('<s>', 0)]
  )
  loaded = tokenizer.load_tokenizer(write(tmp_path, backend))
  assert loaded.prefix_ids == (0,)


# Directories without a tokenizer.json.


def write_vocabulary(directory, *, kind='Qwen2Tokenizer'):
  vocab, merges = files.trained()
  added = {str(len(vocab)): {'content': '<|im_end|>', 'special': True}}
  config = {
    'tokenizer_class': kind,
    'added_tokens_decoder': added,
    'eos_token': '<|im_end|>',
  }
  lines = ['#version: 0.2', *map(' '.join, merges), '']
  (directory / 'merges.txt').write_text('\n'.join(lines), encoding='utf-8')
  (directory / 'vocab.json').write_text(json.dumps(vocab))
  (directory / 'tokenizer_config.json').write_text(json.dumps(config))
  return vocab, merges


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  """Returns transformers' tokenizer and ours for vocab.json and merges.txt."""
  directory = tmp_path_factory.mktemp('vocabulary')
  vocab, merges = write_vocabulary(directory)
  reference = transformers.Qwen2Tokenizer(
    vocab=vocab, merges=merges, eos_token='<|im_end|>'
  )
  return reference, tokenizer.load_tokenizer(directory)


@hypothesis.given(text=files.HARD)
@hypothesis.settings(max_examples=60, deadline=None)
def test_qwen_vocabulary_agrees_with_transformers(vocabulary, text):
  reference, loaded = vocabulary
  text = text.replace('<|endoftext|>', '')
  ids = loaded.encode(text, allow_special=True)
  assert ids == reference.encode(text, add_special_tokens=False)
  assert loaded.stop_ids == (reference.eos_token_id,)


@pytest.mark.parametrize('kind', ['GPT2Tokenizer', 'LlamaTokenizer', None])
def test_vocabularies_without_a_known_rule_are_refused(tmp_path, kind):
  write_vocabulary(tmp_path, kind=kind)
  expected = rf'vocab\.json: .*tokenizer_class={kind!r}: expected one of Qwen2'
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
  'vocab', [{'a': 0, 'b': 2}, {'a': 'x'}, {'a': [0]}, {'a': True, 'b': 1}]
)
def test_vocabularies_with_invalid_ids_are_refused(tmp_path, vocab):
  write_vocabulary(tmp_path)
  (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
  with pytest.raises(ValueError, match=r'vocab\.json: expected tokens with'):
    tokenizer.load_tokenizer(tmp_path)


def test_vocabularies_without_merges_are_refused(tmp_path):
  write_vocabulary(tmp_path)
  (tmp_path / 'merges.txt').unlink()
  with pytest.raises(ValueError, match=r'expected merges\.txt in the same'):
    tokenizer.load_tokenizer(tmp_path)


def write_pieces(directory, config=None, **trainer):
  out = io.BytesIO()
  settings = {
    'model_type': 'bpe',
    'vocab_size': 400,
    'byte_fallback': True,
    'normalization_rule_name': 'identity',
    'remove_extra_whitespaces': False,
    'num_threads': 1,
    'minloglevel': 2,
  }
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(files.CORPUS.splitlines() * 3),
    model_writer=out,
    **settings | trainer,
  )
  (directory / 'tokenizer.model').write_bytes(out.getvalue())
  if config is not None:
    path = directory / 'tokenizer_config.json'
    path.write_text(json.dumps(config))
  return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


@pytest.mark.parametrize(
  'config',
  [
    None,
    {},
    {'tokenizer_class': 'GPT2Tokenizer'},
    {'tokenizer_class': 'LlamaTokenizer', 'legacy': True},
    {'tokenizer_class': 'GemmaTokenizer', 'add_prefix_space': True},
  ],
)
def test_pieces_agree_with_sentencepiece(tmp_path, config):
  reference = write_pieces(tmp_path, config)
  loaded = tokenizer.load_tokenizer(tmp_path)
  for text in TEXTS:
    assert loaded.encode(text) == reference.encode(text)
  assert loaded.prefix_ids == (reference.bos_id(),)
  assert loaded.stop_ids == (reference.eos_id(),)


def test_tokens_added_to_pieces(tmp_path):
  config = {'add_bos_token': False, 'eos_token': '<|im_end|>'}
  write_pieces(tmp_path, config)
  path = tmp_path / 'added_tokens.json'
  path.write_text(json.dumps({'<tool>': 400, '<|im_end|>': 401}))
  loaded = tokenizer.load_tokenizer(tmp_path)
  assert loaded.encode('<tool><|im_end|>', allow_special=True) == [400, 401]
  assert 401 not in loaded.encode('<|im_end|>')
  assert loaded.prefix_ids == ()
  assert 401 in loaded.stop_ids
  path.write_text(json.dumps({'<tool>': 402}))
  with pytest.raises(ValueError, match="'<tool>' with id 402: expected no gap"):
    tokenizer.load_tokenizer(tmp_path)
  path.write_text(json.dumps({'<tool>': 300}))
  with pytest.raises(ValueError, match="'<tool>' with id 300: expected '"):
    tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
  'config, trainer, message',
  [
    ({}, {'model_type': 'unigram', 'vocab_size': 370}, 'model_type=1: expec'),
    ({}, {'byte_fallback': False, 'vocab_size': 300}, 'byte_fallback=False'),
    (
      {},
      {'normalization_rule_name': 'nfkc'},
      'precompiled_charsmap=True: expected False',
    ),
    (
      {},
      {'remove_extra_whitespaces': True},
      'remove_extra_whitespaces=True: expected False',
    ),
    ({'legacy': False}, {}, 'legacy=False: expected True'),
    ({'add_prefix_space': False}, {}, 'add_prefix_space=False: expected True'),
  ],
)
def test_unsupported_sentencepiece_settings_are_refused(
  tmp_path, config, trainer, message
):
  write_pieces(tmp_path, config, **trainer)
  with pytest.raises(ValueError, match=rf'tokenizer\.model: .*{message}'):
    tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize('content', [b'', b'IQ== 0\nIg== 1\n', b'\xff\xff'])
def test_files_without_pieces_are_refused(tmp_path, content):
  (tmp_path / 'tokenizer.model').write_bytes(content)
  expected = r'tokenizer\.model: expected a SentencePiece model'
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(tmp_path)


# Exported files, for transformers 4.5x and 5.


def qwen2() -> tokenizers.Tokenizer:
  return files.qwen2().backend_tokenizer


@pytest.mark.parametrize(
  'name, model_type',
  [
    *itertools.product(BACKENDS, (None, 'llama', 'mistral', 'gemma2', 'olmo2')),
    # Version 5 always uses Qwen2's rules for this type.
    *(('qwen2', kind) for kind in (None, 'llama', 'qwen2', 'qwen3')),
  ],
)
def test_exports_work_with_transformers_4_and_5(tmp_path, name, model_type):
  config = {'pad_token': SPECIAL, 'eos_token': SPECIAL, 'model_max_length': 99}
  config |= {'chat_template': files.CHAT, 'padding_side': 'left'}
  write(tmp_path, {**BACKENDS, 'qwen2': qwen2}[name](), config)
  loaded = tokenizer.load_tokenizer(tmp_path, trusted=True)
  out = tmp_path / 'out'
  loaded.save(out)
  saved = json.loads((out / 'tokenizer_config.json').read_text())
  # Known to both versions, unlike 'TokenizersBackend' of version 5.
  assert saved['tokenizer_class'] == 'PreTrainedTokenizerFast'
  # Version 4 knows only this name, and fails on a list for the other.
  assert isinstance(saved['additional_special_tokens'], list)
  assert 'extra_special_tokens' not in saved
  assert (saved['model_max_length'], saved['padding_side']) == (99, 'left')
  if model_type:
    model = {'model_type': model_type, 'architectures': ['Any']}
    (out / 'config.json').write_text(json.dumps(model))
  reference = transformers.AutoTokenizer.from_pretrained(out)
  for text in TEXTS:
    ids = loaded.encode(text, allow_special=True)
    assert reference.encode(text, add_special_tokens=False) == ids
    assert reference.encode(text) == [*loaded.prefix_ids, *ids]
  assert reference.pad_token == reference.eos_token == SPECIAL
  padded = reference(['the the 12', 'a'], padding=True).input_ids
  assert len(padded[0]) == len(padded[1])
  chat = reference.apply_chat_template(
    files.MESSAGES, tokenize=False, add_generation_prompt=True
  )
  assert chat == loaded.chat(files.MESSAGES)


# Files that are not regular or are too large.


def make_large(path):
  with path.open('wb') as file:
    file.truncate(2**36)  # sparse


KINDS = {
  'found a named pipe': os.mkfifo,
  'found a character device': lambda path: path.symlink_to('/dev/zero'),
  'found a directory': lambda path: path.mkdir(),
  'a symbolic link to gone': lambda path: path.symlink_to('gone'),
  '68719476736 bytes: expected at most': make_large,
}


@pytest.mark.parametrize(
  'name',
  [
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'chat_template.jinja',
    'generation_config.json',
    'config.json',
  ],
)
def test_irregular_or_large_files_are_refused(tmp_path, name):
  for i, (message, make) in enumerate(KINDS.items()):
    directory = tmp_path / str(i)
    directory.mkdir()
    write(directory, smollm(), {})
    (directory / name).unlink(missing_ok=True)
    make(directory / name)
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: .*{message}'):
      tokenizer.load_tokenizer(directory, trusted=True)


@pytest.mark.parametrize('name', ['vocab.json', 'merges.txt'])
def test_irregular_or_large_vocabularies_are_refused(tmp_path, name):
  for i, (message, make) in enumerate(KINDS.items()):
    directory = tmp_path / str(i)
    directory.mkdir()
    write_vocabulary(directory)
    (directory / name).unlink()
    make(directory / name)
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: .*{message}'):
      tokenizer.load_tokenizer(directory, trusted=True)


@pytest.mark.parametrize('message', KINDS)
def test_irregular_or_large_piece_files_are_refused(tmp_path, message):
  KINDS[message](tmp_path / 'tokenizer.model')
  with pytest.raises(ValueError, match=rf'tokenizer\.model: .*{message}'):
    tokenizer.load_tokenizer(tmp_path)


def test_merges_with_windows_line_breaks(tmp_path):
  write_vocabulary(tmp_path)
  expected = tokenizer.load_tokenizer(tmp_path).encode('the thistle')
  path = tmp_path / 'merges.txt'
  path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
  assert tokenizer.load_tokenizer(tmp_path).encode('the thistle') == expected
