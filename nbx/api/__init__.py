"""The faces: HTTP, gRPC, console, and the wiring of adapters."""
