"""Summary shown at the end of a training run."""

from sqlm_jax import display, run_evaluations
from sqlm_jax.run import build
from sqlm_jax.workdir import run_writer


def report(
  parts: build.Parts, writer: run_writer.RunWriter, step: int, best: int | None
) -> None:
  """Shows the accuracy before and after training, and the paths of the output.

  Args:
    parts: Parts of the run.
    writer: Writer of the run.
    step: Number of self-play steps that have been completed.
    best: Step with the best validation score, 0 for the initial model; None
      without scores.
  """
  config, directory, rows = parts.config, writer.workdir, {}
  steps = {'before': 0} | ({'after': step} if step else {})
  for name, at in steps.items():
    record = run_evaluations.find_test(parts, writer, at)
    if record is not None:
      rows[name] = (
        f'{run_writer.accuracies(record)} '
        f'on {record["questions"]} questions ({at} steps)'
      )
  rows['checkpoint'] = str(directory / 'checkpoints' / str(step))
  if best:
    rows['best'] = (
      f'{directory / "checkpoints" / str(best)} (on the validation set)'
    )
  elif best == 0 and step:
    rows['best'] = _nothing_better(parts, writer)
  rows |= {
    'metrics': str(directory / 'metrics.jsonl'),
    'rollouts': str(directory / 'rollouts'),
    'talk to it': 'python -m sqlm_jax.main --mode=sample '
    f'--workdir={directory}',
  }
  title = f'Trained {step} steps.'
  if step < config.num_steps:
    title = (
      f'Stopped after {step} of {config.num_steps} steps, and saved. '
      'The same command goes on from here.'
    )
  display.summary(title, rows)


def _nothing_better(parts: build.Parts, writer: run_writer.RunWriter) -> str:
  """Explains why no checkpoint is better than the initial model."""
  scores = run_evaluations.validation_scores(parts, writer)
  name = run_evaluations.score_name(parts)
  start = scores.pop(0, None)
  counted = {
    at: score
    for at, score in scores.items()
    if score != run_evaluations.NOT_ELIGIBLE
  }
  text = (
    'the model before any training (step 0): on the validation set no '
    'checkpoint is above its '
    + (name if start is None else f'{start:.1%} {name}')
  )
  if counted:
    at = max(counted, key=counted.__getitem__)
    text += f', the highest is {counted[at]:.1%} after {at} steps'
  if left_out := sorted(scores.keys() - counted.keys()):
    steps = ', '.join(map(str, left_out))
    text += (
      f'; after {steps} steps nearly all answers were the same, which does '
      'not count'
    )
  return text
