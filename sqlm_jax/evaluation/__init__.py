"""From answers and grades to figures, intervals, tests and reports (floor 3).

Plain NumPy and SciPy over rows, one a question, as an evaluation leaves them in
its answers.jsonl: the first answer of a row is the greedy one, the others were
sampled, k for one seed after the other.
"""
