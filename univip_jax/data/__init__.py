"""Photos to batches: sources, records, order, crops, pipeline, labelled sets. Runs on the host."""
