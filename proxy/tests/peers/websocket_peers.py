"""websockets, client and server, with the proxy between them; the cases follow the chapters of Autobahn's suite, which
compare/proxy/autobahn.sh runs itself.

    websocket_peers.py server        prints the port it listens on, and echoes until its stdin ends
    websocket_peers.py client PORT   talks through the proxy at PORT, prints one line a case
"""
import asyncio
import contextlib
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response


async def echo(connection):
    with contextlib.suppress(ConnectionClosed):  # closing with any code is a case of its own
        async for message in connection:
            if message == "close":
                await connection.close(4001, "as you like")
            elif message == "fragments":
                await connection.send(["a", "b", "c"])
            else:
                await connection.send(message)


def guard(connection, request):
    if request.path == "/refused":
        return connection.respond(403, "no\n")
    return None


async def run_server():
    async with serve(echo, "127.0.0.1", 0, max_size=None, process_request=guard) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def case_1_text_and_binary_of_many_sizes(url):
    async with connect(url, max_size=None) as ws:
        for size in [0, 1, 125, 126, 127, 128, 65535, 65536, 65537]:
            for message in ["*" * size, b"\xfe" * size]:
                await ws.send(message)
                assert await ws.recv() == message, size


async def case_2_pings(url):
    async with connect(url) as ws:
        for payload in [b"", b"hello", b"\x00\xff\xfe", b"x" * 125]:
            await asyncio.wait_for(await ws.ping(payload), 10)


async def case_5_fragments(url):
    async with connect(url) as ws:
        await ws.send(["one ", "two ", "three"])
        assert await ws.recv() == "one two three"
        await ws.send("fragments")
        assert "".join([part async for part in ws.recv_streaming()]) == "abc"


async def case_6_text_is_utf8(url):
    async with connect(url) as ws:
        for text in ["κόσμε", "\U0010ffff", "\u0000", "Hello-µ@ßöäüàá-UTF-8!!"]:
            await ws.send(text)
            assert await ws.recv() == text
        await ws.send(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", text=True)
        try:
            await ws.recv()
            raise AssertionError("bad UTF-8 was taken")
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 1007, closed


async def case_7_closing(url):
    for code, reason in [(1000, ""), (1001, "away"), (3000, ""), (4999, "x" * 123)]:
        ws = await connect(url)
        await ws.close(code, reason)
        assert ws.close_code == code
    async with connect(url) as ws:
        await ws.send("close")
        try:
            await ws.recv()
            raise AssertionError("it was not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you like"), closed


async def case_9_large_messages(url):
    async with connect(url, max_size=None, compression=None) as ws:
        for message in ["*" * (4 << 20), b"\x00" * (16 << 20)]:
            await ws.send(message)
            assert await ws.recv() == message


async def case_10_small_fragments(url):
    async with connect(url, compression=None) as ws:
        await ws.send(["x" * 65] * 1000)
        assert await ws.recv() == "x" * 65000


async def case_12_compression(url):
    async with connect(url, compression="deflate", max_size=None) as ws:
        assert "permessage-deflate" in ws.response.headers.get("Sec-WebSocket-Extensions", "")
        for n in range(100):
            message = f"message {n} " * 1000
            await ws.send(message)
            assert await ws.recv() == message


async def case_subprotocols_and_paths(url):
    async with connect(f"{url}chat?room=1", subprotocols=["a", "b"]) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


async def case_refusal(url):
    try:
        await connect(f"{url}refused")
        raise AssertionError("it was let in")
    except InvalidStatus as refused:
        response: Response = refused.response
        assert (response.status_code, response.body) == (403, b"no\n"), response


async def case_many_at_once(url):
    async def talk(n):
        async with connect(url) as ws:
            for round in range(10):
                await ws.send(f"{n} {round}")
                assert await ws.recv() == f"{n} {round}"

    await asyncio.gather(*(talk(n) for n in range(50)))


async def run_client(port):
    for name, case in [(n, f) for n, f in globals().items() if n.startswith("case_")]:
        await asyncio.wait_for(case(f"ws://127.0.0.1:{port}/"), 60)
        print("ok", name.removeprefix("case_"), flush=True)


if __name__ == "__main__":
    asyncio.run(run_server() if sys.argv[1] == "server" else run_client(sys.argv[2]))
