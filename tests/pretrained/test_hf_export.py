"""Exports, read by transformers, peft and this library."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sqlm_jax.models import layers, lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import hf_export, loader, names
from tests.pretrained import families

torch = pytest.importorskip('torch')

# transformers warns about settings that only tiny models have.
pytestmark = pytest.mark.filterwarnings('ignore')

TEXT_BT = np.random.default_rng(0).integers(3, families.TOKENS, (2, 24))
LORA = layers.Lora(rank=4, alpha=6.0)


def read(directory, dtype='float32'):
  checkpoint = loader.open_checkpoint(directory)
  return checkpoint, checkpoint.params(names.in_memory(jnp.dtype(dtype)))


def reference_logits(model):
  with torch.no_grad():
    return model(torch.from_numpy(TEXT_BT)).logits.float().numpy()


@functools.partial(jax.jit, static_argnums=0)
def policy_logits(policy, params):
  hidden_BTD, _ = policy.forward(params, TEXT_BT, np.full(2, 24))
  return policy.logits(params, hidden_BTD)


@pytest.mark.parametrize('name', families.CASES)
def test_round_trip(tmp_path, name):
  source, out, again = (tmp_path / part for part in ('in', 'out', 'again'))
  reference = families.make(name, source)
  for before, after in ((source, out), (out, again)):
    checkpoint, params = read(before)
    after.mkdir()
    hf_export.write_model(
      after, checkpoint.config, checkpoint.hf_config, params, dtype='float32'
    )
  assert read(out)[0].config == read(source)[0].config
  jax.tree.map(np.testing.assert_array_equal, read(again)[1], read(source)[1])
  loaded, problems = transformers.AutoModelForCausalLM.from_pretrained(
    out, output_loading_info=True, attn_implementation='eager'
  )
  assert not any(problems.values()), problems
  assert type(loaded) is type(reference)
  assert loaded.dtype == torch.float32
  expected = reference.state_dict()
  assert loaded.state_dict().keys() == expected.keys()
  for key, tensor in loaded.state_dict().items():
    assert torch.equal(tensor, expected[key]), key
  # Also checks properties that are not tensors: rotation, windows, scales.
  np.testing.assert_array_equal(
    reference_logits(loaded), reference_logits(reference)
  )


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_narrower_dtypes(tmp_path, dtype):
  families.make('gemma3', tmp_path / 'in')
  checkpoint, params = read(tmp_path / 'in')
  (tmp_path / 'out').mkdir()
  hf_export.write_model(
    tmp_path / 'out',
    checkpoint.config,
    checkpoint.hf_config,
    params,
    dtype=dtype,
  )
  expected = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
  reread = read(tmp_path / 'out', dtype)[1]
  jax.tree.map(np.testing.assert_array_equal, reread, expected)
  loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
  assert str(loaded.dtype) == f'torch.{dtype}'


def test_shards_respect_the_size_limit(tmp_path):
  reference = families.make('qwen3', tmp_path / 'in')
  checkpoint, params = read(tmp_path / 'in')
  out = tmp_path / 'out'
  out.mkdir()
  hf_export.write_model(
    out,
    checkpoint.config,
    checkpoint.hf_config,
    params,
    dtype='float32',
    shard_bytes=20_000,
  )
  files = sorted(out.glob('*.safetensors'))
  assert len(files) > 2
  header = 4000
  assert max(file.stat().st_size for file in files) < 20_000 + header
  index = json.loads((out / 'model.safetensors.index.json').read_text())
  assert {out / name for name in index['weight_map'].values()} == set(files)
  loaded = transformers.AutoModelForCausalLM.from_pretrained(
    out, attn_implementation='eager'
  )
  np.testing.assert_array_equal(
    reference_logits(loaded), reference_logits(reference)
  )
  jax.tree.map(np.testing.assert_array_equal, read(out)[1], params)


@pytest.mark.parametrize('name', families.CASES)
def test_older_rope_keys(tmp_path, name):
  """Version 4 of transformers knows only rope_theta and rope_scaling."""
  families.make(name, tmp_path)
  checkpoint, params = read(tmp_path)
  hf_export.write_model(
    tmp_path, checkpoint.config, checkpoint.hf_config, params, dtype='float32'
  )
  path = tmp_path / 'config.json'
  values = json.loads(path.read_text())
  del values['rope_parameters']
  path.write_text(json.dumps(values))
  assert loader.open_checkpoint(tmp_path).config == checkpoint.config


@pytest.fixture(scope='module')
def adapted_model(tmp_path_factory):
  """Returns a base model and adapters that are not zero."""
  directory = tmp_path_factory.mktemp('base')
  reference = families.make('llama-biases', directory)
  checkpoint, base = read(directory)
  policy = policy_lib.make_policy(checkpoint.config, lora=LORA)
  adapters = lora.adapters(policy.init(jax.random.key(1)))
  adapters = jax.tree.map(
    lambda x: 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), adapters
  )
  return reference, checkpoint, policy, jax.device_put(base), adapters


def test_merged_adapters_have_equal_logits(adapted_model):
  reference, _, policy, base, adapters = adapted_model
  joined = lora.join(base, adapters)
  merged = lora.merge(joined, LORA)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  with_adapters = policy_logits(policy, joined)
  np.testing.assert_allclose(
    policy_logits(policy, merged), with_adapters, atol=1e-4
  )
  # Without adapters, the model is the base, which is the reference policy.
  plain = policy_logits(policy, base)
  np.testing.assert_allclose(plain, reference_logits(reference), atol=1e-4)
  assert np.abs(plain - with_adapters).max() > 0.5


def test_peft_loads_the_adapters(adapted_model, tmp_path):
  peft = pytest.importorskip('peft')
  _, checkpoint, policy, base, adapters = adapted_model
  hf_export.write_adapter(
    tmp_path, checkpoint.config, adapters, LORA, base='somewhere'
  )
  # peft changes the model in place, so it gets a copy.
  model = peft.PeftModel.from_pretrained(
    families.make('llama-biases'), tmp_path
  )
  expected = policy_logits(policy, lora.join(base, adapters))
  np.testing.assert_allclose(reference_logits(model), expected, atol=1e-4)
  merged = model.merge_and_unload()
  np.testing.assert_allclose(reference_logits(merged), expected, atol=1e-4)
