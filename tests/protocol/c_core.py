"""grpcio, hence gRPC's C-core, for the tests in grpc_clients.rs: one JSON command a line on stdin,
one JSON answer a line on stdout, with the command's id. Commands run side by side."""

import json
import queue
import sys
import threading
from concurrent import futures

import grpc

CHANNELS = {}
# For targets other than xds:///, once there are any.
CREDENTIALS = []
SERVERS = []
LOCK = threading.Lock()


def channel(target):
    with LOCK:
        if target not in CHANNELS:
            if CREDENTIALS:
                credentials, options = CREDENTIALS[-1]
                CHANNELS[target] = grpc.secure_channel(target, credentials, options)
            else:
                CHANNELS[target] = grpc.insecure_channel(target)
        return CHANNELS[target]


def trust(ca, certificate, key, name):
    """From now on channels that are not open yet use TLS."""
    own = [one.encode() if one else None for one in (ca, key, certificate)]
    options = [("grpc.ssl_target_name_override", name)]
    CREDENTIALS.append((grpc.ssl_channel_credentials(*own), options))
    with LOCK:
        CHANNELS.clear()
    return {}


def serve(name):
    """A workload: answers every call with its name."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, _details):
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: name.encode())

    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    SERVERS.append(server)
    return {"port": port}


def outcome(error):
    trailers = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    return {"code": error.code().name, "details": error.details(), "trailers": trailers}


def call(target, method, message, seconds, wait):
    """A unary call. With `wait`, an unready channel is waited for."""
    try:
        unary = channel(target).unary_unary(method)
        answer = unary(bytes(message), timeout=seconds, wait_for_ready=wait)
        return {"answer": list(answer)}
    except grpc.RpcError as error:
        return outcome(error)


def stream(target, method, messages, responses, seconds):
    """Opens a stream, sends the first of `messages`, each of the others after an answer, and ends it
    after so many `responses`."""
    requests = queue.SimpleQueue()
    left = [bytes(message) for message in messages]
    if left:
        requests.put(left.pop(0))
    answers = []
    try:
        opened = channel(target).stream_stream(method)(iter(requests.get, None), timeout=seconds)
        for answer in opened:
            answers.append(list(answer))
            if len(answers) == responses:
                requests.put(None)
            elif left:
                requests.put(left.pop(0))
        return {"answers": answers, "code": opened.code().name, "details": opened.details()}
    except grpc.RpcError as error:
        return {"answers": answers, **outcome(error)}
    finally:
        requests.put(None)


COMMANDS = {"serve": serve, "call": call, "stream": stream, "trust": trust}


def main():
    with futures.ThreadPoolExecutor(16) as pool:
        for line in sys.stdin:
            command = json.loads(line)

            def run(number=command.pop("id"), name=command.pop("do"), arguments=command):
                try:
                    answer = COMMANDS[name](**arguments)
                except Exception as error:  # the test shows it
                    answer = {"failed": repr(error)}
                with LOCK:
                    print(json.dumps({"id": number, **answer}), flush=True)

            pool.submit(run)


main()
