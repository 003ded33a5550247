"""Several copies of the server that answer as one, on one machine or on many, through Ray Serve (docs.ray.io/serve).

Ray's proxy takes the connections and hands each request to the replica with the fewest; the answer streams through it.
Ray is an extra, imported when replicas are asked for and not before.
"""

from __future__ import annotations
