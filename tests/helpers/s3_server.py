"""Run an emulator of Amazon's S3 (moto) with a bucket named `bucket`. Prints its port.

python -m tests.helpers.s3_server
"""

import logging
import threading

import boto3
from moto.server import ThreadedMotoServer


def main():
  logging.disable(logging.CRITICAL)
  server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  client = boto3.client(
    's3',
    endpoint_url=f'http://{host}:{port}',
    aws_access_key_id='test',
    aws_secret_access_key='test',
    region_name='us-east-1',
  )
  client.create_bucket(Bucket='bucket')
  print(port, flush=True)
  threading.Event().wait()


if __name__ == '__main__':
  main()
