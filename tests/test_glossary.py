"""Tests that docs/metrics.md has all metrics that the code writes, and no more.

`test_train.py` compares the page with the metrics of a run.
"""

import ast
import pathlib
import re

from sqlm_jax.workdir import rollouts
from tests import glossary

PACKAGE = pathlib.Path(__file__).parent.parent / 'sqlm_jax'
# Functions that put their first argument before the names of metrics.
COUNTERS = {'_counts', '_shares'}
NAME = re.compile(r'[a-z_]+(/([a-z_]+|<>))+')
# Families of metrics; other strings with a slash are paths.
FAMILIES = (
  'alarm|critic|eval|exclude|gate|grading|probe|proposer|review|sample|solver'
  '|tests|time|train|vote'
)
# Prefixes that `step_metrics.of_updates` completes with the learner's metrics.
PREFIXES = {'sample/<>', 'train/<>', 'critic/<>'}


def text_of(node: ast.AST) -> str | None:
  """Returns a string of the code, in which `<>` stands for each value."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return node.value
  if isinstance(node, ast.JoinedStr):
    return ''.join(text_of(value) or '<>' for value in node.values)
  return None


def written() -> set[str]:
  """Returns the names of the metrics that the package writes."""
  paths = [
    PACKAGE / 'modes' / 'train.py',
    PACKAGE / 'workdir' / 'evaluations.py',
  ]
  paths += [*(PACKAGE / 'selfplay').glob('*.py')]
  paths += [*(PACKAGE / 'run').glob('*.py')]
  names = set()
  for path in paths:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    inside = {
      id(value)
      for node in ast.walk(tree)
      if isinstance(node, ast.JoinedStr)
      for value in node.values
    }
    for node in ast.walk(tree):
      if id(node) not in inside and (text := text_of(node)):
        names.add(text)
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        first = text_of(node.args[0]) if node.args else None
        if node.func.id in COUNTERS and first:
          names.add(f'{first}/<>')
        if node.func.id == 'clock' and first:
          names.add(f'time/{first}')
  names = {
    name
    for name in names
    if NAME.fullmatch(name) and re.match(f'({FAMILIES})/', name)
  }
  # The name of an evaluation's figure follows its prefix, and `time/<>` stands
  # for the stages.
  names -= {'eval/<>/<>', 'time/<>', *PREFIXES}
  # Prefixes of the counts that `COUNTERS` return.
  names -= {'exclude/answers', 'gate/leaked', 'vote/no_majority'}
  names -= {'vote/option_share', 'vote/position_share'}
  names |= {f'train/<>/{name}' for name in learner_metrics()}
  names |= {f'critic/<>/{name}' for name in critic_metrics()}
  names |= {f'{role}/<>/not_finite/<>' for role in ('train', 'critic')}
  return names | {'sample/<>/logprob_gap', 'eval/<>/<>/<>'}


def metrics_of(module: str) -> set[str]:
  """Returns the metrics of an update that a module of the engine computes."""
  text = (PACKAGE / 'engine' / f'{module}.py').read_text(encoding='utf-8')
  sums = r'(?:\w+\.)?_?(?:sum_and_count|once_per_update)\(|\(loss,|explained\b'
  return set(re.findall(rf"'(\w+)': (?:{sums})", text)) | set(
    re.findall(r"metrics\['(\w+)'\] = ", text)
  )


def learner_metrics() -> set[str]:
  # The gap is only measured before the first update, and has another prefix.
  return (metrics_of('policy_loss') | metrics_of('learner')) - {'logprob_gap'}


def critic_metrics() -> set[str]:
  # No update of a critic is limited by its KL.
  shared = metrics_of('learner') - {'update_kl', 'update_scale'}
  return metrics_of('critic') | shared


def test_the_page_has_the_metrics_of_the_code():
  names = glossary.metrics()
  assert len(names) == len(set(names)), 'a metric has two rows'
  missing = [
    name
    for name in sorted(written())
    if not glossary.explains(name.replace('<>', 'x'))
  ]
  assert not missing, f'docs/metrics.md does not explain {missing}'
  unknown = sorted(set(names) - written())
  assert not unknown, f'docs/metrics.md: no code writes {unknown}'


def test_metrics_are_recognized_by_their_names():
  assert glossary.explains('gate/format')
  assert glossary.explains('train/solver/not_finite/loss')
  assert glossary.explains('eval/addition/test/mean@4')
  assert not glossary.explains('gate')
  assert not glossary.explains('vote/accuracy_of_votes')
  assert not glossary.explains('train/solver/loss/other')


def test_the_page_has_the_columns_of_the_schema():
  expected = [
    f'| `{field.name}` | {field.type}'
    f'{", may be null" if field.nullable else ""} '
    f'| {field.metadata[b"about"].decode()} |'
    for field in rollouts.SCHEMA
  ]
  shown = '\n'.join(expected)
  assert glossary.columns() == expected, f'the table should be:\n{shown}'
