"""One file a peer, stock library calls only."""
