# SPDX-License-Identifier: Apache-2.0
"""A server as many are: what it imports takes longer than all it does."""

import asyncio
import email.mime.multipart
import http.server
import logging.config
import multiprocessing
import signal
import sqlite3
import ssl
import sys
import unittest.mock
import xml.etree.ElementTree

import numpy

# Something that has to be there before the first answer.
TABLE = numpy.linalg.inv(numpy.arange(40000).reshape(200, 200) + 300 * numpy.eye(200))
USED = (asyncio, email.mime.multipart, logging.config, multiprocessing, sqlite3, ssl, unittest.mock, xml.etree)


class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = f"{TABLE.shape} of {len(USED)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Service).serve_forever()
