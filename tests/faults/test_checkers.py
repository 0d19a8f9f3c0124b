"""Each checker passes a good history and flags a bad one by the expected name."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from messenger_client import Change, Forgotten, Reset, Update, Voided

from tests.faults import checkers
from tests.faults.checkers import (
    Anomaly,
    Count,
    Device,
    Ending,
    LogRow,
    MessageRow,
    SlowReader,
    Span,
)
from tests.faults.journal import Call, Journal, Outcome, read_journal

CHAT = "chat:5"
ANNA, BRUNO = 1, 2


def logged(seq: int, type_: str = "new_message", **fields: Any) -> LogRow:
    return LogRow(CHAT, seq, type_, **({"subject_id": 100 + seq} | fields))


def stored(seq: int, **fields: Any) -> MessageRow:
    usual = {"sender_id": ANNA, "client_message_id": f"key-{seq}"}
    return MessageRow(id=100 + seq, chat_id=5, seq=seq, **(usual | fields))


def sent(seq: int, outcome: Outcome = Outcome.OK, **about: Any) -> Call:
    asked = {"chat_id": 5, "client_message_id": f"key-{seq}", "text": f"text {seq}"}
    answer = {"id": 100 + seq} if outcome is Outcome.OK else {"status": 403, "code": "not_allowed"}
    return Call(seq, "anna 1", ANNA, "send", asked | about, 0.0, outcome, answer, 1.0)


def applied(seq: int, type_: str = "new_message", scope: str = CHAT, **data: Any) -> Update:
    usual = {"id": 100 + seq, "client_message_id": f"key-{seq}", "text": f"text {seq}"}
    return Update(type_, scope, seq, usual | data)


def device(*changes: Change, ended: int | None = None, began: int | None = 0) -> Device:
    """Bruno's, in chat 5; its user scope stands at 1."""
    last = [change.seq for change in changes if isinstance(change, Update) and change.scope == CHAT]
    end = ended if ended is not None else (last[-1] if last else 0)
    start = {} if began is None else {CHAT: began}
    return Device("bruno 1", BRUNO, {"user": 1, **start}, changes, {"user": 1, CHAT: end})


MEMBERS = {(ANNA, 5): [Span(0)], (BRUNO, 5): [Span(0)]}
HEADS = {CHAT: 3, "user:2": 1}


def names(anomalies: list[Anomaly]) -> set[str]:
    return {anomaly.name for anomaly in anomalies}


class TestLog:
    def test_a_contiguous_log_passes(self) -> None:
        rows = [logged(seq) for seq in (1, 2, 3)]
        assert checkers.check_log({}, rows, {CHAT: 3}) == []
        assert checkers.check_log({CHAT: 1}, rows[1:], {CHAT: 3}) == []

    def test_a_missing_number_is_a_hole(self) -> None:
        assert names(checkers.check_log({}, [logged(1), logged(3)], {CHAT: 3})) == {"hole"}

    def test_a_head_without_its_row_is_a_hole(self) -> None:
        assert names(checkers.check_log({}, [logged(1)], {CHAT: 2})) == {"hole"}

    def test_a_row_beyond_the_head_is_flagged(self) -> None:
        assert names(checkers.check_log({}, [logged(1), logged(2)], {CHAT: 1})) == {"hole"}

    def test_a_number_twice_is_a_duplicate(self) -> None:
        rows = [logged(1), logged(2), logged(2)]
        assert names(checkers.check_log({}, rows, {CHAT: 2})) == {"duplicate"}

    def test_ids_in_the_order_of_the_log_pass(self) -> None:
        rows = [logged(1), logged(2)]
        assert checkers.check_ids(rows, [stored(1), stored(2)]) == []

    def test_ids_against_the_order_of_the_log_are_flagged(self) -> None:
        messages = [stored(1), replace(stored(2), id=50)]
        rows = [logged(1), logged(2, subject_id=50)]
        assert names(checkers.check_ids(rows, messages)) == {"inconsistent-offsets"}

    def test_a_message_that_the_log_puts_elsewhere_is_flagged(self) -> None:
        assert names(checkers.check_ids([logged(2, subject_id=101)], [stored(1)])) == {
            "inconsistent-offsets"
        }

    def test_a_logged_message_that_was_never_stored_is_flagged(self) -> None:
        assert names(checkers.check_ids([logged(1)], [])) == {"g1a"}


class TestSends:
    def test_acknowledged_unknown_and_refused_sends_pass(self) -> None:
        calls = [sent(1), sent(2, Outcome.UNKNOWN), sent(3, Outcome.UNKNOWN), sent(4, Outcome.FAIL)]
        assert checkers.check_sends(calls, [stored(1), stored(2)]) == []

    def test_a_retry_that_finds_the_first_try_passes(self) -> None:
        calls = [sent(1, Outcome.UNKNOWN), sent(1), sent(1)]
        assert checkers.check_sends(calls, [stored(1)]) == []

    def test_an_acknowledged_send_that_is_not_stored_is_lost(self) -> None:
        assert names(checkers.check_sends([sent(1)], [])) == {"lost-write"}

    @pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.UNKNOWN])
    def test_a_send_stored_twice_is_a_duplicate(self, outcome: Outcome) -> None:
        rows = [stored(1), replace(stored(1), id=200, seq=2)]
        assert "duplicate" in names(checkers.check_sends([sent(1, outcome)], rows))

    def test_two_answers_with_different_ids_are_a_duplicate(self) -> None:
        other = sent(1)
        other.answer = {"id": 200}
        assert "duplicate" in names(checkers.check_sends([sent(1), other], [stored(1)]))

    def test_a_refused_send_that_is_stored_was_aborted_and_read(self) -> None:
        assert names(checkers.check_sends([sent(1, Outcome.FAIL)], [stored(1)])) == {"g1a"}

    def test_a_message_that_nobody_sent_is_flagged(self) -> None:
        assert names(checkers.check_sends([], [stored(1)])) == {"g1a"}

    def test_a_send_stored_under_another_id_is_flagged(self) -> None:
        rows = [replace(stored(1), id=999)]
        assert names(checkers.check_sends([sent(1)], rows)) == {"inconsistent-offsets"}

    def test_a_send_stored_in_another_chat_is_flagged(self) -> None:
        rows = [replace(stored(1), chat_id=6)]
        assert names(checkers.check_sends([sent(1)], rows)) == {"inconsistent-offsets"}

    def test_acknowledged_changes_in_the_log_pass_and_lost_ones_are_flagged(self) -> None:
        edit = Call(1, "anna 1", ANNA, "edit", {"message_id": 101, "text": "x"}, 0.0, Outcome.OK)
        rows = [logged(1), logged(2, "message_edited", subject_id=101)]
        assert checkers.check_changes([edit], rows) == []
        assert names(checkers.check_changes([edit], rows[:1])) == {"lost-write"}

    def test_a_message_deleted_twice_is_flagged(self) -> None:
        rows = [logged(seq, "message_deleted", subject_id=101) for seq in (2, 3)]
        assert names(checkers.check_changes([], rows)) == {"duplicate"}


class TestDevices:
    def test_a_whole_device_passes(self) -> None:
        whole = device(applied(1), applied(2), applied(3))
        assert checkers.check_polls([whole], HEADS, MEMBERS) == []
        assert checkers.check_order([whole], [logged(1), logged(2), logged(3)]) == []

    def test_a_number_left_out_is_a_skip(self) -> None:
        skipping = device(applied(1), applied(3))
        assert names(checkers.check_polls([skipping], HEADS, MEMBERS)) == {"poll-skip"}

    def test_a_number_applied_twice_is_a_duplicate(self) -> None:
        doubling = device(applied(1), applied(2), applied(2), applied(3))
        assert names(checkers.check_polls([doubling], HEADS, MEMBERS)) == {"duplicate"}

    def test_a_number_behind_the_cursor_is_nonmonotonic(self) -> None:
        falling = device(applied(1), began=2, ended=3)
        assert "nonmonotonic-poll" in names(checkers.check_polls([falling], HEADS, MEMBERS))

    def test_a_device_that_ends_behind_the_log_has_not_seen_it(self) -> None:
        late = device(applied(1), applied(2))
        assert names(checkers.check_polls([late], HEADS, MEMBERS)) == {"unseen"}

    def test_a_position_that_the_changes_do_not_lead_to_is_flagged(self) -> None:
        lying = device(applied(1), applied(2), ended=3)
        assert "inconsistent-offsets" in names(checkers.check_polls([lying], HEADS, MEMBERS))

    def test_a_chat_that_was_created_meanwhile_is_followed_from_its_number(self) -> None:
        heads = {CHAT: 3, "user:2": 1}
        spans = {(BRUNO, 5): [Span(2)]}
        created = Update("chat_created", "user", 1, {"id": 5, "seq": 2})
        joined = Device("b", BRUNO, {"user": 0}, [created, applied(3)], {"user": 1, CHAT: 3})
        assert checkers.check_polls([joined], heads, spans) == []

    def test_an_update_of_a_scope_that_was_never_begun_is_a_skip(self) -> None:
        stray = device(applied(3), began=None)
        assert "poll-skip" in names(checkers.check_polls([stray], HEADS, MEMBERS))

    def test_a_reset_after_joining_again_passes(self) -> None:
        spans = {(BRUNO, 5): [Span(0, 1), Span(2)]}
        back = device(applied(1), Reset(CHAT, 3), ended=3)
        assert checkers.check_polls([back], HEADS, spans) == []

    @pytest.mark.parametrize(
        "change", [Reset(CHAT, 3), Reset(CHAT, 9), Forgotten(CHAT), Voided("other")]
    )
    def test_a_reset_without_a_reason_is_flagged(self, change: Change) -> None:
        torn = device(applied(1), change, ended=3)
        assert "unjustified-reset" in names(checkers.check_polls([torn], HEADS, MEMBERS))

    def test_forgetting_a_chat_after_the_removal_passes(self) -> None:
        spans = {(BRUNO, 5): [Span(0, 2)]}
        out = Device("b", BRUNO, {"user": 1, CHAT: 0}, [applied(1), Forgotten(CHAT)], {"user": 1})
        assert checkers.check_polls([out], HEADS, spans) == []

    def test_following_a_chat_after_the_removal_is_flagged(self) -> None:
        spans = {(BRUNO, 5): [Span(0, 2)]}
        assert names(checkers.check_polls([device(applied(1))], HEADS, spans)) == {"unseen"}

    def test_a_number_that_stands_for_another_message_is_flagged(self) -> None:
        other = device(applied(1, id=555))
        assert names(checkers.check_order([other], [logged(1)])) == {"inconsistent-offsets"}

    def test_a_number_that_stands_for_another_kind_of_update_is_flagged(self) -> None:
        other = device(applied(1, "read_by"))
        assert names(checkers.check_order([other], [logged(1)])) == {"inconsistent-offsets"}

    def test_an_update_that_the_log_does_not_hold_was_aborted_and_read(self) -> None:
        assert names(checkers.check_order([device(applied(1))], [])) == {"g1a"}

    def test_updates_inside_the_membership_pass(self) -> None:
        spans = {(BRUNO, 5): [Span(0, 2)]}
        assert checkers.check_visibility([device(applied(1), applied(2))], spans) == []

    @pytest.mark.parametrize("spans", [[Span(0, 1)], [Span(2)], []])
    def test_an_update_outside_the_membership_is_flagged(self, spans: list[Span]) -> None:
        outside = device(applied(2))
        found = checkers.check_visibility([outside], {(BRUNO, 5): spans})
        assert names(found) == {"after-removal"}

    def test_a_message_by_a_member_passes_and_by_an_outsider_is_flagged(self) -> None:
        spans = {(ANNA, 5): [Span(0, 1)]}
        service = replace(stored(2), type="service")
        assert checkers.check_writers([stored(1), service], spans) == []
        assert names(checkers.check_writers([stored(2)], spans)) == {"outsider-write"}

    def test_texts_that_were_sent_or_edited_in_pass(self) -> None:
        edit = Call(9, "anna 1", ANNA, "edit", {"message_id": 101, "text": "new"}, 0.0)
        reader = device(applied(1), applied(2, "message_edited", id=101, text="new"))
        reader.changes[1].data["client_message_id"] = "key-1"  # type: ignore[index]
        assert checkers.check_texts([reader], [sent(1), edit]) == []

    def test_a_foreign_text_is_flagged(self) -> None:
        found = checkers.check_texts([device(applied(1, text="foreign"))], [sent(1)])
        assert names(found) == {"inconsistent-offsets"}

    def test_a_refused_text_was_aborted_and_read(self) -> None:
        refused = sent(1, Outcome.FAIL, forced=True, text="refused")
        found = checkers.check_texts([device(applied(1, text="refused"))], [sent(1), refused])
        assert names(found) == {"g1a"}


class TestCounts:
    item: dict[str, Any] = {  # noqa: RUF012 - copied by each test
        "id": 5,
        "unread_count": 4,
        "unread_mentions_count": 1,
        "members_count": 2,
        "my": {"last_read_message_id": 101},
    }

    def test_a_list_like_the_recount_passes(self) -> None:
        counts = {(BRUNO, 5): Count(unread=4, mentions=1, members=2, mark=101)}
        assert checkers.check_counts({BRUNO: [self.item]}, counts) == []

    def test_beyond_the_cap_only_the_cap_is_told(self) -> None:
        counts = {(BRUNO, 5): Count(unread=1234, mentions=1, members=2, mark=101)}
        assert checkers.check_counts({BRUNO: [self.item | {"unread_count": 1000}]}, counts) == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"unread_count": 5},
            {"unread_mentions_count": 0},
            {"members_count": 3},
            {"my": {"last_read_message_id": 100}},
        ],
    )
    def test_a_wrong_count_is_flagged(self, wrong: dict[str, Any]) -> None:
        counts = {(BRUNO, 5): Count(unread=4, mentions=1, members=2, mark=101)}
        assert names(checkers.check_counts({BRUNO: [self.item | wrong]}, counts)) == {"miscount"}

    def test_a_chat_that_is_not_listed_is_flagged(self) -> None:
        counts = {(BRUNO, 5): Count(0, 0, 2, 0)}
        assert names(checkers.check_counts({BRUNO: []}, counts)) == {"miscount"}

    def test_a_read_mark_that_fell_back_is_lost(self) -> None:
        read = Call(1, "bruno 1", BRUNO, "read", {"chat_id": 5, "message_id": 103}, 0.0, Outcome.OK)
        good, bad = Count(0, 0, 2, 103), Count(0, 0, 2, 102)
        assert checkers.check_marks([read], {(BRUNO, 5): good}) == []
        assert names(checkers.check_marks([read], {(BRUNO, 5): bad})) == {"lost-write"}

    def test_a_history_like_the_rows_passes_and_another_is_flagged(self) -> None:
        rows = [stored(1), stored(2), replace(stored(3), is_deleted=True)]
        assert checkers.check_history({5: [102, 101]}, rows) == []
        assert names(checkers.check_history({5: [102]}, rows)) == set()
        for wrong in ([101, 102], [103, 102, 101], []):
            assert names(checkers.check_history({5: wrong}, rows)) == {"inconsistent-offsets"}


class TestTheRest:
    def test_503_passes_and_500_is_flagged(self) -> None:
        busy, broken = sent(1, Outcome.UNKNOWN), sent(2, Outcome.FAIL)
        busy.answer, broken.answer = {"status": 503}, {"status": 500}
        assert checkers.check_answers([busy]) == []
        assert names(checkers.check_answers([broken])) == {"server-error"}

    def test_a_send_that_had_to_be_refused_is_flagged(self) -> None:
        assert checkers.check_answers([sent(1, Outcome.FAIL, forced=True)]) == []
        assert names(checkers.check_answers([sent(1, forced=True)])) == {"accepted"}

    def test_a_refusal_of_what_must_succeed_is_flagged(self) -> None:
        calls = [sent(1, Outcome.FAIL, must_succeed=True)]
        assert names(checkers.check_answers(calls)) == {"refused"}

    def test_a_pushed_message_that_cannot_be_read_was_not_committed(self) -> None:
        look = Call(1, "bruno 1", BRUNO, "look", {"message_id": 101}, 0.0, Outcome.OK)
        assert checkers.check_looks([look]) == []
        look.outcome = Outcome.FAIL
        assert names(checkers.check_looks([look])) == {"precommitted-read"}

    def test_a_session_that_lives_on_is_flagged(self) -> None:
        assert checkers.check_revocations([Ending("a", "socket", 0.9, 1.0)]) == []
        found = checkers.check_revocations([Ending("a", "token", 1.1, 1.0)])
        assert names(found) == {"late-revocation"}

    def test_a_reader_that_is_cut_off_passes_and_one_that_is_kept_is_flagged(self) -> None:
        assert checkers.check_slow_readers([SlowReader("a", 10**7, 4409)]) == []
        found = checkers.check_slow_readers([SlowReader("a", 10**7, None)])
        assert names(found) == {"unbounded-queue"}

    def test_a_device_that_is_late_or_never_whole_is_flagged(self) -> None:
        assert checkers.check_healing({"a": 9.9}, bar=10) == []
        assert len(checkers.check_healing({"a": 10.1, "b": None}, bar=10)) == 2

    def test_an_error_in_the_log_and_an_open_transaction_are_flagged(self) -> None:
        assert checkers.check_server_logs([]) == checkers.check_transactions([]) == []
        assert names(checkers.check_server_logs(["Traceback"])) == {"logged-error"}
        assert names(checkers.check_transactions(["BEGIN"])) == {"idle-in-transaction"}

    def test_memberships_follow_from_what_users_are_told(self) -> None:
        def told(seq: int, type_: str, chat_seq: int, **data: object) -> LogRow:
            about = {"chat_id": 5, "seq": chat_seq, **data}
            return LogRow("user:2", seq, type_, 5, about)

        rows = [
            told(1, "chat_created", 0),
            told(2, "chat_created", 3),
            told(3, "chat_removed", 7, reason="removed"),
            told(4, "chat_created", 9),
        ]
        spans = checkers.read_spans(rows)
        assert spans == {(2, 5): [Span(0, 7), Span(9)]}
        assert checkers.list_scopes(2, spans) == ["user", CHAT]
        assert checkers.list_scopes(3, spans) == ["user"]


async def test_a_journal_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.jsonl") as journal:
        calls = [journal.begin("anna 1", ANNA, "send", text=str(n)) for n in range(50)]
        await asyncio.gather(
            *(journal.end(call, Outcome.OK, id=call.id) for call in calls[:40]),
            journal.end(calls[40], Outcome.FAIL, status=403),
        )
        assert read_journal(journal.path) == calls[:50]
    assert read_journal(tmp_path / "journal.jsonl") == calls


async def test_an_answer_is_on_disk_before_it_counts(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.jsonl") as journal:
        call = journal.begin("anna 1", ANNA, "send", text="x")
        await journal.end(call, Outcome.OK, id=7)
        [read] = read_journal(journal.path)
        assert (read.outcome, read.answer) == (Outcome.OK, {"id": 7})


async def test_a_torn_last_line_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    async with Journal(path) as journal:
        await journal.end(journal.begin("a", 1, "send"), Outcome.OK)
        journal.begin("a", 1, "send")
    path.write_bytes(path.read_bytes() + b'{"end":1,"outc')
    assert [call.outcome for call in read_journal(path)] == [Outcome.OK, Outcome.UNKNOWN]
