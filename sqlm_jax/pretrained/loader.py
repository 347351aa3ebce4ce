"""Opens a pretrained model in any of the supported formats."""

import functools
import pathlib
from typing import Any, NamedTuple, Protocol

import transformers

from sqlm_jax.models import model_config
from sqlm_jax.pretrained import gguf, names, safetensors


class _Params(Protocol):
  """Reads the parameters; `place` puts each of them on the devices."""

  def __call__(self, place: names.Place) -> dict[str, Any]: ...


class Checkpoint(NamedTuple):
  """An opened model, whose parameters are read on demand.

  Attributes:
    config: the decoder's config.
    hf_config: the Hugging Face config that `config` was derived from.
    generation: a directory's generation_config.json, {} if there is none.
    params: `place -> params`, see `names.build_params`.
  """

  config: model_config.ModelConfig
  hf_config: transformers.PretrainedConfig
  generation: dict[str, Any]
  params: _Params


def open_checkpoint(path: pathlib.Path) -> Checkpoint:
  """Opens a GGUF file or a Hugging Face directory.

  Only headers and configs are read. The sizes that they claim are checked
  against the files before any memory of these sizes is allocated.

  Raises:
    ValueError: if the model is damaged or its architecture is unknown.
  """
  if path.is_dir():
    tensors = safetensors.DirectoryTensors(path)
  else:
    tensors = gguf.GGUFTensors(path)
  names.check_tensors(tensors.config, tensors)
  return Checkpoint(
    tensors.config,
    tensors.hf_config,
    safetensors.read_generation_config(path, tensors.config.vocab_size),
    functools.partial(names.build_params, tensors.config, tensors),
  )
