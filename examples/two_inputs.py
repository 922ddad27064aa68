"""Deploy a function of two named inputs; its dictionary of arrays is the example."""

import numpy as np

import skysail


def distance(start, end):
    """Return the distance between two places in km; each is latitude and longitude [batch, 2]."""
    start, end = np.radians(start), np.radians(end)
    half = np.sin((end - start) / 2) ** 2
    chord = half[:, 0] + np.cos(start[:, 0]) * np.cos(end[:, 0]) * half[:, 1]
    return {"km": 2 * 6371 * np.arcsin(np.sqrt(chord))}


berlin, lisbon, sydney = [52.52, 13.41], [38.72, -9.14], [-33.87, 151.21]
with skysail.Client() as client:
    example = {"start": np.array([berlin]), "end": np.array([lisbon])}
    client.deploy(distance, name="distance", example=example)
    answer = client.predict("distance", {"start": berlin, "end": sydney})
    print(f"{answer.output:.0f} km in {answer.timings.total_s * 1000:.1f} ms")
