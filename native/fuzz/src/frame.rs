//! However frames are cut, what passes, the code and the fault are those that a slow reader finds, and passing is final.

use budgateway_core::frame::{FrameError, FrameScanner};

use crate::{Dice, cut};

/// Payload of a message at most.
const LIMIT: u64 = 5000;

/// As the first line says.
pub fn check(wire: &[u8]) {
    let mut dice = Dice::of(wire);
    for (masked, compressed) in [(false, false), (false, true), (true, false), (true, true)] {
        let follow = |pieces: &[&[u8]]| follow(masked, compressed, pieces);
        let whole = follow(&[wire]);
        assert_eq!(whole, slow(masked, compressed, wire));
        for way in cut::ways(wire, &mut dice) {
            assert_eq!(follow(&way), whole);
        }
        // What has passed passes again, all of it.
        let again = follow(&[&wire[..whole.passed]]);
        assert_eq!(
            (again.passed, again.fault, again.code),
            (whole.passed, None, whole.code)
        );
        // Nothing follows an end.
        if whole.fault.is_some() || whole.code.is_some() {
            assert_eq!(follow(&[wire, &[0x82, 0]]), whole);
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Followed {
    passed: usize,
    frames: u64,
    fault: Option<FrameError>,
    code: Option<u16>,
}

/// Collects the bytes that the scanner passes; they must be a prefix of the input.
fn follow(masked: bool, compressed: bool, pieces: &[&[u8]]) -> Followed {
    let (mut scanner, mut out) = (FrameScanner::new(masked, compressed, LIMIT), Vec::new());
    for piece in pieces {
        let passed = scanner.feed(piece);
        out.extend_from_slice(scanner.carried(passed));
        out.extend_from_slice(&piece[..passed.end]);
    }
    assert!(pieces.concat().starts_with(&out));
    Followed {
        passed: out.len(),
        frames: scanner.frames(),
        fault: scanner.error(),
        code: scanner.close_code(),
    }
}

/// RFC 6455 5 with our limits: all bytes at once, frame by frame.
fn slow(masked: bool, compressed: bool, wire: &[u8]) -> Followed {
    let (mut found, mut message, mut in_message) = (Followed::default(), 0, false);
    loop {
        let rest = &wire[found.passed..];
        let failed = |fault| Followed {
            fault: Some(fault),
            ..found
        };
        let Some(first) = rest.first() else { return found };
        let (opcode, is_last, reserved) = (first & 15, first & 0x80 != 0, first & 0x70);
        let (is_control, begins) = (opcode >= 8, matches!(opcode, 1 | 2));
        match opcode {
            3..=7 | 11..=15 => return failed(FrameError::Opcode),
            _ if reserved != 0 && !(reserved == 0x40 && compressed && begins) => return failed(FrameError::Reserved),
            _ if is_control && !is_last => return failed(FrameError::Control),
            0 if !in_message => return failed(FrameError::Continuation),
            _ if begins && in_message => return failed(FrameError::Interleaved),
            _ => {}
        }
        let Some(second) = rest.get(1) else { return found };
        let short = u64::from(second & 0x7f);
        match second & 0x80 != 0 {
            false if masked => return failed(FrameError::Unmasked),
            true if !masked => return failed(FrameError::Masked),
            _ if is_control && short > 125 => return failed(FrameError::Control),
            _ if opcode == 8 && short == 1 => return failed(FrameError::CloseCode),
            _ => {}
        }
        let (more, least) = match short {
            126 => (2, 126),
            127 => (8, 1 << 16),
            _ => (0, 0),
        };
        let Some(digits) = rest.get(2..2 + more) else {
            return found;
        };
        let long = digits.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = if more == 0 { short } else { long };
        if length < least || length > i64::MAX as u64 {
            return failed(FrameError::Length);
        }
        let total = if opcode == 0 { message + length } else { length };
        if !is_control && total > LIMIT {
            return failed(FrameError::TooLarge);
        }
        let head = 2 + more + if masked { 4 } else { 0 };
        let Some(behind) = rest.get(head..) else { return found };
        found.frames += 1;
        let payload = &behind[..behind.len().min(length as usize)];
        let is_whole = payload.len() as u64 == length;
        if opcode == 8 && !is_whole {
            return found;
        }
        if let (8, [high, low, ..]) = (opcode, payload) {
            let mask = if masked { &rest[head - 4..head] } else { &[0; 4] };
            found.code = Some(u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]));
            if !matches!(found.code, Some(1000..=1003 | 1007..=1014 | 3000..=4999)) {
                let (code, fault) = (None, Some(FrameError::CloseCode));
                return Followed { code, fault, ..found };
            }
        }
        found.passed += head + payload.len();
        if opcode == 8 {
            let code = found.code.or(Some(1005));
            return Followed { code, ..found };
        }
        if !is_control {
            (message, in_message) = (total, !is_last);
        }
        if !is_whole {
            return found;
        }
    }
}
