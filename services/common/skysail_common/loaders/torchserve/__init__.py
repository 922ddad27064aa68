"""Model archives of TorchServe, and what their handlers import from `ts`."""
