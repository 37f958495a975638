"""The mark in every generated master image that says it shows nobody: IPTC's digital source type.

https://cv.iptc.org/newscodes/digitalsourcetype/ : `trainedAlgorithmicMedia` was made by a model
trained on sampled content, `algorithmicMedia` by an algorithm alone. Crops are made anew from the
pixels and carry no mark; the manifest's hashes bind them to their masters.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

SOURCE_TYPES = {
    "diffusion": "trainedAlgorithmicMedia",
    "hub": "trainedAlgorithmicMedia",
    "render": "algorithmicMedia",
    "stylegan": "trainedAlgorithmicMedia",
}
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

PACKET = """<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" \
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
Iptc4xmpExt:DigitalSourceType={source} xmp:CreatorTool={tool} dc:identifier={identifier}/>\
</rdf:RDF></x:xmpmeta>"""


def mark(generator: str, image_id: str, seed: int) -> bytes | None:
    """The XMP packet of an image, with the seed that makes it again; None for the imported."""
    if generator not in SOURCE_TYPES:
        return None
    return PACKET.format(
        source=quoteattr(VOCABULARY + SOURCE_TYPES[generator]),
        tool=quoteattr(f"facefoundry {generator}"),
        identifier=quoteattr(f"{image_id}?seed={seed}"),
    ).encode()
