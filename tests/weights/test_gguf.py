import pathlib
import re

import gguf as gguf_format
import numpy as np
import pytest

from sqlm_jax.models import config as model_config
from sqlm_jax.weights import gguf, loader

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
  kind=gguf_format.GGMLQuantizationType.F32,
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
      case int():
        writer.add_uint32(name, value)
  for name, array in tensors.items():
    if array.dtype == np.int32:  # of no use to a model
      writer.add_tensor(name, array)
      continue
    stored = kind if array.ndim == 2 else gguf_format.GGMLQuantizationType.F32
    writer.add_tensor(
      name, gguf_format.quants.quantize(array, stored), raw_dtype=stored
    )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


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
    rope_theta=5000.0,
    norm_epsilon=float(np.float32(1e-6)),
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
  kind = gguf_format.GGMLQuantizationType.Q8_0
  read = gguf.GGUFTensors(write(path, tensors, kind=kind)).read
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


@pytest.mark.parametrize('architecture', ['qwen2', 'gemma2'])
def test_another_architecture_is_named(path, architecture):
  write(path, random_tensors(), architecture=architecture)
  with pytest.raises(
    ValueError,
    match=f"tiny.gguf: general.architecture='{architecture}': expected 'llama'",
  ):
    loader.open_checkpoint(path)


@pytest.mark.parametrize(
  'field, value',
  [
    ('llama.rope.scaling.type', 'linear'),
    ('llama.rope.scaling.factor', 4.0),
    ('llama.rope.dimension_count', 8),  # half of a head
    ('llama.attention.head_count_kv', [2, 2]),  # one a layer
    ('llama.block_count', None),
    ('llama.embedding_length', 0),
  ],
)
def test_what_the_decoder_cannot_do_is_named(path, field, value):
  write(path, random_tensors(), **{field: value})
  with pytest.raises(ValueError, match=rf'tiny\.gguf: {field}=.*: expected'):
    loader.open_checkpoint(path)


def test_rope_factors_are_refused(path):
  factors = {'rope_freqs.weight': np.ones(8, np.float32)}
  write(path, random_tensors() | factors)
  with pytest.raises(ValueError, match=r'tensor rope_freqs\.weight: expected'):
    loader.open_checkpoint(path)


def params(path):
  return loader.open_checkpoint(path).params(dtype=np.float32)


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


def test_an_unexpected_tensor_is_named(path):
  bias = {'blk.0.attn_q.bias': np.ones(64, np.float32)}
  with pytest.raises(ValueError, match=r'blk\.0\.attn_q\.bias: unexpected'):
    params(write(path, random_tensors() | bias))


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
