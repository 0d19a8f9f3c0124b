"""The `call` frame."""

from app.features.calls.relay import relay_call
from app.features.calls.schemas import CallFrame
from app.transport.websocket.frames import FrameContext


async def handle_call(context: FrameContext, data: CallFrame) -> dict[str, object] | None:
    """Acknowledged once it is on its way."""
    await relay_call(
        context.services.db,
        context.services.bus,
        caller=context.user_id,
        session_id=context.session_id,
        frame=data,
    )
    return None
