//! The record of a kept exchange, in the form that `budgateway/observe/trace_record.py` reads: numbers little-endian,
//! texts with their length before them.

use crate::entry::{Charge, Entry};
use crate::head::flag;
use crate::segment::{LabelId, Segment};

use crate::trace::{Attempt, Trace};

/// The longest text of a record; longer ones are cut.
const MAX_TEXT: usize = 1024;

const IS_STREAM: u8 = 1;
const IS_ESTIMATED: u8 = 2;
const HAS_COST: u8 = 4;
const IS_HTTP_10: u8 = 8;
const IS_ASKED: u8 = 16;

/// Appends a record: its length in four bytes, then its fields.
pub(super) fn write(out: &mut Vec<u8>, segment: &Segment, trace: &Trace, entry: &Entry<'_>, charge: &Charge) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let link = trace.link.map_or((0, 0), |link| (link.trace_id, link.span_id));
    out.extend_from_slice(&trace.trace_id.to_be_bytes());
    out.extend_from_slice(&link.0.to_be_bytes());
    for number in [
        trace.parent,
        trace.server,
        trace.call,
        link.1,
        entry.epoch_ns as u64,
        entry.started_ns,
        entry.first_ns,
        entry.ended_ns,
        entry.overhead_ns,
        entry.attempts,
        entry.retries,
        entry.bytes_in,
        entry.bytes_out,
        charge.usage.tokens_in,
        charge.usage.tokens_out,
        charge.usage.tokens_cached,
        charge.usage.tokens_reasoning,
        charge.micros(),
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&entry.status.to_le_bytes());
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let is_http_10 = entry.head.is_some_and(|(head, _)| head.flags & flag::HTTP_10 != 0);
    out.push(entry.outcome as u8);
    out.push(trace.by as u8);
    out.push(
        flag(entry.is_stream, IS_STREAM)
            | flag(charge.is_estimated, IS_ESTIMATED)
            | flag(charge.cost_micros.is_some(), HAS_COST)
            | flag(is_http_10, IS_HTTP_10)
            | flag(entry.is_asked, IS_ASKED),
    );
    let label = |id: LabelId| segment.label(id).unwrap_or_default();
    let header = |name: &[u8]| {
        entry.head.map_or(&b""[..], |(head, bytes)| {
            head.find(bytes, name).map_or(b"", |field| field.value(bytes))
        })
    };
    let host = entry.head.map_or(&b""[..], |(head, bytes)| head.host(bytes));
    for words in [
        label(entry.route).as_bytes(),
        label(entry.provider).as_bytes(),
        entry.model.as_bytes(),
        entry.upstream.as_bytes(),
        entry.method(),
        entry.path(),
        host,
        entry.request_id.as_bytes(),
        entry.client.as_bytes(),
        entry.principal.as_bytes(),
        entry.tenant.as_bytes(),
        entry.error.as_bytes(),
        header(b"user-agent"),
    ] {
        text(out, words);
    }
    out.push(trace.attempts.len() as u8);
    trace.attempts.iter().for_each(|attempt| put_attempt(out, attempt));
    out.push(trace.notes.len() as u8);
    for note in &trace.notes {
        out.push(note.kind);
        out.extend_from_slice(&note.at_ns.to_le_bytes());
    }
    let length = (out.len() - begin - 4) as u32;
    if let Some(place) = out.get_mut(begin..begin + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

fn put_attempt(out: &mut Vec<u8>, attempt: &Attempt) {
    for number in [attempt.span, attempt.began_ns, attempt.sent_ns, attempt.ended_ns] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&attempt.status.to_le_bytes());
    out.push(attempt.reason);
    out.push(attempt.is_reused.into());
    text(out, attempt.upstream.as_bytes());
}

fn text(out: &mut Vec<u8>, words: &[u8]) {
    let words = words.get(..MAX_TEXT).unwrap_or(words);
    out.extend_from_slice(&(words.len() as u16).to_le_bytes());
    out.extend_from_slice(words);
}
