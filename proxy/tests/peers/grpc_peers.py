"""grpcio, client and server, with the proxy between them.

    grpc_peers.py server        prints the port it listens on, and serves until its stdin ends
    grpc_peers.py client PORT   calls through the proxy at PORT, prints one line a case, fails on the first wrong one
"""
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "weir.test.Echo"
CANCELLED = threading.Event()


def as_is(message):
    return message


def unary(request, context):
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-trailing", seen.get("x-sent", "")), ("x-bytes-bin", b"\x00\xff")))
    context.send_initial_metadata((("x-initial", "1"),))
    return request


def failing(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "not here: ä %")


def slow(request, context):
    context.add_callback(CANCELLED.set)
    time.sleep(5)
    return request


def was_cancelled(request, context):
    return b"1" if CANCELLED.wait(5) else b"0"


def deadline(request, context):
    return str(context.time_remaining()).encode()


def server_stream(request, context):
    for n in range(int(request)):
        yield str(n).encode()


def endless(request, context):
    CANCELLED.clear()
    context.add_callback(CANCELLED.set)
    while context.is_active():
        yield b"more"
        time.sleep(0.001)


def client_stream(requests, context):
    return str(sum(len(r) for r in requests)).encode()


def bidirectional(requests, context):
    for request in requests:
        yield request


def half(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "broke off")


def serve():
    unary_calls = {"Unary": unary, "Failing": failing, "Slow": slow, "WasCancelled": was_cancelled, "Deadline": deadline}
    stream_calls = {"ServerStream": server_stream, "Endless": endless, "Half": half}
    handlers = {n: grpc.unary_unary_rpc_method_handler(f, as_is, as_is) for n, f in unary_calls.items()}
    handlers |= {n: grpc.unary_stream_rpc_method_handler(f, as_is, as_is) for n, f in stream_calls.items()}
    handlers["ClientStream"] = grpc.stream_unary_rpc_method_handler(client_stream, as_is, as_is)
    handlers["Bidirectional"] = grpc.stream_stream_rpc_method_handler(bidirectional, as_is, as_is)
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


class Calls:
    def __init__(self, channel):
        self.channel = channel

    def unary(self, name):
        return self.channel.unary_unary(f"/{SERVICE}/{name}", as_is, as_is)

    def server_stream(self, name):
        return self.channel.unary_stream(f"/{SERVICE}/{name}", as_is, as_is)

    def client_stream(self, name):
        return self.channel.stream_unary(f"/{SERVICE}/{name}", as_is, as_is)

    def bidirectional(self, name):
        return self.channel.stream_stream(f"/{SERVICE}/{name}", as_is, as_is)


def expect_status(call, code, details=None):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        assert details is None or error.details() == details, error.details()
        return error
    raise AssertionError(f"no {code}")


def case_unary(calls):
    assert calls.unary("Unary")(b"hello", timeout=10) == b"hello"


def case_empty_message(calls):
    assert calls.unary("Unary")(b"", timeout=10) == b""


def case_large_message(calls):
    large = b"x" * (8 << 20)
    assert calls.unary("Unary")(large, timeout=30) == large


def case_metadata(calls):
    answer, call = calls.unary("Unary").with_call(b"", timeout=10, metadata=(("x-sent", "there and back"),))
    trailing = dict(call.trailing_metadata())
    assert dict(call.initial_metadata())["x-initial"] == "1", call.initial_metadata()
    assert trailing["x-trailing"] == "there and back" and trailing["x-bytes-bin"] == b"\x00\xff", trailing


def case_status(calls):
    error = expect_status(lambda: calls.unary("Failing")(b"", timeout=10), grpc.StatusCode.NOT_FOUND, "not here: ä %")
    assert dict(error.trailing_metadata())["x-why"] == "because"


def case_unimplemented(calls):
    expect_status(lambda: calls.unary("Nothing")(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)


def case_server_streaming(calls):
    assert [int(n) for n in calls.server_stream("ServerStream")(b"1000", timeout=30)] == list(range(1000))


def case_client_streaming(calls):
    assert calls.client_stream("ClientStream")((b"x" * n for n in range(500)), timeout=30) == b"124750"


def case_bidirectional_streaming(calls):
    sent, answers = threading.Semaphore(1), []

    def ping_pong():
        for n in range(200):
            sent.acquire()  # the next goes out when the last came back: neither side may gather
            yield str(n).encode()

    for answer in calls.bidirectional("Bidirectional")(ping_pong(), timeout=30):
        answers.append(int(answer))
        sent.release()
    assert answers == list(range(200))


def case_stream_that_fails(calls):
    received = []

    def read():
        for message in calls.server_stream("Half")(b"", timeout=10):
            received.append(message)

    expect_status(read, grpc.StatusCode.DATA_LOSS, "broke off")
    assert received == [b"first"]


def case_deadline(calls):
    remaining = float(calls.unary("Deadline")(b"", timeout=20))
    assert 10 < remaining < 25, remaining  # grpcio rounds up
    began = time.monotonic()
    expect_status(lambda: calls.unary("Slow")(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - began < 3


def case_cancel(calls):
    stream = calls.server_stream("Endless")(b"", timeout=30)
    assert next(stream) == b"more"
    stream.cancel()
    assert calls.unary("WasCancelled")(b"", timeout=10) == b"1", "the server did not hear of it"


def case_many_at_once(calls):
    pending = [calls.unary("Unary").future(str(n).encode(), timeout=30) for n in range(500)]
    assert [int(call.result()) for call in pending] == list(range(500))


def main():
    if sys.argv[1] == "server":
        return serve()
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[2]}", options=[("grpc.max_receive_message_length", -1)]) as channel:
        for name, case in [(n, f) for n, f in globals().items() if n.startswith("case_")]:
            case(Calls(channel))
            print("ok", name.removeprefix("case_"), flush=True)


if __name__ == "__main__":
    main()
