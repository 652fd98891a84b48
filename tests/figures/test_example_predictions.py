import numpy as np

from vit_jax.figures import draw
from vit_jax.figures.examples import Examples


def test_titles_say_what_is_wrong():
  examples = Examples(
    images=np.zeros((2, 4, 4, 3), np.uint8),
    labels=np.array([0, 1]),
    predicted=np.array([0, 2]),
    probability=np.array([0.9, 0.51]),
    correct=np.array([True, False]),
  )
  figure = draw.draw_predictions(examples, ['cat', 'dog', 'a name of more than 22 letters'])
  assert [axes.get_title() for axes in figure.axes] == [
    '✓ cat 90 %',
    '✗ a name of more than 2… 51 %\nlabel: dog',
  ]
  assert figure.get_suptitle() == '1 of 2 images correct'
