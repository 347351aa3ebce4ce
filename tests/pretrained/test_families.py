"""All families, compared with transformers (torch, CPU, float32)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, groups, policy_loss, sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import loader, names
from sqlm_jax.selfplay import batches
from tests.pretrained import families

torch = pytest.importorskip('torch')

# transformers warns about settings that only tiny models have.
pytestmark = pytest.mark.filterwarnings('ignore')

TEXT_BT = np.random.default_rng(0).integers(3, families.TOKENS, (2, 40))
# The common prefix is as long as a window, and the lengths differ.
PROMPTS = [
  TEXT_BT[0, :8].tolist() + TEXT_BT[1, :n].tolist() for n in (1, 3, 11)
]
NEW = 48


@pytest.mark.parametrize(
  'name, changes',
  [
    ('llama2', {'sliding_window': 7}),
    ('olmo2', {'sliding_window': 7}),
    ('gemma3', {'attn_logit_softcapping': 1.0}),
    ('qwen2', {'attention_bias': True, 'final_logit_softcapping': 1.0}),
    ('mistral', {'attention_bias': True}),
    ('qwen3', {'mlp_bias': True}),
    (
      'qwen2',
      {
        'rope_parameters': None,
        'rope_theta': 100.0,
        'rope_scaling': {'type': 'yarn', 'factor': 4.0},
        'original_max_position_embeddings': 16,
        'max_position_embeddings': 64,
      },
    ),
  ],
)
def test_ignored_and_nested_config_keys(tmp_path, name, changes):
  """Keys of other families are ignored; a separate context length is read."""
  families.make(name, tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, attn_implementation='eager', dtype=torch.float32
  )
  with torch.no_grad():
    expected = reference(torch.from_numpy(TEXT_BT)).logits.numpy()
  checkpoint = loader.open_checkpoint(tmp_path)
  params = checkpoint.params(names.in_memory(np.float32))
  policy = policy_lib.make_policy(checkpoint.config)
  hidden, _ = policy.forward(params, TEXT_BT, np.full(2, TEXT_BT.shape[1]))
  np.testing.assert_allclose(policy.logits(params, hidden), expected, atol=1e-4)


def test_bidirectional_models_are_refused(tmp_path):
  families.make('llama2', tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(
    json.dumps(json.loads(path.read_text()) | {'is_causal': False})
  )
  with pytest.raises(ValueError, match='is_causal=False: expected one of True'):
    loader.open_checkpoint(tmp_path)


@pytest.fixture(scope='module', params=families.CASES)
def reference_and_policy(request, tmp_path_factory):
  """Returns transformers' model, our policy and our parameters."""
  directory = tmp_path_factory.mktemp('model')
  reference = families.make(request.param, directory)
  checkpoint = loader.open_checkpoint(directory)
  params = checkpoint.params(names.in_memory(np.float32))
  policy = policy_lib.make_policy(checkpoint.config)
  return reference, policy, jax.device_put(params)


def test_logits(reference_and_policy):
  reference, policy, params = reference_and_policy
  with torch.no_grad():
    expected = reference(torch.from_numpy(TEXT_BT)).logits.numpy()

  @jax.jit
  def logits(params):
    hidden_BTD, _ = policy.forward(params, TEXT_BT, np.full(2, 40))
    return policy.logits(params, hidden_BTD)

  assert expected.std() > 1  # otherwise errors could go unnoticed
  np.testing.assert_allclose(logits(params), expected, atol=1e-4, rtol=0)


def test_greedy_generation_of_a_batch(reference_and_policy):
  reference, policy, params = reference_and_policy
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  table = np.zeros((16, families.TOKENS), np.uint8)  # no token stops
  table[decoding.STOPPED :] = decoding.STOPPED
  settings = sampler.SamplerSettings(
    np.zeros(1, np.float32), np.ones(1, np.float32), np.int32(NEW), table
  )
  keys = sampler.response_keys((0,), num_groups=len(PROMPTS), group_size=1)
  sample = sampler.Sampler(policy, mesh)
  packed = batches.pack_prompts(PROMPTS)
  assert packed.prefix_lengths[0] == 8
  rollout = sample(params, packed, keys, settings, slots=NEW)
  for prompt, response in zip(PROMPTS, rollout.tokens[:, 0], strict=True):
    # One prompt at a time, because a window must not see padding.
    expected = reference.generate(
      torch.tensor([prompt]),
      do_sample=False,
      max_new_tokens=NEW,
      min_new_tokens=NEW,
      eos_token_id=-1,
      pad_token_id=0,
    )
    assert response.tolist() == expected[0, len(prompt) :].tolist()


class _Gradients:
  """The gradients of a torch model, presented as its tensors."""

  path = 'torch'

  def __init__(self, model):
    self._tensors = {
      name: parameter.grad.numpy()
      for name, parameter in model.named_parameters()
    }

  def names(self):
    return set(self._tensors)

  def read(self, name):
    return self._tensors[name]


def test_gradients_of_a_log_likelihood(reference_and_policy):
  """Computes gradients as the learner does, with shared prompts."""
  reference, policy, params = reference_and_policy
  responses_QGR = TEXT_BT[:, :36].reshape(3, 2, 12)
  batch = groups.GroupBatch(
    prompts=jax.tree.map(jnp.asarray, batches.pack_prompts(PROMPTS)),
    tokens=jnp.asarray(responses_QGR),
    lengths=jnp.full((3, 2), 12),
    old_logprobs=None,
    advantages=None,
    weights=None,
    num_groups=None,
  )

  @functools.partial(jax.jit, static_argnums=1)
  @jax.value_and_grad
  def value_and_gradients(params, chunk):
    return policy_loss.response_logprobs(policy, params, batch, chunk=chunk)[
      0
    ].sum()

  value, gradients = value_and_gradients(params, 16)
  reference.zero_grad()
  likelihood = 0.0
  for prompt, group in zip(PROMPTS, responses_QGR, strict=True):
    for response in group:
      tokens = torch.tensor([*prompt, *response.tolist()])
      logps = torch.log_softmax(reference(tokens[None]).logits[0, :-1], dim=-1)
      chosen = logps.gather(-1, tokens[1:, None])[-len(response) :].sum()
      chosen.backward()
      likelihood += chosen.item()
  np.testing.assert_allclose(value, likelihood, rtol=1e-5)

  # A gradient has the layout of its parameter in the file.
  expected = names.build_params(
    policy.config, _Gradients(reference), names.in_memory(np.float32)
  )
  assert jax.tree.structure(gradients) == jax.tree.structure(expected)
  for (path, ours), wanted in zip(
    jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
  ):
    largest = np.abs(wanted).max()
    assert largest > 1e-3, jax.tree_util.keystr(path)
    # float32 sums of many terms with both signs.
    error = np.abs(np.asarray(ours) - wanted).max()
    assert error < 1e-3 * largest, jax.tree_util.keystr(path)
