"""A scripted provider for the faults that `cirque demo` does not have.

The model's name says what happens: `origin/SCRIPT`, or `origin/SCRIPT@TAG` so that the calls of one
test can be told from those of another. `GET /hits?model=…` counts them. Streams that break speak the
dialect of the path; what is said whole is chat alone.
"""

import gzip
import json
import socket
import struct
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
    name = f"event: {payload['type']}\n" if "type" in payload else ""
    return f"{name}data: {json.dumps(payload)}\n\n".encode()


def opening(path):
    """A stream of this path's dialect, up to and with its first word."""
    if path.endswith("/messages"):
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_origin", "type": "message", "role": "assistant", "model": "origin"}
        message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": "Half a"}
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
        ]
    if path.endswith("/responses"):
        response = {"id": "resp_origin", "object": "response", "created_at": 1790000000}
        response |= {"model": "origin", "status": "in_progress", "output": [], "error": None}
        item = {"id": "msg_origin", "type": "message", "role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        at = {"item_id": "msg_origin", "output_index": 0, "content_index": 0}
        return [
            {"type": "response.created", "sequence_number": 0, "response": response},
            {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item},
            {"type": "response.content_part.added", "sequence_number": 2, **at, "part": part},
            {"type": "response.output_text.delta", "sequence_number": 3, **at, "delta": "Half a"},
        ]
    return [chunk({"role": "assistant", "content": ""}), chunk({"content": "Half a"})]


def failure(path):
    """What a provider of this path's dialect says in a stream when it fails."""
    if path.endswith("/messages"):
        return {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    if path.endswith("/responses"):
        error = {"code": "server_error", "message": "provider went away"}
        response = {**opening(path)[0]["response"], "status": "failed", "error": error}
        return {"type": "response.failed", "sequence_number": 4, "response": response}
    error = {"code": 502, "message": "provider went away"}
    return chunk({"content": ""}, "error", error=error)


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

    def limited(self, body):
        """No more for now."""
        error = {"message": "slow down", "type": "rate_limit_error", "param": None, "code": None}
        self.reply(429, {"error": error}, {"retry-after": "30"})

    def error_in_200(self, body):
        self.reply(200, {"error": {"message": "overloaded inside", "code": 502}})

    def padded_error_in_200(self, body):
        """As OpenRouter does: the status and white space first, and then what became of it."""
        self.head(200, "application/json", {"transfer-encoding": "chunked"})
        for _ in range(20):
            self.chunk(b"\n         \n")
        self.chunk(json.dumps({"error": {"message": "overloaded inside", "code": 502}}).encode())
        self.end_chunks()

    def hang(self, body):
        """No byte of an answer."""
        self.rfile.read(1)
        self.close_connection = True

    def closed(self, body):
        """The end of the connection instead of an answer."""
        self.close_connection = True

    def reset(self, body):
        """RST instead of an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def half_body(self, body):
        """Fewer bytes than promised."""
        self.half_of(json.dumps(chat("whole")).encode())

    def half_of_a_large_body(self, body):
        """The same, once so much has been sent on that nobody else can be asked."""
        self.half_of(json.dumps(chat("whole " * 40_000)).encode())

    def half_of(self, text):
        self.head(200, "application/json", {"content-length": str(len(text))})
        self.wfile.write(text[: len(text) // 2])
        self.close_connection = True

    def no_stream(self, body):
        """A whole answer, also where a stream was asked for."""
        self.reply(200, chat("Whole"))

    def half_json(self, body):
        """Half an answer, in a reply that is in order."""
        text = json.dumps(chat("Whole")).encode()
        half = text[: len(text) // 2]
        self.head(200, "application/json", {"content-length": str(len(half))})
        self.wfile.write(half)

    def html(self, body):
        """The page of some box in between."""
        page = b"<html><h1>Sign in</h1></html>"
        self.head(200, "text/html", {"content-length": str(len(page))})
        self.wfile.write(page)

    def short_chunk(self, body):
        """A chunk of a size that it does not have."""
        self.head(200, "application/json", {"transfer-encoding": "chunked"})
        self.wfile.write(b"ff\r\n{}\r\n0\r\n\r\n")
        self.close_connection = True

    def gzip(self, body):
        """A good answer, compressed although nobody asked for that."""
        if body.get("stream"):
            events = chunk({"content": "Whole"}), chunk({}, "stop")
            text = b"".join(event(payload) for payload in events) + b"data: [DONE]\n\n"
        else:
            text = json.dumps(chat("Whole")).encode()
        self.gzipped(body, gzip.compress(text))

    def gzip_cut(self, body):
        """The same, of which a half arrives."""
        text = b"".join(event(chunk({"content": f"word {n} "})) for n in range(50))
        whole = gzip.compress(text)
        self.gzipped(body, whole[: len(whole) // 2], is_whole=False)

    def gzipped(self, body, data, is_whole=True):
        kind = "text/event-stream" if body.get("stream") else "application/json"
        self.head(200, kind, {"transfer-encoding": "chunked", "content-encoding": "gzip"})
        self.chunk(data)
        self.wfile.flush()
        if is_whole:
            return self.end_chunks()
        self.close_connection = True

    def comments_then_error(self, body):
        self.stream()
        self.chunk(b": PROCESSING\n\n" * 3)
        self.chunk(event(failure(self.path)))
        self.end_chunks()

    def comments_then_cut(self, body):
        self.stream()
        self.chunk(b": PROCESSING\n\n")
        self.close_connection = True

    def empty_stream(self, body):
        self.stream()
        self.end_chunks()

    def error_mid_stream(self, body):
        self.stream(*opening(self.path), failure(self.path))
        self.end_chunks()

    def truncated(self, body):
        """Ends as HTTP says, without `finish_reason` and `[DONE]`."""
        self.stream(*opening(self.path))
        self.end_chunks()

    def cut(self, body):
        """The connection ends before the last chunk."""
        self.stream(*opening(self.path))
        self.close_connection = True

    def cut_in_an_event(self, body):
        """The same, in the middle of an event."""
        self.stream(*opening(self.path))
        whole = event(opening(self.path)[-1])
        self.chunk(whole[: len(whole) // 2])
        self.close_connection = True

    def short_chunk_mid_stream(self, body):
        self.stream(*opening(self.path))
        self.wfile.write(b"ff\r\n: ?\n\n\r\n0\r\n\r\n")
        self.close_connection = True

    def garbled(self, body):
        """Ends in lines that are no events."""
        self.stream(*opening(self.path))
        self.chunk(b"<html>\n<h1>502 Bad Gateway</h1>\n</html>\n\n")
        self.end_chunks()

    def stalled(self, body):
        """Silence after the first word."""
        self.stream(*opening(self.path))
        self.rfile.read(1)
        self.close_connection = True

    def cut_after_the_last_word(self, body):
        """Says why it stopped, and ends without the end mark: whole all the same."""
        self.stream(chunk({"content": "Whole"}), chunk({}, "stop"))
        self.close_connection = True

    def stream(self, *payloads):
        self.head(200, "text/event-stream", {"transfer-encoding": "chunked"})
        for payload in payloads:
            self.chunk(event(payload))
        self.wfile.flush()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

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
