# benchmarks/ranks: attention over a sequence that several processes hold, on a network of known bandwidth and delay.
