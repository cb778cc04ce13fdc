"""A scripted provider for the faults that `cirque demo` does not have.

The model's name says what happens: `origin/SCRIPT`, or `origin/SCRIPT@TAG` so that the calls of one
test can be told from those of another. `GET /hits?model=…` counts them.
"""

import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HITS = Counter()
# Longer than any timeout of the gateway's configuration.
HANG_SECONDS = 30


def chat(content, **more):
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-origin",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "origin",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        **more,
    }


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-origin",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "origin",
        "choices": [choice],
        **more,
    }


def event(payload):
    return f"data: {json.dumps(payload)}\n\n".encode()


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = HANG_SECONDS

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/hits":
            model = parse_qs(url.query).get("model", [""])[0]
            return self.reply(200, {"hits": HITS[model]})
        return self.reply(200, {"object": "list", "data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        HITS[body["model"]] += 1
        script = body["model"].removeprefix("origin/").split("@")[0]
        if script.startswith("status-"):
            status = int(script.removeprefix("status-"))
            error = {"message": "scripted", "type": "server_error", "param": None, "code": None}
            return self.reply(status, {"error": error}, {"retry-after": "1"})
        return getattr(self, script.replace("-", "_"))(body)

    def echo(self, body):
        """Says what arrived."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.reply(200, chat(json.dumps({"headers": headers, "body": body}), novelty={"x": [1]}))

    def bad_argument(self, body):
        error = {
            "message": "Unrecognized request argument supplied: zest",
            "type": "invalid_request_error",
            "param": "zest",
            "code": "unknown_argument",
        }
        self.reply(400, {"error": error})

    def error_in_200(self, body):
        self.reply(200, {"error": {"message": "overloaded inside", "code": 502}})

    def hang(self, body):
        """No byte of an answer."""
        self.rfile.read(1)
        self.close_connection = True

    def half_body(self, body):
        """Fewer bytes than promised."""
        text = json.dumps(chat("whole")).encode()
        self.head(200, "application/json", {"content-length": str(len(text))})
        self.wfile.write(text[: len(text) // 2])
        self.close_connection = True

    def error_mid_stream(self, body):
        error = {"code": 502, "message": "provider went away"}
        self.stream(chunk({"content": "Half a"}), chunk({"content": ""}, "error", error=error))
        self.end_chunks()

    def truncated(self, body):
        """Ends as HTTP says, without `finish_reason` and `[DONE]`."""
        self.stream(chunk({"content": "Half a"}))
        self.end_chunks()

    def cut(self, body):
        """The connection ends before the last chunk."""
        self.stream(chunk({"content": "Half a"}))
        self.close_connection = True

    def stalled(self, body):
        """Silence after the first word."""
        self.stream(chunk({"content": "Half a"}))
        self.rfile.read(1)
        self.close_connection = True

    def stream(self, *payloads):
        self.head(200, "text/event-stream", {"transfer-encoding": "chunked"})
        for payload in payloads:
            data = event(payload)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_chunks(self):
        self.wfile.write(b"0\r\n\r\n")

    def reply(self, status, payload, headers=None):
        data = json.dumps(payload).encode()
        self.head(status, "application/json", {"content-length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def head(self, status, content_type, headers):
        self.send_response(status)
        self.send_header("content-type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A gateway that gives up on a call is what some scripts are for."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Origin)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
