"""Computes figures, intervals, tests and reports from graded answers.

The functions use NumPy and SciPy and operate on the rows of an evaluation's
answers.jsonl, one row per question. The first answer of a row is greedy; the
other answers are sampled, with k consecutive answers for each seed.
"""
