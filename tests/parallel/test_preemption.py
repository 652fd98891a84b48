import os
import signal
import threading

import pytest

from vit_jax.parallel import preemption
from vit_jax.parallel.preemption import Stopper, stop_on_signals


def test_a_stop_is_final_and_points_count_on(monkeypatch):
  points = []

  def reached(point):
    points.append(point)
    return len(points) == 3

  monkeypatch.setattr(preemption.coordination, 'alone', lambda: False)
  monkeypatch.setattr(preemption.multihost_utils, 'reached_preemption_sync_point', reached)
  stopper = preemption.Stopper()
  assert [stopper() for _ in range(5)] == [False, False, True, True, True]
  assert [preemption.Stopper()() for _ in range(2)] == [False, False]  # the next run
  assert points == list(range(points[0], points[0] + 5))


def send(number):
  os.kill(os.getpid(), number)


def handlers():
  return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_the_handlers_come_back(number, capsys):
  before = handlers()
  with stop_on_signals():
    stopper = Stopper()
    assert not stopper()
    with stop_on_signals():  # as a run within a sweep
      send(number)
      assert stopper()
    assert Stopper()()  # the next run of the sweep stops, too
    assert handlers() != before
  assert handlers() == before
  with stop_on_signals():
    assert not Stopper()()
  message = '\nStopping after this step. Press Ctrl-C again to stop at once, without saving.\n'
  assert capsys.readouterr().err == (message if number == signal.SIGINT else '')


def test_a_second_ctrl_c_ends_at_once(capsys):
  before = handlers()
  with pytest.raises(KeyboardInterrupt), stop_on_signals():
    send(signal.SIGINT)
    send(signal.SIGINT)
  assert handlers() == before


def test_another_thread_leaves_the_handlers_alone():
  before, seen = handlers(), []

  def run():
    with stop_on_signals():
      seen.append((handlers(), Stopper()()))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [(before, False)]


def test_jax_listens_for_sigterm_in_a_job_of_several_processes(monkeypatch):
  monkeypatch.setattr(preemption.coordination, 'alone', lambda: False)
  terminated = []
  before = signal.signal(signal.SIGTERM, lambda *_: terminated.append(1))  # JAX's is one of C++
  try:
    with stop_on_signals():
      send(signal.SIGINT)
    assert terminated == [1]
  finally:
    signal.signal(signal.SIGTERM, before)
