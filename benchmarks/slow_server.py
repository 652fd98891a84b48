"""Serve a directory as a web site and as a bucket of Google Cloud Storage, like a slow network.

    python -m benchmarks.slow_server DIRECTORY --delay=0.05 --failures=0.02

Prints its port. The answer to GET /stats says how many requests were in flight since the last time
it was asked. After GET /heal, no request fails any more. This is no complete server: it knows what
reading needs.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import re
import time
from typing import Any
import urllib.parse

FAILURES = (503, 429, 'reset')  # what happens to requests that fail, in turn


class SlowServer:
  """Answers requests for the files in a directory."""

  def __init__(
    self,
    directory: str,
    delay: float = 0,
    failures: float = 0,
    whole: bool = False,
    missing: int = 404,
  ):
    """Remember the options.

    Args:
      directory: its files are at /NAME, and in a bucket of any name.
      delay: seconds to wait before every answer.
      failures: share of the requests for parts of files that fail.
      whole: send whole files to requests for parts of them.
      missing: HTTP status of the answer for files that do not exist.
    """
    self.root, self.delay, self.whole = pathlib.Path(directory).resolve(), delay, whole
    self.missing = missing
    self._every = round(1 / failures) if failures else 0
    self._failure = itertools.cycle(FAILURES)
    self._files: dict[str, int] = {}  # descriptors by path
    self._reset_stats()

  def _reset_stats(self) -> None:
    self._in_flight = getattr(self, '_in_flight', 0)
    self._most, self._requests, self._bytes, self._weighted = self._in_flight, 0, 0, 0.0
    self._since = self._changed = time.monotonic()

  def _count(self, change: int) -> None:
    now = time.monotonic()
    self._weighted += self._in_flight * (now - self._changed)
    self._changed = now
    self._in_flight += change
    self._most = max(self._most, self._in_flight)
    self._requests += change > 0

  def stats(self) -> dict[str, float]:
    """Return the numbers since the last call."""
    self._count(0)
    stats = dict(
      requests=self._requests,
      most_in_flight=self._most,
      mean_in_flight=self._weighted / max(1e-9, time.monotonic() - self._since),
      megabytes=self._bytes / 1e6,
    )
    self._reset_stats()
    return stats

  async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
      while head := await reader.readuntil(b'\r\n\r\n'):
        lines = head.decode('latin-1').split('\r\n')
        method, target, _ = lines[0].split(' ', 2)
        headers = {
          name.lower(): value.strip()
          for name, _, value in (line.partition(':') for line in lines[1:])
        }
        if length := int(headers.get('content-length', 0)):
          await reader.readexactly(length)  # of a request to write, which gets the answer 405
        if target == '/stats':
          self._write(writer, method, 200, json.dumps(self.stats()).encode())
          continue
        if target == '/heal':
          self._every = 0
          self._write(writer, method, 200, b'')
          continue
        self._count(1)
        try:
          if self.delay:
            await asyncio.sleep(self.delay)
          if 'range' in headers and self._every and self._requests % self._every == 0:
            failure = next(self._failure)
            if failure == 'reset':
              writer.transport.abort()
              return
            self._write(writer, method, int(failure), b'')
          else:
            self._answer(writer, method, target, headers.get('range'))
          await writer.drain()
        finally:
          self._count(-1)
    except (asyncio.IncompleteReadError, ConnectionError):
      pass  # the client has closed the connection
    finally:
      writer.close()

  def _answer(
    self, writer: asyncio.StreamWriter, method: str, target: str, span: str | None
  ) -> None:
    if method not in ('GET', 'HEAD'):
      self._write(writer, method, 405, b'')
      return
    url = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(url.query))
    if match := re.fullmatch(r'/storage/v1/b/[^/]+/o/?', url.path):
      self._write(writer, method, 200, json.dumps(self._list(query)).encode())
      return
    match = re.fullmatch(r'(?:/download)?/storage/v1/b/[^/]+/o/(.*)', url.path)
    name = urllib.parse.unquote(match[1] if match else url.path.lstrip('/'))
    path = self.root / name
    if not path.is_file():
      self._write(writer, method, self.missing, b'')
    elif match and 'alt' not in query:
      self._write(writer, method, 200, json.dumps(self._object(path)).encode())
    else:
      self._send_file(writer, method, path, span)

  def _list(self, query: dict[str, str]) -> dict[str, Any]:
    """Return what the directory `prefix` of the bucket holds."""
    directory = self.root / query.get('prefix', '')
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    return dict(
      items=[self._object(path) for path in entries if path.is_file()],
      prefixes=[f'{path.relative_to(self.root)}/' for path in entries if path.is_dir()],
    )

  def _object(self, path: pathlib.Path) -> dict[str, str]:
    return dict(name=str(path.relative_to(self.root)), size=str(path.stat().st_size))

  def _send_file(
    self, writer: asyncio.StreamWriter, method: str, path: pathlib.Path, span: str | None
  ) -> None:
    file = str(path)
    if file not in self._files:
      self._files[file] = os.open(file, os.O_RDONLY)
    size = os.fstat(self._files[file]).st_size
    if span is None or self.whole:
      body = os.pread(self._files[file], size, 0)
      self._write(writer, method, 200, body)
      return
    start, _, last = span.removeprefix('bytes=').partition('-')
    begin, end = int(start), min(int(last or size), size - 1)
    if begin >= size:
      self._write(writer, method, 416, b'')
      return
    body = os.pread(self._files[file], end + 1 - begin, begin)
    self._write(writer, method, 206, body, f'Content-Range: bytes {begin}-{end}/{size}\r\n')

  def _write(
    self, writer: asyncio.StreamWriter, method: str, status: int, body: bytes, headers: str = ''
  ) -> None:
    head = f'HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nAccept-Ranges: bytes\r\n'
    writer.write(f'{head}{headers}\r\n'.encode())
    if method != 'HEAD':
      writer.write(body)
      self._bytes += len(body)


async def serve(server: SlowServer) -> None:
  """Serve until the process ends. Print the port."""
  listening = await asyncio.start_server(server.handle, '127.0.0.1', 0, backlog=1024)
  print(listening.sockets[0].getsockname()[1], flush=True)
  await listening.serve_forever()


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('directory')
  parser.add_argument('--delay', type=float, default=0, help='seconds before every answer')
  parser.add_argument('--failures', type=float, default=0, help='share of requests that fail')
  parser.add_argument('--whole', type=int, default=0, help='1: send no parts of files')
  parser.add_argument('--missing', type=int, default=404, help='status for files that do not exist')
  asyncio.run(serve(SlowServer(**vars(parser.parse_args()))))


if __name__ == '__main__':
  main()
