from vit_jax.parallel import preemption


def test_a_stop_is_final_and_points_count_on(monkeypatch):
  points = []

  def reached(point):
    points.append(point)
    return len(points) == 3

  monkeypatch.setattr(preemption.multihost_utils, 'reached_preemption_sync_point', reached)
  stopper = preemption.Stopper()
  assert [stopper() for _ in range(5)] == [False, False, True, True, True]
  assert [preemption.Stopper()() for _ in range(2)] == [False, False]  # the next run
  assert points == list(range(points[0], points[0] + 5))
