"""Photos to batches, on the host: sources, records, order, canvases, pipeline, labelled sets."""

MANIFEST = "manifest.json"  # of a prepared data set; written last, it vouches for the shards
