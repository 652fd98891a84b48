import pytest

from vit_jax.errors import InputError
from vit_jax.parallel.make_partitioner import make_partitioner
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.pmap import PmapPartitioner


def test_a_partitioner_by_its_name():
  assert isinstance(make_partitioner('pmap', 32), PmapPartitioner)
  mesh = make_partitioner('mesh', 32, 2, (2, 4))
  assert isinstance(mesh, MeshPartitioner) and dict(mesh.mesh.shape) == dict(data=2, fsdp=4)
  with pytest.raises(InputError) as e:
    make_partitioner('pmaps', 32)
  assert str(e.value) == "Unknown parallel 'pmaps'. Did you mean 'pmap'? Available: pmap, mesh."
