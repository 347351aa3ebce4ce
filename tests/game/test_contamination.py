"""Tests of the comparison of questions with evaluation sets."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import contamination

SAME = [
  ('12 * 3', 'What is 12 × 3?', '12*3 =', 'Compute: 12 * 3.', '12 · 3 = ?'),
  ('12 x 3', '12 * 3', "What's 12 X 3?", '12x3', '12 ⋅ 3', '１２　×　３'),
  (
    '12 * 3',
    '１２＊３',
    r'$12 \times 3$',
    r'Compute \(12 \cdot 3\).',
    '12 ✕ 3',
  ),
  (
    '12 * 3',
    '12 × 3 はいくつですか？',
    '１２×３を計算してください。',
    '12×3 = ？',
  ),
  ('12 * 3', '计算 12×3 的值。', '１２ × ３ 等于多少？'),
  (
    '(1 + 2) * 3',
    'Calculate (1+2)*3',
    '(1 + 2 )*3',
    '(1 + 2) x 3',
    '（１＋２）×３',
  ),
  ('7 \u2212 5', '7 - 5', 'How much is 7-5?', '７－５', '7 – 5', '7\u20115'),
  ('8 ÷ 2', '8 / 2', '８／２', r'8 \div 2'),
  ('What is 5²?', 'What is 5^2?', 'what is 5 ^ 2'),
  (
    '第二工程の炉の温度が高い原因は何ですか。',
    '第二工程の炉の温度が高い原因は何ですか',
    '第二工程の炉の温度が高い原因は何ですか？',
    '「第二工程の炉の温度が高い原因は何ですか」',
    '『第二工程の炉の温度が高い原因は何ですか？』',
    '第二工程の炉の　温度が高い原因は\n何ですか｡',
    ' 第二工程の炉の温度が高い原因は何ですか！ ',
  ),
  (
    'Ａ社の製品は１２個、Ｂ社は３個。',
    'A社の製品は 12 個,B社は 3 個',
    'a社の製品は12個、b社は3個',
  ),
  ('炉【2号】の温度（℃）は？', '炉[2号]の温度(℃)は'),
  ('他买了３个苹果，吃了１个。', '他买了 3 个苹果, 吃了 1 个'),
  ('เครื่องจักรร้อนเกินไปเพราะอะไร?', 'เครื่องจักรร้อนเกินไปเพราะอะไร'),
  ('He said “go”.', 'he said "go"', 'He said «go»!'),
  ('"Who wrote it?"', 'Who wrote it'),
  ('Ana has 3 apples. How many?', 'ana has  3\napples.  How many'),
  ('Solve 2*x + 3 = 7 for x.', 'solve 2 * x + 3 = 7 for x'),
  ('Return the sum', 'return the sum.'),
]


@pytest.mark.parametrize('questions', SAME, ids=lambda q: q[0])
def test_equal_questions_in_other_notation(questions):
  guard = contamination.make_guard(questions[:1], 'count')
  assert all(guard.has(question) for question in questions)


@pytest.mark.parametrize(
  'one, other',
  [
    ('12 * 3', '12 * 4'),
    ('12 * 3', '3 * 12'),
    ('12 * 3', '12 + 3'),
    ('1 - 2', '1 + -2'),
    ('5 * 2', '5²'),
    ('What is 5²?', 'What is 52?'),
    ('What is 3½ + 1?', 'What is 31/2 + 1?'),
    ('2 * (3 + 1)', 'Expand 2x(3 + 1).'),
    ('0 * 10', '0x10'),
    ('3 + 4', '3 + 4 = xのときxの値を求めよ'),
    (
      '3 + 4',
      '太郎は毎週月曜日の朝に3 + 4時間働き、次郎はその倍だけ働きます。',
    ),
    ('第二工程の炉の温度', '第三工程の炉の温度'),
    ('温度が高い', '温度が低い'),
    ('部品は 3 個', '部品は 4 個'),
    ('a b', 'ab'),
    ('온도 이상', '온도이상'),
    ('3 + 4', 'Solve x * 3 + 4 = 10 for x.'),
    ('3 + 4', '3 + 4 and 5 + 6'),
    ('3 + 4', 'x = 5. Add 3 + 4'),
    (
      '3 + 4',
      'Tom works 3 + 4 hours on most days of the week. How many in a year?',
    ),
    ('Ana has 3 apples.', 'Ana has 4 apples.'),
    ('', '0'),
  ],
)
def test_another_question(one, other):
  assert contamination.key(one) != contamination.key(other)


def test_an_empty_guard_recognizes_no_question():
  assert not contamination.make_guard((), 'exclude').has('')
  assert not contamination.Guard().has('7 + 8')


@hypothesis.given(st.text(alphabet='12 +-*/().,=?xab\n\0é×', max_size=60))
def test_spaces_around_any_text_do_not_change_its_key(text):
  key = contamination.key(text)
  assert key == contamination.key(f' {text} ')


@pytest.mark.parametrize('piece', ['(', '1 ', '1+', '-', '1-(', ' ', '1.,'])
def test_a_long_question_takes_linear_time(piece):
  """Takes hundredths of a second; in quadratic time, it would take minutes."""
  question = piece * 50_000
  assert contamination.key(question) == contamination.key(f' {question} ')
