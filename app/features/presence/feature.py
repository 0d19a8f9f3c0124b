"""Who is online: the bare facts, for higher slices to tell."""

from app.transport.feature import Feature

FEATURE = Feature(name="presence")
