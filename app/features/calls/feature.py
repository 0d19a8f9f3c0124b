"""Audio and video calls: the signalling of two devices."""

from app.features.calls.frames import handle_call
from app.features.calls.schemas import CallFrame
from app.transport.feature import Feature, FrameKind
from app.transport.limits import LimitClass

FEATURE = Feature(
    name="calls", frames=(FrameKind("call", CallFrame, handle_call, LimitClass.CALLS),)
)
