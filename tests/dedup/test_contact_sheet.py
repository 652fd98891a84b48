import numpy as np

from vit_jax.dedup.contact_sheet import choose_pairs, draw_sheet


def test_choose_pairs_of_every_distance():
  distances = [4] * 50 + [0] * 2 + [8] * 100
  chosen = choose_pairs(distances, 20)
  assert chosen[:2] == [50, 51]
  assert [distances[i] for i in chosen] == [0] * 2 + [4] * 9 + [8] * 9
  assert chosen[2] == 0 and chosen[10] == 49 and chosen[-1] == 151 == len(distances) - 1
  assert choose_pairs([], 20) == []
  assert choose_pairs([3, 1], 20) == [1, 0]


def test_names_that_are_no_text():
  red = np.full((9, 30, 3), (255, 0, 0), np.uint8)
  odd, plain = (draw_sheet([(red, red, [name])], 'title') for name in ('caf\udce9', 'caf\ufffd'))
  np.testing.assert_array_equal(odd, plain)


def test_sheet_shows_each_pair():
  red, blue = (np.full((9, 30, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
  sheet = draw_sheet([(red, blue, ['one', 'two'])] * 5, 'title')
  assert sheet.shape == (39 + 2 * (128 + 30 + 12), 12 + 4 * 270, 3)
  for y in (39 + 64, 39 + 170 + 64):  # the middles of both rows
    assert sheet[y, 12 + 64].tolist() == [255, 0, 0]
    assert sheet[y, 12 + 130 + 64].tolist() == [0, 0, 255]
  assert sheet[39 + 64, 12 + 3 * 270 + 64].tolist() == [255, 0, 0]
  assert sheet[39 + 170 + 64, 12 + 270 + 64].tolist() == [255, 255, 255]  # the fifth is the last
