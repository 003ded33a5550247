"""From files to batches: formats, cleaning, shards, packing, and streams that resume at the exact row."""
