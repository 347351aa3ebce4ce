"""The table of tensor names and layouts."""

import pathlib

import jax
import numpy as np
import pytest

from sqlm_jax.models import model_config, policy
from sqlm_jax.pretrained import names

# All sizes differ, so that a wrong axis is noticed.
CONFIG = model_config.ModelConfig(
  vocab_size=11,
  num_layers=2,
  width=10,
  mlp_width=14,
  num_heads=6,
  num_kv_heads=3,
  head_width=4,
  tied_embeddings=False,
)
# Name -> [out, in], the shapes of Hugging Face's LlamaForCausalLM.
SHAPES = {
  'model.embed_tokens.weight': (11, 10),
  'model.norm.weight': (10,),
  'lm_head.weight': (11, 10),
}
for _layer in ('model.layers.0.', 'model.layers.1.'):
  SHAPES |= {
    _layer + 'self_attn.q_proj.weight': (24, 10),
    _layer + 'self_attn.k_proj.weight': (12, 10),
    _layer + 'self_attn.v_proj.weight': (12, 10),
    _layer + 'self_attn.o_proj.weight': (10, 24),
    _layer + 'mlp.gate_proj.weight': (14, 10),
    _layer + 'mlp.up_proj.weight': (14, 10),
    _layer + 'mlp.down_proj.weight': (10, 14),
    _layer + 'input_layernorm.weight': (10,),
    _layer + 'post_attention_layernorm.weight': (10,),
  }


class MemoryTensors:
  """Tensors in memory instead of a file."""

  path = pathlib.Path('somewhere')

  def __init__(self, tensors):
    self._tensors = tensors

  def names(self):
    return set(self._tensors)

  def read(self, name):
    return self._tensors[name]


@pytest.fixture
def tensors():
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in SHAPES.items()
  }


def build(tensors, *, config=CONFIG, place=None):
  place = place or names.in_memory(np.float32)
  return names.build_params(config, MemoryTensors(tensors), place)


@pytest.mark.parametrize('tied', [False, True])
def test_tree_has_the_decoders_shapes(tensors, tied):
  config = model_config.ModelConfig(**{**vars(CONFIG), 'tied_embeddings': tied})
  if tied:
    del tensors['lm_head.weight']
  params = build(tensors, config=config)
  expected = jax.eval_shape(policy.make_policy(config).init, jax.random.key(0))

  def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)

  assert shapes(params) == shapes(expected)


def test_positions_of_single_numbers(tensors):
  params = build(tensors)
  attention, mlp = params['layers']['attention'], params['layers']['mlp']
  layer, d, h, f = 1, 7, 3, 9

  def stored(name):
    return tensors[f'model.layers.1.{name}.weight']

  # Dimension h of head n is row n * H + h, here 5 * 4 + 3 and 2 * 4 + 3.
  query, key = stored('self_attn.q_proj'), stored('self_attn.k_proj')
  assert attention['query']['kernel'][layer, d, 5, h] == query[23, d]
  assert attention['key']['kernel'][layer, d, 2, h] == key[11, d]
  value, output = stored('self_attn.v_proj'), stored('self_attn.o_proj')
  assert attention['value']['kernel'][layer, d, 2, h] == value[11, d]
  assert attention['output']['kernel'][layer, 5, h, d] == output[d, 23]
  assert mlp['gate']['kernel'][layer, d, f] == stored('mlp.gate_proj')[f, d]
  assert mlp['up']['kernel'][layer, d, f] == stored('mlp.up_proj')[f, d]
  assert mlp['down']['kernel'][layer, f, d] == stored('mlp.down_proj')[d, f]
  norms = params['layers']['attention_norm'], params['layers']['mlp_norm']
  assert norms[0]['scale'][layer, d] == stored('input_layernorm')[d]
  assert norms[1]['scale'][layer, d] == stored('post_attention_layernorm')[d]
  assert params['final_norm']['scale'][d] == tensors['model.norm.weight'][d]
  assert params['unembed']['kernel'][d, 8] == tensors['lm_head.weight'][8, d]
  np.testing.assert_array_equal(
    params['embedding'], tensors['model.embed_tokens.weight']
  )


def test_place_receives_every_parameter_once(tensors):
  placed = {}

  def place(path, shape, pieces):
    placed[path] = [(at, piece.shape) for at, piece in pieces]
    return shape

  params = build(tensors, place=place)
  assert len(placed) == 12
  assert placed['embedding'] == [((), (11, 10))]
  # Six heads of width 4, layer by layer.
  query = placed['layers/attention/query/kernel']
  assert query == [((0,), (10, 6, 4)), ((1,), (10, 6, 4))]
  assert params['layers']['attention']['query']['kernel'] == (2, 10, 6, 4)


def test_one_tensor_is_read_at_a_time(tensors):
  """A piece is read only after the previous piece was consumed."""
  alive = []

  class Counting(MemoryTensors):
    def read(self, name):
      alive.append(name)
      return super().read(name)

  def place(path, shape, pieces):
    for count, _ in enumerate(pieces, start=1):
      assert len(alive) == count
    alive.clear()

  names.build_params(CONFIG, Counting(tensors), place)


def test_file_tensors_invert_build_params(tensors):
  params = build(tensors)
  written = {t.name: t.read() for t in names.file_tensors(CONFIG, params)}
  assert written.keys() == tensors.keys()
  for name, array in written.items():
    np.testing.assert_array_equal(array, tensors[name], name)
  for tensor in names.file_tensors(CONFIG, params):
    assert tensor.read().shape == tensor.shape, tensor.name


@pytest.mark.parametrize('missing', ['model.norm.weight', 'lm_head.weight'])
def test_missing_tensors_are_refused(tensors, missing):
  del tensors[missing]
  with pytest.raises(ValueError, match=f'somewhere: tensor {missing}: missing'):
    build(tensors)


def test_missing_layers_are_refused(tensors):
  for name in list(tensors):
    if name.startswith('model.layers.1.'):
      del tensors[name]
  with pytest.raises(ValueError, match=r'model\.layers\.1\..*: missing'):
    build(tensors)


@pytest.mark.parametrize(
  'extra',
  [
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.0.self_attn.q_norm.weight',
    'model.layers.2.input_layernorm.weight',
  ],
)
def test_unexpected_tensors_are_refused(tensors, extra):
  tensors[extra] = np.ones(10, np.float32)
  with pytest.raises(ValueError, match=f'tensor {extra}: unexpected'):
    build(tensors)


def test_redundant_tensors_are_ignored(tensors):
  expected = build(tensors)
  name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  tensors[name] = np.ones(2, np.float32)
  jax.tree.map(np.testing.assert_array_equal, build(tensors), expected)
  # Some files also store the head of a tied model.
  config = model_config.ModelConfig(**{**vars(CONFIG), 'tied_embeddings': True})
  head = tensors['lm_head.weight']
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'].copy()
  assert 'unembed' not in build(tensors, config=config)
  # A head that differs is refused: transformers would not tie it, either.
  tensors['lm_head.weight'] = head
  with pytest.raises(
    ValueError, match=r'lm_head.weight differs from model.emb'
  ):
    build(tensors, config=config)


@pytest.mark.parametrize(
  'name, shape, expected',
  [
    ('model.layers.1.mlp.down_proj.weight', (14, 10), r'\(10, 14\)'),
    ('model.layers.0.self_attn.k_proj.weight', (24, 10), r'\(12, 10\)'),
    ('model.embed_tokens.weight', (12, 10), r'\(11, 10\)'),
    ('model.norm.weight', (10, 1), r'\(10,\)'),
  ],
)
def test_wrong_shapes_are_refused(tensors, name, shape, expected):
  tensors[name] = np.ones(shape, np.float32)
  with pytest.raises(
    ValueError, match=f'{name}: expected shape {expected}, found'
  ):
    build(tensors)
