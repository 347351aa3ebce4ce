"""Gradients of a tiny model against transformers, parameter by parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import policy
from sqlm_jax.ops import logprobs
from sqlm_jax.weights import loader, names
from tests.weights import test_safetensors

torch = pytest.importorskip('torch')

TOKENS_BT = test_safetensors.TOKENS_BT


class Gradients:
  """Gradients of a torch model in place of its tensors."""

  path = 'torch'

  def __init__(self, model):
    self._tensors = {
      name: parameter.grad.numpy()
      for name, parameter in model.named_parameters()
    }

  def names(self):
    return set(self._tensors)

  def read(self, name):
    return self._tensors[name]


@pytest.mark.parametrize('variant', test_safetensors.VARIANTS)
def test_gradients_of_a_log_likelihood(tmp_path, variant):
  model = test_safetensors.make_model(**test_safetensors.VARIANTS[variant])
  model.save_pretrained(tmp_path)
  tokens = torch.from_numpy(TOKENS_BT)
  logps = torch.log_softmax(model(tokens).logits[:, :-1], dim=-1)
  likelihood = logps.gather(-1, tokens[:, 1:, None]).sum()
  likelihood.backward()

  checkpoint = loader.open_checkpoint(tmp_path)
  ours = policy.make_policy(checkpoint.config)

  @jax.jit
  @jax.value_and_grad
  def value_and_gradients(params):
    hidden_BTD, _ = ours.forward(params, TOKENS_BT, np.full(2, 12))
    logits_BTV = ours.logits(params, hidden_BTD)[:, :-1]
    chosen, _ = logprobs.chosen(
      logits_BTV.reshape(-1, logits_BTV.shape[-1]),
      jnp.asarray(TOKENS_BT[:, 1:].reshape(-1)),
    )
    return chosen.sum()

  params = checkpoint.params(dtype=np.float32)
  value, found = value_and_gradients(params)
  np.testing.assert_allclose(value, likelihood.item(), rtol=1e-5)
  # A gradient is stored as its parameter is: transposed, heads apart.
  expected = names.build_params(
    checkpoint.config, Gradients(model), dtype=np.float32
  )
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for (path, ours_), theirs in zip(
    jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
  ):
    for layer in range(len(theirs)) if 'layers' in str(path) else [...]:
      largest = np.abs(theirs[layer]).max()
      assert largest > 1e-3  # every layer has a part in it
      # A float32 sum of many terms of either sign.
      error = np.abs(np.asarray(ours_)[layer] - theirs[layer]).max()
      assert error < 1e-3 * largest, jax.tree_util.keystr(path)
