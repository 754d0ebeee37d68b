"""Replies as messages, against naming every field."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from nbx.api.grpc import reply_message
from nbx.decision.messages import DecideReply, SlotReply
from nbx.experience.entries import Continued
from nbx.v1 import nbx_pb2 as pb

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.lists(words, max_size=3).map(tuple)
times = st.integers(0, 2**53)
chances = st.none() | st.floats(0.0, 1.0)
contents = st.none() | st.just(Raw(b'{"a":[1,"\xc3\xa9"]}')) | st.dictionaries(words, st.integers(0, 9), max_size=2)
slots = st.builds(
    SlotReply,
    slot=st.integers(0, 9),
    action=words,
    treatment=words,
    content=contents,
    gives=names,
    asks=names,
    p_response=chances,
    propensity=chances,
    expires_at=times,
    none=words,
)
threads = st.builds(
    Continued,
    kind=st.sampled_from(["concern", "obligation", "promise"]),
    name=words,
    channel=words,
    opened_at=times,
    last_at=times,
    last=words,
    due_at=times,
)
replies = st.builds(
    DecideReply,
    decision_id=words,
    slots=st.lists(slots, max_size=3).map(tuple),
    holdout=words,
    degraded=names,
    release=times,
    snapshot=times,
    took_ms=st.floats(0.0, 1e4),
    explanation=contents,
    continues=st.lists(threads, max_size=2).map(tuple),
)


def told(content: Any) -> Any:
    return json.loads(bytes(content)) if isinstance(content, Raw) else content


def read(text: str) -> Any:
    return json.loads(text) if text else None


@given(replies)
def test_every_field_of_a_reply_arrives(reply: DecideReply) -> None:
    message: Any = pb.DecideReply.FromString(reply_message(pb.DecideReply(), reply).SerializeToString())
    assert read(message.explanation_json) == told(reply.explanation)
    assert [read(slot.content_json) for slot in message.slots] == [told(slot.content) for slot in reply.slots]
    for slot in message.slots:
        slot.content_json = ""
    message.explanation_json = ""
    assert message == pb.DecideReply(
        decision_id=reply.decision_id,
        slots=[
            pb.Slot(
                slot=slot.slot,
                action=slot.action,
                treatment=slot.treatment,
                gives=slot.gives,
                asks=slot.asks,
                p_response=slot.p_response,
                propensity=slot.propensity,
                expires_at_ms=slot.expires_at,
                none=slot.none,
            )
            for slot in reply.slots
        ],
        holdout=reply.holdout,
        degraded=reply.degraded,
        release=reply.release,
        snapshot=reply.snapshot,
        took_ms=reply.took_ms,
        continues=[
            pb.Continued(
                kind=thread.kind,
                name=thread.name,
                channel=thread.channel,
                opened_at_ms=thread.opened_at,
                last_at_ms=thread.last_at,
                last=thread.last,
                due_at_ms=thread.due_at,
            )
            for thread in reply.continues
        ],
    )
