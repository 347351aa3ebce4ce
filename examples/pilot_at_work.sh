#!/usr/bin/env bash
# The case of docs/pilot_at_work.md from end to end: quantities out of orders,
# and a topic that the pilot refuses. Takes about ten minutes on two cores.
#
#   pip install -e '.[review]' && bash examples/pilot_at_work.sh
#
# RUN is the directory of the run, runs/orders by default. A second call resumes
# it.
set -euo pipefail
cd "$(dirname "$0")/.."
RUN="${RUN:-runs/orders}"
queue="$RUN/queue.csv"

# The flags of the run: no training on names of customers, and four questions
# with known answers are asked again in every step, as soon as there are some.
rules=(
  --config.exclude.patterns="(('title', r'\b(?:Mr|Mrs|Ms|Miss|Dr)\b'),)"
  --config.exclude.words_file=examples/customers.txt
  --config.review.replay=4
)

# The verdict before training, on 48 labeled orders.
python -m sqlm_jax.main --mode=pilot --config=configs/orders.py --workdir="$RUN" --config.evaluation.validation=orders/labels
# Training, first half.
python -m sqlm_jax.main --config=configs/orders.py --workdir="$RUN" --config.num_steps=8 "${rules[@]}"
# Twenty votes are reviewed in a spreadsheet. A script stands in for the person.
if [ ! -e "$queue" ]; then
  python -m sqlm_jax.main --mode=review --workdir="$RUN" --export_queue="$queue"
  python -m examples.review_orders "$queue" 20
  python -m sqlm_jax.main --mode=review --workdir="$RUN" --import_queue="$queue" --reviewer=ann
fi
# Training, second half: the verdicts count.
python -m sqlm_jax.main --config=configs/orders.py --workdir="$RUN" --config.num_steps=12 "${rules[@]}"
# What was excluded, and whether any of it was trained on.
python -m examples.check_exclusions "$RUN" examples/customers.txt
# Comparison on the test set, whose sentence forms nobody trained on.
python -m sqlm_jax.main --mode=eval --workdir="$RUN" --compare=0,best
# Reports for those who decide.
python -m sqlm_jax.main --mode=report --workdir="$RUN" --price_per_hour=0.4
python -m sqlm_jax.main --mode=report --workdir="$RUN" --price_per_hour=0.4 --language=ja
# The case that must be refused.
python -m sqlm_jax.main --mode=pilot --config=configs/defects.py --config.evaluation.validation=examples/defect_reports.jsonl
