"""Old names, for tests that are being written."""

from skysail_common.serving_options import PolicyName as PolicyName
from skysail_common.serving_options import ServingOptions

BatchingOptions = ServingOptions
