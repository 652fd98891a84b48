"""Tests of the parser of compiled programs."""

import pytest

from tests.helpers.paths import FILES
from vit_jax.cost.hlo import array_bytes, count_runs, kernel_computations, parse_program, root_of

TEXT = (FILES / 'tpu_program.hlo').read_text()


@pytest.mark.parametrize(
  'shape, size',
  [
    ('f32[2,3]{1,0}', 24),
    ('bf16[8,128]{1,0:T(8,128)(2,1)S(1)}', 2048),
    ('pred[]', 1),
    ('(s32[4]{0}, /*index=1*/f8e4m3fn[10])', 26),
    ('s4[6]', 3),
    ('f64[0,5]', 0),
  ],
)
def test_array_bytes(shape, size):
  assert array_bytes(shape) == size


def test_parses_instructions():
  program = parse_program(TEXT)
  assert program.entry == 'main'
  instruction = program.computations['body']['slice']
  assert instruction.shape == 'f32[8,128]{1,0:T(8,128)}'
  assert (instruction.opcode, instruction.operands) == ('fusion', ['stack', 'i'])
  assert list(instruction.calls()) == [('calls', 'slice_fusion')]
  assert not instruction.is_root
  assert root_of(program.computations['condition']).operands == ['count', 'turns']


def test_arrays_know_their_memory_space():
  whole = parse_program(TEXT).computations['body']['async-start'].arrays
  assert [(a.bytes, a.in_main_memory) for a in whole] == [(1024, True), (4096, False)]


def test_counts_how_often_computations_run():
  program = parse_program(TEXT)
  runs, unknown_loops = count_runs(program)
  assert runs == {
    'main': 1,
    'condition': 3,
    'body': 3,
    'gather_fusion': 3,
    'slice_fusion': 3,
    'all-reduce-scatter.1': 3,
  }
  assert unknown_loops == 0
  assert kernel_computations(program) == {'main', 'condition', 'body'}


def test_an_unbalanced_line_is_an_error():
  with pytest.raises(ValueError, match=r"^Unbalanced parentheses in '\(f32\[8\]'\.$"):
    parse_program('ENTRY %main (a: f32[]) -> f32[] {\n  %a = (f32[8]\n')
