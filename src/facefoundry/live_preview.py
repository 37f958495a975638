"""The live picture in a browser on this machine: Motion JPEG over HTTP on the loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from facefoundry.errors import FoundryError
from facefoundry.images import Image, encode_jpeg

BOUNDARY = "frame"


class Preview:
    """`show` a picture, and every browser at `address` sees it."""

    def __init__(self, port: int = 0) -> None:
        """port 0 takes a free one. Raises FoundryError for a port that is taken."""
        self._fresh, self._jpeg, self._open = threading.Condition(), b"", True
        preview = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                preview._stream(self)

            def log_message(self, *args: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise FoundryError(f"port {port}: {error.strerror}; give another --port") from error
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, image: Image) -> None:
        with self._fresh:
            self._jpeg = encode_jpeg(image, 80)
            self._fresh.notify_all()

    def _stream(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        request.send_header("Content-Type", kind)
        request.send_header("Cache-Control", "no-store")
        request.end_headers()
        try:
            while self._open:
                with self._fresh:
                    self._fresh.wait(1.0)
                    jpeg = self._jpeg
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
                request.wfile.write(head + jpeg + b"\r\n")
        except OSError:
            pass  # the browser has gone

    def close(self) -> None:
        self._open = False
        self._server.shutdown()
        self._server.server_close()
