import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.figures import draw


def test_curves_of_several_runs():
  a = {'train/loss': (np.arange(3), np.arange(3.0)), 'train/goodput': (np.arange(3), np.ones(3))}
  b = {'train/loss': (np.arange(2), np.ones(2)), 'eval/accuracy': (np.arange(2), np.zeros(2))}
  figure = draw.draw_curves({'a': a, 'b': b})
  assert [axes.get_title() for axes in figure.axes] == ['training loss', 'evaluation accuracy']
  assert [len(axes.lines) for axes in figure.axes] == [2, 1]
  assert [t.get_text() for t in figure.legends[0].get_texts()] == ['a', 'b']
  with pytest.raises(
    InputError,
    match="^Unknown metric 'loss'. Available: eval/accuracy, train/goodput, train/loss.$",
  ):
    draw.draw_curves({'a': a, 'b': b}, ['loss'])
