"""What `POST /messages/` and the `send_message` frame have in common: from the wire model to a use case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.features.messages.content import Content, check_caption, check_content
from app.features.messages.errors import MessageEmpty
from app.features.messages.forward import ForwardDraft, forward_messages
from app.features.messages.render import Rendered
from app.features.messages.schemas import EntityInput, ForwardInput, SendMessage
from app.features.messages.send import Draft, Sent, send_message
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.kernel.ids import FileId, UserId
from app.kernel.problems import FieldError, Invalid


@dataclass(frozen=True, slots=True)
class Posted:
    """`items` where several were forwarded, else `message`; `created` if anything was."""

    message: Rendered | None
    items: Sequence[Rendered]
    created: bool

    @property
    def answer(self) -> Mapping[str, object]:
        """The Message, or `{"items"}`."""
        return {"items": self.items} if self.message is None else self.message


async def post_message(
    db: Database, keyring: Keyring, *, sender_id: UserId, body: SendMessage
) -> Posted:
    """Send a text or files, or forward messages.

    Raises:
        validation_error: parts of the body exclude each other.
        message_empty: there is neither a text nor a file.
        Further: see `send_message` and `forward_messages`.
    """
    forward = body.forward_from
    if forward is not None:
        draft = _read_forward(body, forward)
        sent = await forward_messages(db, keyring, sender_id=sender_id, draft=draft)
        return _render_forwarded(sent)
    one = await send_message(
        db,
        keyring,
        sender_id=sender_id,
        draft=Draft(
            chat_id=body.chat_id,
            content=_read_content(body),
            reply_to_id=body.reply_to_message_id,
            client_message_id=body.client_message_id,
            silent=body.silent,
            attachments=_read_attachments(body),
        ),
    )
    return Posted(one.message, [one.message], created=one.created)


def dump_entities(entities: Sequence[EntityInput] | None) -> list[Mapping[str, object]] | None:
    """As `check_entities` takes them."""
    if entities is None:
        return None
    return [entity.model_dump(exclude_none=True) for entity in entities]


def _read_content(body: SendMessage) -> Content:
    entities = dump_entities(body.entities) or []
    if body.attachments is not None:
        return check_caption(body.text, entities)
    if body.text is None:
        raise MessageEmpty(errors=[FieldError("text", "is needed, or attachments")])
    return check_content(body.text, entities)


def _read_attachments(body: SendMessage) -> Sequence[FileId]:
    file_ids = body.attachments or []
    if len(set(file_ids)) < len(file_ids):
        raise Invalid(errors=[FieldError("attachments", "must name each file once")])
    return file_ids


def _render_forwarded(sent: Sequence[Sent]) -> Posted:
    items = [one.message for one in sent]
    created = any(one.created for one in sent)
    return Posted(items[0] if len(items) == 1 else None, items, created=created)


def _read_forward(body: SendMessage, forward: ForwardInput) -> ForwardDraft:
    errors = list(_list_forward_faults(body, forward))
    if errors:
        raise Invalid(errors=errors)
    client_ids = forward.client_message_ids or []
    if body.client_message_id is not None:
        client_ids = [body.client_message_id]
    return ForwardDraft(
        chat_id=body.chat_id,
        source_id=forward.chat_id,
        message_ids=forward.message_ids,
        client_message_ids=client_ids,
        silent=body.silent,
    )


def _list_forward_faults(body: SendMessage, forward: ForwardInput) -> Sequence[FieldError]:
    faults = [
        FieldError(name, "does not go with forward_from")
        for name in ("text", "entities", "attachments", "reply_to_message_id")
        if getattr(body, name) is not None
    ]
    count = len(forward.message_ids)
    if len(set(forward.message_ids)) < count:
        faults.append(FieldError("forward_from.message_ids", "must name each message once"))
    client_ids = forward.client_message_ids
    if body.client_message_id is not None and (client_ids is not None or count > 1):
        faults.append(FieldError("client_message_id", "give client_message_ids instead"))
    if client_ids is not None and len({*client_ids}) != count:
        message = "must hold one different id for each message"
        faults.append(FieldError("forward_from.client_message_ids", message))
    return faults
