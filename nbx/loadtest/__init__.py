"""Open-loop load on a running service: scenarios as files, full latency histograms, reports that can be compared."""
