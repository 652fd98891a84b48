import numpy as np

from vit_jax.pretrained.torch_positions import read_positions, write_positions

POSITIONS = 'Transformer/posembed_input/pos_embedding'


def test_three_habits_of_positions():
  """With timm's no_embed_class, the class token has no row. Without it, registers have rows too."""
  rng = np.random.default_rng(0)
  draw = lambda n: rng.normal(size=(1, n, 4)).astype(np.float32)
  for rows, patches in ((17, None), (16, None), (6, 6), (7, 6)):
    arrays = {'cls': draw(1), POSITIONS: draw(rows)}
    read = dict(arrays)
    read_positions(read, patches)
    no_embed_class = rows in (16, 6)
    np.testing.assert_array_equal(
      read[POSITIONS], np.pad(arrays[POSITIONS], ((0, 0), (int(no_embed_class), 0), (0, 0)))
    )
    written, said = write_positions(read)
    assert said == no_embed_class
    np.testing.assert_equal(written, arrays)
  arrays = {'cls': draw(1), 'registers': draw(3), POSITIONS: draw(1 + 3 + 16)}
  read = dict(arrays)
  read_positions(read, None)  # the model only uses the sum of a register and its position
  np.testing.assert_array_equal(read['registers'], arrays['registers'] + arrays[POSITIONS][:, 1:4])
  np.testing.assert_array_equal(read[POSITIONS], arrays[POSITIONS][:, [0, *range(4, 20)]])
  written, said = write_positions(read)
  assert not said and not written[POSITIONS][:, 1:4].any()
  again = dict(written)
  read_positions(again, None)
  np.testing.assert_equal(again, read)
