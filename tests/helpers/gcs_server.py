"""Run an emulator of Google Cloud Storage with a bucket named `bucket`, in memory.

    python -m tests.helpers.gcs_server

Prints its port. It is gcp-storage-emulator, with what TensorStore needs and with failures on
demand: POST /fail?seconds=3 lets all requests fail for 3 seconds.
"""

import functools
from http import server as http_server
import itertools
import logging
import threading
import time
import urllib.parse

FAILURES = (503, 429, 'reset')  # what happens to requests that fail, in turn


def main():
  from gcp_storage_emulator import server
  from gcp_storage_emulator.handlers import buckets, objects
  from gcp_storage_emulator.storage import Storage

  logging.disable(logging.CRITICAL)

  def download(request, response, storage, *args, **kwargs):
    objects.download(request, response, storage, *args, **kwargs)
    if response.status in (200, 206):
      name = request.params['bucket_name'], request.params['object_id']
      response['x-goog-generation'] = storage.get_file_obj(*name)['generation']

  for _, handlers in server.HANDLERS:
    for method, handler in handlers.items():
      if handler is objects.download:
        handlers[method] = download

  class Handler(server.RequestHandler):
    protocol_version = 'HTTP/1.1'
    lock = threading.Lock()
    failing_until = 0.0
    failures = itertools.cycle(FAILURES)

    def handle_one_request(self):
      try:
        super().handle_one_request()
      except ConnectionError:
        self.close_connection = True

    def parse_request(self):
      """Answer with a failure instead, if it is time for that."""
      if not super().parse_request():
        return False
      url = urllib.parse.urlsplit(self.path)
      if url.path == '/fail':
        seconds = float(urllib.parse.parse_qs(url.query)['seconds'][0])
        Handler.failing_until = time.monotonic() + seconds
        self.answer(200)
        return False
      if time.monotonic() < Handler.failing_until:
        failure = next(self.failures)
        if failure == 'reset':
          self.close_connection = True
          return False
        self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.answer(failure)
        return False
      return True

    def answer(self, status):
      self.send_response(status)
      self.send_header('Content-Length', '0')
      self.end_headers()

  def locked(method):
    @functools.wraps(method)
    def call(self):
      with self.lock:
        method(self)

    return call

  for name in ('do_GET', 'do_POST', 'do_DELETE', 'do_PUT', 'do_PATCH'):
    setattr(Handler, name, locked(getattr(Handler, name)))
  storage = Storage(use_memory_fs=True)
  buckets.create_bucket('bucket', storage)
  httpd = http_server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, storage))
  print(httpd.server_address[1], flush=True)
  httpd.serve_forever()


if __name__ == '__main__':
  main()
