"""`skysail up`: runs a whole cluster on one machine."""
