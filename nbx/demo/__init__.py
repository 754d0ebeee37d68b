"""The demonstration: a simulated retail bank whose customers meet the real service over HTTP and gRPC."""
