"""The questions asked of every system, written once over the words of its dialect, and the parameters they are asked with."""

import json
import random
from dataclasses import dataclass, replace
from typing import Callable

import pyarrow.parquet as pq

HOUR_NS = 3_600_000_000_000
MINUTE_NS = 60_000_000_000
ROWS = 20

# A parent starts before its child; recorded traces are far shorter than this.
PARENT_SLACK_NS = 10 * MINUTE_NS


@dataclass(frozen=True)
class Dialect:
    """How one system calls things. The fields that are functions take raw values and give SQL."""

    table: str
    trace_id: str  # as lower-case hex
    span_id: str  # as lower-case hex
    join_trace_id: str  # as stored, and so the others that begin with join
    join_span_id: str
    join_parent_id: str
    start_ns: str  # start, as nanoseconds
    start_order: str  # start, as stored
    duration_ns: str
    service: str
    operation: str
    is_error: str
    whole_span: str  # every column of a span
    count_if: Callable[[str], str]
    p95: Callable[[str], str]
    minute_ns: str  # the minute in which a span started
    starts_between: Callable[[int, int, str], str]  # from, to, prefix of the columns such as "c."
    trace_is: Callable[[str], str]
    attribute_is: Callable[[str, object], str]


@dataclass(frozen=True)
class Case:
    """One question. `answer_columns` is how many leading columns must agree between systems."""

    name: str
    title: str
    parameters: str  # which list of parameters it takes
    statement: Callable[[Dialect, dict], str]
    answer_columns: int
    ordered: bool = True
    warm: int | None = None  # rounds, if other than usual
    only_weir: bool = False
    same_answer_as: str | None = None


def trace_by_id(d, p):
    return f"SELECT {d.span_id} AS id, {d.whole_span} FROM {d.table} WHERE {d.trace_is(p['trace_id'])}"


def newest_traces(d, p):
    where = [f"{d.service} = '{p['service']}'", f"{d.duration_ns} > {p['duration_ns']}"]
    if "from_ns" in p:
        where.append(d.starts_between(p["from_ns"], p["from_ns"] + HOUR_NS, ""))
    return (
        f"SELECT max({d.start_ns}) AS newest, {d.trace_id} AS trace, count(*) AS spans FROM {d.table}"
        f" WHERE {' AND '.join(where)} GROUP BY {d.join_trace_id} ORDER BY newest DESC LIMIT {ROWS}"
    )


def newest_spans(d, p):
    return (
        f"SELECT {d.start_ns} AS started, {d.span_id} AS id, {d.trace_id} AS trace, {d.service} AS service_name,"
        f" {d.operation} AS operation_name, {d.duration_ns} AS took_ns FROM {d.table}"
        f" WHERE {d.attribute_is(p['key'], p['value'])} ORDER BY {d.start_order} DESC LIMIT {ROWS}"
    )


def count_spans(d, p):
    return f"SELECT count(*) AS spans FROM {d.table} WHERE {d.attribute_is(p['key'], p['value'])}"


def newest_spans_by_map(d, p):
    return newest_spans(replace(d, attribute_is=lambda key, value: f"attributes['{key}'] = '{value}'"), p)


def red(d, p):
    return (
        f"SELECT {d.minute_ns} AS minute, {d.service} AS service_name, {d.operation} AS operation_name, count(*) AS spans,"
        f" {d.count_if(d.is_error)} AS errors, max({d.duration_ns}) AS slowest, {d.p95(d.duration_ns)} AS p95 FROM {d.table}"
        f" WHERE {d.starts_between(p['from_ns'], p['from_ns'] + HOUR_NS, '')} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )


def red_table(_, p):
    return (
        "SELECT minute_unix_nano, service, operation, sum(count), sum(error_count), max(duration_max_ns), max(duration_ms_p95)"
        f" FROM operations WHERE minute_unix_nano >= {p['from_ns']} AND minute_unix_nano < {p['from_ns'] + HOUR_NS}"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )


def graph(d, p):
    where = [f"c.{d.service} <> p.{d.service}"]
    if "from_ns" in p:
        first, last = p["from_ns"], p["from_ns"] + HOUR_NS
        where += [d.starts_between(first, last, "c."), d.starts_between(first - PARENT_SLACK_NS, last + PARENT_SLACK_NS, "p.")]
    return (
        f"SELECT p.{d.service} AS caller, c.{d.service} AS callee, count(*) AS calls FROM {d.table} AS c JOIN {d.table} AS p"
        f" ON c.{d.join_trace_id} = p.{d.join_trace_id} AND c.{d.join_parent_id} = p.{d.join_span_id}"
        f" WHERE {' AND '.join(where)} GROUP BY 1, 2 ORDER BY 1, 2"
    )


def graph_table(_, p):
    where = "callee_kind = 'service'"
    if "from_ns" in p:
        where += f" AND minute_unix_nano >= {p['from_ns']} AND minute_unix_nano < {p['from_ns'] + HOUR_NS}"
    return f"SELECT caller, callee, sum(count) FROM edges WHERE {where} GROUP BY 1, 2 ORDER BY 1, 2"


CASES = [
    Case("trace_by_id", "trace by id, all columns", "traces", trace_by_id, 1, ordered=False),
    Case("service_duration_1h", "newest 20 traces, service + duration, 1 h", "service_hours", newest_traces, 3),
    Case("service_duration_all", "newest 20 traces, service + duration, all time", "services", newest_traces, 3),
    Case("hot_status", "newest 20 spans, http.response.status_code = v", "statuses", newest_spans, 2),
    Case("hot_route", "newest 20 spans, http.route = v", "routes", newest_spans, 2),
    Case("hot_status_map", "the same as attributes['http.response.status_code']", "statuses", newest_spans_by_map, 2, only_weir=True, same_answer_as="hot_status"),
    Case("hot_route_map", "the same as attributes['http.route']", "routes", newest_spans_by_map, 2, only_weir=True, same_answer_as="hot_route"),
    Case("hot_status_count", "count, http.response.status_code = v", "statuses", count_spans, 1),
    Case("hot_route_count", "count, http.route = v", "routes", count_spans, 1),
    Case("cold_common", "newest 20 spans, cold attribute, common value", "cold_common", newest_spans, 2),
    Case("cold_rare", "newest 20 spans, cold attribute, rare value", "cold_rare", newest_spans, 2),
    Case("cold_absent", "newest 20 spans, key that no span has", "cold_absent", newest_spans, 2),
    Case("cold_common_count", "count, cold attribute, common value", "cold_common", count_spans, 1),
    Case("cold_rare_count", "count, cold attribute, rare value", "cold_rare", count_spans, 1),
    Case("red_1h", "RED per minute, service, operation, 1 h, raw spans", "hours", red, 6, warm=10),
    Case("red_1h_table", "the same from table operations", "hours", red_table, 6, only_weir=True, same_answer_as="red_1h", warm=10),
    Case("graph_1h", "service graph, 1 h, self-join", "hours", graph, 3, warm=10),
    Case("graph_1h_table", "the same from table edges", "hours", graph_table, 3, only_weir=True, same_answer_as="graph_1h", warm=10),
    Case("graph_all", "service graph, all time, self-join", "all_time", graph, 3, warm=3),
    Case("graph_all_table", "the same from table edges", "all_time", graph_table, 3, only_weir=True, same_answer_as="graph_all", warm=10),
]


def parameters(data, count):
    """`count` values of every parameter, taken from the generated spans; the same each time."""
    random_ = random.Random(7)
    manifest = json.loads((data / "manifest.json").read_text())
    rows = sample(sorted((data / "parquet").glob("*.parquet")), random_)
    wide = manifest["shape"] == "b"
    pick = lambda keep=lambda row: True, of=lambda row: row: [of(r) for r in some(rows, keep, count, random_)]
    text = lambda row, key: dict(row["attributes"]).get(key)
    if wide:
        cold = [(k, v) for row in rows for k, v in row["attributes"] if k.startswith("app.k")]
        common = [(k, v) for k, v in cold if v < "value-200"]
        rare = [(k, v) for k, v in cold if v > "value-950"]
        pairs = lambda from_: [{"key": k, "value": v} for k, v in some(from_, lambda _: True, count, random_)]
        commons, rares = pairs(common), pairs(rare)
    else:
        keyed = lambda key: pick(lambda r: text(r, key), lambda r: {"key": key, "value": text(r, key)})
        commons, rares = keyed("user.id"), keyed("app.request.id")
    slow = quantiles(rows)
    service = lambda r: {"service": r["service"], "duration_ns": slow[r["service"]][random_.randrange(2)]}
    hour = lambda r: (r["start_unix_nano"] - random_.randrange(HOUR_NS)) // MINUTE_NS * MINUTE_NS
    codes = [204, 404, 500, 503]
    return {
        "traces": pick(of=lambda r: {"trace_id": r["trace_id"]}),
        "services": pick(of=service),
        "service_hours": pick(of=lambda r: service(r) | {"from_ns": hour(r)}),
        "statuses": [{"key": "http.response.status_code", "value": codes[i % len(codes)]} for i in range(count)],
        "routes": pick(lambda r: text(r, "http.route"), lambda r: {"key": "http.route", "value": text(r, "http.route")}),
        "cold_common": commons,
        "cold_rare": rares,
        "cold_absent": [{"key": f"app.absent.{i}", "value": f"value-{i:03}"} for i in range(count)],
        "hours": pick(of=lambda r: {"from_ns": hour(r)}),
        "all_time": [{} for _ in range(count)],
    }


def sample(files, random_, groups=8, rows=4_000):
    """Rows of a few row groups, from all over the time range."""
    places = [(file, group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    found = []
    for file, group in random_.sample(places, min(groups, len(places))):
        columns = ["trace_id", "service", "start_unix_nano", "duration_ns", "attributes"]
        table = pq.ParquetFile(file).read_row_group(group, columns=columns)
        places_ = sorted(random_.sample(range(table.num_rows), min(rows, table.num_rows)))
        found += table.take(places_).to_pylist()
    return found


def some(rows, keep, count, random_):
    fitting = [row for row in rows if keep(row)]
    if not fitting:
        raise SystemExit("the generated spans have no value for one of the parameters: too few spans?")
    return [random_.choice(fitting) for _ in range(count)]


def quantiles(rows):
    """The 90th and 99th percentile of each service's durations in the sample."""
    by_service = {}
    for row in rows:
        by_service.setdefault(row["service"], []).append(row["duration_ns"])
    at = lambda values, q: sorted(values)[int((len(values) - 1) * q)]
    return {service: (at(values, 0.9), at(values, 0.99)) for service, values in by_service.items()}


def answer(case, rows):
    """What must agree between systems, as text."""
    lines = [",".join(str(value) for value in row[: case.answer_columns]) for row in rows]
    return "\n".join(lines if case.ordered else sorted(lines))
