//! A body that is accepted stays JSON through any edit, the edits are in it, and the announced length is the true one.
#![no_main]

use budgateway_core::json::{Fields, Splice, quote, unescape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, body) = input;
    let fields = Fields::new(["a", "model", "stream"]).expect("three names");
    let Ok(members) = fields.peek(body) else { return };
    for field in 0..3 {
        if let Some(raw) = members.raw_string(body, field) {
            let text = unescape(raw);
            assert!(fields.peek(&quote(&text)).is_ok());
        }
    }
    if !members.is_object() {
        return;
    }
    // Two bits a field: leave, delete, set.
    let edits = (0..3).filter_map(|field| match choice >> (2 * field) & 3 {
        0 => None,
        1 => Some((field, None)),
        _ => Some((field, Some(&b"[\"x\"]"[..]))),
    });
    let splice = Splice::plan(&fields, &members, body, edits.clone()).expect("an object");
    let mut out = Vec::new();
    let Ok(()) = splice.pieces::<std::convert::Infallible>(|piece| {
        out.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(out.len(), splice.len());
    let edited = fields.peek(&out).expect("still JSON");
    for field in 0..3 {
        let expected = edits
            .clone()
            .find(|edit| edit.0 == field)
            .map_or(members.text(body, field), |edit| edit.1);
        assert_eq!(edited.text(&out, field), expected);
    }
});
