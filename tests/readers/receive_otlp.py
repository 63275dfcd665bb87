"""Receives OTLP over HTTP, and decodes it by the reference definitions of its messages (opentelemetry-proto on PyPI).

Prints where it listens, then one JSON object for each request. How it answers says its first argument, and from then on
each line of its standard input: `ok`, `busy` (503), `partial` (takes all but 3 data points), `silent` (never).
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.metrics.v1 import metrics_pb2

manner = sys.argv[1]
printing = threading.Lock()


def tell(value):
    with printing:
        # Nothing in it ends the line: what is no ASCII is escaped.
        print(json.dumps(value), flush=True)


def attributes(pairs):
    """As pairs, since a key must not be there twice, which is for others to see."""
    return [[pair.key, getattr(pair.value, pair.value.WhichOneof("value"))] for pair in pairs]


def number(point):
    return {
        "attributes": attributes(point.attributes),
        "start": point.start_time_unix_nano,
        "time": point.time_unix_nano,
        "value": getattr(point, point.WhichOneof("value")),
    }


def histogram(point):
    return {
        "attributes": attributes(point.attributes),
        "start": point.start_time_unix_nano,
        "time": point.time_unix_nano,
        "count": point.count,
        "sum": point.sum,
        "scale": point.scale,
        "zero_count": point.zero_count,
        "offset": point.positive.offset,
        "buckets": list(point.positive.bucket_counts),
        "negative": len(point.negative.bucket_counts),
    }


def metric(one):
    kind = one.WhichOneof("data")
    data = getattr(one, kind)
    told = {"name": one.name, "description": one.description, "unit": one.unit, "kind": kind}
    if kind != "gauge":
        temporality = data.aggregation_temporality
        told["temporality"] = metrics_pb2.AggregationTemporality.Name(temporality)
    if kind == "sum":
        told["monotonic"] = data.is_monotonic
    read = histogram if kind == "exponential_histogram" else number
    told["points"] = [read(point) for point in data.data_points]
    return told


def decoded(body):
    request = service.ExportMetricsServiceRequest.FromString(body)
    [resource] = request.resource_metrics
    [scope] = resource.scope_metrics
    told = {
        "resource": attributes(resource.resource.attributes),
        "scope": [scope.scope.name, scope.scope.version],
        "metrics": [metric(one) for one in scope.metrics],
    }
    # Fields that the definitions do not have, or of another type than they say.
    whole = request.ByteSize()
    request.DiscardUnknownFields()
    return told | {"unknown_bytes": whole - request.ByteSize()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        now = manner
        told = {"path": self.path, "type": self.headers["Content-Type"], "manner": now}
        try:
            told |= decoded(body)
        except Exception as error:
            told["error"] = repr(error)
        tell(told)
        response = service.ExportMetricsServiceResponse()
        if now == "silent":
            threading.Event().wait()
        elif now == "busy":
            # google.rpc.Status with a message.
            self.answer(503, b"\x12\x04busy")
        elif now == "partial":
            response.partial_success.rejected_data_points = 3
            response.partial_success.error_message = "too\x1b[2J\nmany"
        if now in ("ok", "partial"):
            self.answer(200, response.SerializeToString())


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
tell({"port": server.server_address[1]})
for line in sys.stdin:
    manner = line.strip()
