"""The real model against transformers, which reads the same file with torch."""

import copy
import functools

import gguf as gguf_format
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import gguf, loader, names, tokenizer
from sqlm_jax.selfplay import batches

torch = pytest.importorskip('torch')
pytest.importorskip('accelerate')  # transformers wants it to read GGUF
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.filterwarnings('ignore')  # theirs

PROMPTS = [
  'The capital of France is',
  '3 + 4 = 7\n9 + 2 = 11\n8 + 6 = ',
  'def fibonacci(n):\n  """Returns the n-th Fibonacci number."""\n',
  'Über den Wolken muss die Freiheit wohl grenzenlos sein. ' * 4,
  'a',
]


@pytest.fixture(scope='module')
def theirs(smollm2_path):
  return transformers.AutoModelForCausalLM.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
  ).eval()


@pytest.fixture(scope='module')
def tokens(smollm2_path):
  return tokenizer.load_tokenizer(smollm2_path)


@pytest.fixture(scope='module')
def ours(smollm2_path):
  checkpoint = loader.open_checkpoint(smollm2_path)
  params = checkpoint.params(names.in_memory(np.dtype('float32')))
  return policy_lib.make_policy(checkpoint.config), jax.device_put(params)


def test_tensors(smollm2_path, theirs):
  """Names, layouts and the order of rotary pairs, bit for bit.

  Both dequantise by the gguf library; `test_four_bits` does not.
  """
  tensors = gguf.GGUFTensors(smollm2_path)
  expected = theirs.state_dict()
  assert {array.dtype for array in expected.values()} == {torch.float32}
  del expected['lm_head.weight']  # the embedding's
  assert tensors.names() == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(tensors.read(name), array.numpy(), name)


def test_four_bits(smollm2_path):
  """Q4_1 as ggml's quants define it, worked out from the bytes.

  A block is 32 numbers: a float16 step d, a float16 minimum m and 16 bytes.
  Numbers 0 to 15 are d * (low nibble) + m, 16 to 31 those of the high ones.
  """
  reader = gguf_format.GGUFReader(smollm2_path)
  stored = next(t for t in reader.tensors if t.name == 'blk.7.ffn_down.weight')
  assert stored.tensor_type == gguf_format.GGMLQuantizationType.Q4_1
  blocks = np.frombuffer(
    stored.data.tobytes(), [('d', '<f2'), ('m', '<f2'), ('q', 'u1', 16)]
  )
  nibbles = np.concatenate([blocks['q'] & 15, blocks['q'] >> 4], axis=1)
  step, least = (blocks[name].astype(np.float32)[:, None] for name in 'dm')
  expected = (step * nibbles.astype(np.float32) + least).reshape(576, 1536)
  found = gguf.GGUFTensors(smollm2_path).read(
    'model.layers.7.mlp.down_proj.weight'
  )
  np.testing.assert_array_equal(found, expected)


def test_logits(ours, theirs, tokens):
  policy, params = ours
  ids = [tokens.encode(prompt) for prompt in PROMPTS]
  padded = jnp.asarray(batches.pad(ids, max(map(len, ids))))
  lengths = jnp.array([len(row) for row in ids])
  hidden, _ = jax.jit(policy.forward)(params, padded, lengths)
  for row, text in enumerate(ids):
    with torch.no_grad():
      expected = theirs(torch.tensor([text])).logits[0].numpy()
    logits = policy.logits(params, hidden[row, : len(text)])
    # Issue of rounding alone: both compute in float32, logits reach 30.
    assert np.abs(np.asarray(logits) - expected).max() < 1e-3


def test_greedy_continuations_of_a_batch(ours, theirs, tokens):
  policy, params = ours
  mesh = sharding.make_mesh(
    {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
  )
  ids = [tokens.encode(prompt) for prompt in PROMPTS]
  table = np.zeros((16, tokens.vocab_size), np.uint8)
  table[sampler.STOPPED :] = sampler.STOPPED
  settings = sampler.SamplerSettings(
    temperature=np.zeros(1, np.float32),
    top_p=np.ones(1, np.float32),
    limit=np.int32(64),
    stop_table=table,
  )
  keys = sampler.response_keys((0,), num_groups=len(ids), group_size=1)
  rollout = sampler.Sampler(policy, mesh)(
    params, batches.pack_prompts(ids), keys, settings, slots=64
  )
  # All at once, padded on the left, which is faster.
  width = max(map(len, ids))
  padded = torch.tensor([[0] * (width - len(text)) + text for text in ids])
  live = torch.tensor(
    [[0] * (width - len(text)) + [1] * len(text) for text in ids]
  )
  expected = theirs.generate(
    padded,
    attention_mask=live,
    do_sample=False,
    max_new_tokens=64,
    min_new_tokens=64,
    eos_token_id=-1,
    pad_token_id=0,
  )[:, width:]
  assert rollout.tokens[:, 0].tolist() == expected.tolist()


ODD_TEXTS = [
  '',
  ' ',
  'a',
  '1234567890',
  '3.14159 and 1,000,000 or 10^-3',
  'x1 y22 z333',
  '\n\n\n',
  ' \n \t\n  indented\r\n',
  'tab\tseparated\t\tvalues',
  '     five spaces',
  "it's we'll I'd they've",
  'naïve café Ångström ß ﬁ',
  '日本語のテキスト 中文 한국어',
  'Привет, мир! שלום عالم',
  '🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji',
  '\u200b\u00a0\ufeff odd spaces',
  'a\u0301 combining',
  '½ ² ٣ ५ numbers that are not digits',
  '<|im_start|>user\n7 + 8?<|im_end|>\n<|endoftext|>',
  'http://example.com/?q=1&r=2#frag',
  '\x00\x01\x7f control',
]


@pytest.fixture(scope='module')
def their_tokenizer(smollm2_path):
  return transformers.AutoTokenizer.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name
  )


def test_token_ids_without_odd_numbers(tokens, their_tokenizer):
  """Where it makes no difference how numbers are cut: transformers as it is."""
  for text in ODD_TEXTS:
    if not any(c.isnumeric() and not c.isascii() for c in text):
      expected = their_tokenizer(text, add_special_tokens=False)['input_ids']
      assert tokens.encode(text, allow_special=True) == expected, text


def test_token_ids(tokens, their_tokenizer):
  """Against the tokenizer of transformers, cut as llama.cpp cuts.

  transformers does not know the file's `tokenizer.ggml.pre`, smollm. By
  llama.cpp's table that is: every number (\\p{N}) alone, then GPT-2's rule.
  """
  backend = copy.deepcopy(their_tokenizer.backend_tokenizer)
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(r'\p{N}'), behavior='isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  for text in ODD_TEXTS:
    expected = backend.encode(text, add_special_tokens=False).ids
    assert tokens.encode(text, allow_special=True) == expected, text
    assert tokens.decode(expected, skip_special=False) == text


def test_bfloat16_is_no_further_off_than_theirs(
  smollm2_path, ours, theirs, tokens
):
  """Half the bits: how far the logits move, theirs being the yardstick."""
  policy, params = ours
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  make = functools.partial(
    policy_lib.make_policy, policy.config, dtype='bfloat16'
  )
  halves = {'accelerator': make(), 'CPU': make(mesh=mesh)}
  half_params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  half_theirs = copy.deepcopy(theirs).to(torch.bfloat16)
  # `to` would leave the frequencies of the rotation rounded.
  half_theirs.model.rotary_emb = copy.deepcopy(theirs.model.rotary_emb)
  ours_off, theirs_off = {name: [] for name in halves}, []
  for prompt in PROMPTS:
    ids = tokens.encode(prompt)
    hidden, _ = policy.forward(params, jnp.array([ids]), jnp.array([len(ids)]))
    exact = policy.logits(params, hidden)
    for name, half in halves.items():
      hidden, _ = half.forward(
        half_params, jnp.array([ids]), jnp.array([len(ids)])
      )
      logits = half.logits(half_params, hidden)
      ours_off[name].append(np.abs(logits - exact).ravel())
    with torch.no_grad():
      found = half_theirs(torch.tensor([ids])).logits.float().numpy()
    theirs_off.append(np.abs(found - exact).ravel())
  theirs_off = np.concatenate(theirs_off)
  ours_off = {name: np.concatenate(off) for name, off in ours_off.items()}
  # Seen: 0.13 (CPU: 0.06) and 0.16 on average, 1.5 (0.5) and 1.6 at most.
  assert ours_off['accelerator'].mean() < 1.1 * theirs_off.mean()
  assert ours_off['accelerator'].max() < 1.5 * theirs_off.max()
  assert ours_off['CPU'].mean() < ours_off['accelerator'].mean()
