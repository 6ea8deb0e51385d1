"""An upstream that answers every request with 50 server-sent events, each in a chunk of its own.

    upstream.py PORT [SECONDS between two events, 0]
"""

import asyncio
import sys

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PAUSE_S = float(sys.argv[2]) if len(sys.argv) > 2 else 0
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            for _ in range(50):
                writer.write(CHUNK)
                await writer.drain()
                await asyncio.sleep(PAUSE_S)  # each chunk is a write of its own
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
