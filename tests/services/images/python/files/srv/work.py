# SPDX-License-Identifier: Apache-2.0
"""What Python leans on a kernel for, each a line `ok NAME` or the traceback; then a service."""

import asyncio
import concurrent.futures
import http.server
import mmap
import os
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import zlib

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def square(number):
    return number * number


@check
def processes():
    with concurrent.futures.ProcessPoolExecutor(4) as pool:
        assert sum(pool.map(square, range(1000), chunksize=50)) == 332833500


@check
def threads():
    lock, total = threading.Lock(), [0]

    def add():
        for _ in range(1000):
            with lock:
                total[0] += 1

    crowd = [threading.Thread(target=add) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert total[0] == 8000


@check
def database():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.db")
        one = sqlite3.connect(path)
        assert one.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        one.execute("create table t (n integer primary key, text)")
        with one:
            one.executemany("insert into t values (?, ?)", ((n, str(n) * 10) for n in range(5000)))
        other = sqlite3.connect(path)
        assert other.execute("select count(*), sum(n) from t").fetchone() == (5000, 12497500)
        assert other.execute("pragma integrity_check").fetchone() == ("ok",)


@check
def events():
    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def ask(port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(20):
            writer.write(f"hello {number} {turn}\n".encode())
            assert await reader.readline() == f"HELLO {number} {turn}\n".encode()
        writer.close()

    async def crowd():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(ask(port, number) for number in range(50)))
        server.close()

    asyncio.run(crowd())


@check
def mapped_files():
    with tempfile.TemporaryFile() as file:
        file.truncate(8 << 20)
        with mmap.mmap(file.fileno(), 0) as pages:
            for at in range(0, 8 << 20, 4096):
                pages[at : at + 4] = at.to_bytes(4, "little")
            pages.flush()
        file.seek(4096 * 77)
        assert int.from_bytes(file.read(4), "little") == 4096 * 77


@check
def programs():
    found = subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True)
    assert (found.returncode, found.stdout, found.stderr) == (3, b"out\n", b"err\n")


@check
def alarms():
    rang = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    while len(rang) < 5:
        signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)


@check
def names_of_hosts():
    assert socket.gethostbyname("localhost") == "127.0.0.1"
    assert socket.gethostbyname(socket.gethostname())


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        said = f"{len(body)} {zlib.crc32(body)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    for one in CHECKS:
        one()
        print("ok", one.__name__, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("serving", flush=True)
    Server(("0.0.0.0", 8000), Service).serve_forever()
