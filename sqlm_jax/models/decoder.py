"""The transformer decoder, which supports all model families.

J here is the number of rotary pairs, H / 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sqlm_jax.distributed import sharding
from sqlm_jax.models import (
  attention,
  block,
  joined_segments,
  layers,
  model_config,
  rope,
  stacked_attention,
  unstacked,
)
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import packing as packing_lib
from sqlm_jax.ops import soft_cap

_POLICIES = jax.checkpoint_policies

# Activations of the segments, and their keys and values.
_Outputs = tuple[tuple[jax.Array, ...], tuple[attention.Pair, ...]]


def _keep_products(primitive: Any, *args: Any, **params: Any) -> bool:
  """Checkpoint policy that saves products with weights and the attention.

  The attention is saved whether or not a kernel computes it.
  """
  if _POLICIES.dots_with_no_batch_dims_saveable(primitive, *args, **params):
    return True
  return attention.is_kept(primitive, *args, **params)


# The values of a block that are saved for the backward pass: all of them, the
# products with weights and the attention, or only the block's input. The
# backward pass recomputes the other values.
REMAT = {
  'none': None,
  'dots': _keep_products,
  'full': _POLICIES.nothing_saveable,
}


class Decoder(nn.Module):
  """Token embedding, L blocks, final norm and unembedding.

  The blocks are one scan over parameters stacked along a leading dimension L.
  Compile time therefore does not grow with depth, and a checkpoint holds only a
  dozen arrays. The window and the rope, which may differ between layers, are
  scanned as well. Parameters made by `unstacked` are not stacked; their blocks
  run one after another without a scan.

  A layer processes all segments of a chain before the next layer does, so that
  its weights are read once and have a single gradient.
  """

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None = None
  remat: str = 'none'  # a key of REMAT
  mesh: jax.sharding.Mesh | None = None  # mesh that rows are split over
  kernels: kernels_lib.Kernels | None = None  # attention kernels

  def setup(self) -> None:
    c = self.config
    self.embed = self.param(
      'embedding',
      nn.initializers.normal(c.width**-0.5),
      (c.vocab_size, c.width),
      self.dtypes.params,
    )
    self.layers = block.Block(
      c, self.dtypes, self.lora, self.mesh, self.kernels
    )
    self.final_norm = block.make_norm(c, self.dtypes)
    if not c.tied_embeddings:
      self.unembed = layers.Projection((c.width,), (c.vocab_size,), self.dtypes)

  def __call__(
    self,
    segments: tuple[attention.Segment, ...],
    context: tuple[attention.KeyValues, ...] = (),
  ) -> _Outputs:
    """Runs the model over segments, see `policy.ForwardChain`."""
    widths = [segment.tokens.shape[1] for segment in segments]
    segments = tuple(map(self._padded_for_kernels, segments))
    windows_L, is_local_L, ropes = _of_layers(self.config)
    layout = joined_segments.choose(segments, self.mesh)
    lengths = tuple(segment.lengths for segment in (*context, *segments))
    chain = block.Chain(
      lengths,
      layout.join(self._rotations(segments, lengths, ropes)),
      tuple(segment.packing for segment in segments),
      layout,
    )
    of_layers = block.OfLayer(
      tuple((segment.keys, segment.values) for segment in context),
      windows_L,
      is_local_L,
      index=None,
    )
    xs = layout.join([self._embed(segment.tokens) for segment in segments])
    if self.has_variable('params', unstacked.UNSTACKED):
      xs, keys_values = self._run_unstacked(xs, of_layers, chain)
    else:
      xs, keys_values = self._scan(xs, of_layers, chain)
    hidden = tuple(
      self.final_norm(block.keep_rows(x[:, :width], self.mesh))
      for x, width in zip(layout.split(xs), widths, strict=True)
    )
    return hidden, keys_values

  def _padded_for_kernels(
    self, segment: attention.Segment
  ) -> attention.Segment:
    """Pads a segment to an even width if a kernel computes its attention."""
    by_kernel = self.kernels is not None and self.kernels.reads(segment.width)
    return segment.even() if by_kernel else segment

  def _rotations(
    self,
    segments: tuple[attention.Segment, ...],
    lengths: tuple[jax.Array, ...],
    ropes: tuple[model_config.Rope, ...],
  ) -> list[tuple[block.Rotation, ...]]:
    """Returns the rotations [A, T, J] of the tokens of each segment.

    Args:
      segments: the segments.
      lengths: lengths of the segments of the context, then of `segments`.
      ropes: the ropes of the layers.
    """
    rotations = []
    firsts = attention.starts(lengths)[-len(segments) :]
    for segment, first_A in zip(segments, firsts, strict=True):
      positions_AT = first_A[:, None] + jnp.arange(segment.width)[None, :]
      if segment.packing is not None:
        positions_AT = packing_lib.pack(positions_AT, segment.packing)
      rotations.append(
        tuple(
          rope.rotation(r, positions_AT, self.config.head_width) for r in ropes
        )
      )
    return rotations

  def _scan(
    self,
    xs: tuple[jax.Array, ...],
    of_layers: block.OfLayer[np.ndarray],
    chain: block.Chain,
  ) -> _Outputs:
    """Runs all layers as a scan over stacked parameters."""
    read, saved = block.read_chain, REMAT[self.remat]
    if saved is not None:
      read = nn.remat(read, prevent_cse=False, policy=saved)
    width = xs[0].shape[1]
    is_stacked = len(xs) == 1 and stacked_attention.is_faster(self.mesh, width)
    if is_stacked:
      # Every layer gets the context of all layers and its own index.
      of_layers = of_layers._replace(index=np.arange(self.config.num_layers))
    context_axis = nn.broadcast if is_stacked else 0
    axes = block.OfLayer._make([context_axis, 0, 0, 0])
    # Flax gives it the type of `read`, without the axis of the layers.
    scan: Any = nn.scan(
      read,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(axes, nn.broadcast),
      length=self.config.num_layers,
      # The check costs a trace of the layer, but `init` without it would draw
      # different weights.
      check_constancy_invariants=self.is_initializing(),
    )
    return scan(self.layers, xs, of_layers, chain)

  def _run_unstacked(
    self,
    xs: tuple[jax.Array, ...],
    of_layers: block.OfLayer[np.ndarray],
    chain: block.Chain,
  ) -> _Outputs:
    """Runs all layers one by one, each with its own parameter tree.

    There is a single segment. Each layer gets the context of all layers and its
    own index.
    """
    layer = self.layers.clone(parent=None)

    @jax.jit  # traced once instead of once per layer
    def read(
      params: dict[str, Any],
      xs: tuple[jax.Array, ...],
      of_layer: block.OfLayer,
      chain: block.Chain,
    ) -> _Outputs:
      bound = layer.bind({'params': params})
      return block.read_chain(bound, xs, of_layer, chain)

    keys_values = []
    for i in range(self.config.num_layers):
      window, is_local = jax.tree.map(
        lambda x, i=i: x[i], (of_layers.window, of_layers.is_local)
      )
      xs, of_segments = read(
        self.variables['params'][unstacked.UNSTACKED][str(i)],
        xs,
        block.OfLayer(of_layers.context, window, is_local, index=i),
        chain,
      )
      keys_values.append(of_segments)
    return xs, jax.tree.map(lambda *layers: jnp.stack(layers), *keys_values)

  def _embed(self, tokens_AT: jax.Array) -> jax.Array:
    x_ATD = self.dtypes.round(jnp.take(self.embed, tokens_AT, axis=0))
    if self.config.scale_embedding:
      x_ATD = x_ATD * jnp.asarray(self.config.width**0.5, x_ATD.dtype)
    return x_ATD

  def logits(self, hidden: jax.Array, *, keep_rows: bool = True) -> jax.Array:
    """Computes next-token logits [..., V] from hidden states [..., D].

    Without a soft-cap, the logits keep the dtype of the matrix product. Callers
    convert them to float32 as they read them, which avoids writing another
    array of this size.

    Args:
      hidden: hidden states.
      keep_rows: keep two-dimensional hidden states split by row.
    """
    if self.mesh is not None and hidden.ndim == 2 and keep_rows:
      hidden = sharding.keep_rows(hidden, self.mesh)
    if self.config.tied_embeddings:
      rows = hidden.reshape(-1, hidden.shape[-1])
      logits = self.dtypes.multiply(rows, self.embed, axis=1)
      logits = logits.reshape(*hidden.shape[:-1], -1)
    else:
      logits = self.unembed(hidden)
    cap = self.config.logit_softcap
    return soft_cap.soft_cap(logits.astype(jnp.float32), cap) if cap else logits

  def initialize(self, tokens_BT: jax.Array) -> jax.Array:
    """Calls every submodule, so that `init` creates all parameters."""
    segment = attention.Segment(tokens_BT, jnp.ones(len(tokens_BT), jnp.int32))
    (hidden_BTD,), _ = self((segment,))
    return self.logits(hidden_BTD)


def _of_layers(
  c: model_config.ModelConfig,
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[model_config.Rope, ...]]:
  """Returns the windows, the local layers and the ropes of a model.

  Returns:
    The windows [L], None if no layer has one; a mask [L] of the layers that use
    the second rope, None if there is only one; and one or two ropes.
  """
  if not any(c.windows):
    return None, None, (c.rope,)
  # A window larger than any text means full attention.
  windows_L = np.array([w or np.iinfo(np.int32).max for w in c.windows])
  if c.local_rope is None:
    return windows_L, None, (c.rope,)
  is_local_L = np.array([w > 0 for w in c.windows])
  return windows_L, is_local_L, (c.rope, c.local_rope)
