"""Tiny model files, and seeded changes that make them malformed.

A case is a name and a function that damages a model in place: a directory that
`write_directory` wrote, or a file that `write_gguf` wrote.
"""

import functools
import json
import os
import pathlib
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import jax
import numpy as np

from sqlm_jax.models import model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import families, hf_export

Case = tuple[str, Callable[[pathlib.Path], None]]

CONFIG = model_config.ModelConfig(
  vocab_size=24,
  num_layers=1,
  width=8,
  mlp_width=12,
  num_heads=2,
  num_kv_heads=1,
  head_width=4,
  tied_embeddings=False,
)
# JSON has no 1e999, but Python's parser reads it as infinity.
_ODD = (
  *('null', 'true', '-1', '0', '1000000000', '9000000000000', '1' + '0' * 400),
  *('0.5', '-2.5', '1e300', '1e999', 'NaN', 'Infinity', '""', '"24"'),
  *('[]', '[1, 2]', '{}', '{"a": 1}', '[[[null]]]', '[' * 3000 + ']' * 3000),
)
_INDEX = 'model.safetensors.index.json'


def write_directory(path: pathlib.Path) -> None:
  """Writes a Hugging Face directory of two shards."""
  path.mkdir()
  rng = np.random.default_rng(0)
  init = policy_lib.make_policy(CONFIG).init
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )
  hf_config = families.llama(CONFIG)
  hf_export.write_model(
    path, CONFIG, hf_config, params, dtype='float32', shard_bytes=2000
  )
  hf_export.write_json(
    path / 'generation_config.json', {'eos_token_id': [2], 'temperature': 0.5}
  )


def write_gguf(path: pathlib.Path, **changed: Any) -> None:
  """Writes a model of the same sizes as a GGUF file, with changed fields."""
  writer = gguf.GGUFWriter(path, 'llama')
  fields = {
    'llama.context_length': np.uint32(64),
    'llama.embedding_length': np.uint32(8),
    'llama.block_count': np.uint32(1),
    'llama.feed_forward_length': np.uint32(12),
    'llama.attention.head_count': np.uint32(2),
    'llama.attention.head_count_kv': np.uint32(1),
    'llama.rope.freq_base': np.float32(100),
    'llama.attention.layer_norm_rms_epsilon': np.float32(1e-6),
    'tokenizer.ggml.tokens': [f't{i}' for i in range(24)],
    'tokenizer.ggml.eos_token_id': np.uint32(2),
  }
  for name, value in (fields | changed).items():
    _add_field(writer, name, value)
  rng = np.random.default_rng(0)
  for name, shape in {
    'token_embd': (24, 8),
    'output_norm': (8,),
    'output': (24, 8),
    'blk.0.attn_q': (8, 8),
    'blk.0.attn_k': (4, 8),
    'blk.0.attn_v': (4, 8),
    'blk.0.attn_output': (8, 8),
    'blk.0.ffn_gate': (12, 8),
    'blk.0.ffn_up': (12, 8),
    'blk.0.ffn_down': (8, 12),
    'blk.0.attn_norm': (8,),
    'blk.0.ffn_norm': (8,),
  }.items():
    writer.add_tensor(
      f'{name}.weight', rng.normal(size=shape).astype(np.float32)
    )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _add_field(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
  if isinstance(value, list):
    writer.add_array(name, value)
  elif isinstance(value, str):
    writer.add_string(name, value)
  else:
    kind = gguf.GGUFValueType[str(value.dtype).upper()]
    writer.add_key_value(name, value.item(), kind)


def json_cases() -> Iterator[Case]:
  """Yields a case for each key of each JSON file and each unusual value."""
  keys = {
    'config.json': (
      *('vocab_size', 'hidden_size', 'intermediate_size', 'head_dim'),
      *('num_hidden_layers', 'num_attention_heads', 'num_key_value_heads'),
      *('rms_norm_eps', 'tie_word_embeddings', 'max_position_embeddings'),
      *('model_type', 'architectures', 'hidden_act', 'attention_bias'),
      *('mlp_bias', 'bos_token_id', 'eos_token_id', 'pad_token_id'),
      *('num_labels', 'id2label', 'label2id', 'problem_type', 'dtype'),
      *('torch_dtype', 'rope_parameters', 'rope_theta', 'rope_scaling'),
      *('rope_parameters.rope_theta', 'rope_parameters.rope_type'),
      *('rope_parameters.factor', 'layer_types', 'sliding_window'),
      *('quantization_config', 'per_layer_config', 'is_causal', 'to_dict'),
      *('attribute_map', '__class__', '__dict__', '_name_or_path', 'auto_map'),
      *('original_max_position_embeddings', 'partial_rotary_factor'),
      *('transformers_version', 'initializer_range', 'use_cache'),
    ),
    'generation_config.json': (
      *('eos_token_id', 'bos_token_id', 'pad_token_id', 'temperature'),
      *('suppress_tokens', 'watermarking_config', 'validate'),
    ),
    _INDEX: ('metadata', 'weight_map', 'weight_map.lm_head.weight'),
  }
  for file, paths in keys.items():
    for key in paths:
      for value in _ODD:
        yield (
          f'{file} {key}={value[:30]}',
          lambda directory, file=file, key=key, value=value: _set_json(
            directory / file, key, value
          ),
        )


def _set_json(path: pathlib.Path, key: str, text: str) -> None:
  """Sets a key, possibly of a nested object, to a JSON text."""
  values = json.loads(path.read_text())
  outer, dot, inner = key.partition('.')
  if dot and isinstance(values.get(outer), dict):
    values[outer][inner] = '@'
  else:
    values[outer] = '@'
  path.write_text(json.dumps(values).replace('"@"', text))


def kind_cases(names: tuple[str, ...]) -> Iterator[Case]:
  """Yields cases in which a file has another kind or other contents."""
  kinds = {
    'a directory': lambda path: path.mkdir(),
    'a named pipe': os.mkfifo,
    'a socket': _bind,
    'a broken link': lambda path: path.symlink_to('nowhere'),
    'a link to itself': lambda path: path.symlink_to(path.name),
    'an endless device': lambda path: path.symlink_to('/dev/zero'),
    'an empty device': lambda path: path.symlink_to('/dev/null'),
    'nothing': lambda path: None,
    'empty': lambda path: path.touch(),
    'a hole of 64 GB': _sparse,
    'not UTF-8': lambda path: path.write_bytes(b'{"\xff": 1}'),
    'nested deeply': lambda path: path.write_text('[' * 10**5),
    'a twice nested object': lambda path: path.write_text('{"a":' * 10**5),
    'a list': lambda path: path.write_text('[]'),
    'null': lambda path: path.write_text('null'),
  }
  for name in names:
    for kind, make in kinds.items():
      yield (
        f'{name} is {kind}',
        lambda path, name=name, make=make: _replace(path / name, make),
      )


def _replace(path: pathlib.Path, make: Callable[[pathlib.Path], Any]) -> None:
  path.unlink()
  make(path)


def _sparse(path: pathlib.Path) -> None:
  with path.open('wb') as file:
    file.truncate(2**36)


def _bind(path: pathlib.Path) -> None:
  with socket.socket(socket.AF_UNIX) as bound:
    # The path of a socket may have 108 bytes at most.
    here = os.open(path.parent, os.O_RDONLY)
    try:
      bound.bind(f'/proc/self/fd/{here}/{path.name}')
    finally:
      os.close(here)


def header_cases(rng: random.Random, number: int) -> Iterator[Case]:
  """Yields cases of a safetensors header with a value changed."""
  odd = [json.loads(v) for v in _ODD if v[0] != '[' or len(v) < 99]
  dtypes = ['F8_E4M3', 'F8_E5M2', 'F4', 'F6_E2M3', 'U16', 'BOOL', 'C64', 'F16']
  shapes = [[2**32, 2**32], [0], [0, 2**62], [1] * 300, [8, 1, 8], [-8, -8]]
  offsets = [[0, 0], [8, 4], [0, 2**63], [2**64, 2**65], [-4, 4], [4, 256]]
  for i in range(number):
    key, values = rng.choice(
      [('dtype', dtypes), ('shape', shapes), ('data_offsets', offsets)]
    )
    value, seed = rng.choice(values + odd), rng.random()
    yield (
      f'header {i}: {key}={str(value)[:30]}',
      lambda path, key=key, value=value, seed=seed: _set_header(
        path, key, value, seed
      ),
    )


def _set_header(path: pathlib.Path, key: str, value: Any, seed: float) -> None:
  file = sorted(path.glob('*.safetensors'))[int(seed * 2)]
  content = file.read_bytes()
  (length,) = struct.unpack('<Q', content[:8])
  header = json.loads(content[8 : 8 + length])
  tensors = sorted(header.keys() - {'__metadata__'})
  header[tensors[int(seed * len(tensors))]][key] = value
  text = json.dumps(header).encode()
  file.write_bytes(struct.pack('<Q', len(text)) + text + content[8 + length :])


def byte_cases(rng: random.Random, number: int) -> Iterator[Case]:
  """Yields cases in which some bytes at the start of a file are changed."""
  for i in range(number):
    yield f'bytes {i}', functools.partial(_damage, seed=rng.random())


def _damage(path: pathlib.Path, seed: float) -> None:
  rng = random.Random(seed)
  if path.is_dir():
    path = rng.choice(sorted(path.iterdir()))
  content = bytearray(path.read_bytes())
  at = rng.randrange(min(len(content), 1400))
  match rng.randrange(6):
    case 0:
      content[at] ^= 1 << rng.randrange(8)
    case 1:
      content[at : at + 4] = struct.pack(
        '<I', rng.choice([0, 2**31, 2**32 - 1])
      )
    case 2:
      huge = rng.choice([9 * 10**9, 2**63, 2**64 - 1, 2**40, 10**6])
      content[at : at + 8] = struct.pack('<Q', huge)
    case 3:
      del content[at:]
    case 4:
      del content[at : at + rng.randrange(1, 9)]
    case 5:
      content[at:at] = rng.randbytes(rng.randrange(1, 9))
  path.write_bytes(content)


def field_cases() -> Iterator[Case]:
  """Yields a case for each GGUF field and each value of another type."""
  odd = {
    'nan': np.float32('nan'),
    'inf': np.float64('inf'),
    'negative': np.int32(-5),
    'large': np.uint64(2**63),
    'large int': np.int64(10**9),
    'real': np.float32(1.5),
    'whole real': np.float32(1),
    'zero': np.uint8(0),
    'true': np.bool_(True),
    'text': 'abc',
    'numbers': [1, 2, 3],
    'texts': ['a', 'b'],
  }
  fields = (
    *('llama.context_length', 'llama.embedding_length', 'llama.block_count'),
    *('llama.feed_forward_length', 'llama.attention.head_count'),
    *('llama.attention.head_count_kv', 'llama.attention.key_length'),
    *('llama.attention.layer_norm_rms_epsilon', 'llama.rope.freq_base'),
    *('llama.rope.scaling.type', 'llama.rope.scaling.factor'),
    *('llama.expert_count', 'llama.attention.causal', 'split.count'),
    *('llama.attention.sliding_window', 'llama.rope.dimension_count'),
    *('tokenizer.ggml.eos_token_id', 'tokenizer.ggml.padding_token_id'),
    *('general.alignment', 'llama.attention.value_length'),
  )
  for field in fields:
    for name, value in odd.items():
      yield (
        f'{field}: {name}',
        lambda path, field=field, value=value: write_gguf(
          path, **{field: value}
        ),
      )


def copy_of(original: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
  """Copies a model so that a case can damage the copy."""
  if original.is_dir():
    return pathlib.Path(shutil.copytree(original, target))
  return pathlib.Path(shutil.copy(original, target))
