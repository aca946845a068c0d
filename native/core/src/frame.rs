//! WebSocket frames (RFC 6455 5), tracked as they pass: complete headers and close frames are checked before they are
//! forwarded, payloads are forwarded unread, and no message is ever buffered.
//!
//! ```text
//! Head -> Payload -> Head ...
//!   `---> Close -> Closed          a close frame is forwarded when it is complete; nothing follows it
//! ```

/// The longest frame header: two bytes, a 64-bit length, a mask.
pub const MAX_HEAD: usize = 14;
/// The longest payload of a control frame (RFC 6455 5.5).
pub const MAX_CONTROL: usize = 125;

const MAX_HELD: usize = MAX_HEAD + MAX_CONTROL;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PONG: u8 = 10;

/// A violation of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// RSV2, RSV3, or RSV1 where it does not begin a message that may be compressed.
    #[error("a frame has a reserved bit set")]
    Reserved,
    /// Opcodes 3 to 7 and 11 to 15.
    #[error("a frame has a reserved opcode")]
    Opcode,
    /// A client's frame without a mask.
    #[error("a frame of the client is not masked")]
    Unmasked,
    /// A server's frame with a mask.
    #[error("a frame of the server is masked")]
    Masked,
    /// Not the shortest form of a length, or 2^63 and above.
    #[error("a frame's length is malformed")]
    Length,
    /// A control frame of more than 125 bytes, or a fragmented one.
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A continuation without a message.
    #[error("a continuation frame without a message to continue")]
    Continuation,
    /// A message that begins inside another one.
    #[error("a message begins before the last one ended")]
    Interleaved,
    /// A payload of one byte, or a code that no endpoint may send (RFC 6455 7.4).
    #[error("a close frame has a malformed code")]
    CloseCode,
    /// A message above the limit.
    #[error("a message is larger than the limit")]
    TooLarge,
}

impl FrameError {
    /// The close code to send to the offender (RFC 6455 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLarge => 1009,
            _ => 1002,
        }
    }
}

/// The bytes that may be forwarded: first `carried()` bytes that were held back before, then the new ones up to `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The number of bytes held back by earlier calls.
    pub carried: usize,
    /// The number of bytes of this call.
    pub end: usize,
}

/// Tracks one direction of one connection. Errors and close frames are final: nothing passes after them.
#[derive(Debug)]
pub struct FrameScanner {
    masked: bool,
    compressed: bool,
    max_message: u64,
    state: State,
    /// A header or a complete close frame while it arrives.
    held: [u8; MAX_HELD],
    held_len: usize,
    /// The content of `held` when the last call began.
    carried: [u8; MAX_HELD],
    /// Payload bytes of the current frame still to come.
    left: u64,
    /// Payload bytes of the current message so far.
    message: u64,
    in_message: bool,
    frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Payload,
    /// A close frame of this total length.
    Close(usize),
    Closed(u16),
    Failed(FrameError),
}

impl FrameScanner {
    /// `masked`: the sender is a client, so its frames are masked. `compressed`: permessage-deflate was negotiated (RFC
    /// 7692), so the first frame of a message may have RSV1. `max_message` limits the payload of a message, as
    /// transmitted.
    pub fn new(masked: bool, compressed: bool, max_message: u64) -> Self {
        Self {
            masked,
            compressed,
            max_message,
            state: State::Head,
            held: [0; MAX_HELD],
            held_len: 0,
            carried: [0; MAX_HELD],
            left: 0,
            message: 0,
            in_message: false,
            frames: 0,
        }
    }

    /// Scans the next bytes, however they are cut, and returns those that may be forwarded. Nothing after an error or a
    /// close frame is.
    pub fn feed(&mut self, bytes: &[u8]) -> Passed {
        let waiting = self.held_len;
        self.carried = self.held;
        let mut passed = Passed::default();
        let mut at = 0;
        loop {
            match self.state {
                State::Payload => {
                    let here = self.left.min((bytes.len() - at) as u64);
                    at += here as usize;
                    self.left -= here;
                    passed = Passed {
                        carried: waiting,
                        end: at,
                    };
                    if self.left > 0 {
                        return passed;
                    }
                    self.state = State::Head;
                }
                State::Head | State::Close(_) => {
                    let Some(&byte) = bytes.get(at) else { return passed };
                    at += 1;
                    if let Some(room) = self.held.get_mut(self.held_len) {
                        *room = byte;
                        self.held_len += 1;
                    }
                    self.state = self.step().unwrap_or_else(State::Failed);
                    if self.state == State::Payload || matches!(self.state, State::Closed(_)) {
                        passed = Passed {
                            carried: waiting,
                            end: at,
                        };
                        self.held_len = 0;
                    }
                }
                State::Closed(_) | State::Failed(_) => return passed,
            }
        }
    }

    /// The bytes that `feed` returned as `carried`, valid until the next call.
    pub fn carried(&self, passed: Passed) -> &[u8] {
        self.carried.get(..passed.carried).unwrap_or_default()
    }

    /// The number of frames whose header has passed.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// True when another frame may be inserted after the bytes that have passed.
    pub fn between_frames(&self) -> bool {
        self.state != State::Payload
    }

    /// The code of the close frame that has passed: 1005 when it had none.
    pub fn close_code(&self) -> Option<u16> {
        match self.state {
            State::Closed(code) => Some(code),
            _ => None,
        }
    }

    /// The error, if there was one.
    pub fn error(&self) -> Option<FrameError> {
        match self.state {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// The state after one more held byte.
    fn step(&mut self) -> Result<State, FrameError> {
        if let State::Close(len) = self.state {
            return if self.held_len < len {
                Ok(self.state)
            } else {
                self.closed()
            };
        }
        let [first, second, ..] = self.held;
        if self.held_len == 1 {
            self.check_first(first)?;
            return Ok(State::Head);
        }
        let short = second & 0x7f;
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.held_len == 2 {
            self.check_second(first, second)?;
        }
        let len = 2 + extended + if self.masked { 4 } else { 0 };
        if self.held_len == 2 + extended {
            self.check_length(first & 15, self.length(short, extended)?)?;
        }
        if self.held_len < len {
            return Ok(State::Head);
        }
        self.left = self.length(short, extended)?;
        let opcode = first & 15;
        if opcode == CLOSE {
            self.frames += 1;
            let whole = len + self.left as usize;
            return if whole == len {
                self.closed()
            } else {
                Ok(State::Close(whole))
            };
        }
        self.frames += 1;
        if opcode < CLOSE {
            self.message = if opcode == CONTINUATION {
                self.message.saturating_add(self.left)
            } else {
                self.left
            };
            self.in_message = first & 0x80 == 0;
        }
        Ok(State::Payload)
    }

    fn check_first(&self, first: u8) -> Result<(), FrameError> {
        let opcode = first & 15;
        if matches!(opcode, 3..=7) || opcode > PONG {
            return Err(FrameError::Opcode);
        }
        let begins = opcode == 1 || opcode == BINARY;
        if first & 0x30 != 0 || (first & 0x40 != 0 && !(begins && self.compressed)) {
            return Err(FrameError::Reserved);
        }
        if opcode >= CLOSE && first & 0x80 == 0 {
            return Err(FrameError::Control);
        }
        if opcode == CONTINUATION && !self.in_message {
            return Err(FrameError::Continuation);
        }
        if begins && self.in_message {
            return Err(FrameError::Interleaved);
        }
        Ok(())
    }

    fn check_second(&self, first: u8, second: u8) -> Result<(), FrameError> {
        match (self.masked, second & 0x80 != 0) {
            (true, false) => return Err(FrameError::Unmasked),
            (false, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let short = second & 0x7f;
        if first & 15 >= CLOSE {
            if usize::from(short) > MAX_CONTROL {
                return Err(FrameError::Control);
            }
            if first & 15 == CLOSE && short == 1 {
                return Err(FrameError::CloseCode);
            }
        }
        Ok(())
    }

    /// The payload's length, once its bytes have arrived.
    fn length(&self, short: u8, extended: usize) -> Result<u64, FrameError> {
        let length = self.held[2..2 + extended]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte));
        match extended {
            0 => Ok(u64::from(short)),
            // RFC 6455 5.2: the shortest form, and no sign bit.
            2 if length > 125 => Ok(length),
            8 if length > 0xffff && length >> 63 == 0 => Ok(length),
            _ => Err(FrameError::Length),
        }
    }

    fn check_length(&self, opcode: u8, length: u64) -> Result<(), FrameError> {
        let before = if opcode == CONTINUATION { self.message } else { 0 };
        if opcode < CLOSE && before.saturating_add(length) > self.max_message {
            return Err(FrameError::TooLarge);
        }
        Ok(())
    }

    /// Checks a complete close frame.
    fn closed(&self) -> Result<State, FrameError> {
        let (mask, payload) = if self.masked {
            ([self.held[2], self.held[3]], 6)
        } else {
            ([0; 2], 2)
        };
        if self.held_len < payload + 2 {
            return Ok(State::Closed(1005));
        }
        let code = u16::from_be_bytes([self.held[payload] ^ mask[0], self.held[payload + 1] ^ mask[1]]);
        // RFC 6455 7.4.1 and the IANA registry: 1004 to 1006 and 1015 are never sent, 3000 and up are free to use.
        if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            Ok(State::Closed(code))
        } else {
            Err(FrameError::CloseCode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..=125 => bytes.push(len as u8),
            len @ 126..=0xffff => {
                bytes.push(126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(127);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    fn server() -> FrameScanner {
        FrameScanner::new(false, false, 1 << 20)
    }

    /// Feeds pieces of `step` bytes and returns the bytes that passed.
    fn run(scanner: &mut FrameScanner, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            let passed = scanner.feed(piece);
            out.extend_from_slice(scanner.carried(passed));
            out.extend_from_slice(&piece[..passed.end]);
        }
        out
    }

    #[test]
    fn what_is_well_formed_passes_byte_for_byte_however_cut() {
        let mut bytes = frame(0x01, b"frag");
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x00, &[7; 300]));
        bytes.extend(frame(0x80, &[8; 70_000]));
        bytes.extend(frame(0x82, b""));
        bytes.extend(frame(0x88, &[3, 0xe8, b'x']));
        for step in [1, 2, 3, 7, 100, bytes.len()] {
            let mut scanner = server();
            assert_eq!(run(&mut scanner, &bytes, step), bytes, "step {step}");
            assert_eq!((scanner.frames(), scanner.close_code()), (6, Some(1000)));
        }
    }

    #[test]
    fn nothing_of_a_broken_frame_passes() {
        let good = frame(0x81, b"good");
        let cases: [(Vec<u8>, FrameError); 12] = [
            (frame(0xc1, b""), FrameError::Reserved),
            (frame(0xa1, b""), FrameError::Reserved),
            (frame(0x83, b""), FrameError::Opcode),
            (frame(0x8b, b""), FrameError::Opcode),
            (vec![0x81, 0x80, 1, 2, 3, 4], FrameError::Masked),
            (vec![0x81, 126, 0, 125], FrameError::Length),
            (vec![0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::Length),
            (vec![0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
            (frame(0x09, b""), FrameError::Control),
            (frame(0x89, &[0; 126]), FrameError::Control),
            (frame(0x80, b""), FrameError::Continuation),
            (frame(0x88, &[3]), FrameError::CloseCode),
        ];
        for (bad, error) in cases {
            let mut bytes = good.clone();
            bytes.extend(&bad);
            for step in [1, bytes.len()] {
                let mut scanner = server();
                assert_eq!(run(&mut scanner, &bytes, step), good, "{error}");
                assert_eq!(scanner.error(), Some(error));
                assert!(scanner.between_frames());
                assert_eq!(scanner.feed(&good), Passed::default());
            }
        }
    }

    #[test]
    fn close_codes_that_no_endpoint_may_send_are_refused() {
        for (code, valid) in [
            (999_u16, false),
            (1000, true),
            (1003, true),
            (1004, false),
            (1005, false),
            (1006, false),
            (1007, true),
            (1014, true),
            (1015, false),
            (2999, false),
            (3000, true),
            (4999, true),
            (5000, false),
        ] {
            let mut scanner = server();
            scanner.feed(&frame(0x88, &code.to_be_bytes()));
            assert_eq!(scanner.close_code(), valid.then_some(code));
        }
        let mut scanner = server();
        scanner.feed(&frame(0x88, b""));
        assert_eq!(scanner.close_code(), Some(1005));
    }

    #[test]
    fn a_masked_close_code_is_read_and_nothing_follows_it() {
        let mut scanner = FrameScanner::new(true, false, 10);
        let mut bytes = vec![0x88, 0x82, 0xaa, 0xbb, 0xcc, 0xdd, 0x03 ^ 0xaa, 0xe9 ^ 0xbb];
        let whole = bytes.len();
        bytes.extend([0x81, 0x80, 0, 0, 0, 0]);
        assert_eq!(scanner.feed(&bytes), Passed { carried: 0, end: whole });
        assert_eq!(scanner.close_code(), Some(1001));
    }

    #[test]
    fn a_message_in_pieces_is_measured_as_a_whole_and_pings_between_do_not_count() {
        let mut scanner = FrameScanner::new(false, false, 10);
        let mut bytes = frame(0x01, &[0; 6]);
        bytes.extend(frame(0x89, &[0; 100]));
        bytes.extend(frame(0x00, &[0; 4]));
        let whole = bytes.len();
        bytes.extend(frame(0x80, &[0; 1]));
        assert_eq!(scanner.feed(&bytes).end, whole);
        assert_eq!(scanner.error().map(FrameError::close_code), Some(1009));
    }

    #[test]
    fn compression_may_mark_the_first_frame_of_a_message_alone() {
        let mut scanner = FrameScanner::new(false, true, 100);
        scanner.feed(&frame(0x41, b"x"));
        assert_eq!(scanner.error(), None);
        scanner.feed(&frame(0xc0, b"x"));
        assert_eq!(scanner.error(), Some(FrameError::Reserved));
        let mut scanner = FrameScanner::new(false, true, 100);
        scanner.feed(&frame(0xc9, b"x"));
        assert_eq!(scanner.error(), Some(FrameError::Reserved));
    }

    #[test]
    fn inside_a_payload_nothing_may_be_put() {
        let mut scanner = server();
        scanner.feed(&[0x81, 2]);
        assert!(!scanner.between_frames());
        scanner.feed(b"a");
        assert!(!scanner.between_frames());
        scanner.feed(b"b");
        assert!(scanner.between_frames());
    }
}
