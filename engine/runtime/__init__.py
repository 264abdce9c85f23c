"""Running the two graphs: dynamic batching, the pipeline, its buffers, threads and metrics."""
