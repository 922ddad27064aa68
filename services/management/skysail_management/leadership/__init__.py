"""One management of several works: the one that holds a lease of Kubernetes."""
