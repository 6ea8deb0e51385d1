"""A peer in a process of its own: reads one request a line, answers one line. `python -m peers.worker NAME FOLDER`."""

import json
import os
import sys
from pathlib import Path

from peers import clickhouse, duckdb

OPEN = {"clickhouse-otel": clickhouse.otel, "clickhouse-jaeger": clickhouse.jaeger, "duckdb": duckdb.peer}


def main():
    # what a library prints must not stand between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder = sys.argv[1], Path(sys.argv[2])
    peer = OPEN[name](folder)
    for line in sys.stdin:
        answers.write(json.dumps(respond(peer, json.loads(line))) + "\n")
        answers.flush()
    peer.close()


def respond(peer, request):
    try:
        match request:
            case {"query": statement}:
                ms, rows = peer.query(statement)
                return {"ms": ms, "rows": rows}
            case {"load": files}:
                peer.load(files)
                return {}
            case {"size": _}:
                return {"size": peer.size(), "version": peer.version()}
    except Exception as error:  # whatever a library raises is the answer
        return {"error": f"{type(error).__name__}: {error}"}


main()
