"""The one dimension key.

Arrays of rank two or more carry these letters as a suffix: `tokens_QGR` is
indexed by question, answer and position in the response.

  Q  questions, one group each          V  vocabulary
  G  answers a question (group size)    D  model width
  B  rows, B = Q * G when flattened     F  MLP width
  P  prompt tokens, right-padded        N  query heads
  R  response tokens, right-padded      K  key and value heads
  T  tokens of any segment              H  head width
  S  key and value slots of a segment   L  layers

Rows are ordered question by question: row `b` answers question `b // G`.
"""
