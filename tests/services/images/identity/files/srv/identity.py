# SPDX-License-Identifier: Apache-2.0
"""Processes that go on in copies of their machine: two that make random values, of which one is
told of its rebirth by a hook (port 8001) and one is not (8002), one with timers and a TLS client
(8003), and one that keeps connections (8004). Each answers a word in a line, and closes."""

import ctypes
import errno
import os
import random
import secrets
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import uuid

libc = ctypes.CDLL(None, use_errno=True)
libuuid = ctypes.CDLL("libuuid.so.1")
libcrypto = ctypes.CDLL("libcrypto.so.3")
WEEK = 7 * 24 * 3600


def uuid_of(function):
    place = ctypes.create_string_buffer(16)
    function(place)
    return uuid.UUID(bytes=place.raw)


def values():
    """One of each source, always in this order."""
    yield "urandom", os.urandom(16).hex()
    yield "secrets", secrets.token_hex(16)
    yield "uuid4", uuid.uuid4()
    yield "libuuid", uuid_of(libuuid.uuid_generate_random)
    yield "openssl", ssl.RAND_bytes(16).hex()
    yield "random", f"{random.getrandbits(128):032x}"
    by_time = uuid_of(libuuid.uuid_generate_time)
    yield "timeuuid", by_time
    yield "timenode", f"{by_time.node:012x}"


def said(pairs):
    return "".join(f"{name} {value}\n" for name, value in pairs)


def reseed(*_):
    random.seed(os.urandom(32))
    assert libcrypto.RAND_poll() == 1


class Timer:
    """timerfd_create(2), which this Python does not have by itself."""

    ABSOLUTE, CANCEL_ON_SET = 1, 2

    def __init__(self, clock, seconds, flags=0):
        self.clock = clock
        self.due = seconds if flags & self.ABSOLUTE else time.clock_gettime(clock) + seconds
        self.fd = libc.timerfd_create(clock, 0)
        whole = int(seconds)
        spec = struct.pack("qqqq", 0, 0, whole, int((seconds - whole) * 1e9))
        if self.fd < 0 or libc.timerfd_settime(self.fd, flags, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd")

    def wait(self):
        try:
            os.read(self.fd, 8)
        except OSError as error:
            return errno.errorcode[error.errno]
        late = time.clock_gettime(self.clock) - self.due
        return f"early by {-late:.3f}" if late < 0 else f"fired {late:.3f}"


def slept(seconds):
    until = time.monotonic() + seconds
    time.sleep(seconds)
    late = time.monotonic() - until
    return f"early by {-late:.3f}" if late < 0 else f"fired {late:.3f}"


def waited(seconds):
    until = time.monotonic() + seconds
    condition = threading.Condition()
    with condition:
        condition.wait(seconds)
    late = time.monotonic() - until
    return f"early by {-late:.3f}" if late < -0.001 else f"fired {late:.3f}"


timers = {}


def arm():
    """Due in some seconds, in an hour, in eight days, and never."""
    now = time.time()
    kinds = {
        "monotonic": Timer(time.CLOCK_MONOTONIC, 4).wait,
        "boottime": Timer(time.CLOCK_BOOTTIME, 4).wait,
        "sleep": lambda: slept(4),
        "condition": lambda: waited(4),
        "in-an-hour": Timer(time.CLOCK_REALTIME, now + 3600, Timer.ABSOLUTE).wait,
        "in-eight-days": Timer(time.CLOCK_REALTIME, now + WEEK + 86400, Timer.ABSOLUTE).wait,
        "cancelled": Timer(
            time.CLOCK_REALTIME, now + WEEK + 86400, Timer.ABSOLUTE | Timer.CANCEL_ON_SET
        ).wait,
    }

    def run(name, wait):
        timers[name] = wait()

    for name, wait in kinds.items():
        timers[name] = "waits"
        threading.Thread(target=run, args=(name, wait), daemon=True).start()
    return "armed\n"


def tls():
    """What a client here thinks of a server with a certificate that is a moment old."""
    context = ssl.create_default_context(cafile="/tmp/fresh.crt")
    try:
        with socket.create_connection(("127.0.0.1", 4433), 30) as plain:
            with context.wrap_socket(plain, server_hostname="fresh.test") as wrapped:
                return f"trusted {wrapped.version()}\n"
    except ssl.SSLCertVerificationError as error:
        return f"refused {error.verify_message}\n"


def answer(word):
    match word:
        case "values":
            return said(values())
        case "arm":
            return arm()
        case "timers":
            return said(timers.items())
        case "tls":
            return tls()
        case "time":
            return f"{time.time():.0f}\n"
    return "what?\n"


def ask_and_answer(port):
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write(answer(stream.readline().strip()))


def keep(port):
    """Lines come back; an end that was not asked for is told in this machine's output."""
    listener = socket.create_server(("0.0.0.0", port))

    def echo(connection):
        try:
            with connection:
                while line := connection.recv(100):
                    connection.sendall(line)
            print("connection closed", flush=True)
        except OSError as error:
            print("connection", errno.errorcode[error.errno], flush=True)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def child(work, *arguments):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(*arguments)
        os._exit(1)
    return pid


def hooked():
    # What was signalled before there was a handler would end it.
    signal.signal(signal.SIGHUP, reseed)
    with open("/run/hooked.pid", "w") as file:
        file.write(str(os.getpid()))
    ask_and_answer(8001)


children = [child(hooked), child(ask_and_answer, 8002), child(ask_and_answer, 8003), child(keep, 8004)]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while not os.path.exists("/run/hooked.pid") or not os.path.getsize("/run/hooked.pid"):
    time.sleep(0.01)
print("serving", flush=True)
os.wait()
print("a process ended", flush=True)
