"""The contracts of Skysail, as protobuf sources with their generated code beside them."""
