"""Hugging Face directories that transformers wrote, and damaged ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sqlm_jax.weights import loader, names, safetensors
from tests.weights import families

# transformers warns of settings that tiny models have and real ones have not.
pytestmark = pytest.mark.filterwarnings('ignore')


def read_params(directory, dtype='float32'):
  place = names.in_memory(jnp.dtype(dtype))
  return loader.open_checkpoint(directory).params(place)


@pytest.mark.parametrize('tied', [True, False])
def test_shards_are_one_model(tmp_path, tied):
  changes = {'tie_word_embeddings': tied}
  for name, size in (('one', '1GB'), ('many', '20KB')):
    model = families.make('llama3', tmp_path / name, **changes)
    model.save_pretrained(tmp_path / name, max_shard_size=size)
  assert len(list((tmp_path / 'many').glob('model-*.safetensors'))) > 2
  (tmp_path / 'many' / 'model.safetensors').unlink()
  one, many = read_params(tmp_path / 'one'), read_params(tmp_path / 'many')
  jax.tree.map(np.testing.assert_array_equal, one, many)
  assert ('unembed' in one) != tied


def test_bfloat16_is_read_exactly(tmp_path):
  torch = pytest.importorskip('torch')
  model = families.make('llama2').to(torch.bfloat16)
  model.save_pretrained(tmp_path)
  tensors = safetensors.DirectoryTensors(tmp_path)
  for name, parameter in model.named_parameters():
    np.testing.assert_array_equal(
      tensors.read(name).astype(np.float32), parameter.detach().float().numpy()
    )
  params = read_params(tmp_path, 'bfloat16')
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}


@pytest.fixture
def directory(tmp_path):
  """A model of transformers that a test can damage."""
  families.make('llama2', tmp_path)
  return tmp_path


def change_config(directory, **changed):
  path = directory / 'config.json'
  config = json.loads(path.read_text()) | changed
  config = {key: value for key, value in config.items() if value != 'left out'}
  path.write_text(json.dumps(config))


def test_keys_that_older_transformers_wrote(directory):
  change_config(
    directory, rope_parameters={'rope_type': 'default', 'rope_theta': 50.0}
  )
  wanted = loader.open_checkpoint(directory).config
  assert wanted.rope.theta == 50.0
  change_config(
    directory, rope_parameters='left out', rope_theta=50.0, rope_scaling=None
  )
  assert loader.open_checkpoint(directory).config == wanted
  change_config(directory, rope_scaling={'type': 'linear', 'factor': 4.0})
  stretched = loader.open_checkpoint(directory).config.rope
  assert (stretched.kind, stretched.factor) == ('linear', 4.0)
  assert stretched.theta == 50.0


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('model_type', 'opt', "model_type='opt': expected one of llama, mistral"),
    ('model_type', 'left out', 'model_type=None: expected one of llama'),
    ('architectures', ['OPTForCausalLM'], "'OPTForCausalLM': expected one of"),
    ('architectures', ['LlamaModel'], 'expected one of LlamaForCausalLM'),
    ('hidden_act', 'gelu', "hidden_act='gelu': expected one of silu"),
    ('quantization_config', {'bits': 4}, 'quantization_config=.*expected'),
    ('rope_scaling', {'rope_type': 'dynamic', 'factor': 2.0}, "'dynamic': exp"),
    ('partial_rotary_factor', 0.5, 'partial_rotary_factor=0.5: expected'),
    ('hidden_size', 'left out', "key 'hidden_size' is missing"),
    ('hidden_size', '32', 'hidden_size'),
    ('num_attention_heads', 5, 'multiple of the number of attention heads'),
    ('num_key_value_heads', 4, 'num_heads=6: expected a multiple of'),
    ('num_attention_heads', 0, 'division|modulo'),
  ],
)
def test_what_the_decoder_cannot_do_is_named(directory, key, value, message):
  change_config(directory, **{'rope_parameters': 'left out', key: value})
  with pytest.raises(ValueError, match=rf'(?s)config\.json: .*{message}'):
    loader.open_checkpoint(directory)


def test_the_text_half_of_a_model_of_images(tmp_path):
  """Gemma 3 above 1B: the text model inside, the images left alone."""
  torch = pytest.importorskip('torch')
  text = families.make('gemma3', tmp_path / 'text')
  vision = {
    'hidden_size': 8,
    'intermediate_size': 8,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'image_size': 28,
    'patch_size': 14,
  }
  config = transformers.Gemma3Config(
    text_config=text.config.to_dict(), vision_config=vision
  )
  model = transformers.Gemma3ForConditionalGeneration(config)
  with torch.no_grad():
    inner = model.model.language_model
    inner.load_state_dict(text.model.state_dict())
  model.save_pretrained(tmp_path / 'both')
  found, wanted = read_params(tmp_path / 'both'), read_params(tmp_path / 'text')
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  one, other = (
    loader.open_checkpoint(tmp_path / name).config for name in ('both', 'text')
  )
  assert one == other


@pytest.mark.parametrize('text', ['', '{', '[]', '\x00'])
def test_a_damaged_config_is_refused(directory, text):
  (directory / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=r'config\.json: expected'):
    loader.open_checkpoint(directory)


def test_a_directory_without_a_model_is_refused(directory):
  (directory / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match=r'expected model\.safetensors or'):
    loader.open_checkpoint(directory)
  (directory / 'pytorch_model.bin').write_bytes(b'a pickle')
  with pytest.raises(ValueError, match=r'pytorch_model\.bin: save them as saf'):
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
  families.make('llama2').save_pretrained(tmp_path, max_shard_size='20KB')
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
  read_params(directory)


def test_sizes_that_do_not_fit_the_tensors_are_named(directory):
  change_config(directory, intermediate_size=44)
  with pytest.raises(
    ValueError,
    match=r'gate_proj\.weight: shape \(40, 24\), expected \(44, 24\)',
  ):
    read_params(directory)


@pytest.mark.parametrize(
  'stored, name',
  [
    # As transformers 4 and 5 save a model of images and text.
    ('language_model.model.norm.weight', 'model.norm.weight'),
    ('model.language_model.norm.weight', 'model.norm.weight'),
    ('language_model.lm_head.weight', 'lm_head.weight'),
    ('vision_tower.vision_model.head.weight', None),
    ('model.vision_tower.head.weight', None),
    ('multi_modal_projector.mm_soft_emb_norm.weight', None),
    ('model.layers.0.mlp.up_proj.weight', 'model.layers.0.mlp.up_proj.weight'),
  ],
)
def test_names_of_the_text_half(stored, name):
  assert safetensors._text_name(stored) == name
