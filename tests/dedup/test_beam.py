"""The parts of the pipeline that need no Beam. tests/tools/test_dedup.py runs it on its runners."""

import json
import os

import numpy as np
import pytest

from vit_jax.dedup import beam
from vit_jax.dedup.beam import Chunk, find_matches, gather, hash_chunk, make_chunks, remove
from vit_jax.dedup.example_ids import ExampleIds
from vit_jax.errors import InputError
from vit_jax.parallel.lock import Lock


def test_chunks_cover_all_sets_and_number_images_across_them(digits_dir):
  sets = [
    ExampleIds('digits', split, digits_dir) for split in ('train[:40]', 'test[:25]', 'test[:15]')
  ]
  chunks = make_chunks(sets)
  assert [(c.split, c.start, c.stop, c.first) for c in chunks[:3]] == [
    ('train[:40]', 0, 5, 0),
    ('train[:40]', 5, 10, 5),
    ('train[:40]', 10, 15, 10),
  ]
  assert len(chunks) == 16  # at least this many chunks, so that many workers have something to do
  numbers = [n for c in chunks for n in range(c.first, c.first + c.stop - c.start)]
  assert numbers == list(range(80))
  assert chunks[-1] == Chunk('digits', 'test[:15]', digits_dir, 10, 15, 75)


def test_hashes_of_a_chunk(digits_dir):
  mean = lambda pixels: np.array([pixels.sum(), pixels.sum(), 7], np.uint64)
  mean.__name__ = 'mean'
  hashed = hash_chunk(Chunk('digits', 'train', digits_dir, 3, 5, 103), mean, 2)
  assert hashed.images.tolist() == [103, 103, 104, 104]  # equal hashes of an image count once
  assert hashed.hashes[::2].tolist() == [7, 7]
  assert hashed.damaged == hashed.errors == []


def test_a_dataset_that_cannot_be_read_is_reported(tmp_path):
  hashed = hash_chunk(Chunk(str(tmp_path / 'none'), 'train', None, 0, 1, 0), len, 1)
  assert len(hashed.hashes) == len(hashed.images) == 0
  assert len(hashed.errors) == 1 and 'none' in hashed.errors[0]


def test_gather_sorts_what_workers_wrote(tmp_path):
  parts = tmp_path / 'parts'
  parts.mkdir()
  (parts / 'part-1').write_text(json.dumps({'pairs': [[5, 1, 2]]}) + '\n' + '{"train": [9]}\n')
  (parts / 'part-0').write_text('{"train": [4]}\n{"pairs": [[3, 2, 0], [3, 1, 0]]}\n')
  matches = gather(str(parts))
  assert matches.pairs.tolist() == [[3, 1, 0], [3, 2, 0], [5, 1, 2]]
  assert matches.damaged_train == [4, 9] and matches.damaged_against == []
  (parts / 'part-2').write_text('{"errors": ["b"]}\n{"errors": ["a"]}\n')
  with pytest.raises(InputError, match='^a$'):
    gather(str(parts))
  remove(str(parts))
  assert not parts.exists()
  remove(str(parts))  # nothing to do


def test_the_parts_of_another_run_stay(tmp_path, monkeypatch):
  """A second run with the same --out is refused before it removes anything."""
  monkeypatch.setattr(beam, 'import_beam', lambda: None)
  monkeypatch.setattr(beam, 'run_pipeline', lambda build, args: (parts / 'part-0').write_text(''))
  parts = tmp_path / 'ids.txt.parts'
  parts.mkdir()
  (parts / 'part-7').write_text('theirs')
  search = lambda: find_matches(
    ExampleIds('digits', 'train', None), [], threshold=8, parts=str(parts)
  )
  with Lock(tmp_path / 'ids.txt.parts.lock', 'x', ''), pytest.raises(InputError) as error:
    search()
  assert str(error.value).startswith(f'{parts} is in use by process {os.getpid()} on ')
  assert str(error.value).endswith(' UTC. Wait for it to end, or choose another --out.')
  assert (parts / 'part-7').read_text() == 'theirs'
  parts.joinpath('part-7').write_text('left by a run that was killed')
  with pytest.raises(FileNotFoundError):  # this stand-in for Beam makes no directory
    search()
  assert not list(tmp_path.iterdir())
