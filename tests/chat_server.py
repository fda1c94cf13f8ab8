"""Real servers on this machine: one that speaks JSON, and on it OpenAI's chat protocol with replies from a function."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JsonHandler(BaseHTTPRequestHandler):
    def say(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def running(handler):
    """Yields the server, at a free port of this machine."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield web
    finally:
        web.shutdown()
        web.server_close()


@contextmanager
def serve(answer, model="tiny"):
    """Yields the server: `address`, `requests` so far, and `busy`, how many of the first ones are turned away.

    answer: request -> (text, tokens of the prompt, tokens of the reply, whether the model ended it), or ValueError with
    the words of a refusal.
    """
    lock = threading.Lock()

    class Handler(JsonHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                web.requests.append(asked)
                if len(web.requests) <= web.busy:
                    self.send_error(503)
                    return
                if asked["model"] != model:
                    self.send_error(404, "no such model")
                    return
                try:
                    text, read, written, ended = answer(asked)
                except ValueError as refusal:
                    self.say(400, {"object": "error", "message": str(refusal), "code": 400})
                    return
            message = {"role": "assistant", "content": text}
            self.say(200, {
                "id": "1", "object": "chat.completion", "created": 0, "model": model, "system_fingerprint": "",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop" if ended else "length"}],
                "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            })  # fmt: skip

    with running(Handler) as web:
        web.requests, web.busy = [], 0
        web.address = f"http://127.0.0.1:{web.server_port}/v1"
        yield web
