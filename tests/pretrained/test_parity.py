"""The real model, compared with transformers, which reads the same file."""

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
from sqlm_jax.engine import decoding, sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import gguf, loader, names, tokenizer
from sqlm_jax.selfplay import batches

torch = pytest.importorskip('torch')
pytest.importorskip('accelerate')  # transformers needs it to read GGUF
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.filterwarnings('ignore')  # of transformers

PROMPTS = [
  'The capital of France is',
  '3 + 4 = 7\n9 + 2 = 11\n8 + 6 = ',
  'def fibonacci(n):\n  """Returns the n-th Fibonacci number."""\n',
  'Über den Wolken muss die Freiheit wohl grenzenlos sein. ' * 4,
  'a',
]


@pytest.fixture(scope='module')
def reference(smollm2_path):
  return transformers.AutoModelForCausalLM.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
  ).eval()


@pytest.fixture(scope='module')
def tokens(smollm2_path):
  return tokenizer.load_tokenizer(smollm2_path)


@pytest.fixture(scope='module')
def loaded(smollm2_path):
  checkpoint = loader.open_checkpoint(smollm2_path)
  params = checkpoint.params(names.in_memory(np.dtype('float32')))
  return policy_lib.make_policy(checkpoint.config), jax.device_put(params)


def test_tensors(smollm2_path, reference):
  """Compares names, layouts and the order of rotary pairs bit for bit.

  Both use the gguf library to dequantize; `test_four_bits` does not.
  """
  tensors = gguf.GGUFTensors(smollm2_path)
  expected = reference.state_dict()
  assert {array.dtype for array in expected.values()} == {torch.float32}
  del expected['lm_head.weight']  # tied to the embedding
  assert tensors.names() == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(tensors.read(name), array.numpy(), name)


def test_four_bits(smollm2_path):
  """Checks Q4_1, computed from the bytes by ggml's definition.

  A block of 32 numbers is a float16 step d, a float16 minimum m and 16 bytes.
  Numbers 0 to 15 are d * (low nibble) + m. Numbers 16 to 31 use the high
  nibbles.
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
  array = gguf.GGUFTensors(smollm2_path).read(
    'model.layers.7.mlp.down_proj.weight'
  )
  np.testing.assert_array_equal(array, expected)


def test_logits(loaded, reference, tokens):
  policy, params = loaded
  ids = [tokens.encode(prompt) for prompt in PROMPTS]
  padded = jnp.asarray(batches.pad(ids, max(map(len, ids))))
  lengths = jnp.array([len(row) for row in ids])
  hidden, _ = jax.jit(policy.forward)(params, padded, lengths)
  for row, text in enumerate(ids):
    with torch.no_grad():
      expected = reference(torch.tensor([text])).logits[0].numpy()
    logits = policy.logits(params, hidden[row, : len(text)])
    # Only rounding differs: both compute in float32, and logits reach 30.
    assert np.abs(np.asarray(logits) - expected).max() < 1e-3


def test_greedy_continuations_of_a_batch(loaded, reference, tokens):
  policy, params = loaded
  mesh = sharding.make_mesh(
    {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
  )
  ids = [tokens.encode(prompt) for prompt in PROMPTS]
  table = np.zeros((16, tokens.vocab_size), np.uint8)
  table[decoding.STOPPED :] = decoding.STOPPED
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
  # One batch with padding on the left, which is faster.
  width = max(map(len, ids))
  padded = torch.tensor([[0] * (width - len(text)) + text for text in ids])
  live = torch.tensor(
    [[0] * (width - len(text)) + [1] * len(text) for text in ids]
  )
  expected = reference.generate(
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
def reference_tokenizer(smollm2_path):
  return transformers.AutoTokenizer.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name
  )


def test_token_ids_without_unusual_numbers(tokens, reference_tokenizer):
  """Compares texts for which the rule for numbers makes no difference."""
  for text in ODD_TEXTS:
    if not any(c.isnumeric() and not c.isascii() for c in text):
      expected = reference_tokenizer(text, add_special_tokens=False)[
        'input_ids'
      ]
      assert tokens.encode(text, allow_special=True) == expected, text


def test_token_ids(tokens, reference_tokenizer):
  """Compares with transformers' tokenizer and llama.cpp's rule for numbers.

  transformers ignores the file's `tokenizer.ggml.pre`, smollm. In llama.cpp's
  table, that is: every number (\\p{N}) separately, then GPT-2's rule.
  """
  backend = copy.deepcopy(reference_tokenizer.backend_tokenizer)
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


def test_bfloat16_errors_are_similar_to_transformers(
  smollm2_path, loaded, reference, tokens
):
  """Compares our errors of bfloat16 logits with those of transformers."""
  policy, params = loaded
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  make = functools.partial(
    policy_lib.make_policy, policy.config, dtype='bfloat16'
  )
  halves = {'accelerator': make(), 'CPU': make(mesh=mesh)}
  half_params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  half_reference = copy.deepcopy(reference).to(torch.bfloat16)
  # `to` would round the frequencies of the rotation.
  half_reference.model.rotary_emb = copy.deepcopy(reference.model.rotary_emb)
  policy_errors, reference_errors = {name: [] for name in halves}, []
  for prompt in PROMPTS:
    ids = tokens.encode(prompt)
    hidden, _ = policy.forward(params, jnp.array([ids]), jnp.array([len(ids)]))
    exact = policy.logits(params, hidden)
    for name, half in halves.items():
      hidden, _ = half.forward(
        half_params, jnp.array([ids]), jnp.array([len(ids)])
      )
      logits = half.logits(half_params, hidden)
      policy_errors[name].append(np.abs(logits - exact).ravel())
    with torch.no_grad():
      logits = half_reference(torch.tensor([ids])).logits.float().numpy()
    reference_errors.append(np.abs(logits - exact).ravel())
  reference_errors = np.concatenate(reference_errors)
  policy_errors = {
    name: np.concatenate(off) for name, off in policy_errors.items()
  }
  # Measured: mean 0.13 (CPU: 0.06) and 0.16, maximum 1.5 (0.5) and 1.6.
  assert policy_errors['accelerator'].mean() < 1.1 * reference_errors.mean()
  assert policy_errors['accelerator'].max() < 1.5 * reference_errors.max()
  assert policy_errors['CPU'].mean() < policy_errors['accelerator'].mean()
