from vit_jax.cost.estimated_cycles import count_estimated_cycles

PROGRAM = """
HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} exponential(%p), backend_config={"estimated_cycles":"5000"}
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %y = f32[8]{0} fusion(%x), calls=%fused, backend_config={"a":"1","estimated_cycles":"70"}
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %y)
}

%go (t: (s32[], f32[8])) -> pred[] {
  %t = (s32[], f32[8]{0}) parameter(0)
  ROOT %more = pred[] custom-call(%t), custom_call_target="more"
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]{0}) parameter(0)
  %copy = (s32[], f32[8]{0}) copy(%a), backend_config={"estimated_cycles":"300"}
  ROOT %l = (s32[], f32[8]{0}) while(%copy), condition=%go, body=%body, known_trip_count={n=12}
}
"""


def test_kernels_count_as_often_as_they_run():
  # What is inside a fusion is not a kernel of its own.
  assert count_estimated_cycles(PROGRAM) == 300 + 12 * 70


def test_a_compiler_that_says_nothing():
  assert count_estimated_cycles(PROGRAM.replace('estimated_cycles', 'other')) == 0
