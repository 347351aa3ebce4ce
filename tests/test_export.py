"""Tests of exports for transformers and peft, and of their model card."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import stat

import jax
import numpy as np
import pytest
import transformers
from pyarrow import parquet

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import export, train
from sqlm_jax.pretrained import catalog, tokenizer
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import responses
from sqlm_jax.workdir import checkpoints
from tests.pretrained import families

torch = pytest.importorskip('torch')

# transformers warns about settings of tiny models.
pytestmark = pytest.mark.filterwarnings('ignore')

PROMPTS = ['3 + 4 = ', 'a', 'Questions:\n']


@pytest.fixture(scope='module')
def model_path(tmp_path_factory):
  """Returns the directory of a tiny model with a byte-level tokenizer."""
  directory = tmp_path_factory.mktemp('model')
  families.make('qwen2', directory, vocab_size=264, eos_token_id=256)
  tokenizer.byte_tokenizer().save(directory)
  return directory


def make_config(model_path, **changes) -> config_lib.Config:
  c = smoke.get_config()
  c.model.path = str(model_path)
  c.num_steps = 2
  c.mesh.data = 1
  c.policy.shared = False
  c.evaluation.every = 0
  # Accepts every word, because a random model writes no readable answers.
  c.task.question_pattern = ''
  c.task.answer_kind = 'text'
  c.task.checker = 'none'
  c.optimizer.learning_rate = 1e-2
  c.optimizer.max_update_kl = 1e3  # allows a rate that is too high
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


@pytest.fixture(scope='module', params=['all weights', 'lora'])
def run(request, model_path, tmp_path_factory):
  """Returns the workdir and parts of a run with one policy per role."""
  workdir = tmp_path_factory.mktemp('run')
  changes = {'model.lora.rank': 2} if request.param == 'lora' else {}
  config = make_config(model_path, **changes)
  train.train(config, str(workdir))
  return workdir, build.build(config)


def trained(workdir, parts, role):
  abstract = train_states.abstract_states(parts)[parts.state_names[role]].params
  directory = workdir / 'checkpoints'
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    step, params = checkpoints.restore_params(manager, {role: abstract})
  return step, train_states.whole_params(parts, params[role])


def export_role(run, role, directory, **kwargs):
  workdir, parts = run
  step, params = trained(workdir, parts, role)
  export.export_policy(
    parts,
    params,
    str(directory),
    step=step,
    role=role,
    dtype='float32',
    workdir=str(workdir),
    **kwargs,
  )
  return params


def greedy_texts(parts, params):
  sampler = parts.samplers['evaluation']
  prompts = [sampler.encode(prompt) for prompt in PROMPTS]
  sampled = responses.sample(
    sampler, params, prompts, path=(0,), num_rows=len(prompts)
  )
  return [group[0] for group in sampled.texts], sampler.slots


@pytest.mark.parametrize('role', ['solver', 'proposer'])
def test_transformers_generates_the_same_greedy_text(run, role, tmp_path):
  params = export_role(run, role, tmp_path / 'out')
  expected, slots = greedy_texts(run[1], params)
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert model.generation_config.eos_token_id == [256]
  for prompt, text in zip(PROMPTS, expected, strict=True):
    tokens = reader(prompt, return_tensors='pt')
    ids = model.generate(**tokens, do_sample=False, max_new_tokens=slots)
    generated = reader.decode(
      ids[0, tokens['input_ids'].shape[1] :], skip_special_tokens=True
    )
    assert generated == text


def test_the_roles_differ_from_each_other_and_from_the_start(run, tmp_path):
  weights = []
  for role in ('solver', 'proposer'):
    export_role(run, role, tmp_path / role)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / role)
    weights.append(model.state_dict()['model.layers.0.mlp.up_proj.weight'])
  start = transformers.AutoModelForCausalLM.from_pretrained(
    run[1].config.model.path
  )
  weights.append(start.state_dict()['model.layers.0.mlp.up_proj.weight'])
  for i in range(3):
    assert not torch.equal(weights[i], weights[i - 1])


def test_a_run_can_start_from_an_exported_model(run, tmp_path):
  params = export_role(run, 'solver', tmp_path / 'out')
  again = build.build(make_config(tmp_path / 'out'))
  expected, _ = greedy_texts(run[1], params)
  texts, _ = greedy_texts(again, again.load_params('float32'))
  assert texts == expected


def test_adapters_in_peft_equal_the_merged_model(run, tmp_path):
  peft = pytest.importorskip('peft')
  _, parts = run
  if not parts.lora:
    with pytest.raises(ValueError, match=r'expected a run with model\.lora'):
      export_role(run, 'solver', tmp_path / 'out', as_adapter=True)
    return
  export_role(run, 'solver', tmp_path / 'adapter', as_adapter=True)
  export_role(run, 'solver', tmp_path / 'merged')
  base = transformers.AutoModelForCausalLM.from_pretrained(
    parts.config.model.path
  )
  adapted = peft.PeftModel.from_pretrained(base, tmp_path / 'adapter')
  merged = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'merged'
  )
  text = torch.arange(30)[None] + 60
  with torch.no_grad():
    torch.testing.assert_close(
      adapted(text).logits, merged(text).logits, atol=1e-4, rtol=0
    )


def with_path(parts, path):
  """Returns the parts with another path of the model."""
  model = dataclasses.replace(parts.config.model, path=path)
  return parts._replace(config=dataclasses.replace(parts.config, model=model))


@pytest.mark.parametrize(
  'path, base, revision',
  [
    ('org/tiny@v1', 'org/tiny', 'v1'),
    ('org/tiny', 'org/tiny', None),
    ('smollm2-135m-instruct', 'HuggingFaceTB/SmolLM2-135M-Instruct', None),
    ('/some/where', '/some/where', None),
  ],
)
def test_an_adapter_names_a_base_that_peft_can_find(
  run, tmp_path, monkeypatch, path, base, revision
):
  workdir, parts = run
  if not parts.lora:
    return
  step, params = trained(workdir, parts, 'solver')
  monkeypatch.setattr(catalog, 'resolve', pathlib.Path)
  export.export_policy(
    with_path(parts, path),
    params,
    str(tmp_path / 'out'),
    step=step,
    role='solver',
    dtype='float32',
    as_adapter=True,
  )
  stored = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
  assert stored['base_model_name_or_path'] == base
  assert stored['revision'] == revision


def test_adapters_of_a_model_with_images_are_rejected(run, tmp_path):
  """PEFT would search for the layers under another name."""
  _, parts = run
  (tmp_path / 'config.json').write_text('{"model_type": "gemma3"}')
  with pytest.raises(
    ValueError, match='processes images' if parts.lora else 'lora'
  ):
    export.check_target(
      with_path(parts, str(tmp_path)), str(tmp_path / 'out'), as_adapter=True
    )


def test_the_card_counts_the_training_data(run, tmp_path):
  workdir, parts = run
  export_role(run, 'solver', tmp_path / 'out')
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert card.startswith('---\n')
  assert 'library_name: transformers' in card
  files = sorted((workdir / 'rollouts').iterdir())
  digest = hashlib.sha256(b''.join(file.read_bytes() for file in files))
  assert digest.hexdigest() in card
  rows = parquet.read_table(workdir / 'rollouts').to_pylist()
  proposals = [row for row in rows if row['role'] == 'proposer']
  answers = [row for row in rows if row['role'] == 'solver']
  trained_on = sum(row['trained_on'] for row in answers)
  assert f'In 2 steps, {len(proposals)} proposals were sampled.' in card
  assert (
    f'For these questions, {len(answers)} answers were sampled, and '
    f'{trained_on} of them were trained on.'
  ) in card
  assert '| 0 | ' in card  # evaluated before and after
  assert '| 2 | ' in card
  assert f'"path": "{parts.config.model.path}"' in card
  assert parts.config.task.topics[0] in card


@pytest.mark.parametrize('mask', [0o022, 0o077, 0o002])
@pytest.mark.parametrize('as_adapter', [False, True])
def test_the_permissions_of_an_export_follow_the_umask(
  run, tmp_path, mask, as_adapter
):
  if as_adapter and not run[1].lora:
    return
  before = os.umask(mask)
  try:
    export_role(run, 'solver', tmp_path / 'out', as_adapter=as_adapter)
  finally:
    os.umask(before)
  modes = {
    path.name: stat.S_IMODE(path.stat().st_mode)
    for path in (tmp_path / 'out').iterdir()
  }
  assert modes == dict.fromkeys(modes, 0o666 & ~mask)
  assert any(name.endswith('.safetensors') for name in modes)
  assert stat.S_IMODE((tmp_path / 'out').stat().st_mode) == 0o777 & ~mask


def test_a_directory_that_is_not_empty_is_not_changed(run, tmp_path):
  (tmp_path / 'mine.txt').write_text('mine')
  with pytest.raises(ValueError, match='expected a directory that does not'):
    export_role(run, 'solver', tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_a_failed_export_leaves_no_files(run, tmp_path, monkeypatch):
  def full_disk(*args, **kwargs):
    raise OSError('No space left on device')

  monkeypatch.setattr(export, 'model_card', full_disk)
  with pytest.raises(OSError, match='No space left'):
    export_role(run, 'solver', tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_adapters_resume_and_the_base_is_not_stored(run, tmp_path):
  """Two runs of one step equal a run of two steps."""
  workdir, parts = run
  if not parts.lora:
    return  # tests/test_train.py tests runs without adapters
  shutil.copytree(workdir, tmp_path / 'run')
  for step in (1, 2):
    config = make_config(
      parts.config.model.path, num_steps=step, **{'model.lora.rank': 2}
    )
    train.train(config, str(tmp_path / 'again'))
  for role in ('solver', 'proposer'):
    resumed = trained(pathlib.Path(tmp_path / 'again'), parts, role)
    expected = trained(workdir, parts, role)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
  names = {
    path[-1].key
    for path, _ in jax.tree.leaves_with_path(
      train_states.abstract_states(parts)['solver'].params
    )
  }
  assert names == {'lora_a', 'lora_b'}


def test_the_card_describes_the_questions_and_rewards(model_path):
  proposed = export.describe_data(make_config(model_path))
  assert 'No question came from outside' in proposed
  assert (
    "agreement with the majority of the solver's own answers. The seed was 0."
  ) in proposed
  changes = {
    'task.questions': 'mine.jsonl',
    'solver.rewards.majority': 0.0,
    'solver.rewards.format': 0.5,
    'solver.reward_schedule': (('random', 3, 1.0),),
  }
  given = export.describe_data(make_config(model_path, **changes))
  assert 'All questions came from `mine.jsonl`.' in given
  assert 'right or wrong (a control) and nothing: rewards were coin' in given
  assert 'outside' not in given


@pytest.mark.parametrize(
  'dtype, param_dtype, rank, exported',
  [
    ('float32', 'float32', 0, 'float32'),
    ('bfloat16', 'float32', 0, 'bfloat16'),
    ('float32', 'bfloat16', 0, 'bfloat16'),
    ('bfloat16', 'float32', 2, 'float32'),
    ('float32', 'bfloat16', 2, 'float32'),
  ],
)
def test_the_default_dtype_is_the_one_that_was_evaluated(
  dtype, param_dtype, rank, exported
):
  c = smoke.get_config()
  c.model.dtype, c.model.param_dtype = dtype, param_dtype
  c.model.lora.rank = rank
  config = config_lib.from_dict(c.to_dict())
  assert export.default_dtype(config) == exported
