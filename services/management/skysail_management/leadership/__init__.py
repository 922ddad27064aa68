"""Leadership of one management among several, by a Lease of Kubernetes."""
