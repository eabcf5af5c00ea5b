"""A receiver on Python's own WSGI server: answers with what it saw.

WSGI folds header names: `Countersign-Verified` and `Countersign_Verified` are the same variable to the application.
"""

import hashlib
import json
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    seen = {
        "variables": {k: v for k, v in environ.items() if k.startswith("HTTP_")},
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


server = make_server("127.0.0.1", 0, application, handler_class=Quiet)
print("port", server.server_port, flush=True)
server.serve_forever()
