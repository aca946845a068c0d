//! No prefix of a head gets another verdict than the whole, and what is written from a head is a head that says the same.
#![no_main]

use budgateway_core::head::{Framing, RequestHead, RequestHeadWriter, ResponseHead, ResponseHeadWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cut = data.len() / 2;
    if let Ok(request) = RequestHead::parse(data) {
        // Complete or not: half of it is complete in the same way, or not yet.
        let early = RequestHead::parse(&data[..cut]).expect("a prefix of what is accepted");
        assert!(early.is_none_or(|early| request.as_ref().is_some_and(|whole| whole.size == early.size)));
        if let Some(head) = request {
            let writer = RequestHeadWriter::new("up:1", "", "", &["x-a"], &[("authorization", "k")]).expect("fine");
            let plan = writer.plan(&head, data, b"id", Framing::Length(7)).expect("fine");
            let mut out = vec![0; plan.len()];
            plan.write(&mut out);
            let again = RequestHead::parse(&out).expect("a head").expect("all of it");
            assert_eq!(again.size, out.len());
            assert_eq!(again.path(&out), head.path(data));
            assert_eq!(again.query(&out), head.query(data));
            assert_eq!(again.content_length, Some(7));
        }
    }
    if let Ok(response) = ResponseHead::parse(data, false) {
        let early = ResponseHead::parse(&data[..cut], false).expect("a prefix of what is accepted");
        assert!(early.is_none_or(|early| response.as_ref().is_some_and(|whole| whole.size == early.size)));
        if let Some(head) = response {
            let writer = ResponseHeadWriter::new(&["x-a"]).expect("fine");
            let plan = writer.plan(&head, data, Framing::None, false, b"");
            let mut out = vec![0; plan.len()];
            plan.write(&mut out);
            let again = ResponseHead::parse(&out, false).expect("a head").expect("all of it");
            assert_eq!((again.size, again.status), (out.len(), head.status));
            assert_eq!(again.content_length, None);
        }
    }
});
