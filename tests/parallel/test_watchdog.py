"""The watchdog ends a process that hangs, but not one that makes progress or has finished."""

import subprocess
import sys
import time


def run(code):
  program = f'import threading, time\nfrom vit_jax.parallel.watchdog import Watchdog\n{code}'
  return subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_all_stacks_and_one_sentence():
  start = time.monotonic()
  done = run("""
def read():
  threading.Event().wait()
threading.Thread(target=read).start()  # no daemon: it would keep the process alive
with Watchdog(1.5) as watchdog:
  watchdog.progress('waiting for the data of step 7')
  threading.Event().wait()
""")
  assert done.returncode == 1 and time.monotonic() - start < 20
  *stacks, last = done.stderr.splitlines()
  assert last == (
    'error: No progress for 1.5 s waiting for the data of step 7. The stacks above show what '
    'each thread waits for. config.hang_seconds sets the time limit (0 for none).'
  )
  assert sum('hread 0x' in line for line in stacks) == 3  # these two and the watchdog
  assert any(line.endswith('in read') for line in stacks)


def test_progress_and_the_end_of_the_block_keep_it_alive():
  done = run("""
with Watchdog(1.5) as watchdog:
  for step in range(6):
    watchdog.progress(f'in step {step}')
    time.sleep(.5)
with Watchdog(0):
  time.sleep(2)
print('alive')
""")
  assert (done.returncode, done.stdout, done.stderr) == (0, 'alive\n', '')
