"""The Open Inference Protocol (KServe's and Triton's v2), over HTTP and gRPC."""
