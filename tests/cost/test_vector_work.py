"""Vector operations of programs that can be counted by hand."""

import jax
import pytest

from tests.helpers.paths import FILES
from vit_jax.cost.topology import describe_devices, parse_topology
from vit_jax.cost.vector_work import VectorWork, count_vector_work

N = 1000


def counted(f, *shapes):
  """Return the vector operations of a function, compiled here, as a multiple of N."""
  arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
  text = jax.jit(f).lower(*arguments).compile().as_text() or ''
  return count_vector_work(text).operations / N


def program(*lines, result='f32[1000]', fused=()):
  """Return the text of a program with these instructions, as the TPU compiler writes them."""
  body = '\n'.join(f'  {line}' for line in lines)
  return f'{"".join(fused)}ENTRY %main (x: f32[1000]) -> {result} {{\n{body}\n}}\n'


X = '%x = f32[1000]{0:T(1024)} parameter(0)'


def test_transcendental_functions_take_more_than_one_instruction():
  text = program(X, 'ROOT %exp.1 = f32[1000]{0:T(1024)} exponential(%x)')
  assert count_vector_work(text) == VectorWork(2 * N, 0)
  text = program(X, '%y = f32[1000]{0} tanh(%x)', 'ROOT %z = f32[1000]{0} sqrt(%y)')
  assert count_vector_work(text).operations == (1 + 7) * N


def test_sixteen_bits_count_half():
  text = program(
    X,
    '%half = bf16[1000]{0:T(1024)(128)(2,1)} convert(%x)',
    '%sum = bf16[1000]{0:T(1024)(128)(2,1)} add(%half, %half)',
    '%less = pred[1000]{0} compare(%sum, %half), direction=LT',
    'ROOT %y = f32[1000]{0:T(1024)} convert(%sum)',
  )
  assert count_vector_work(text).operations == (0.5 + 0.5 + 0.5 + 1) * N


def test_what_is_the_same_along_a_dimension_is_computed_once():
  text = program(
    '%x = f32[10,100]{1,0} parameter(0)',
    '%rows = f32[10]{0} parameter(1)',
    '%one = bf16[] constant(1)',
    '%ones = bf16[10,100]{1,0} broadcast(%one), dimensions={}',
    '%converted = f32[10,100]{1,0} convert(%ones)',  # 1
    '%wide = f32[10,100]{1,0} broadcast(%rows), dimensions={0}',
    '%scaled = f32[10,100]{1,0} multiply(%wide, %converted)',  # 10
    '%index = s32[10,100]{1,0} iota(), iota_dimension=1',
    '%even = s32[10,100]{1,0} and(%index, %index)',  # 100
    'ROOT %y = f32[10,100]{1,0} divide(%x, %scaled)',  # 10 reciprocals and 1000 products
    result='f32[10,100]',
  )
  assert count_vector_work(text).operations == 1 + 10 + 100 + 10 + 1000


def test_matrix_products_inside_a_fusion_are_no_vector_work():
  fused = (
    '%fused (a: bf16[8,16], b: bf16[16,32]) -> f32[8,32] {\n'
    '  %a = bf16[8,16]{1,0} parameter(0)\n'
    '  %b = bf16[16,32]{1,0} parameter(1)\n'
    '  %c = f32[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf\n'
    '  ROOT %d = f32[8,32]{1,0} maximum(%c, %c)\n'
    '}\n\n'
  )
  text = program(
    '%a = bf16[8,16]{1,0} parameter(0)',
    '%b = bf16[16,32]{1,0} parameter(1)',
    'ROOT %f = f32[8,32]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused',
    result='f32[8,32]',
    fused=fused,
  )
  assert count_vector_work(text).operations == 8 * 32


def test_reductions_combine_each_element():
  largest = (
    '%largest (a: f32[], b: f32[]) -> f32[] {\n'
    '  %a = f32[] parameter(0)\n  %b = f32[] parameter(1)\n'
    '  ROOT %m = f32[] maximum(%a, %b)\n}\n\n'
  )
  reduce = '%m = f32[10]{0} reduce(%x, %zero), dimensions={1}, to_apply=%largest'
  window = (
    'ROOT %w = f32[10,100]{1,0} reduce-window(%x, %zero), window={size=1x199 pad=0_0x99_99}, '
    'to_apply=%largest'
  )
  zero = '%zero = f32[] constant(0)'
  matrix = '%x = f32[10,100]{1,0} parameter(0)'
  text = program(matrix, zero, reduce, window, result='f32[10,100]', fused=largest)
  assert count_vector_work(text).operations == 2 * N


def test_loops_count_each_turn():
  step = lambda x, _: (x * x + 1, None)
  loop = lambda x: jax.lax.scan(step, x, None, length=7)[0]
  assert counted(loop, ((N,), 'float32')) == pytest.approx(2 * 7, abs=0.1)


# A program for a TPU that is not attached cannot be read from the compile cache.
@pytest.mark.filterwarnings('ignore:Error reading persistent compilation cache')
def test_random_bits():
  """Threefry has 20 rounds of 5 operations: a sum, a rotation by two shifts and an or, and an xor.

  After every fourth round it adds keys to both words, and a number to the second. It starts with
  a sum of each word and its key, and ends with the xor of both words. The rest are the counters.
  """
  pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install 'vit_jax[aot]'")
  device = describe_devices(parse_topology('v5e:2x2'))[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  key = jax.ShapeDtypeStruct((2,), 'uint32', sharding=sharding)
  bits = jax.jit(lambda key: jax.random.bits(key, (256, 1024)))
  with jax.threefry_partitionable(True):
    text = bits.lower(key).compile().as_text() or ''
  threefry = 20 * 5 + 5 * 3 + 2 + 1
  assert threefry < count_vector_work(text).operations / (256 * 1024) < threefry + 5


def test_random_bits_of_the_hardware():
  text = program(
    '%x = u32[4]{0} parameter(0)',
    'ROOT %r = (u32[4]{0}, u32[100,10]{1,0}) rng-bit-generator(%x), algorithm=rng_default',
  )
  assert count_vector_work(text).operations == 4 + N


def test_a_program_of_a_tpu():
  """A turn adds 1 to the counter and compares it. The sum over 16 chips is not counted."""
  text = (FILES / 'tpu_program.hlo').read_text()
  work = count_vector_work(text)
  assert work.custom_kernels == 0
  assert work.operations == 3 * (1 + 1) + 8 * 128


def test_custom_kernels_are_reported():
  kernel = '%k = f32[1000]{0} custom-call(%x), custom_call_target="tpu_custom_call"'
  buffer = '%b = f32[1000]{0} custom-call(), custom_call_target="AllocateBuffer"'
  text = program(X, kernel, buffer, 'ROOT %y = f32[1000]{0} add(%k, %b)')
  assert count_vector_work(text) == VectorWork(N, 1)
