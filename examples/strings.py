"""Deploy a function of texts; `input_type` needs no example, and outputs may be any JSON."""

import re
from collections import Counter

import skysail


def keywords(texts):
    """Return for each text its words of five letters or more, with their counts."""
    return [dict(Counter(re.findall(r"[a-z]{5,}", text.lower()))) for text in texts]


with skysail.Client() as client:
    client.deploy(keywords, name="keywords", input_type="strings")
    texts = ["Sails carry ships", "Ships carry sails, and sailors carry ships"]
    for answer in client.predict_batch("keywords", texts):
        print(answer.output)
