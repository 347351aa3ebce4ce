"""GGUF files that are written here, by the rules of llama.cpp's converter."""

import pathlib
import re

import gguf as gguf_format
import numpy as np
import pytest

from sqlm_jax.models import config as model_config
from sqlm_jax.weights import gguf, loader, names

# transformers warns of settings that tiny models have and real ones have not.
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
  """Writes a GGUF file; a field that is changed to None is left out."""
  writer = gguf_format.GGUFWriter(path, architecture)
  writer.add_float32('llama.attention.layer_norm_rms_epsilon', 1e-6)
  writer.add_float32('llama.rope.freq_base', 5000.0)
  for name, value in (FIELDS | changed).items():
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
  for name, array in tensors.items():
    if array.dtype == np.int32:  # of no use to a model
      writer.add_tensor(name, array)
      continue
    stored = kind if array.ndim == 2 else TYPES.F32
    writer.add_tensor(
      name, gguf_format.quants.quantize(array, stored), raw_dtype=stored
    )
  finish(writer)
  return path


def finish(writer: gguf_format.GGUFWriter) -> None:
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def interleaved(array: np.ndarray, num_heads: int) -> np.ndarray:
  """`LlamaModel.permute` of llama.cpp's converter."""
  half = array.shape[0] // num_heads // 2
  heads = array.reshape(num_heads, 2, half, *array.shape[1:])
  return heads.swapaxes(1, 2).reshape(array.shape)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'tiny.gguf'


def test_sizes_are_read(path):
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
    norm_epsilon=1e-6,  # not the float32 next to it
    tied_embeddings=False,
    context_length=128,
  )


def test_sizes_that_most_files_leave_out(path):
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


def test_tensors_come_back_under_their_hugging_face_names(path):
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
def test_rotary_pairs_are_put_half_a_head_apart(path, which, heads):
  # A head of 16 rows: rows i and i + 8 turn together in Hugging Face's
  # layout, and lie side by side in GGUF's: 0 8 1 9 2 10 ....
  order = [row for i in range(8) for row in (i, i + 8)]
  wanted = np.arange(heads * HEAD_WIDTH * WIDTH, dtype=np.float32)
  wanted = wanted.reshape(heads * HEAD_WIDTH, WIDTH)
  stored = [HEAD_WIDTH * head + row for head in range(heads) for row in order]
  tensors = random_tensors() | {f'blk.0.attn_{which}.weight': wanted[stored]}
  read = gguf.GGUFTensors(write(path, tensors)).read
  np.testing.assert_array_equal(
    read(f'model.layers.0.self_attn.{which}_proj.weight'), wanted
  )


def test_quantized_tensors_come_back_as_float32(path):
  tensors = random_tensors()
  read = gguf.GGUFTensors(write(path, tensors, kind=TYPES.Q8_0)).read
  found, true = read('lm_head.weight'), tensors['output.weight']
  assert found.dtype == np.float32
  # Q8_0: blocks of 32 numbers in steps of a 127th of the largest. A number is
  # off by half a step at most, and a float16 step by its 2048th.
  largest = np.abs(true.reshape(-1, 32)).max(axis=1, keepdims=True)
  error = np.abs(found - true).reshape(-1, 32)
  assert (error <= largest * (0.5 / 127 + 1 / 2048) + 1e-6).all()
  assert error.max() > 1e-4  # it was quantized


def test_a_type_that_cannot_be_dequantized_is_named(path):
  write(path, random_tensors() | {'token_embd.weight': np.ones((40, 32), 'i4')})
  with pytest.raises(ValueError, match=r'token_embd\.weight: I32, expected'):
    gguf.GGUFTensors(path).read('model.embed_tokens.weight')


@pytest.mark.parametrize('architecture', ['llama4', 'phi3', 'qwen2moe'])
def test_another_architecture_is_named(path, architecture):
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
    ('llama.rope.dimension_count', 8, {}),  # half of a head
    ('llama.attention.value_length', 8, {}),
    ('llama.attention.head_count', [4, 4], {}),  # one a layer
    ('llama.attention.head_count_kv', [2, 2], {}),
    ('llama.feed_forward_length', [64, 64], {}),
    ('llama.attention.sliding_window', 64, {}),
    ('llama.attention.causal', False, {}),
    ('llama.expert_count', 8, {}),
    ('llama.block_count', None, {}),
    ('llama.block_count', 10**9, {}),  # more than there are tensors
    ('llama.embedding_length', 0, {}),
    ('split.count', 3, {}),
  ],
)
def test_what_the_decoder_cannot_do_is_named(path, field, value, others):
  write(path, random_tensors(), **others, **{field: value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: {field}=.*: expected'):
    loader.open_checkpoint(path)


@pytest.mark.parametrize(
  'field, value, message',
  [
    # Transformers, by its own name of the number of heads.
    ('llama.attention.head_count', 3, 'multiple of the number of attention'),
    ('llama.attention.head_count_kv', 3, 'multiple of num_kv_heads=3'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(path, field, value, message):
  write(path, random_tensors(), **{field: value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: .*{message}'):
    loader.open_checkpoint(path)


def params(path):
  return loader.open_checkpoint(path).params(names.in_memory(np.float32))


def test_a_missing_tensor_is_named(path):
  tensors = random_tensors()
  del tensors['blk.0.ffn_up.weight']
  with pytest.raises(ValueError, match=r'layers\.0\.mlp\.up_proj.*missing'):
    params(write(path, tensors))


def test_a_file_without_embedding_is_refused(path):
  tensors = random_tensors()
  del tensors['token_embd.weight']
  with pytest.raises(ValueError, match=r'token_embd\.weight: missing'):
    loader.open_checkpoint(write(path, tensors))


@pytest.mark.parametrize(
  'name', ['blk.0.ffn_gate_exps.weight', 'blk.1.attn_q.weight', 'rope_freq']
)
def test_an_unexpected_tensor_is_named(path, name):
  tensors = random_tensors() | {name: np.ones(64, np.float32)}
  with pytest.raises(ValueError, match=f'tiny.gguf: tensor {name}: unexpected'):
    params(write(path, tensors))


def test_a_bias_without_the_others_is_refused(path):
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
def test_a_wrong_shape_is_named(path, stored, name, shape, expected):
  wrong = {f'{stored}.weight': np.ones(shape, np.float32)}
  message = re.escape(f'{name}.weight: shape {shape}, expected {expected}')
  with pytest.raises(ValueError, match=message):
    params(write(path, random_tensors() | wrong))


def test_a_truncated_file_is_refused_wherever_it_ends(path):
  whole = write(path, random_tensors()).read_bytes()
  # Each byte of the header, then here and there in the tensors.
  for end in [*range(4, 2000), *range(2000, len(whole), 5000)]:
    path.write_bytes(whole[:end])
    with pytest.raises(ValueError, match=r'tiny\.gguf: expected a whole GGUF'):
      loader.open_checkpoint(path)


@pytest.mark.parametrize('start', [b'', b'PK\x03\x04', b'GGU'])
def test_another_kind_of_file_is_refused(path, start):
  path.write_bytes(start)
  with pytest.raises(ValueError, match=r'tiny\.gguf: expected a GGUF file or'):
    loader.open_checkpoint(path)


def test_a_version_that_is_too_new_is_refused(path):
  whole = write(path, random_tensors()).read_bytes()
  path.write_bytes(whole[:4] + b'\x63' + whole[5:])
  with pytest.raises(ValueError, match=r'tiny\.gguf: .* version 99'):
    loader.open_checkpoint(path)


COMMON = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1']
COMMON += ['Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K']


# All types that there are. The gguf library says which of them it knows.
@pytest.mark.parametrize('kind', TYPES, ids=lambda kind: kind.name)
def test_every_type_is_read_or_named(path, kind):
  block, size = gguf_format.GGML_QUANT_SIZES[kind]
  shapes = {'token_embd': (4, 256), 'attn_q': (64, 256), 'ffn_up': (6, 256)}
  rng = np.random.default_rng(0)
  # Of bytes below 0x3c every float16, float32 or bfloat16 is finite.
  stored = {
    name: rng.integers(0, 0x3C, (rows, width // block * size), np.uint8)
    for name, (rows, width) in shapes.items()
  }
  writer = gguf_format.GGUFWriter(path, 'llama')
  for name, value in (FIELDS | {'llama.embedding_length': 256}).items():
    writer.add_uint32(name, value)
  writer.add_float32('llama.attention.layer_norm_rms_epsilon', 1e-6)
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
    with pytest.raises(ValueError, match=message):
      tensors.read(f'{layer}mlp.up_proj.weight')
    return
  found = tensors.read(f'{layer}mlp.up_proj.weight')
  assert found.dtype == np.float32
  assert np.abs(found).max() > 0
  np.testing.assert_array_equal(found, expected['ffn_up'])
  np.testing.assert_array_equal(
    interleaved(tensors.read(f'{layer}self_attn.q_proj.weight'), HEADS),
    expected['attn_q'],
  )


@pytest.mark.parametrize(
  'kind', ['F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1']
)
def test_what_was_quantized_comes_back_nearly(path, kind):
  tensors = random_tensors()
  read = gguf.GGUFTensors(write(path, tensors, kind=TYPES[kind])).read
  found = read('model.layers.0.mlp.down_proj.weight')
  error = np.abs(found - tensors['blk.0.ffn_down.weight'])
  # Blocks of normal numbers are 4 to 7 wide: with 4 bits 15 steps, of which a
  # number is half a one off, or a whole where it is cut off.
  bits = {'F16': 10, 'BF16': 7}.get(kind) or int(kind[1])
  assert 0 < error.max() < 8 / (2**bits - 1)
