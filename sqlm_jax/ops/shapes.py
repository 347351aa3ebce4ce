"""Dimension key: the letters of shape suffixes.

Names of arrays of rank two or more end in these letters: `tokens_QGR` is
indexed by question, answer and position in the response. A digit stands for a
dimension of that size: `counts_Q1` has one column.

  Q  questions, one group each            V  vocabulary
  G  answers per question (group size)    D  model width
  B  rows, B = Q * G when flattened       F  MLP width
  P  prompt tokens, right-padded          N  query heads
  R  response tokens, right-padded        K  key and value heads
  T  tokens of any segment                H  head width
  S  key and value slots of a segment     L  layers
  A  rows of a segment, or parts of its packing
  C  tokens of a decoding chunk
  M  tokens of many rows, flattened

Rows are grouped by question: row `b` is an answer to question `b // G`. Each of
the A rows of a segment is shared by B / A consecutive rows.

A module that uses another letter, or one of these in another sense, says so in
its docstring. No letter has two meanings within a module.
"""
