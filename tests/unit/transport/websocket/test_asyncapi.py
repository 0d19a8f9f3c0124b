"""The AsyncAPI document holds every frame that is registered, and refers to nothing that it lacks."""

import re

import orjson

from app.catalog import FEATURES
from app.features.gateway.schemas import OWN_FRAMES
from app.transport.websocket.asyncapi import build_asyncapi


def build() -> dict:
    return build_asyncapi(FEATURES, own_frames=OWN_FRAMES, title="t", version="1")


def test_every_reference_leads_somewhere() -> None:
    document = build()
    for path in set(re.findall(rb'"\$ref":"#/([^"]+)"', orjson.dumps(document))):
        found = document
        for part in path.decode().split("/"):
            found = found[part]


def test_every_registered_frame_and_update_is_in_it() -> None:
    messages = build()["components"]["messages"]
    for feature in FEATURES:
        for frame in feature.frames:
            assert messages[f"client_{frame.type}"]["name"] == frame.type
        for kind in feature.updates:
            assert messages[f"{kind.scope.name.lower()}_{kind.type}"]["name"] == kind.type
