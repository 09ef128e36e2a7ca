"""Power meters: one file each, named as `--meter` names them; see `edgewright.benchmarks.power`."""
