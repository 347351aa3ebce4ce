import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sqlm_jax.models import policy
from sqlm_jax.weights import loader, safetensors

TOKENS_BT = np.random.default_rng(0).integers(0, 90, (2, 12))
SIZES = {
  'vocab_size': 90,
  'num_hidden_layers': 2,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
  'rms_norm_eps': 1e-3,  # large, so that a wrong one is seen
  'tie_word_embeddings': True,
  # Short waves, so that a wrong base or order of pairs is seen.
  'rope_parameters': {'rope_type': 'default', 'rope_theta': 50.0},
}
VARIANTS = {
  'tied': {},
  'untied': {'tie_word_embeddings': False},
  'odd heads': {
    'hidden_size': 36,
    'num_attention_heads': 6,
    'num_key_value_heads': 3,
    'head_dim': 10,
    'tie_word_embeddings': False,
  },
  'one key/value head': {'num_key_value_heads': 1, 'head_dim': 4},
}


def make_model(**changed):
  """A random model of transformers, which decides what is right."""
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  config = transformers.LlamaConfig(**SIZES | changed)
  model = transformers.LlamaForCausalLM(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      # At initialisation all norms are 1 and all logits nearly equal.
      parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
  return model


def their_logits(model) -> np.ndarray:
  torch = pytest.importorskip('torch')
  with torch.no_grad():
    return model(torch.from_numpy(TOKENS_BT)).logits.float().numpy()


def our_logits(path, dtype='float32') -> np.ndarray:
  checkpoint = loader.open_checkpoint(path)
  model = policy.make_policy(checkpoint.config, dtype=dtype)
  params = checkpoint.params(dtype=jnp.dtype(dtype))

  @jax.jit
  def logits(params):
    hidden_BTD, _ = model.forward(params, TOKENS_BT, np.full(2, 12))
    return model.logits(params, hidden_BTD)

  return np.asarray(logits(params))


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('shards', [False, True], ids=['single', 'sharded'])
def test_logits_are_those_of_transformers(tmp_path, variant, shards):
  model = make_model(**VARIANTS[variant])
  model.save_pretrained(tmp_path, max_shard_size='20KB' if shards else '1GB')
  assert (len(list(tmp_path.glob('*.safetensors'))) > 2) == shards
  found, expected = our_logits(tmp_path), their_logits(model)
  assert np.std(expected) > 0.5
  # Two layers in float32 on a CPU: sums in another order.
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_bfloat16_is_read_exactly(tmp_path):
  torch = pytest.importorskip('torch')
  model = make_model().to(torch.bfloat16)
  model.save_pretrained(tmp_path)
  tensors = safetensors.DirectoryTensors(tmp_path)
  for name, parameter in model.named_parameters():
    np.testing.assert_array_equal(
      tensors.read(name).astype(np.float32), parameter.detach().float().numpy()
    )
  params = loader.open_checkpoint(tmp_path).params(dtype=jnp.bfloat16)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}
  # Read by transformers, too: `float()` would leave its frequencies rounded.
  wide = transformers.LlamaForCausalLM.from_pretrained(
    tmp_path, dtype=torch.float32
  )
  np.testing.assert_allclose(
    our_logits(tmp_path), their_logits(wide), atol=1e-4, rtol=0
  )


@pytest.fixture
def directory(tmp_path):
  """A model of transformers that a test can damage."""
  make_model().save_pretrained(tmp_path)
  return tmp_path


def change_config(directory, **changed):
  path = directory / 'config.json'
  config = json.loads(path.read_text()) | changed
  config = {key: value for key, value in config.items() if value != 'left out'}
  path.write_text(json.dumps(config))


def test_keys_that_older_transformers_wrote(directory):
  wanted = loader.open_checkpoint(directory).config
  assert wanted.rope_theta == 50.0
  change_config(
    directory, rope_parameters='left out', rope_theta=50.0, rope_scaling=None
  )
  assert loader.open_checkpoint(directory).config == wanted
  change_config(directory, rope_scaling={'type': 'default'})
  assert loader.open_checkpoint(directory).config == wanted


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('architectures', ['OPTForCausalLM'], "'OPTForCausalLM': expected one of"),
    ('architectures', None, 'architectures=None: expected one of Llama'),
    ('attention_bias', True, 'attention_bias=True: expected one of False'),
    ('mlp_bias', True, 'mlp_bias=True: expected one of False'),
    ('hidden_act', 'gelu', "hidden_act='gelu': expected one of silu"),
    ('rope_parameters', {'rope_type': 'llama3'}, "rope_scaling='llama3'"),
    ('hidden_size', 'left out', "key 'hidden_size' is missing"),
    ('hidden_size', '32', 'unsupported operand'),
    ('num_attention_heads', 3, 'num_heads=3: expected a multiple of'),
    ('num_attention_heads', 0, 'division'),
  ],
)
def test_what_the_decoder_cannot_do_is_named(directory, key, value, message):
  # With a head width and without: sizes are checked either way.
  change_config(directory, **{'head_dim': None, key: value})
  with pytest.raises(ValueError, match=rf'config\.json: .*{message}'):
    loader.open_checkpoint(directory)


def test_scaling_in_the_older_key_is_named(directory):
  scaling = {'type': 'linear', 'factor': 2.0}
  change_config(directory, rope_parameters='left out', rope_scaling=scaling)
  with pytest.raises(ValueError, match=r"rope_scaling='linear': expected"):
    loader.open_checkpoint(directory)


@pytest.mark.parametrize('text', ['', '{', '[]', '\x00'])
def test_a_damaged_config_is_refused(directory, text):
  (directory / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=r'config\.json: expected'):
    loader.open_checkpoint(directory)


def test_a_directory_without_a_model_is_refused(directory):
  (directory / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match=r'expected model\.safetensors or'):
    loader.open_checkpoint(directory)
  (directory / 'config.json').unlink()
  with pytest.raises(ValueError, match=r'config\.json: missing'):
    loader.open_checkpoint(directory)


@pytest.mark.parametrize('length', [0, 4, 100, -1])
def test_a_truncated_file_is_refused(directory, length):
  path = directory / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(ValueError, match=r'model\.safetensors: expected whole'):
    loader.open_checkpoint(directory)


def test_a_missing_shard_is_named(tmp_path):
  make_model().save_pretrained(tmp_path, max_shard_size='20KB')
  shard = sorted(tmp_path.glob('*.safetensors'))[1]
  shard.unlink()
  with pytest.raises(ValueError, match=rf'{shard.name}: missing'):
    loader.open_checkpoint(tmp_path)
  (tmp_path / 'model.safetensors.index.json').write_text('{}')
  with pytest.raises(ValueError, match=r'index\.json: expected a weight_map'):
    loader.open_checkpoint(tmp_path)


def test_other_files_of_the_directory_are_left_alone(directory):
  # Such files lie beside the model in some downloads.
  (directory / 'consolidated.safetensors').write_bytes(b'another format')
  loader.open_checkpoint(directory).params(dtype=np.float32)


def test_sizes_that_do_not_fit_the_tensors_are_named(directory):
  change_config(directory, intermediate_size=40)
  with pytest.raises(
    ValueError,
    match=r'gate_proj\.weight: shape \(48, 32\), expected \(40, 32\)',
  ):
    loader.open_checkpoint(directory).params(dtype=np.float32)
