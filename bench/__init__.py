"""Pure. Load generators, micro-benchmarks and the side-by-side runs against peers live here; nothing imports them."""
