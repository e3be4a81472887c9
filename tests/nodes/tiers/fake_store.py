"""An S3-compatible store in a thread: objects in a dict, signatures looked at, faults on command."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nodes.tiers.signing import Credentials, signed

WHO = Credentials("AKID", "SECRET")
REGION = "eu-west-1"


class Store(ThreadingHTTPServer):
    """What it holds, and what is wrong with it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fault = ""  # refuse, cut, drop, garble, hang
        self.go_on = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what some tests are about."""

    def close(self) -> None:
        self.go_on.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        store = self.server
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        store.asked.append(self.command)
        if store.fault == "hang":
            store.go_on.wait()
        if store.fault == "drop":
            self.close_connection = True
            return
        if store.fault == "refuse":
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        elif not self._is_signed():
            self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif self.command == "PUT":
            store.objects[self.path] = body
            self._answer(200)
        elif self.path not in store.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, store.objects[self.path])

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.fault == "garble" and status == 200:
            body = bytes(len(body))
        if self.server.fault == "cut" and status == 200:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def _is_signed(self) -> bool:
        headers = self.headers
        payload, at, host = headers["x-amz-content-sha256"], headers["x-amz-date"], headers["host"]
        wanted = signed(self.command, host, self.path, payload, at, REGION, WHO)
        return headers["authorization"] == wanted["authorization"]

    do_GET = do_PUT = do_HEAD = _serve

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
