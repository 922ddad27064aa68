"""Deployers with the names and arguments of Clipper's, each a thin layer over `Client.deploy`.

Every module has a function that deploys and `create_endpoint`, which also serves the model as an
application of the same name. A function takes a list of inputs and returns a list with an output for
each; if it has a model, it takes that first.
"""
