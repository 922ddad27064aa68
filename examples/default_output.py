"""Let an application answer in time, with its default output if its model is too slow."""

import time

import numpy as np

import skysail


def price(rooms):
    """Return a price for each flat; large flats take a second."""
    time.sleep(1.0 if rooms.max() > 4 else 0.0)
    return rooms[:, 0] * 250.0


with skysail.Client() as client:
    client.deploy(price, name="price", example=np.array([[3.0]]), max_batch_size=1)
    if "rent" not in [application.name for application in client.applications()]:
        client.register_application("rent", "doubles", default_output=-1.0, slo_ms=500)
    client.link("rent", "price")
    for rooms in (2, 5):
        answer = client.predict("rent", [float(rooms)])
        print(rooms, "rooms:", answer.output, answer.outcome)
