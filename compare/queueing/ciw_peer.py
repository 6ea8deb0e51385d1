"""The systems of exact.rs simulated by ciw: lines of name, mean wait, standard error over replications."""

import math
import statistics
import sys

import ciw

REPLICATIONS = 8


def hyperexponential(scv):
    first = 0.5 * (1 + math.sqrt((scv - 1) / (scv + 1)))
    return lambda mean: ciw.dists.HyperExponential(rates=[2 * first / mean, 2 * (1 - first) / mean], probs=[first, 1 - first])


def lognormal(scv):
    variance = math.log(1 + scv)
    return lambda mean: ciw.dists.Lognormal(mean=math.log(mean) - variance / 2, sd=math.sqrt(variance))


def erlang(phases):
    return lambda mean: ciw.dists.Erlang(rate=phases / mean, num_phases=phases)


def exponential(mean):
    return ciw.dists.Exponential(rate=1 / mean)


def deterministic(mean):
    return ciw.dists.Deterministic(value=mean)


SYSTEMS = [
    ("M/M/1 0.8", exponential, exponential, 1, 0.8),
    ("M/D/1 0.8", exponential, deterministic, 1, 0.8),
    ("M/M/4 0.8", exponential, exponential, 4, 0.8),
    ("M/LN4/4 0.8", exponential, lognormal(4), 4, 0.8),
    ("E4/E2/4 0.9", erlang(4), erlang(2), 4, 0.9),
    ("H4/LN2/8 0.9", hyperexponential(4), lognormal(2), 8, 0.9),
]


def wait(arrivals, service, servers, load, seed, customers):
    ciw.seed(seed)
    network = ciw.create_network(
        arrival_distributions=[arrivals(1 / (load * servers))],
        service_distributions=[service(1.0)],
        number_of_servers=[servers],
    )
    horizon = customers / (load * servers)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(horizon)
    return statistics.fmean(r.waiting_time for r in simulation.get_all_records() if r.arrival_date > horizon / 10)


def main():
    customers = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    for place, (name, arrivals, service, servers, load) in enumerate(SYSTEMS):
        seeds = range(100 * place, 100 * place + REPLICATIONS)
        waits = [wait(arrivals, service, servers, load, seed, customers) for seed in seeds]
        error = statistics.stdev(waits) / math.sqrt(REPLICATIONS)
        print(f"{name},{statistics.fmean(waits):.5f},{error:.5f},{REPLICATIONS}", flush=True)


if __name__ == "__main__":
    main()
