"""Warnings about an image that can be read are collected by thread, or logged."""

import threading
import warnings

import pytest

from vit_jax.data.decode_warnings import collect_warnings, log_warnings, pillow_warnings, warn


def test_warnings_are_collected_once(messages):
  with collect_warnings() as outer:
    warn('a')
    with collect_warnings() as inner:
      warn('b')
      warn('b')
    warn('c')
  assert (outer, inner) == (['a', 'c'], ['b'])
  assert not messages


def test_warnings_without_a_collector_are_logged(messages):
  warn('its profile is damaged')
  with log_warnings('x.png'):
    warn('a')
    warn('b')
  assert messages == [
    'Read an image with a warning: its profile is damaged.',
    'Read x.png with a warning: a; b.',
  ]


def test_threads_do_not_mix():
  found = {}
  barrier = threading.Barrier(4)

  def work(name):
    with collect_warnings() as collected:
      barrier.wait()
      warn(name)
      barrier.wait()
    found[name] = collected

  threads = [threading.Thread(target=work, args=(name,)) for name in 'abcd']
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == {name: [name] for name in 'abcd'}


def test_python_warnings_of_pillow_are_collected():
  def of_pillow(text):
    warnings.warn_explicit(text, UserWarning, '/x/PIL/TiffImagePlugin.py', 7, 'PIL.TiffImagePlugin')

  for _ in range(2):  # Python itself would show it once
    with collect_warnings() as collected, pillow_warnings():
      of_pillow('Corrupt EXIF data.  Expecting more. ')
    assert collected == ['Corrupt EXIF data. Expecting more']


def test_python_warnings_of_others_are_passed_on():
  with (
    collect_warnings() as collected,
    pytest.warns(UserWarning, match='^mine$'),
    pillow_warnings(),
  ):
    warnings.warn('mine', stacklevel=1)
  assert not collected
