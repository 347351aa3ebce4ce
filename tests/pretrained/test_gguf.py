"""GGUF files, written by the rules of llama.cpp's converter."""

import math
import pathlib
import re

import gguf as gguf_format
import jax
import numpy as np
import pytest
import transformers

from sqlm_jax.models import model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import gguf, gguf_file, loader, names
from tests.pretrained import families

# transformers warns about settings that only tiny models have.
pytestmark = pytest.mark.filterwarnings('ignore')

TYPES = gguf_format.GGMLQuantizationType

HEADS, KV_HEADS, HEAD_WIDTH = 4, 2, 16
WIDTH, MLP_WIDTH, VOCAB = 32, 64, 40
FIELDS = {
  'llama.context_length': 128,
  'llama.embedding_length': WIDTH,
  'llama.block_count': 1,
  'llama.feed_forward_length': MLP_WIDTH,
  'llama.attention.head_count': HEADS,
  'llama.attention.head_count_kv': KV_HEADS,
  'llama.attention.key_length': HEAD_WIDTH,
  'llama.rope.dimension_count': HEAD_WIDTH,
  'llama.rope.freq_base': 5000.0,
  'llama.attention.layer_norm_rms_epsilon': 1e-6,
}
SHAPES = {
  'token_embd.weight': (VOCAB, WIDTH),
  'output_norm.weight': (WIDTH,),
  'output.weight': (VOCAB, WIDTH),
  'blk.0.attn_q.weight': (HEADS * HEAD_WIDTH, WIDTH),
  'blk.0.attn_k.weight': (KV_HEADS * HEAD_WIDTH, WIDTH),
  'blk.0.attn_v.weight': (KV_HEADS * HEAD_WIDTH, WIDTH),
  'blk.0.attn_output.weight': (WIDTH, HEADS * HEAD_WIDTH),
  'blk.0.ffn_gate.weight': (MLP_WIDTH, WIDTH),
  'blk.0.ffn_up.weight': (MLP_WIDTH, WIDTH),
  'blk.0.ffn_down.weight': (WIDTH, MLP_WIDTH),
  'blk.0.attn_norm.weight': (WIDTH,),
  'blk.0.ffn_norm.weight': (WIDTH,),
}


def random_tensors() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in SHAPES.items()
  }


def write(
  path: pathlib.Path,
  tensors: dict[str, np.ndarray],
  *,
  architecture: str = 'llama',
  kind=TYPES.F32,
  **changed,
) -> pathlib.Path:
  """Writes a GGUF file; fields that are None are omitted."""
  writer = gguf_format.GGUFWriter(path, architecture)
  add_fields(writer, FIELDS | changed)
  for name, array in tensors.items():
    stored = kind if array.ndim == 2 else TYPES.F32
    writer.add_tensor(
      name, gguf_format.quants.quantize(array, stored), raw_dtype=stored
    )
  finish(writer)
  return path


def add_fields(writer: gguf_format.GGUFWriter, fields: dict) -> None:
  for name, value in fields.items():
    match value:
      case list():
        writer.add_array(name, value)
      case str():
        writer.add_string(name, value)
      case float():
        writer.add_float32(name, value)
      case bool():
        writer.add_bool(name, value)
      case int():
        writer.add_uint32(name, value)


def finish(writer: gguf_format.GGUFWriter) -> None:
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def interleaved(array: np.ndarray, num_heads: int) -> np.ndarray:
  """Interleaves rows like `LlamaModel.permute` of llama.cpp's converter."""
  half = array.shape[0] // num_heads // 2
  heads = array.reshape(num_heads, 2, half, *array.shape[1:])
  return heads.swapaxes(1, 2).reshape(array.shape)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'tiny.gguf'


def test_sizes(path):
  assert gguf.GGUFTensors(
    write(path, random_tensors())
  ).config == model_config.ModelConfig(
    vocab_size=VOCAB,
    num_layers=1,
    width=WIDTH,
    mlp_width=MLP_WIDTH,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_width=HEAD_WIDTH,
    rope=model_config.Rope(5000.0),
    norm_epsilon=1e-6,  # not the nearest float32
    tied_embeddings=False,
    context_length=128,
  )


def test_optional_sizes(path):
  fields = dict.fromkeys(
    (
      'llama.attention.key_length',
      'llama.attention.head_count_kv',
      'llama.rope.dimension_count',
    )
  )
  tensors = random_tensors()
  del tensors['output.weight']
  config = gguf.GGUFTensors(write(path, tensors, **fields)).config
  assert config.num_kv_heads == HEADS
  assert config.head_width == WIDTH // HEADS
  assert config.tied_embeddings


def test_tensors_have_hugging_face_names(path):
  tensors = random_tensors()
  read = gguf.GGUFTensors(write(path, tensors)).read
  layer = 'model.layers.0.'
  for stored, name in {
    'token_embd': 'model.embed_tokens',
    'output_norm': 'model.norm',
    'output': 'lm_head',
    'blk.0.attn_v': layer + 'self_attn.v_proj',
    'blk.0.attn_output': layer + 'self_attn.o_proj',
    'blk.0.ffn_gate': layer + 'mlp.gate_proj',
    'blk.0.ffn_up': layer + 'mlp.up_proj',
    'blk.0.ffn_down': layer + 'mlp.down_proj',
    'blk.0.attn_norm': layer + 'input_layernorm',
    'blk.0.ffn_norm': layer + 'post_attention_layernorm',
  }.items():
    np.testing.assert_array_equal(
      read(f'{name}.weight'), tensors[f'{stored}.weight'], err_msg=name
    )


@pytest.mark.parametrize('which, heads', [('q', HEADS), ('k', KV_HEADS)])
def test_rotary_pairs_are_rearranged(path, which, heads):
  # In a head of 16 rows, rows i and i + 8 form a pair in Hugging Face's layout.
  # They are adjacent in GGUF's layout: 0 8 1 9 2 10 ....
  order = [row for i in range(8) for row in (i, i + 8)]
  wanted = np.arange(heads * HEAD_WIDTH * WIDTH, dtype=np.float32)
  wanted = wanted.reshape(heads * HEAD_WIDTH, WIDTH)
  stored = [HEAD_WIDTH * head + row for head in range(heads) for row in order]
  tensors = random_tensors() | {f'blk.0.attn_{which}.weight': wanted[stored]}
  read = gguf.GGUFTensors(write(path, tensors)).read
  np.testing.assert_array_equal(
    read(f'model.layers.0.self_attn.{which}_proj.weight'), wanted
  )


def test_quantized_tensors_are_read_as_float32(path):
  tensors = random_tensors()
  read = gguf.GGUFTensors(write(path, tensors, kind=TYPES.Q8_0)).read
  array, true = read('lm_head.weight'), tensors['output.weight']
  assert array.dtype == np.float32
  # Q8_0 has blocks of 32 numbers, in steps of 1/127 of the largest. The error
  # is at most half a step, plus 1/2048 for the float16 step.
  largest = np.abs(true.reshape(-1, 32)).max(axis=1, keepdims=True)
  error = np.abs(array - true).reshape(-1, 32)
  assert (error <= largest * (0.5 / 127 + 1 / 2048) + 1e-6).all()
  assert error.max() > 1e-4  # it was quantized


@pytest.mark.parametrize('architecture', ['llama4', 'phi3', 'qwen2moe'])
def test_unknown_architectures_are_refused(path, architecture):
  write(path, random_tensors(), architecture=architecture)
  with pytest.raises(
    ValueError,
    match=f"tiny.gguf: general.architecture='{architecture}': expected "
    "'llama' or 'qwen2' or 'qwen3' or 'gemma2' or 'gemma3'",
  ):
    loader.open_checkpoint(path)


YARN = {
  'llama.rope.scaling.type': 'yarn',
  'llama.rope.scaling.factor': 4.0,
}


@pytest.mark.parametrize(
  'field, value, others',
  [
    ('llama.rope.scaling.type', 'longrope', {}),
    ('llama.rope.scaling.factor', 0.0, {}),
    ('llama.rope.scaling.attn_factor', 1.2, YARN),
    ('llama.rope.scaling.yarn_ext_factor', 0.5, YARN),
    ('llama.rope.scaling.yarn_log_multiplier', 0.1, YARN),
    ('llama.rope.dimension_count', 8, {}),  # half a head
    ('llama.attention.value_length', 8, {}),
    ('llama.attention.head_count', [4, 4], {}),  # one value per layer
    ('llama.attention.head_count_kv', [2, 2], {}),
    ('llama.feed_forward_length', [64, 64], {}),
    ('llama.attention.sliding_window', 64, {}),
    ('llama.attention.causal', False, {}),
    ('llama.expert_count', 8, {}),
    ('llama.block_count', None, {}),
    ('llama.block_count', 10**9, {}),  # more than the file has tensors for
    ('llama.embedding_length', 0, {}),
    ('llama.embedding_length', 32.0, {}),
    ('llama.embedding_length', True, {}),
    ('llama.embedding_length', '32', {}),
    ('llama.context_length', 2**32 - 1, {}),
    ('llama.context_length', 128.5, {}),
    ('llama.attention.layer_norm_rms_epsilon', math.nan, {}),
    ('llama.attention.layer_norm_rms_epsilon', math.inf, {}),
    ('llama.attention.layer_norm_rms_epsilon', '1e-6', {}),
    ('llama.attention.layer_norm_rms_epsilon', True, {}),
    ('llama.rope.freq_base', 'ten', {}),
    ('llama.rope.freq_base', [1.0, 2.0], {}),
    ('llama.rope.scaling.type', ['yarn'], {}),
    ('llama.rope.scaling.original_context_length', 16.5, YARN),
    ('llama.rope.scaling.yarn_beta_fast', 'fast', YARN),
    ('tokenizer.ggml.bos_token_id', 3 * 10**9, {}),
    ('tokenizer.ggml.padding_token_id', VOCAB + 1, {}),
    ('tokenizer.ggml.eos_token_id', '2', {}),
    ('tokenizer.ggml.eos_token_id', 2.0, {}),
    ('split.count', 3, {}),
  ],
)
def test_unsupported_fields_are_refused(path, field, value, others):
  write(path, random_tensors(), **others, **{field: value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: {field}=.*: expected'):
    loader.open_checkpoint(path)


@pytest.mark.parametrize(
  'name, value',
  [('padding', 2**32 - 1), ('bos', 2**32 - 1), ('padding', VOCAB)],
)
def test_missing_special_tokens(path, name, value):
  """Files may store 2**32 - 1, or a pad token without an embedding row."""
  field = f'tokenizer.ggml.{name}_token_id'
  write(path, random_tensors(), **{field: value})
  config = loader.open_checkpoint(path).hf_config
  key = {'padding': 'pad_token_id', 'bos': 'bos_token_id'}[name]
  assert getattr(config, key) is None


@pytest.mark.parametrize(
  'field, value, message',
  [
    # An error of transformers, with its name for the number of heads.
    ('llama.attention.head_count', 3, 'multiple of the number of attention'),
    ('llama.attention.head_count_kv', 3, 'multiple of num_kv_heads=3'),
  ],
)
def test_inconsistent_sizes_are_refused(path, field, value, message):
  write(path, random_tensors(), **{field: value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: .*{message}'):
    loader.open_checkpoint(path)


def params(path):
  return loader.open_checkpoint(path).params(names.in_memory(np.float32))


def test_missing_tensors_are_refused(path):
  tensors = random_tensors()
  del tensors['blk.0.ffn_up.weight']
  with pytest.raises(ValueError, match=r'layers\.0\.mlp\.up_proj.*missing'):
    params(write(path, tensors))


def test_files_without_embedding_are_refused(path):
  tensors = random_tensors()
  del tensors['token_embd.weight']
  with pytest.raises(ValueError, match=r'token_embd\.weight: missing'):
    loader.open_checkpoint(write(path, tensors))


@pytest.mark.parametrize(
  'name', ['blk.0.ffn_gate_exps.weight', 'blk.1.attn_q.weight', 'rope_freq']
)
def test_unexpected_tensors_are_refused(path, name):
  tensors = random_tensors() | {name: np.ones(64, np.float32)}
  with pytest.raises(ValueError, match=f'tiny.gguf: tensor {name}: unexpected'):
    params(write(path, tensors))


@pytest.mark.parametrize('shape', [(), (32,), (2, 40, 32)])
def test_embeddings_of_other_ranks_are_refused(path, shape):
  tensors = {'token_embd.weight': np.ones(shape, np.float32)}
  with pytest.raises(
    ValueError, match=r'token_embd\.weight: expected 2 dimensions'
  ):
    loader.open_checkpoint(write(path, random_tensors() | tensors))


def test_invalid_utf8_is_refused(path):
  write(path, random_tensors())
  content = path.read_bytes()
  # The value of general.architecture, after its length.
  old = b'general.architecture' + bytes([8, 0, 0, 0, 5]) + bytes(7) + b'llama'
  assert old in content
  path.write_bytes(content.replace(old, old[:-1] + b'\xff'))
  message = r'tiny\.gguf: general\.architecture: expected UTF-8'
  with pytest.raises(ValueError, match=message):
    loader.open_checkpoint(path)


def test_incomplete_biases_are_refused(path):
  tensors = random_tensors() | {'blk.0.attn_q.bias': np.ones(64, np.float32)}
  with pytest.raises(ValueError, match=r'self_attn\.k_proj\.bias: missing'):
    params(write(path, tensors))


@pytest.mark.parametrize(
  'stored, name, shape, expected',
  [
    ('blk.0.ffn_up', 'up_proj', (32, 64), (64, 32)),
    ('blk.0.attn_q', 'q_proj', (63, 32), (64, 32)),  # not whole heads
    ('blk.0.attn_k', 'k_proj', (64, 32), (32, 32)),
    ('output_norm', 'model.norm', (1, 32), (32,)),
  ],
)
def test_wrong_shapes_are_refused(path, stored, name, shape, expected):
  wrong = {f'{stored}.weight': np.ones(shape, np.float32)}
  message = re.escape(
    f'{name}.weight: expected shape {expected}, found {shape}'
  )
  with pytest.raises(ValueError, match=message):
    params(write(path, random_tensors() | wrong))


def test_truncated_files_are_refused(path):
  content = write(path, random_tensors()).read_bytes()
  # Every length within the header, then some lengths within the tensors.
  for end in [*range(4, 2000), *range(2000, len(content), 5000)]:
    path.write_bytes(content[:end])
    with pytest.raises(ValueError, match=r'tiny\.gguf: expected a complete'):
      loader.open_checkpoint(path)


def test_read_once(path):
  write(path, random_tensors())
  with gguf_file.read_once():
    first = gguf_file.open_file(path)
    assert gguf_file.open_file(path) is first
  assert gguf_file.open_file(path) is not first


@pytest.mark.parametrize('start', [b'', b'PK\x03\x04', b'GGU'])
def test_other_kinds_of_files_are_refused(path, start):
  path.write_bytes(start)
  with pytest.raises(ValueError, match=r'tiny\.gguf: expected a GGUF file or'):
    loader.open_checkpoint(path)


def test_unknown_versions_are_refused(path):
  content = write(path, random_tensors()).read_bytes()
  path.write_bytes(content[:4] + b'\x63' + content[5:])
  with pytest.raises(ValueError, match=r'tiny\.gguf: .* version 99'):
    loader.open_checkpoint(path)


COMMON = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1']
COMMON += ['Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K']


# All types; the gguf library determines which of them it supports.
@pytest.mark.parametrize('kind', TYPES, ids=lambda kind: kind.name)
def test_every_type_is_read_or_refused(path, kind):
  block, size = gguf_format.GGML_QUANT_SIZES[kind]
  shapes = {'token_embd': (4, 256), 'attn_q': (64, 256), 'ffn_up': (6, 256)}
  rng = np.random.default_rng(0)
  # With bytes below 0x3c, every float16, float32 and bfloat16 is finite.
  stored = {
    name: rng.integers(0, 0x3C, (rows, width // block * size), np.uint8)
    for name, (rows, width) in shapes.items()
  }
  writer = gguf_format.GGUFWriter(path, 'llama')
  add_fields(writer, FIELDS | {'llama.embedding_length': 256})
  for name, array in stored.items():
    layer = '' if name == 'token_embd' else 'blk.0.'
    writer.add_tensor(f'{layer}{name}.weight', array, raw_dtype=kind)
  finish(writer)
  tensors = gguf.GGUFTensors(path)
  layer = 'model.layers.0.'
  try:
    expected = {
      name: gguf_format.quants.dequantize(array, kind)
      for name, array in stored.items()
    }
  except NotImplementedError:
    assert kind.name not in COMMON
    message = rf'tiny\.gguf: tensor blk\.0\.ffn_up\.weight: {kind.name}, exp'
    for look in (tensors.shape, tensors.read):
      with pytest.raises(ValueError, match=message):
        look(f'{layer}mlp.up_proj.weight')
    return
  assert tensors.shape(f'{layer}mlp.up_proj.weight') == (6, 256)
  array = tensors.read(f'{layer}mlp.up_proj.weight')
  assert array.dtype == np.float32
  assert np.abs(array).max() > 0
  np.testing.assert_array_equal(array, expected['ffn_up'])
  np.testing.assert_array_equal(
    interleaved(tensors.read(f'{layer}self_attn.q_proj.weight'), HEADS),
    expected['attn_q'],
  )


@pytest.mark.parametrize(
  'kind', ['F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1']
)
def test_quantization_error(path, kind):
  tensors = random_tensors()
  read = gguf.GGUFTensors(write(path, tensors, kind=TYPES[kind])).read
  array = read('model.layers.0.mlp.down_proj.weight')
  error = np.abs(array - tensors['blk.0.ffn_down.weight'])
  # Blocks of normal numbers span 4 to 7, divided into 15 steps with 4 bits. The
  # error is at most half a step, or one step at the ends.
  bits = {'F16': 10, 'BF16': 7}.get(kind) or int(kind[1])
  assert 0 < error.max() < 8 / (2**bits - 1)


# Hugging Face's names of a layer's modules -> llama.cpp's names.
_LAYER = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'input_layernorm': 'attn_norm',
}
_LLAMA_LAYER = _LAYER | {'post_attention_layernorm': 'ffn_norm'}
_GEMMA_LAYER = _LAYER | {
  'post_attention_layernorm': 'post_attention_norm',
  'pre_feedforward_layernorm': 'ffn_norm',
  'post_feedforward_layernorm': 'post_ffw_norm',
}
_OUTER = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
}


def convert(model, path: pathlib.Path) -> None:
  """Writes a transformers model as llama.cpp's converter does."""
  c = model.config
  kind = c.model_type.removesuffix('_text')
  writer = gguf_format.GGUFWriter(path, kind)
  writer.add_name('tiny')
  writer.add_vocab_size(c.vocab_size)
  writer.add_context_length(c.max_position_embeddings)
  writer.add_embedding_length(c.hidden_size)
  writer.add_block_count(c.num_hidden_layers)
  writer.add_feed_forward_length(c.intermediate_size)
  writer.add_head_count(c.num_attention_heads)
  writer.add_head_count_kv(c.num_key_value_heads)
  writer.add_layer_norm_rms_eps(c.rms_norm_eps)
  if kind != 'qwen2':
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
  if kind == 'llama':
    writer.add_rope_dimension_count(c.head_dim)
  if kind.startswith('gemma'):
    writer.add_sliding_window(c.sliding_window)
  if kind == 'gemma2':
    writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
    writer.add_final_logit_softcapping(c.final_logit_softcapping)
  writer.add_bos_token_id(c.bos_token_id)
  writer.add_eos_token_id(c.eos_token_id)
  writer.add_pad_token_id(c.pad_token_id)
  add_rope(writer, c)
  for name, tensor in model.state_dict().items():
    if name == 'lm_head.weight' and c.tie_word_embeddings:
      continue
    array = tensor.numpy()
    if kind == 'llama' and re.search('q_proj', name):
      array = interleaved(array, c.num_attention_heads)
    if kind == 'llama' and re.search('k_proj', name):
      array = interleaved(array, c.num_key_value_heads)
    if kind.startswith('gemma') and name.endswith('norm.weight'):
      array = array + np.float32(1)
    writer.add_tensor(llama_cpp_name(name, kind), array)
  finish(writer)


def llama_cpp_name(name: str, kind: str) -> str:
  module, suffix = name.rsplit('.', 1)
  if module in _OUTER:
    return f'{_OUTER[module]}.{suffix}'
  layer, rest = re.fullmatch(r'model\.layers\.(\d+)\.(.*)', module).groups()
  table = _GEMMA_LAYER if kind.startswith('gemma') else _LLAMA_LAYER
  return f'blk.{layer}.{table[rest]}.{suffix}'


def add_rope(writer: gguf_format.GGUFWriter, c) -> None:
  rope = c.rope_parameters
  if 'sliding_attention' in rope:
    # Older files lack it; the default is 10,000.
    if (local := rope['sliding_attention']['rope_theta']) != 10_000:
      writer.add_rope_freq_base_swa(local)
    rope = rope['full_attention']
  writer.add_rope_freq_base(rope['rope_theta'])
  match rope['rope_type']:
    case 'linear':
      writer.add_rope_scaling_type(gguf_format.RopeScalingType.LINEAR)
      writer.add_rope_scaling_factor(rope['factor'])
    case 'yarn':
      writer.add_rope_scaling_type(gguf_format.RopeScalingType.YARN)
      writer.add_rope_scaling_factor(rope['factor'])
      writer.add_rope_scaling_orig_ctx_len(
        rope['original_max_position_embeddings']
      )
      if 'attention_factor' in rope:
        writer.add_rope_scaling_yarn_attn_factor(rope['attention_factor'])
        writer.add_rope_scaling_yarn_beta_fast(rope['beta_fast'])
        writer.add_rope_scaling_yarn_beta_slow(rope['beta_slow'])
    case 'llama3':
      writer.add_tensor('rope_freqs.weight', llama3_divisors(rope, c.head_dim))


def llama3_divisors(rope: dict, head_width: int) -> np.ndarray:
  """Computes divisors as llama.cpp's `generate_extra_tensors` does."""
  low, high = rope['low_freq_factor'], rope['high_freq_factor']
  context = rope['original_max_position_embeddings']
  divisors = []
  for i in range(0, head_width, 2):
    wavelength = 2 * math.pi * rope['rope_theta'] ** (i / head_width)
    if wavelength < context / high:
      divisors.append(1)
    elif wavelength > context / low:
      divisors.append(rope['factor'])
    else:
      smooth = (context / wavelength - low) / (high - low)
      divisors.append(1 / ((1 - smooth) / rope['factor'] + smooth))
  return np.array(divisors, np.float32)


LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 2e5,  # one pair each is unchanged, interpolated and divided
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
# Case of `families` -> changes for properties that a file cannot express.
CONVERTED = {
  'llama2': {},
  'llama-odd-heads': {},
  'llama-biases': {},
  'llama3': {'rope_parameters': LLAMA3},
  'llama-linear': {},
  'qwen2': {},
  'qwen2-yarn': {},
  'qwen3': {},
  'qwen3-yarn': {'attention_bias': True, 'tie_word_embeddings': False},
  'gemma2': {
    'query_pre_attn_scalar': 8,
    'attn_logit_softcapping': 5.0,
    'final_logit_softcapping': 4.0,
  },
  'gemma3': {
    'query_pre_attn_scalar': 8,
    'num_hidden_layers': 7,
    'layer_types': None,  # every sixth layer is global
  },
}
TEXT_BT = np.random.default_rng(0).integers(3, families.TOKENS, (2, 40))
# Keys about the machine or training, or repeated by layer_types.
_OF_NO_MATTER = {
  'architectures',
  'dtype',
  'max_window_layers',
  'transformers_version',
}


@pytest.fixture(scope='module', params=CONVERTED)
def reference_and_path(request, tmp_path_factory):
  """Returns a torch model and the file that it was written to."""
  pytest.importorskip('torch')
  model = families.make(request.param, **CONVERTED[request.param])
  path = tmp_path_factory.mktemp(request.param) / 'tiny.gguf'
  convert(model, path)
  return model, path


def test_tensors_of_a_converted_model(reference_and_path):
  model, path = reference_and_path
  tensors = gguf.GGUFTensors(path)
  expected = model.state_dict()
  if model.config.tie_word_embeddings:
    del expected['lm_head.weight']
  assert tensors.names() == set(expected)
  for name, array in expected.items():
    # Gemma's norms lose their last bits because 1 was added: half the spacing
    # of numbers between 2 and 4.
    is_moved = model.config.model_type.startswith('gemma') and 'norm' in name
    np.testing.assert_allclose(
      tensors.read(name),
      array.numpy(),
      rtol=0,
      atol=2**-23 if is_moved else 0,
      err_msg=name,
    )


def test_config_of_a_converted_model(reference_and_path):
  model, path = reference_and_path
  config = loader.open_checkpoint(path).hf_config
  assert type(config) is type(model.config)
  assert config.architectures == [type(model).__name__]
  config = config.to_dict()
  for key, value in model.config.to_dict().items():
    if key not in _OF_NO_MATTER:
      assert config[key] == value, key


def test_tensors_agree_with_transformers(reference_and_path):
  """Checks the written file with an independent reader."""
  pytest.importorskip('accelerate')  # transformers needs it to read GGUF
  _, path = reference_and_path
  tensors = gguf.GGUFTensors(path)
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    config=tensors.hf_config,
    dtype='float32',
  ).state_dict()
  assert tensors.names() | {'lm_head.weight'} == set(reference)
  for name in tensors.names():
    np.testing.assert_array_equal(
      tensors.read(name), reference[name].numpy(), err_msg=name
    )


def logits(path):
  checkpoint = loader.open_checkpoint(path)
  params = checkpoint.params(names.in_memory(np.float32))
  policy = policy_lib.make_policy(checkpoint.config)

  @jax.jit
  def compute(params):
    hidden_BTD, _ = policy.forward(params, TEXT_BT, np.full(2, 40))
    return policy.logits(params, hidden_BTD)

  return compute(params)


def reference_logits(model):
  import torch

  with torch.no_grad():
    return model(torch.from_numpy(TEXT_BT)).logits.numpy()


def test_logits_of_a_converted_model(reference_and_path):
  model, path = reference_and_path
  expected = reference_logits(model)
  assert expected.std() > 0.9  # otherwise errors could go unnoticed
  # Only rounding differs, because both compute in float32.
  np.testing.assert_allclose(logits(path), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
  'case, changes',
  # transformers does not read the width of Qwen's heads.
  [('llama2', {}), ('qwen2', {}), ('qwen3', {'head_dim': 128})],
)
def test_logits_agree_with_transformers(path, case, changes):
  """Compares models that transformers reads from GGUF completely."""
  pytest.importorskip('accelerate')
  convert(families.make(case, **changes), path)
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype='float32'
  )
  expected = reference_logits(reference)
  np.testing.assert_allclose(logits(path), expected, atol=1e-4, rtol=0)


def config_of(path, architecture: str, tensors=None, **fields):
  """Returns the config of a file that has little more than metadata."""
  sizes = {
    'context_length': 128,
    'embedding_length': WIDTH,
    'feed_forward_length': MLP_WIDTH,
    'block_count': 7,
    'attention.head_count': HEADS,
    'attention.layer_norm_rms_epsilon': 1e-6,
  }
  few = {f'{i}': np.zeros(1, np.float32) for i in range(64)}
  few['token_embd.weight'] = np.zeros((VOCAB, WIDTH), np.float32)
  write(
    path,
    few | (tensors or {}),
    architecture=architecture,
    **{f'{architecture}.{k}': v for k, v in (sizes | fields).items()},
  )
  return gguf.GGUFTensors(path).hf_config


LOCAL, GLOBAL = 'sliding_attention', 'full_attention'
PERIOD = 'attention.sliding_window_pattern'


@pytest.mark.parametrize(
  'architecture, fields, expected',
  [
    # Google's config.json of gemma-2-2b, gemma-2-27b, gemma-3-1b, gemma-3-27b.
    (
      'gemma2',
      {
        'block_count': 26,
        'embedding_length': 2304,
        'attention.head_count': 8,
        'attention.key_length': 256,
      },
      {
        'query_pre_attn_scalar': 256,
        'sliding_window': 4096,
        'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
        'layer_types': [LOCAL, GLOBAL] * 13,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 10_000.0},
      },
    ),
    (
      'gemma2',
      {
        'block_count': 46,
        'embedding_length': 4608,
        'attention.head_count': 32,
        'attention.key_length': 128,
      },
      {'query_pre_attn_scalar': 144, 'layer_types': [LOCAL, GLOBAL] * 23},
    ),
    (
      'gemma3',
      {
        'block_count': 26,
        'embedding_length': 1152,
        'attention.head_count': 4,
        'attention.key_length': 256,
        'attention.sliding_window': 512,
        'rope.freq_base': 1e6,
      },
      {
        'query_pre_attn_scalar': 256,
        'sliding_window': 512,
        'attn_logit_softcapping': None,
        'final_logit_softcapping': None,
        'layer_types': ([LOCAL] * 5 + [GLOBAL]) * 4 + [LOCAL] * 2,
        'rope_parameters': {
          GLOBAL: {'rope_type': 'default', 'rope_theta': 1e6},
          LOCAL: {'rope_type': 'default', 'rope_theta': 10_000.0},
        },
      },
    ),
    (
      'gemma3',
      {
        'block_count': 62,
        'embedding_length': 5376,
        'attention.head_count': 32,
        'attention.key_length': 128,
        'attention.sliding_window': 1024,
        'rope.freq_base': 1e6,
        'rope.scaling.type': 'linear',
        'rope.scaling.factor': 8.0,
      },
      {
        'query_pre_attn_scalar': 168,
        'rope_parameters': {
          GLOBAL: {'rope_type': 'linear', 'rope_theta': 1e6, 'factor': 8.0},
          LOCAL: {'rope_type': 'default', 'rope_theta': 10_000.0},
        },
      },
    ),
    # Fields of newer files.
    ('gemma3', {}, {'sliding_window': None, 'layer_types': [GLOBAL] * 7}),
    (
      'gemma3',
      {'attention.sliding_window': 9, PERIOD: 3},
      {'layer_types': [LOCAL, LOCAL, GLOBAL] * 2 + [LOCAL]},
    ),
    (
      'gemma2',
      {PERIOD: [True, True, False, False, True, True, False]},
      {'layer_types': [LOCAL, LOCAL, GLOBAL, GLOBAL, LOCAL, LOCAL, GLOBAL]},
    ),
    (
      'gemma3',
      {'attention.sliding_window': 9, 'rope.freq_base_swa': 5e3},
      {
        'rope_parameters': {
          GLOBAL: {'rope_type': 'default', 'rope_theta': 10_000.0},
          LOCAL: {'rope_type': 'default', 'rope_theta': 5e3},
        }
      },
    ),
    # llama.cpp scales by a factor without a type, but not with type 'none'.
    (
      'qwen2',
      {'rope.scaling.factor': 4.0},
      {
        'rope_parameters': {
          'rope_type': 'linear',
          'rope_theta': 10_000.0,
          'factor': 4.0,
        }
      },
    ),
    (
      'qwen2',
      {'rope.scaling.type': 'none', 'rope.scaling.factor': 4.0},
      {'rope_parameters': {'rope_type': 'default', 'rope_theta': 10_000.0}},
    ),
    ('qwen2', {}, {'bos_token_id': None, 'eos_token_id': None}),
    ('gemma2', {}, {'pad_token_id': None, 'tie_word_embeddings': True}),
  ],
)
def test_defaults_of_missing_fields(path, architecture, fields, expected):
  config = config_of(path, architecture, **fields)
  assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
  'architecture, field, value',
  [
    ('gemma3', PERIOD, [True, False]),
    ('gemma3', PERIOD, 0),
    ('gemma3', PERIOD, 2.5),
    ('gemma3', PERIOD, ['local'] * 7),
    ('gemma3', 'attention.sliding_window', 9.5),
    ('gemma3', 'attention.sliding_window', 'far'),
    ('gemma2', 'attn_logit_softcapping', 'hard'),
    ('gemma2', 'final_logit_softcapping', -30.0),
    ('gemma2', 'final_logit_softcapping', math.nan),
    ('gemma2', 'rope.freq_base_swa', 5000.0),  # the same RoPE in all layers
    ('qwen3', 'attention.sliding_window', 9),
  ],
)
def test_invalid_windows_are_refused(path, architecture, field, value):
  message = rf'tiny\.gguf: {architecture}\.{field}=.*: expected'
  with pytest.raises(ValueError, match=message):
    config_of(path, architecture, **{field: value})


@pytest.mark.parametrize(
  'divisors, fields, message',
  [
    (llama3_divisors(LLAMA3, 8), {}, None),
    (
      llama3_divisors(LLAMA3 | {'original_max_position_embeddings': 4096}, 8),
      {},
      'expected the 4 divisors',
    ),
    (llama3_divisors(LLAMA3, 10), {}, 'expected the 4 divisors'),
    (np.array([1, 1, np.nan, 8], np.float32), {}, 'expected the 4 divisors'),
    (np.zeros(4, np.float32), {}, 'expected the 4 divisors'),
    (
      llama3_divisors(LLAMA3, 8),
      {'rope.scaling.factor': 2.0},
      r'expected no such tensor because llama.rope.scaling.factor=2.0',
    ),
  ],
)
def test_frequency_divisors(path, divisors, fields, message):
  fields = {'rope.freq_base': 2e5, 'attention.key_length': 8} | fields
  fields |= {'rope.dimension_count': 8}
  tensors = {'rope_freqs.weight': divisors}
  if message is None:
    config = config_of(path, 'llama', tensors, **fields)
    assert config.rope_parameters == LLAMA3
    return
  message = rf'tiny\.gguf: tensor rope_freqs\.weight: {message}'
  with pytest.raises(ValueError, match=message):
    config_of(path, 'llama', tensors, **fields)
