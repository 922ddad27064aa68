"""The artifacts of a cluster: manifests and archives, the blobs that they name, uploads."""
