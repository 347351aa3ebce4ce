"""Intact and damaged Hugging Face directories."""

import json
import logging
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors as safetensors_lib
import transformers
from safetensors import numpy as save_lib

from sqlm_jax.pretrained import loader, names, safetensors
from tests.pretrained import families

# transformers warns about settings that only tiny models have.
pytestmark = pytest.mark.filterwarnings('ignore')


def read_params(directory, dtype='float32'):
  place = names.in_memory(jnp.dtype(dtype))
  return loader.open_checkpoint(directory).params(place)


@pytest.mark.parametrize('tied', [True, False])
def test_sharded_models(tmp_path, tied):
  changes = {'tie_word_embeddings': tied}
  for name, size in (('one', '1GB'), ('many', '20KB')):
    model = families.make('llama3', tmp_path / name, **changes)
    model.save_pretrained(tmp_path / name, max_shard_size=size)
  assert len(list((tmp_path / 'many').glob('model-*.safetensors'))) > 2
  (tmp_path / 'many' / 'model.safetensors').unlink()
  single, sharded = (
    read_params(tmp_path / 'one'),
    read_params(tmp_path / 'many'),
  )
  jax.tree.map(np.testing.assert_array_equal, single, sharded)
  assert ('unembed' in single) != tied


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
  """Returns a directory with a model that a test may damage."""
  families.make('llama2', tmp_path)
  return tmp_path


def change_config(directory, **changed):
  path = directory / 'config.json'
  config = json.loads(path.read_text()) | changed
  config = {key: value for key, value in config.items() if value != 'left out'}
  path.write_text(json.dumps(config))


def test_older_config_keys(directory):
  change_config(
    directory, rope_parameters={'rope_type': 'default', 'rope_theta': 50.0}
  )
  expected = loader.open_checkpoint(directory).config
  assert expected.rope.theta == 50.0
  change_config(
    directory, rope_parameters='left out', rope_theta=50.0, rope_scaling=None
  )
  assert loader.open_checkpoint(directory).config == expected
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
    ('hidden_size', '32', "hidden_size='32': expected an integer from 1"),
    ('hidden_size', 24.0, 'hidden_size=24.0: expected an integer from 1'),
    ('hidden_size', True, 'hidden_size=True: expected an integer from 1'),
    ('num_attention_heads', 5, 'multiple of the number of attention heads'),
    ('num_key_value_heads', 4, 'num_heads=6: expected a multiple of'),
    ('num_attention_heads', 0, 'num_attention_heads=0: expected an integer'),
    ('num_key_value_heads', 0, 'num_key_value_heads=0: expected an integer'),
    ('num_hidden_layers', 10**9, 'num_hidden_layers=1000000000: expected an'),
    ('num_labels', 10**9, 'num_labels=1000000000: expected an integer from 0'),
    ('vocab_size', 10**12, 'vocab_size=1000000000000: expected an integer'),
    ('head_dim', 7, 'even'),
    ('head_dim', 2**20, 'head_dim=1048576: expected an integer from 1 to'),
    ('max_position_embeddings', -1, 'max_position_embeddings=-1: expected'),
    ('rms_norm_eps', '1e-5', "rms_norm_eps='1e-5': expected a positive numb"),
    ('rms_norm_eps', -1e-5, 'rms_norm_eps=-1e-05: expected a positive numb'),
    ('rope_theta', -1.0, 'rope_theta=-1.0: expected a positive number'),
    ('rope_theta', None, 'rope_theta=None: expected a positive number'),
    ('rope_theta', 10**400, 'rope_theta=10000.*: expected a positive number'),
    ('rope_scaling', 5, 'rope_scaling=5: expected an object'),
    ('rope_scaling', ['linear'], "rope_scaling=.'linear'.: expected an obj"),
    ('rope_scaling', {'type': 5}, 'rope_scaling.type=5: expected a string'),
    (
      'rope_scaling',
      {'type': 'linear', 'factor': '2'},
      "rope_scaling.factor='2': expected a positive number",
    ),
    (
      'rope_scaling',
      {'type': 'linear', 'factor': 1e-38, 'rope_theta': 1e-38},
      'rope_parameters=.*: expected numbers that give finite frequencies',
    ),
    ('rope_parameters', {'rope_theta': None}, 'rope_theta=None: expected a p'),
    ('tie_word_embeddings', 'false', "embeddings='false': expected true or f"),
    ('attention_bias', 1, 'attention_bias=1: expected true or false'),
    ('model_type', ['llama'], r"model_type=\['llama'\]: expected one of"),
    ('architectures', 5, 'architectures=5: expected a list of strings'),
    ('architectures', 'LlamaForCausalLM', 'expected a list of strings'),
    ('layer_types', 'full_attention', 'layer_types=.*: expected a list of'),
    ('pad_token_id', 3 * 10**9, 'pad_token_id=3000000000: expected ids less'),
    ('eos_token_id', [1, -5], r'eos_token_id=\[1, -5\]: expected ids less'),
    (
      'per_layer_config',
      {'0': {'intermediate_size': 8}},
      'per_layer_config=.*: expected one of None',
    ),
  ],
)
def test_unsupported_configs_are_refused(directory, key, value, message):
  change_config(directory, **{'rope_parameters': 'left out', key: value})
  with pytest.raises(ValueError, match=rf'(?s)config\.json: .*{message}'):
    loader.open_checkpoint(directory)


def test_text_model_of_an_image_model(tmp_path):
  """Gemma 3 above 1B contains a text model, which is read separately."""
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
  loaded, expected = (
    read_params(tmp_path / 'both'),
    read_params(tmp_path / 'text'),
  )
  jax.tree.map(np.testing.assert_array_equal, loaded, expected)
  both_config, text_config = (
    loader.open_checkpoint(tmp_path / name).config for name in ('both', 'text')
  )
  assert both_config == text_config


@pytest.mark.parametrize(
  'key, value',
  [
    # Keys that do not concern the decoder may have any value.
    ('to_dict', 5),
    ('attribute_map', {'hidden_size': 'vocab_size'}),
    ('__class__', 'int'),
    ('_heterogeneity_spec', 5),
    ('dtype', 'load'),
    ('torch_dtype', 5),
    ('id2label', {'a': 'b'}),
    ('num_labels', 1000),
    ('problem_type', 'guessing'),
    # -1 means no token in some files.
    ('pad_token_id', -1),
  ],
)
def test_irrelevant_config_keys_are_ignored(directory, key, value):
  expected = loader.open_checkpoint(directory).config
  change_config(directory, **{key: value})
  loaded = loader.open_checkpoint(directory)
  assert loaded.config == expected
  json.dumps(loaded.hf_config.to_diff_dict())  # raises if it cannot be exported


@pytest.mark.parametrize('name', ['config.json', 'generation_config.json'])
def test_pad_tokens_without_a_row_are_ignored(directory, name, caplog):
  """Some published models add a pad token without an embedding row."""
  caplog.set_level(logging.WARNING)
  path = directory / name
  values = json.loads(path.read_text()) if path.exists() else {}
  size = loader.open_checkpoint(directory).config.vocab_size
  path.write_text(json.dumps(values | {'pad_token_id': size}))
  opened = loader.open_checkpoint(directory)
  assert f'Ignoring pad_token_id={size} ' in caplog.text
  assert opened.hf_config.pad_token_id != size
  assert opened.generation.get('pad_token_id') != size
  path.write_text(json.dumps(values | {'pad_token_id': size + 1}))
  with pytest.raises(ValueError, match=rf'pad_token_id={size + 1}: expected'):
    loader.open_checkpoint(directory)


@pytest.mark.parametrize(
  'values, message',
  [
    ({'eos_token_id': 3 * 10**9}, 'eos_token_id=3000000000: expected ids l'),
    ({'eos_token_id': [1, 'a']}, r"eos_token_id=\[1, 'a'\]: expected ids less"),
    ({'suppress_tokens': 7}, 'expected settings that transformers accepts'),
    ({'validate': 1}, 'expected settings that transformers accepts'),
  ],
)
def test_invalid_generation_configs_are_refused(directory, values, message):
  path = directory / 'generation_config.json'
  path.write_text(json.dumps(values))
  with pytest.raises(ValueError, match=rf'generation_config\.json: {message}'):
    loader.open_checkpoint(directory)


@pytest.mark.parametrize('text', [None, 5, [], 'gemma'])
def test_invalid_text_configs_are_refused(directory, text):
  (directory / 'config.json').write_text(
    json.dumps({'model_type': 'gemma3', 'text_config': text})
  )
  with pytest.raises(ValueError, match=r'config\.json: text_config=.*: expect'):
    loader.open_checkpoint(directory)


def test_incomplete_rope_parameters_are_refused(tmp_path):
  families.make('qwen2', tmp_path)
  rope = {'full_attention': {'rope_type': 'default', 'rope_theta': 100.0}}
  change_config(tmp_path, rope_parameters=rope)
  with pytest.raises(ValueError, match=r'\.sliding_attention: missing'):
    loader.open_checkpoint(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[]', '\x00'])
def test_damaged_configs_are_refused(directory, text):
  (directory / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=r'config\.json: expected'):
    loader.open_checkpoint(directory)


def test_directories_without_a_model_are_refused(directory):
  (directory / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match=r'expected model\.safetensors or'):
    loader.open_checkpoint(directory)
  (directory / 'pytorch_model.bin').write_bytes(b'a pickle')
  with pytest.raises(ValueError, match=r'pytorch_model\.bin; save it as safet'):
    loader.open_checkpoint(directory)
  (directory / 'config.json').unlink()
  with pytest.raises(ValueError, match=r'config\.json: missing'):
    loader.open_checkpoint(directory)


def test_adapters_without_a_base_are_refused(tmp_path):
  (tmp_path / 'adapter_config.json').write_text('{"peft_type": "LORA"}')
  with pytest.raises(ValueError, match=r'found an adapter .*; merge it'):
    loader.open_checkpoint(tmp_path)


@pytest.mark.parametrize('length', [0, 4, 100, -1])
def test_truncated_files_are_refused(directory, length):
  path = directory / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(
    ValueError, match=r'model\.safetensors: expected a complete'
  ):
    loader.open_checkpoint(directory)


def test_missing_shards_are_refused(tmp_path):
  families.make('llama2').save_pretrained(tmp_path, max_shard_size='20KB')
  shard = sorted(tmp_path.glob('*.safetensors'))[1]
  shard.unlink()
  with pytest.raises(ValueError, match=rf'{shard.name}: missing'):
    loader.open_checkpoint(tmp_path)
  (tmp_path / 'model.safetensors.index.json').write_text('{}')
  with pytest.raises(ValueError, match=r'index\.json: expected a weight_map'):
    loader.open_checkpoint(tmp_path)


@pytest.mark.parametrize(
  'file',
  [
    *('../other/model.safetensors', '/etc/passwd', '/tmp/model.safetensors'),
    *('a/model.safetensors', '..', '', '.safetensors', 'model.bin'),
    *('..\\model.safetensors', 'a\0.safetensors', 5, None, ['a']),
  ],
)
def test_shards_outside_of_the_directory_are_refused(tmp_path, file):
  families.make('llama2').save_pretrained(tmp_path, max_shard_size='20KB')
  path = tmp_path / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  index['weight_map']['model.norm.weight'] = file
  path.write_text(json.dumps(index))
  message = r'weight_map\.model\.norm\.weight=.*: expected the name of a safe'
  with pytest.raises(ValueError, match=message):
    loader.open_checkpoint(tmp_path)


def test_tensors_in_two_shards_are_refused(tmp_path):
  families.make('llama2').save_pretrained(tmp_path, max_shard_size='20KB')
  first, second = sorted(tmp_path.glob('*.safetensors'))[:2]
  arrays = save_lib.load_file(first) | save_lib.load_file(second)
  save_lib.save_file(arrays, second)
  message = rf'{second.name}: tensor .*: expected one tensor.*{first.name} has'
  with pytest.raises(ValueError, match=message):
    loader.open_checkpoint(tmp_path)


def rewrite(directory, change):
  """Changes the tensors of a directory."""
  path = directory / 'model.safetensors'
  tensors = save_lib.load_file(path)
  change(tensors)
  specs = {
    name: safetensors_lib.TensorSpec(
      dtype=array.dtype.name,
      shape=array.shape,
      data_ptr=array.ctypes.data,
      data_len=array.nbytes,
    )
    for name, array in tensors.items()
  }
  path.write_bytes(safetensors_lib.serialize(specs))


DOWN = 'model.layers.1.mlp.down_proj.weight'


@pytest.mark.parametrize(
  'dtype, label',
  [
    ('float8_e4m3fn', 'F8_E4M3'),
    ('float8_e5m2', 'F8_E5M2'),
    ('uint16', 'U16'),
    ('int8', 'I8'),
    ('int64', 'I64'),
    ('bool', 'BOOL'),
    ('complex64', 'C64'),
  ],
)
def test_unsupported_dtypes_are_refused(directory, dtype, label):
  """The config may lack a quantization_config."""

  def change(tensors):
    tensors[DOWN] = tensors[DOWN].astype(jnp.dtype(dtype))

  rewrite(directory, change)
  message = rf'model\.safetensors: tensor {DOWN}: {label}: expected one of F64'
  with pytest.raises(ValueError, match=message):
    loader.open_checkpoint(directory)


def test_fp8_weights_are_reported_before_their_scales(directory):
  def change(tensors):
    tensors[DOWN] = tensors[DOWN].astype(jnp.float8_e4m3fn)
    tensors[f'{DOWN}_scale_inv'] = np.ones((1, 1), np.float32)

  rewrite(directory, change)
  with pytest.raises(ValueError, match=rf'tensor {DOWN}: F8_E4M3: expected'):
    loader.open_checkpoint(directory)


@pytest.mark.parametrize('dtype', ['float64', 'float16', 'bfloat16'])
def test_models_with_several_dtypes(directory, dtype):
  expected = read_params(directory)

  def change(tensors):
    tensors[DOWN] = tensors[DOWN].astype(jnp.dtype(dtype))

  rewrite(directory, change)
  loaded = read_params(directory)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-7), loaded, expected
  )


def test_tied_models_may_store_only_the_head(tmp_path):
  families.make('qwen2', tmp_path)
  expected = read_params(tmp_path)
  assert 'unembed' not in expected

  def change(tensors):
    tensors['lm_head.weight'] = tensors.pop('model.embed_tokens.weight')

  rewrite(tmp_path, change)
  loaded = read_params(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_untied_models_require_an_embedding(directory):
  rewrite(directory, lambda tensors: tensors.pop('model.embed_tokens.weight'))
  with pytest.raises(ValueError, match=r'embed_tokens\.weight: missing'):
    loader.open_checkpoint(directory)


def test_sizes_are_checked_before_allocation(directory):
  change_config(directory, vocab_size=2 * 10**9)
  message = (
    r'embed_tokens\.weight: expected shape \(2000000000, 24\), '
    r'found \(97, 24\)'
  )
  with pytest.raises(ValueError, match=message):
    loader.open_checkpoint(directory)


def test_large_headers_are_refused(directory):
  path = directory / 'model.safetensors'
  header = b'{' + b' ' * 2**24 + b'}'
  path.write_bytes(struct.pack('<Q', len(header)) + header)
  with pytest.raises(
    ValueError, match='header of at most 16777216 bytes, found'
  ):
    loader.open_checkpoint(directory)


def test_other_files_are_ignored(directory):
  # Some downloads contain such files.
  (directory / 'consolidated.safetensors').write_bytes(b'another format')
  read_params(directory)


def test_inconsistent_sizes_are_refused(directory):
  change_config(directory, intermediate_size=44)
  with pytest.raises(
    ValueError,
    match=r'gate_proj\.weight: expected shape \(44, 24\), found \(40, 24\)',
  ):
    read_params(directory)


@pytest.mark.parametrize(
  'stored, name',
  [
    # Names that transformers 4 and 5 use for models of images and text.
    ('language_model.model.norm.weight', 'model.norm.weight'),
    ('model.language_model.norm.weight', 'model.norm.weight'),
    ('language_model.lm_head.weight', 'lm_head.weight'),
    ('vision_tower.vision_model.head.weight', None),
    ('model.vision_tower.head.weight', None),
    ('multi_modal_projector.mm_soft_emb_norm.weight', None),
    ('model.layers.0.mlp.up_proj.weight', 'model.layers.0.mlp.up_proj.weight'),
  ],
)
def test_names_of_the_text_model(stored, name):
  assert safetensors._text_name(stored) == name
