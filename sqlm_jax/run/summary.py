"""Summary shown at the end of a training run."""

from etils import epath

from sqlm_jax import display
from sqlm_jax.run import build, evaluation_sets, scheduled_evaluations
from sqlm_jax.workdir import evaluations


def columns(parts: build.Parts) -> tuple[display.Column, ...]:
  """Returns the columns of the table of steps."""
  shown = evaluation_sets.TEST
  if parts.sets(evaluation_sets.VALIDATION):
    shown = evaluation_sets.VALIDATION
  return display.columns(
    f'{parts.config.task.name}/{shown}',
    parts.config.evaluation.samples,
    checked=parts.config.task.checker != 'none',
  )


def show(
  parts: build.Parts,
  workdir: epath.Path,
  *,
  step: int,
  best: int | None,
  is_finished: bool = False,
) -> None:
  """Shows the accuracy before and after training, and the output paths.

  Args:
    parts: Parts of the run.
    workdir: Directory of the run.
    step: Number of self-play steps that have been completed.
    best: Step with the best score, 0 for the initial model; None without
      scores.
    is_finished: True if the run is not to be resumed.
  """
  rows = {}
  steps = {'before': 0} | ({'after': step} if step else {})
  for name, at in steps.items():
    result = scheduled_evaluations.find_test(parts, workdir, at)
    if result is not None:
      rows[name] = (
        f'{evaluations.format_accuracies(result)} '
        f'on {result["questions"]} questions ({at} steps)'
      )
  rows['checkpoint'] = str(workdir / 'checkpoints' / str(step))
  if best:
    path = workdir / 'checkpoints' / str(best)
    by_probe = parts.config.evaluation.best_by == 'probe'
    score = 'probe/information' if by_probe else 'validation score'
    rows['best'] = f'{path} (by its {score})'
  elif best == 0 and step:
    rows['best'] = _describe_initial_model(parts, workdir)
  rows |= {
    'metrics': str(workdir / 'metrics.jsonl'),
    'rollouts': str(workdir / 'rollouts'),
    'sample': f'python -m sqlm_jax.main --mode=sample --workdir={workdir}',
  }
  title = f'Trained {step} steps.'
  num_steps = parts.config.num_steps
  if step < num_steps and is_finished:
    title = f'An alarm ended the run after {step} of {num_steps} steps.'
  elif step < num_steps:
    title = (
      f'Stopped and saved after {step} of {num_steps} steps. To resume, run '
      'the same command again.'
    )
  display.summary(title, rows)


def _describe_initial_model(parts: build.Parts, workdir: epath.Path) -> str:
  """Explains that no checkpoint is better than the initial model."""
  scores = scheduled_evaluations.validation_scores(parts, workdir)
  name = scheduled_evaluations.score_name(parts)
  start = scores.pop(0, None)
  eligible = {
    step: score
    for step, score in scores.items()
    if score != scheduled_evaluations.NOT_ELIGIBLE
  }
  start_score = name if start is None else f'{start:.1%} {name}'
  text = (
    'the model before training (step 0): no checkpoint has a higher validation '
    f'score than its {start_score}'
  )
  if eligible:
    step = max(eligible, key=eligible.__getitem__)
    text += f'; the highest is {eligible[step]:.1%} after {step} steps'
  if collapsed := sorted(scores.keys() - eligible.keys()):
    steps = ', '.join(map(str, collapsed))
    text += (
      f'; after {steps} steps nearly all answers were the same or an alarm was '
      'raised, so those scores are ignored'
    )
  return text
