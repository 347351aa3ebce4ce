"""Dimension key: the letters of shape suffixes.

Names of arrays of rank two or more end in these letters: `tokens_QGR` is
indexed by question, answer and position in the response.

  Q  questions, one group each            V  vocabulary
  G  answers per question (group size)    D  model width
  B  rows, B = Q * G when flattened       F  MLP width
  P  prompt tokens, right-padded          N  query heads
  R  response tokens, right-padded        K  key and value heads
  T  tokens of any segment                H  head width
  S  key and value slots of a segment     L  layers

Rows are grouped by question: row `b` is an answer to question `b // G`.
"""
