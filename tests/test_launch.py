"""Run the launch scripts: the local one as it is, the others with stand-ins for cloud commands."""

import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.helpers.paths import ROOT

LAUNCH = ROOT / 'launch'
SCRIPTS = [
  *sorted(LAUNCH.glob('*.sh')),
  LAUNCH / 'slurm.sbatch',
  ROOT / '.ci/run',
  ROOT / '.ci/venv',
]


@pytest.fixture
def commands(tmp_path, monkeypatch):
  """Return a function that puts shell programs on the PATH, which write down their calls."""
  (tmp_path / 'bin').mkdir()
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  calls = tmp_path / 'calls'
  calls.write_text('')

  def make(**programs):
    for name, code in programs.items():
      program = tmp_path / 'bin' / name
      # %q writes a call as one line, whatever its arguments contain.
      program.write_text(
        f'#!/usr/bin/env bash\nprintf -v call "%q " {name} "$@"\necho "$call" >> {calls}\n{code}\n'
      )
      program.chmod(0o755)
    return lambda: [shlex.split(line) for line in calls.read_text().splitlines()]

  return make


def run(script, *args, **env):
  return subprocess.run(
    [LAUNCH / script, *args], env={**os.environ, **env}, text=True, capture_output=True, timeout=120
  )


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_scripts_pass_shellcheck(script):
  shellcheck = shutil.which(
    'shellcheck',
    path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ['PATH']]),
  )
  assert shellcheck, "Install it with pip install -e '.[test]'."
  result = subprocess.run([shellcheck, '--shell=bash', script], capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
  'script, words',
  [
    ('local.sh', ['launch/local.sh N FLAGS', 'DEVICES', 'Exit code']),
    (
      'tpu_pod.sh',
      [
        'NAME',
        'ZONE',
        'TYPE',
        'API',
        'VERSION',
        'OPTIONS',
        'PROJECT',
        'SPOT',
        'CONFIG',
        'WORKDIR',
        'DRY_RUN',
        'create',
        'setup',
        'run',
        'status',
        'logs',
        'delete',
      ],
    ),
  ],
)
def test_help_says_what_to_set(script, words):
  shown = run(script, '--help')
  assert shown.returncode == 0 and not shown.stderr
  assert all(word in shown.stdout for word in words)
  assert run(script).returncode == 2 and run(script, 'dance').returncode == 2


TPU = dict(
  NAME='pod',
  ZONE='us-east1-c',
  PROJECT='mine',
  TYPE='v5litepod-64',
  VERSION='v2-tpu',
  SPOT='1',
  CONFIG='configs/vit_l16.py:jft',
  WORKDIR='gs://bucket/l16',
  TMPDIR='/tmp',
)
WHERE = ['--zone=us-east1-c', '--project=mine']
CREATE = [
  'gcloud',
  'compute',
  'tpus',
  'queued-resources',
  'create',
  'pod',
  *WHERE,
  '--accelerator-type=v5litepod-64',
  '--runtime-version=v2-tpu',
  '--node-id=pod',
  '--spot',
]
SSH = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'pod', *WHERE]
TRAIN = [
  *SSH,
  '--worker=all',
  '--command=vit_jax/launch/tpu_worker.sh run '
  '--config=configs/vit_l16.py:jft --workdir=gs://bucket/l16 --config.lr=1e-3',
]
DELETE = [
  'gcloud',
  'compute',
  'tpus',
  'queued-resources',
  'delete',
  'pod',
  *WHERE,
  '--force',
  '--quiet',
]


def test_tpu_pod_shows_its_commands(commands):
  calls = commands(gcloud='exit 9')

  def shown(*args, **env):
    done = run('tpu_pod.sh', *args, **TPU, DRY_RUN='1', **env)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]

  assert shown('create') == [CREATE]
  archive, copy, install = shown('setup')
  assert archive == ['git', 'archive', '--format=tar.gz', '--output=/tmp/pod.tgz', 'HEAD']
  assert copy == [
    'gcloud',
    'compute',
    'tpus',
    'tpu-vm',
    'scp',
    '/tmp/pod.tgz',
    'pod:vit_jax.tgz',
    *WHERE,
    '--worker=all',
  ]
  assert install[:-1] == [*SSH, '--worker=all']
  assert install[-1].startswith('--command=mkdir -p vit_jax && tar xzf vit_jax.tgz -C ')
  assert install[-1].endswith('-c constraints.txt -e .[tpu] gcsfs')
  assert shown('run', '--config.lr=1e-3') == [TRAIN]
  taken_away = shown('run', '--config.lr=1e-3', DRY_STATE='SUSPENDED')
  assert taken_away == [DELETE, CREATE, archive, copy, install, TRAIN]
  assert shown('status')[1] == [
    *SSH,
    '--worker=all',
    '--command=vit_jax/launch/tpu_worker.sh status',
  ]
  assert shown('logs') == [[*SSH, '--worker=0', '--command=vit_jax/launch/tpu_worker.sh logs']]
  assert shown('stop') == [[*SSH, '--worker=0', '--command=vit_jax/launch/tpu_worker.sh stop']]
  assert shown('delete') == [DELETE]
  assert not calls()


IRONWOOD = {**TPU, 'TYPE': 'tpu7x:2x2x2', 'SPOT': ''}
PARENT = 'projects/mine/regions/us-east1'
POLICY = [
  *shlex.split('gcloud compute resource-policies create workload-policy pod --project=mine'),
  '--region=us-east1',
  '--type=HIGH_THROUGHPUT',
  '--accelerator-topology=2x2x2',
  '--accelerator-topology-mode=AUTO_CONNECT',
]
TEMPLATE = [
  *shlex.split('gcloud compute instance-templates create pod --project=mine'),
  '--instance-template-region=us-east1',
  '--machine-type=tpu7x-standard-4t',
  '--image-project=ubuntu-os-accelerator-images',
  '--image-family=ubuntu-accel-2404-amd64-tpu-tpu7x',
  '--boot-disk-size=200GB',
  '--maintenance-policy=TERMINATE',
  '--scopes=cloud-platform',
]
GROUP = [
  *shlex.split('gcloud compute instance-groups managed create pod'),
  *WHERE,
  '--size=2',
  f'--template={PARENT}/instanceTemplates/pod',
  '--target-size-policy-mode=bulk',
  '--default-action-on-vm-failure=do-nothing',
  f'--workload-policy={PARENT}/resourcePolicies/pod',
]
REGION = ['--project=mine', '--region=us-east1', '--quiet']
DELETE_GROUP = [
  [*shlex.split('gcloud compute instance-groups managed delete pod'), *WHERE, '--quiet'],
  [*shlex.split('gcloud compute instance-templates delete pod'), *REGION],
  [*shlex.split('gcloud compute resource-policies delete pod'), *REGION],
]


def on_host(i, command):
  return ['gcloud', 'compute', 'ssh', f'pod-{i}', *WHERE, f'--command={command}']


def train_on_host(i):
  """Return the command of a host, which says who it is: JAX does not find out by itself."""
  return on_host(
    i,
    'vit_jax/launch/tpu_worker.sh run --config=configs/vit_l16.py:jft --workdir=gs://bucket/l16 '
    f'--config.lr=1e-3 --coordinator_address=pod-0:8476 --num_processes=2 --process_id={i}',
  )


def dry_run(*args, **env):
  """Return the commands that tpu_pod.sh would run."""
  done = run('tpu_pod.sh', *args, **{**env, 'DRY_RUN': '1'})
  assert done.returncode == 0, done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines()]


def test_tpu_pod_shows_its_commands_for_compute_engine():
  shown = lambda *args, **env: dry_run(*args, **{**IRONWOOD, **env})
  assert shown('create') == [POLICY, TEMPLATE, GROUP]
  spot = shown('create', SPOT='1')[1]
  assert spot == [*TEMPLATE, '--provisioning-model=SPOT', '--instance-termination-action=STOP']
  reserved = shown('create', OPTIONS='--reservation-affinity=specific --reservation=r')[1]
  assert reserved == [*TEMPLATE, '--reservation-affinity=specific', '--reservation=r']
  alone = shown('create', TYPE='v6e:2x2')  # one VM needs no policy to be a slice
  assert [call[2] for call in alone] == ['instance-templates', 'instance-groups']
  assert '--machine-type=ct6e-standard-4t' in alone[0] and '--size=1' in alone[1]

  archive, *copies, first, second = shown('setup')
  assert archive[:2] == ['git', 'archive']
  scp = lambda i: ['gcloud', 'compute', 'scp', '/tmp/pod.tgz', f'pod-{i}:vit_jax.tgz', *WHERE]
  assert copies == [scp(0), scp(1)]
  assert first[-1].endswith('-c constraints.txt -e .[tpu] gcsfs')
  assert (first[3], second) == ('pod-0', on_host(1, first[-1].removeprefix('--command=')))

  train = [train_on_host(0), train_on_host(1)]
  assert shown('run', '--config.lr=1e-3') == train
  taken_away = shown('run', '--config.lr=1e-3', DRY_STATE='SUSPENDED')
  create = [POLICY, TEMPLATE, GROUP]
  assert taken_away == [*DELETE_GROUP, *create, archive, *copies, first, second, *train]
  both = lambda command: [on_host(i, f'vit_jax/launch/tpu_worker.sh {command}') for i in (0, 1)]
  assert shown('status')[1:] == both('status')
  assert shown('logs') == both('logs')
  assert shown('stop') == both('stop')[:1]
  assert shown('delete') == DELETE_GROUP


def test_options_of_a_queued_resource():
  assert dry_run('create', **TPU, OPTIONS='--reserved') == [[*CREATE, '--reserved']]


@pytest.mark.parametrize(
  'env, sentence',
  [
    (
      dict(TYPE='tpu7x-16'),
      'On Compute Engine, TYPE is tpu7x, v6e or v5p with the chips of each axis: tpu7x:2x2x4.',
    ),
    (
      dict(TYPE='v5litepod-16', API='compute'),
      'On Compute Engine, TYPE is tpu7x, v6e or v5p with the chips of each axis: tpu7x:2x2x4.',
    ),
    (dict(TYPE='tpu7x-16', API='queued'), 'Queued resources do not offer TPU7x. Leave API out.'),
    (
      dict(TYPE='v6e:4x4', API='queued'),
      'With API=queued, TYPE is an accelerator type like v5litepod-16.',
    ),
    (dict(API='gke'), 'API=gke is unknown. Set queued or compute, or leave it out.'),
    (dict(TYPE='v6e:1x1'), 'TYPE=v6e:1x1 is less than one VM, which has 4 chips.'),
    (dict(TYPE='v6e:2x3'), 'TYPE=v6e:2x3 has 6 chips, which do not divide over VMs of 4 chips.'),
    (
      dict(TYPE='tpu7x:2x2x1', PROJECT=''),
      'Set PROJECT. Compute Engine wants it in the names of resources.',
    ),
  ],
)
def test_tpu_pod_explains_which_type_wants_which_api(env, sentence):
  done = run('tpu_pod.sh', 'create', **{**TPU, 'DRY_RUN': '1', **env})
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == f'error: {sentence}\n'


GCLOUD = """
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *describe*) state=$(next STATES); [[ $state != NONE ]] || { echo NOT_FOUND >&2; exit 1; }
    echo "$state";;
  *"tpu_worker.sh run"*) exit "$(next CODES)";;
esac
"""


def answering(gcloud, folder, states, codes):
  """Return a gcloud that answers with these states and exit codes, one after the other."""
  for name, answers in (('states', states), ('codes', codes)):
    (folder / name).write_text(''.join(f'{answer}\n' for answer in answers))
    gcloud = gcloud.replace(name.upper(), str(folder / name))
  return gcloud


def test_tpu_pod_starts_again_until_the_end(commands, tmp_path):
  """There is no slice, then a preemption, a lost connection, a lost slice, and the end."""
  states = [
    *('NONE', 'WAITING_FOR_RESOURCES', 'ACTIVE'),  # create
    *('ACTIVE', 'ACTIVE', 'ACTIVE', 'SUSPENDED'),  # before each run
    'ACTIVE',  # created again
  ]
  gcloud = answering(GCLOUD, tmp_path, states, codes=[42, 255, 1, 0])
  calls = commands(gcloud=gcloud, sleep='')
  done = run('tpu_pod.sh', 'run', **TPU)
  assert done.returncode == 0, done.stderr
  steps = [
    next(
      w
      for w in ('create', 'describe', 'scp', 'run ', 'uv', 'delete', 'sleep')
      if w in ' '.join(call)
    )
    for call in calls()
  ]
  assert ' '.join(steps).replace('run ', 'run') == (
    'describe create describe sleep describe scp uv run sleep describe run sleep describe run '
    'describe sleep describe delete create describe scp uv run'
  )


INSTANCE_GROUP = """
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *instanceStatus*) state=$(next STATES)
    [[ $state != NONE ]] || { echo "The resource was not found" >&2; exit 1; }
    tr " " "\\n" <<< "$state";;
  *basename*) printf "pod-1\\npod-0\\n";;
  *"ssh pod-1"*"tpu_worker.sh run"*) exit "$(next CODES)";;
esac
"""


def test_an_instance_group_starts_again_until_the_end(commands, tmp_path):
  """Its VMs appear one after the other, stop after a preemption, and are deleted in the end."""
  up = 'RUNNING,NONE RUNNING,NONE'
  states = [
    'NONE',
    '',  # just requested
    ',CREATING ,CREATING',
    'RUNNING,NONE STAGING,CREATING',
    up,
    up,  # after 42
    'RUNNING,NONE TERMINATED,NONE',  # preempted
    up,
    'RUNNING,NONE',  # a VM is gone
    up,
    '',  # all are gone
    up,
  ]
  gcloud = answering(INSTANCE_GROUP, tmp_path, states, codes=[42, 42, 255, 255, 0])
  calls = commands(gcloud=gcloud, sleep='')
  done = run('tpu_pod.sh', 'run', **IRONWOOD)
  assert done.returncode == 0, done.stderr
  count = lambda word: sum(word in ' '.join(call) for call in calls())
  assert count('instance-groups managed create') == 4
  assert count('instance-groups managed delete') == count('resource-policies delete') == 3
  assert count('compute scp') == 4 * 2 and count('tpu_worker.sh run') == 5 * 2
  assert (tmp_path / 'states').read_text() == (tmp_path / 'codes').read_text() == ''
  assert done.stderr.count('pod was taken away. Requesting another one.') == 3


@pytest.mark.parametrize(
  'vms, state',
  [
    (['RUNNING,NONE', 'RUNNING,VERIFYING'], 'ACTIVE'),
    ([], 'EMPTY'),
    (['RUNNING,NONE'], 'SUSPENDED'),  # the other VM is gone
    (['RUNNING,NONE', 'STOPPED,NONE'], 'SUSPENDED'),
    (['RUNNING,NONE', 'TERMINATED,DELETING'], 'SUSPENDED'),
    ([',CREATING'], 'PROVISIONING'),  # the other VM is not in the list yet
    (['RUNNING,CREATING_WITHOUT_RETRIES'], 'PROVISIONING'),
    (['RUNNING,VERIFYING'], 'PROVISIONING'),
    (['STAGING,NONE'], 'PROVISIONING'),
    (['TERMINATED,RECREATING', 'RUNNING,NONE'], 'PROVISIONING'),
  ],
)
def test_the_state_of_an_instance_group_is_that_of_its_vms(commands, vms, state):
  """Two VMs are wanted. A warning of gcloud is none, whatever it says."""
  warnings = 'echo "WARNING: update gcloud" >&2; echo RUNNING,NONE >&2'
  lines = '\n'.join(f'echo {vm}' for vm in vms)
  commands(gcloud=f'case "$*" in *instanceStatus*) {warnings}\n{lines};; esac')
  assert run('tpu_pod.sh', 'status', **IRONWOOD).stdout == f'pod: {state}\n'


@pytest.mark.parametrize(
  'env, code, state', [(TPU, 0, 'ACTIVE'), (TPU, 1, 'NONE'), (IRONWOOD, 1, 'NONE')]
)
def test_warnings_are_no_part_of_the_state(commands, env, code, state):
  message = 'WARNING: the resource was not found' if code else 'WARNING: update gcloud'
  state_or_vms = 'ACTIVE' if env is TPU else 'RUNNING,NONE'
  commands(
    gcloud=f'case "$*" in *describe*|*instanceStatus*) echo "{message}" >&2\n'
    f'echo {state_or_vms}; exit {code};; esac'
  )
  assert run('tpu_pod.sh', 'status', **env).stdout == f'pod: {state}\n'


def test_a_state_that_cannot_be_asked_for_says_why(commands):
  commands(gcloud='case "$*" in *describe*) echo "ERROR: no network" >&2; exit 1;; esac')
  done = run('tpu_pod.sh', 'status', **TPU)
  assert (done.stdout, done.stderr) == ('pod: UNKNOWN\n', 'ERROR: no network\n')


@pytest.mark.parametrize(
  'fails, made, deleted',
  [
    ('resource-policies create', [POLICY], []),  # there is one, and perhaps a slice that uses it
    ('instance-templates create', [POLICY, TEMPLATE], DELETE_GROUP[2:]),
    ('managed create', [POLICY, TEMPLATE, GROUP], DELETE_GROUP[:0:-1]),
  ],
)
def test_a_failed_create_leaves_nothing_behind(commands, fails, made, deleted):
  """A policy or template that remains would be in the way of the next attempt."""
  calls = commands(gcloud=f'case "$*" in *"{fails}"*) exit 1;; esac')
  done = run('tpu_pod.sh', 'create', **IRONWOOD)
  assert done.returncode == 1 and calls() == made + deleted
  assert done.stderr == (
    'error: Could not create pod. If something remains of an earlier attempt, run: '
    f'{LAUNCH / "tpu_pod.sh"} delete\n'
  )


def test_another_slice_is_requested_though_parts_of_the_old_one_are_gone(commands, tmp_path):
  states = ['', 'RUNNING,NONE RUNNING,NONE']
  gcloud = answering(INSTANCE_GROUP, tmp_path, states, codes=[0])
  calls = commands(gcloud=f'case "$*" in *policies*delete*) exit 1;; esac\n{gcloud}')
  done = run('tpu_pod.sh', 'run', **IRONWOOD)
  assert done.returncode == 0 and all(call in calls() for call in [*DELETE_GROUP, GROUP])
  assert (
    'tpu_pod.sh: Not all of pod could be deleted. Parts of it may have been gone before.\n'
    in done.stderr
  )


def test_ctrl_c_ends_the_connections(commands, tmp_path):
  """Training runs on without them, but a second `run` must not find the first still attached."""
  pids = tmp_path / 'pids'
  pids.touch()
  commands(
    gcloud=INSTANCE_GROUP.replace('$(next STATES)', '"RUNNING, RUNNING,"').replace(
      '*"ssh pod-1"*"tpu_worker.sh run"*) exit "$(next CODES)"',
      f'*"tpu_worker.sh run"*) echo $$ >> {pids}; exec sleep 60',
    )
  )
  process = subprocess.Popen(
    [LAUNCH / 'tpu_pod.sh', 'run'], env={**os.environ, **IRONWOOD}, start_new_session=True
  )
  wait_for(lambda: len(pids.read_text().split()) == 2)
  os.killpg(process.pid, signal.SIGINT)
  process.wait(timeout=20)
  command_lines = [pathlib.Path('/proc', pid, 'cmdline') for pid in pids.read_text().split()]
  wait_for(lambda: not any(x.exists() and x.read_bytes() for x in command_lines))


def test_training_goes_on_only_on_all_hosts(commands):
  """With a host missing from the list, training does not start on the others."""
  gcloud = """
  case "$*" in
    *instanceStatus*) printf "RUNNING,NONE\\nRUNNING,NONE\\n";;
    *basename*) echo pod-0;;
  esac"""
  calls = commands(gcloud=gcloud)
  done = run('tpu_pod.sh', 'status', **IRONWOOD)
  assert (done.returncode, done.stdout) == (255, 'pod: ACTIVE\n')
  assert done.stderr == 'tpu_pod.sh: pod has 1 instead of 2 hosts.\n'
  assert not [call for call in calls() if 'ssh' in call]


def test_tpu_pod_gives_up_on_errors_in_a_row(commands, tmp_path):
  calls = commands(sleep='', gcloud='case "$*" in *describe*) echo ACTIVE;; *) exit 1;; esac')
  failed = run('tpu_pod.sh', 'run', '--config.lr=1e-3', **TPU, RETRIES='2')
  assert failed.returncode == 1
  assert 'error: Training failed 3 times in a row. See: ' in failed.stderr
  assert calls().count(TRAIN) == 3
  local_workdir = run('tpu_pod.sh', 'run', **{**TPU, 'WORKDIR': 'runs/x'})
  assert local_workdir.returncode == 1
  assert local_workdir.stderr == (
    'error: All hosts must share the workdir. Set WORKDIR=gs://BUCKET/DIR.\n'
  )


@pytest.fixture
def worker(tmp_path):
  """Return a function that runs tpu_worker.sh, with a shell script in the place of training."""
  program = tmp_path / 'python'
  program.write_text(
    '#!/usr/bin/env bash\necho "step 1 of $*"\n'
    'trap "echo saved; exit 42" TERM\n'
    f'while [[ ! -e {tmp_path}/end ]]; do sleep .1; done; exit 3\n'
  )
  program.chmod(0o755)
  env = dict(STATE=str(tmp_path / 'state'), PYTHON=str(program))
  yield lambda *args: subprocess.Popen(
    [LAUNCH / 'tpu_worker.sh', *args],
    env={**os.environ, **env},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    start_new_session=True,
  )
  (tmp_path / 'end').touch()


def test_tpu_worker_trains_without_the_connection(worker, tmp_path):
  first = worker('run', '--config=c.py', '--workdir=gs://a b')
  log = tmp_path / 'state' / 'log'
  wait_for(lambda: log.exists() and 'step 1' in log.read_text())
  os.killpg(first.pid, signal.SIGKILL)  # the connection is lost
  first.communicate()
  again = worker('run', '--config=c.py', '--workdir=gs://a b')
  time.sleep(0.5)
  assert 'training: step 1 of -m vit_jax.main --config=c.py' in worker('status').communicate()[0]
  (tmp_path / 'end').touch()
  assert 'step 1' in again.communicate(timeout=20)[0] and again.returncode == 3
  assert log.read_text().count('step 1 of -m vit_jax.main --config=c.py --workdir=gs://a b\n') == 1
  assert 'ended with 3' in worker('status').communicate()[0]


def test_tpu_worker_stops_and_saves(worker, tmp_path):
  training = worker('run')
  wait_for(lambda: 'step 1' in training.stdout.readline())
  assert worker('stop').wait() == 0
  assert 'saved' in training.communicate(timeout=20)[0] and training.returncode == 42


def wait_for(true, seconds=60):
  until = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < until
    time.sleep(0.05)


def directives():
  lines = (LAUNCH / 'slurm.sbatch').read_text().splitlines()
  return dict(
    line.split('--', 1)[1].split('=') if '=' in line else (line.split('--', 1)[1], None)
    for line in lines
    if line.startswith('#SBATCH')
  )


@pytest.mark.parametrize(
  'code, state, again',
  [(42, 'RUNNING', True), (42, 'COMPLETING', False), (0, 'RUNNING', False), (1, 'RUNNING', False)],
)
def test_slurm_requeues_what_was_preempted(commands, code, state, again):
  """One task per GPU, time to save before the limit, and no requeue after scancel."""
  options = directives()
  assert options['ntasks-per-node'] == options['gpus-per-node'] == '8'
  assert options['signal'] == 'TERM@180' and {'requeue', 'time', 'nodes'} <= options.keys()
  calls = commands(srun=f'exit {code}', squeue=f'echo {state}', scontrol='')
  done = run(
    'slurm.sbatch',
    '--config=c.py',
    '--workdir=/s/x',
    SLURM_JOB_ID='17',
    SLURM_CPUS_PER_TASK='12',
    PYTHON='py',
  )
  assert done.returncode == code
  assert calls()[0] == [
    'srun',
    '--kill-on-bad-exit=0',
    '--wait=120',
    '--cpus-per-task=12',
    'py',
    '-m',
    'vit_jax.main',
    '--config=c.py',
    '--workdir=/s/x',
  ]
  assert (['scontrol', 'requeue', '17'] in calls()) == again


def test_gke_jobset_restarts_all_hosts_together():
  jobset = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  assert jobset['metadata']['annotations'] == {
    'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
  }
  policy = jobset['spec']['failurePolicy']
  assert policy == {
    'maxRestarts': 3,
    'rules': [
      {'action': 'RestartJobSetAndIgnoreMaxRestarts', 'onJobFailureReasons': ['PodFailurePolicy']}
    ],
  }
  (replicated,) = jobset['spec']['replicatedJobs']
  assert replicated['replicas'] == 1
  job = replicated['template']['spec']
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert job['completionMode'] == 'Indexed' and job['backoffLimit'] == 0
  assert pod['restartPolicy'] == 'Never'  # podFailurePolicy allows nothing else
  assert job['podFailurePolicy']['rules'] == [
    {
      'action': 'FailJob',
      'onExitCodes': {'containerName': container['name'], 'operator': 'In', 'values': [42]},
    },
    {'action': 'FailJob', 'onPodConditions': [{'type': 'DisruptionTarget'}]},
  ]
  assert pod['terminationGracePeriodSeconds'] >= 60

  chips = container['resources']['limits']['google.com/tpu']
  rows, columns = map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
  assert job['parallelism'] == job['completions'] == rows * columns // chips
  assert f'--num_devices={rows * columns}' in container['args']
  assert pod['nodeSelector']['cloud.google.com/gke-tpu-accelerator'] == 'tpu-v5-lite-podslice'
  assert all(isinstance(e['value'], str) for e in container['env'])
  assert 8482 in [port['containerPort'] for port in container['ports']]  # JAX's own port on TPUs
  flags = [arg.split('=')[0] for arg in container['args']]
  assert flags == ['--config', '--workdir', '--num_devices', '--start_timeout']


def test_gke_jobset_says_what_tpu7x_wants():
  """A chip is two devices, and a host has four chips."""
  text = (LAUNCH / 'gke_jobset.yaml').read_text()
  (row,) = re.findall(r'^#  +tpu7x +(\S+) +(\d+) +(\d+) +--num_devices=(\d+)$', text, re.M)
  topology, hosts, chips, devices = row[0], *map(int, row[1:])
  assert chips == 4 and math.prod(map(int, topology.split('x'))) == hosts * chips
  assert devices == 2 * hosts * chips
  (other,) = re.findall(
    r'^#  +tpu-v5-lite-podslice +4x4 +(\d+) +(\d+) +--num_devices=16$', text, re.M
  )
  assert other == ('4', '4')  # what the file itself has


def small(workdir, data_dir, *flags):
  return (
    '--config=configs/quickstart.py',
    f'--workdir={workdir}',
    f'--config.data_dir={data_dir}',
    '--config.num_layers=1',
    '--config.hidden_dim=32',
    '--config.mlp_dim=64',
    '--config.num_heads=2',
    '--config.batch_size=8',
    '--config.total_steps=60',
    '--config.save_every=0',
    '--config.log_every=5',
    '--config.eval_split=test[:20]',
    *flags,
  )


def local(*args):
  env = {
    **os.environ,
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'DEVICES': '2',
    'PYTHON': sys.executable,
  }
  return subprocess.Popen(
    [LAUNCH / 'local.sh', *args],
    cwd=ROOT,
    env=env,
    text=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )


@pytest.mark.slow
@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT])
def test_local_trains_on_two_processes(tmp_path, digits_dir, sig):
  """A signal reaches both processes, which save and exit with 42. The same command resumes."""
  flags = small(tmp_path, digits_dir)
  record = tmp_path / 'metrics.jsonl'
  process = local('2', *flags)
  wait_for(lambda: (record.exists() and record.read_text()) or process.poll() is not None)
  process.send_signal(sig)
  _, log = process.communicate(timeout=120)
  assert process.returncode == 42 and '4 device(s): cpu' in log, log
  assert log.count('and saved. Run the same command again to continue.') == 1
  if sig == signal.SIGTERM:
    process = local('2', *flags)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0 and 'Resuming from step' in log, log


def test_local_fails_when_one_fails(tmp_path, digits_dir):
  process = local('2', *small(tmp_path, digits_dir, '--config.batch_size=7'))
  _, log = process.communicate(timeout=120)
  assert process.returncode == 1
  assert 'error: batch_size=7 does not divide over 4 devices. ' in log
