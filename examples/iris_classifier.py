"""Deploy a classifier of scikit-learn, and query it by name."""

import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import skysail

flowers, species = load_iris(return_X_y=True)
names = np.array(load_iris().target_names)
model = LogisticRegression(max_iter=1000).fit(flowers, species)


def predict(flowers):
    """Return the name of the species and its probability for each flower, float64 [batch, 4]."""
    probabilities = model.predict_proba(flowers)
    return {
        "species": names[probabilities.argmax(axis=1)],
        "probability": probabilities.max(axis=1),
    }


with skysail.Client() as client:
    client.deploy(predict, name="iris", example=flowers[:1])
    answer = client.predict("iris", [6.7, 3.1, 5.6, 2.4])
    print(f"{answer.outputs['species']} ({answer.outputs['probability']:.0%})")
