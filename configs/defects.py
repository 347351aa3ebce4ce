"""Sorts defect reports of a production line into five causes.

python -m sqlm_jax.main --config=configs/defects.py --workdir=runs/defects
"""

from sqlm_jax import configs

CAUSES = (
  'worn tool',
  'wrong temperature',
  'dirty material',
  'wrong setting',
  'broken sensor',
)
PROPOSER_PROMPT = """\
Defect reports of a production line, about {topic}.
Report: Burrs along every cut since the morning shift.
Report: The surface is blistered on parts from the second oven.
Report:"""
SOLVER_PROMPT = """\
Causes: A worn tool, B wrong temperature, C dirty material, D wrong setting, \
E broken sensor.
Report: Burrs along every cut since the morning shift.
Cause: A
Report: The surface is blistered on parts from the second oven.
Cause: B
Report: {question}
Cause:"""


def get_config():
  c = configs.quickstart()
  c.task.name = 'defects'
  c.task.topics = ('cutting', 'coating', 'assembly', 'measuring')
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.question_pattern = r'^[A-Z].{15,120}\.$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.answer_kind = 'choice'
  c.task.options = CAUSES
  c.task.checker = 'none'
  c.task.test = (
    ('The holes are oval and the drill squeals.', 'A'),
    ('The paint runs on every part from the hot booth.', 'B'),
    ('Grains of sand stick in the coating.', 'C'),
  )
  c.task.validation = ()  # the quickstart's are sums
  c.proposer.group_size = 8
  c.proposer.max_tokens = 40
  c.solver.max_tokens = 8
  c.sampler.max_prompt_tokens = 256
  c.optimizer.groups_per_microbatch = 4
  return c
