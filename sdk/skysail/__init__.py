"""Skysail's SDK: deploy a function in one call, and query it.

import skysail

client = skysail.Client()
client.deploy(model.predict, name="digits", version="1", example=images[:1])
client.predict("digits", images[0]).output
"""

from skysail import errors
from skysail.async_client import AsyncClient
from skysail.calls.promotion_warning import SkysailWarning
from skysail.checks.check import check
from skysail.checks.report import CheckReport
from skysail.client import Client
from skysail.descriptions import (
    Application,
    ClusterStatus,
    DeployEvent,
    Deployment,
    Frontend,
    LogLine,
    Model,
    Replica,
    Route,
    Version,
)
from skysail.predictions import Prediction, Timings
from skysail_common import __version__
from skysail_common.errors import SkysailError
from skysail_common.replica_description import PackageDifference
from skysail_common.serving_options import PolicyName, ServingOptions

__all__ = [
    "Application",
    "AsyncClient",
    "CheckReport",
    "Client",
    "ClusterStatus",
    "DeployEvent",
    "Deployment",
    "Frontend",
    "LogLine",
    "Model",
    "PackageDifference",
    "PolicyName",
    "Prediction",
    "Replica",
    "Route",
    "ServingOptions",
    "SkysailError",
    "SkysailWarning",
    "Timings",
    "Version",
    "__version__",
    "check",
    "errors",
]
