//! Blocks of 64 bytes: SIMD predicates over all of them, as bit masks.

use wide::{CmpEq, CmpGt, i8x16};

pub(crate) const BLOCK: usize = 64;

const LANE: usize = 16;

/// A block of 64 bytes with predicates over all of them; bit i of a result is byte i.
pub(crate) trait Block: Copy {
    /// The bytes equal to `byte`.
    fn equal(self, byte: u8) -> u64;
    /// The bytes below 0x20.
    fn controls(self) -> u64;
    /// The brackets, braces, colons and commas; perhaps also 0x0c and 0x1a.
    fn operators(self) -> u64;
    /// The white space of JSON.
    fn spaces(self) -> u64;
    /// True when some byte is above 0x7f.
    fn is_wide(self) -> bool;
    /// The bitwise OR of both blocks: a byte above 0x7f in either stays above 0x7f.
    fn or(self, other: Self) -> Self;
    /// The bytes below 0x20, and those equal to `"`.
    fn quotes_and_controls(self) -> u64;
    /// True when no byte is a quote, a backslash or below 0x20.
    #[inline(always)]
    fn is_text(self) -> bool {
        self.quotes_and_controls() | self.equal(b'\\') == 0
    }
    /// True for text without bytes above 0x7f.
    #[inline(always)]
    fn is_ascii_text(self) -> bool {
        self.is_text() && !self.is_wide()
    }
    /// The letters that may follow a backslash; and the hexadecimal digits.
    fn letters_and_digits(self) -> [u64; 2];
}

/// Work on blocks, compiled once for each vector width.
pub(crate) trait Work {
    /// The result.
    type Output;

    /// Does the work; `load` loads blocks.
    fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) -> Self::Output;
}

/// The widest vectors to use, in bytes. A build can set narrower ones than the machine has, to test every width on it:
/// `RUSTFLAGS='--cfg budgateway_vectors="32"'`.
#[cfg(target_arch = "x86_64")]
const WIDEST: usize = if cfg!(budgateway_vectors = "16") {
    16
} else if cfg!(budgateway_vectors = "32") {
    32
} else {
    64
};

/// Does the work with the widest vectors of this machine.
#[inline(always)]
pub(crate) fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if WIDEST >= 64
        && let Some(simd) = pulp::x86::V4::try_new()
    {
        return wide512::run(simd, work);
    } else if WIDEST >= 32
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return wide256::run(simd, work);
    }
    work.run(Narrow::load)
}

/// The block at `at`, when there are 64 bytes left.
#[inline(always)]
pub(crate) fn at(bytes: &[u8], at: usize) -> Option<&[u8; BLOCK]> {
    bytes.get(at..)?.first_chunk::<BLOCK>()
}

/// Four vectors of 16 bytes, which every machine has.
#[derive(Clone, Copy)]
struct Narrow([i8x16; 4]);

impl Narrow {
    #[inline(always)]
    fn load(bytes: &[u8; BLOCK]) -> Self {
        let mut lanes = [i8x16::ZERO; 4];
        for (to, from) in lanes.iter_mut().zip(bytes.chunks_exact(LANE)) {
            if let Some(from) = from.first_chunk::<LANE>() {
                *to = lane(from);
            }
        }
        Self(lanes)
    }
}

impl Block for Narrow {
    #[inline(always)]
    fn equal(self, byte: u8) -> u64 {
        let byte = i8x16::splat(byte as i8);
        bits(self.0.map(|lane| lane.cmp_eq(byte)))
    }

    #[inline(always)]
    fn controls(self) -> u64 {
        bits(self.0.map(control))
    }

    #[inline(always)]
    fn operators(self) -> u64 {
        let is = |lane: i8x16, byte: u8| lane.cmp_eq(i8x16::splat(byte as i8));
        bits(self.0.map(|lane| {
            // Bit 5 distinguishes brackets from braces; both count.
            let folded = lane | i8x16::splat(0x20);
            is(folded, b'{') | is(folded, b'}') | is(lane, b':') | is(lane, b',')
        }))
    }

    #[inline(always)]
    fn spaces(self) -> u64 {
        let is = |lane: i8x16, byte: u8| lane.cmp_eq(i8x16::splat(byte as i8));
        bits(
            self.0
                .map(|lane| is(lane, b' ') | is(lane, b'\n') | is(lane, b'\r') | is(lane, b'\t')),
        )
    }

    #[inline(always)]
    fn is_wide(self) -> bool {
        let [a, b, c, d] = self.0;
        (a | b | c | d).move_mask() != 0
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a | e, b | f, c | g, d | h])
    }

    #[inline(always)]
    fn quotes_and_controls(self) -> u64 {
        self.equal(b'"') | self.controls()
    }

    #[inline(always)]
    fn letters_and_digits(self) -> [u64; 2] {
        let is = |lane: i8x16, byte: u8| lane.cmp_eq(i8x16::splat(byte as i8));
        let any = |lane: i8x16| br#""\/bfnrtu"#.iter().fold(i8x16::ZERO, |any, byte| any | is(lane, *byte));
        let between = |lane: i8x16, least: u8, most: u8| {
            lane.cmp_gt(i8x16::splat(least as i8 - 1)) & i8x16::splat(most as i8 + 1).cmp_gt(lane)
        };
        let digit = |lane: i8x16| between(lane, b'0', b'9') | between(lane | i8x16::splat(0x20), b'a', b'f');
        [bits(self.0.map(any)), bits(self.0.map(digit))]
    }
}

// The kinds of a byte are the bits that both its low and its high half have: a letter that may be escaped (each bit of
// `LETTER` is one set of them), or a hexadecimal digit.
#[cfg(target_arch = "x86_64")]
const LETTER: u8 = 0x1f;
#[cfg(target_arch = "x86_64")]
const DIGIT: u8 = 0x60;
#[cfg(target_arch = "x86_64")]
const LOW: [u8; 16] = kinds(false);
#[cfg(target_arch = "x86_64")]
const HIGH: [u8; 16] = kinds(true);

#[cfg(target_arch = "x86_64")]
const fn kinds(high: bool) -> [u8; 16] {
    const SETS: [&[u8]; 7] = [b"\"br", b"/", b"\\", b"fn", b"tu", b"0123456789", b"abcdefABCDEF"];
    let mut table = [0; 16];
    let mut set = 0;
    while set < SETS.len() {
        let mut i = 0;
        while i < SETS[set].len() {
            let byte = SETS[set][i];
            let nibble = if high { byte >> 4 } else { byte & 15 };
            table[nibble as usize] |= 1 << set;
            i += 1;
        }
        set += 1;
    }
    table
}

// Bit 5 distinguishes brackets from braces; both count.
#[cfg(target_arch = "x86_64")]
const OPERATORS: [u8; 16] = *b"\0\0\0\0\0\0\0\0\0\0:{,}\0\0";
#[cfg(target_arch = "x86_64")]
const SPACES: [u8; 16] = *b" \x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\t\n\x7f\x7f\r\x7f\0";

/// One vector of 64 bytes: AVX-512.
#[cfg(target_arch = "x86_64")]
mod wide512 {
    use std::arch::x86_64::__m512i;

    use pulp::x86::V4;

    use super::{BLOCK, Block, DIGIT, HIGH, LETTER, LOW, OPERATORS, SPACES, Work};

    #[derive(Clone, Copy)]
    struct Widest {
        simd: V4,
        all: __m512i,
    }

    #[inline(always)]
    pub(super) fn run<W: Work>(simd: V4, work: W) -> W::Output {
        struct Op<W>(V4, W);
        impl<W: Work> pulp::NullaryFnOnce for Op<W> {
            type Output = W::Output;

            #[inline(always)]
            fn call(self) -> W::Output {
                let simd = self.0;
                self.1.run(
                    #[inline(always)]
                    |bytes: &[u8; BLOCK]| {
                        let all: __m512i = pulp::cast(*bytes);
                        Widest { simd, all }
                    },
                )
            }
        }
        simd.vectorize(Op(simd, work))
    }

    impl Widest {
        #[inline(always)]
        fn splat(self, byte: u8) -> __m512i {
            self.simd.avx512f._mm512_set1_epi8(byte as i8)
        }

        /// The bytes that, once `folded`, equal the table's entry for their low four bits.
        #[inline(always)]
        fn listed(self, table: [u8; 16], folded: __m512i) -> u64 {
            let avx512 = self.simd.avx512bw;
            let wanted = avx512._mm512_shuffle_epi8(pulp::cast([table; 4]), self.all);
            avx512._mm512_cmpeq_epi8_mask(folded, wanted)
        }

        /// The high four bits of each byte.
        #[inline(always)]
        fn above(self, lane: __m512i) -> __m512i {
            let high = self.simd.avx512bw._mm512_srli_epi16::<4>(lane);
            self.simd.avx512f._mm512_and_si512(high, self.splat(0x0f))
        }

        /// Unsigned `lane <= byte`.
        #[inline(always)]
        fn at_most(self, lane: __m512i, byte: u8) -> u64 {
            self.simd.avx512bw._mm512_cmple_epu8_mask(lane, self.splat(byte))
        }
    }

    impl Block for Widest {
        #[inline(always)]
        fn equal(self, byte: u8) -> u64 {
            self.simd.avx512bw._mm512_cmpeq_epi8_mask(self.all, self.splat(byte))
        }

        #[inline(always)]
        fn controls(self) -> u64 {
            self.at_most(self.all, 0x1f)
        }

        #[inline(always)]
        fn operators(self) -> u64 {
            let folded = self.simd.avx512f._mm512_or_si512(self.all, self.splat(0x20));
            self.listed(OPERATORS, folded)
        }

        #[inline(always)]
        fn spaces(self) -> u64 {
            self.listed(SPACES, self.all)
        }

        #[inline(always)]
        fn is_wide(self) -> bool {
            self.simd.avx512bw._mm512_movepi8_mask(self.all) != 0
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            let all = self.simd.avx512f._mm512_or_si512(self.all, other.all);
            Self { all, ..self }
        }

        #[inline(always)]
        fn quotes_and_controls(self) -> u64 {
            // Below 0x20, or `"`: with one bit flipped, the quote follows directly after the controls.
            let turned = self.simd.avx512f._mm512_xor_si512(self.all, self.splat(0x02));
            self.at_most(turned, 0x20)
        }

        #[inline(always)]
        fn letters_and_digits(self) -> [u64; 2] {
            let (avx512, avx512bw) = (self.simd.avx512f, self.simd.avx512bw);
            let kinds = avx512._mm512_and_si512(
                avx512bw._mm512_shuffle_epi8(pulp::cast([LOW; 4]), self.all),
                avx512bw._mm512_shuffle_epi8(pulp::cast([HIGH; 4]), self.above(self.all)),
            );
            [LETTER, DIGIT].map(
                #[inline(always)]
                |kind| avx512bw._mm512_test_epi8_mask(kinds, self.splat(kind)),
            )
        }
    }
}

/// Two vectors of 32 bytes: AVX2.
#[cfg(target_arch = "x86_64")]
mod wide256 {
    use std::arch::x86_64::__m256i;

    use pulp::x86::V3;

    use super::{BLOCK, Block, DIGIT, HIGH, LETTER, LOW, OPERATORS, SPACES, Work};

    #[derive(Clone, Copy)]
    struct Wide {
        simd: V3,
        low: __m256i,
        high: __m256i,
    }

    #[inline(always)]
    pub(super) fn run<W: Work>(simd: V3, work: W) -> W::Output {
        struct Op<W>(V3, W);
        impl<W: Work> pulp::NullaryFnOnce for Op<W> {
            type Output = W::Output;

            #[inline(always)]
            fn call(self) -> W::Output {
                let simd = self.0;
                self.1.run(
                    #[inline(always)]
                    |bytes: &[u8; BLOCK]| {
                        let [low, high]: [__m256i; 2] = pulp::cast(*bytes);
                        Wide { simd, low, high }
                    },
                )
            }
        }
        simd.vectorize(Op(simd, work))
    }

    impl Wide {
        #[inline(always)]
        fn bits(self, question: impl Fn(__m256i) -> __m256i) -> u64 {
            let low = self.simd.avx2._mm256_movemask_epi8(question(self.low)) as u32;
            let high = self.simd.avx2._mm256_movemask_epi8(question(self.high)) as u32;
            u64::from(low) | u64::from(high) << 32
        }

        #[inline(always)]
        fn is(self, lane: __m256i, byte: u8) -> __m256i {
            self.simd
                .avx2
                ._mm256_cmpeq_epi8(lane, self.simd.avx._mm256_set1_epi8(byte as i8))
        }

        #[inline(always)]
        fn table(self, table: [u8; 16]) -> __m256i {
            pulp::cast([table; 2])
        }

        /// Below 0x20, or `"`: with one bit flipped, the quote follows directly after the controls.
        #[inline(always)]
        fn quote_or_control(self, lane: __m256i) -> __m256i {
            let turned = self
                .simd
                .avx2
                ._mm256_xor_si256(lane, self.simd.avx._mm256_set1_epi8(0x02));
            self.at_most(turned, 0x20)
        }

        /// The high four bits of each byte.
        #[inline(always)]
        fn above(self, lane: __m256i) -> __m256i {
            let (avx, avx2) = (self.simd.avx, self.simd.avx2);
            avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(lane), avx._mm256_set1_epi8(0x0f))
        }

        /// Unsigned `lane <= byte`.
        #[inline(always)]
        fn at_most(self, lane: __m256i, byte: u8) -> __m256i {
            let least = self
                .simd
                .avx2
                ._mm256_min_epu8(lane, self.simd.avx._mm256_set1_epi8(byte as i8));
            self.simd.avx2._mm256_cmpeq_epi8(least, lane)
        }
    }

    impl Block for Wide {
        #[inline(always)]
        fn equal(self, byte: u8) -> u64 {
            self.bits(
                #[inline(always)]
                |lane| self.is(lane, byte),
            )
        }

        #[inline(always)]
        fn controls(self) -> u64 {
            self.bits(
                #[inline(always)]
                |lane| self.at_most(lane, 0x1f),
            )
        }

        #[inline(always)]
        fn operators(self) -> u64 {
            let table = self.table(OPERATORS);
            self.bits(
                #[inline(always)]
                |lane| {
                    let folded = self
                        .simd
                        .avx2
                        ._mm256_or_si256(lane, self.simd.avx._mm256_set1_epi8(0x20));
                    let wanted = self.simd.avx2._mm256_shuffle_epi8(table, lane);
                    self.simd.avx2._mm256_cmpeq_epi8(folded, wanted)
                },
            )
        }

        #[inline(always)]
        fn spaces(self) -> u64 {
            let table = self.table(SPACES);
            self.bits(
                #[inline(always)]
                |lane| {
                    let wanted = self.simd.avx2._mm256_shuffle_epi8(table, lane);
                    self.simd.avx2._mm256_cmpeq_epi8(lane, wanted)
                },
            )
        }

        #[inline(always)]
        fn is_wide(self) -> bool {
            let avx2 = self.simd.avx2;
            avx2._mm256_movemask_epi8(avx2._mm256_or_si256(self.low, self.high)) != 0
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            let avx2 = self.simd.avx2;
            let low = avx2._mm256_or_si256(self.low, other.low);
            let high = avx2._mm256_or_si256(self.high, other.high);
            Self { low, high, ..self }
        }

        #[inline(always)]
        fn quotes_and_controls(self) -> u64 {
            self.bits(
                #[inline(always)]
                |lane| self.quote_or_control(lane),
            )
        }

        #[inline(always)]
        fn is_text(self) -> bool {
            let avx2 = self.simd.avx2;
            let [low, high] = [self.low, self.high]
                .map(|lane| avx2._mm256_or_si256(self.quote_or_control(lane), self.is(lane, b'\\')));
            avx2._mm256_movemask_epi8(avx2._mm256_or_si256(low, high)) == 0
        }

        #[inline(always)]
        fn is_ascii_text(self) -> bool {
            // The comparison is signed: bytes above 0x7f are less than all others.
            let (avx, avx2) = (self.simd.avx, self.simd.avx2);
            let [low, high] = [self.low, self.high].map(|lane| {
                let turned = avx2._mm256_xor_si256(lane, avx._mm256_set1_epi8(0x02));
                let above = avx2._mm256_cmpgt_epi8(turned, avx._mm256_set1_epi8(0x20));
                avx2._mm256_andnot_si256(self.is(lane, b'\\'), above)
            });
            avx2._mm256_movemask_epi8(avx2._mm256_and_si256(low, high)) == -1
        }

        #[inline(always)]
        fn letters_and_digits(self) -> [u64; 2] {
            let (avx, avx2) = (self.simd.avx, self.simd.avx2);
            let (low, high) = (self.table(LOW), self.table(HIGH));
            [LETTER, DIGIT].map(
                #[inline(always)]
                |kind| {
                    self.bits(
                        #[inline(always)]
                        |lane| {
                            let kinds = avx2._mm256_and_si256(
                                avx2._mm256_shuffle_epi8(low, lane),
                                avx2._mm256_shuffle_epi8(high, self.above(lane)),
                            );
                            // Some bit of the kind is set. Kinds are below 0x80, so a signed comparison works.
                            let some = avx2._mm256_and_si256(kinds, avx._mm256_set1_epi8(kind as i8));
                            avx2._mm256_cmpgt_epi8(some, avx._mm256_setzero_si256())
                        },
                    )
                },
            )
        }
    }
}

#[inline(always)]
fn lane(bytes: &[u8; LANE]) -> i8x16 {
    i8x16::from(bytes.map(|byte| byte as i8))
}

/// Comparisons are signed: with the top bit flipped, unsigned order becomes signed order.
#[inline(always)]
fn control(lane: i8x16) -> i8x16 {
    i8x16::splat(0x20 ^ i8::MIN).cmp_gt(lane ^ i8x16::splat(i8::MIN))
}

#[inline(always)]
fn bits(lanes: [i8x16; 4]) -> u64 {
    let [a, b, c, d] = lanes.map(|lane| u64::from(lane.move_mask() as u32));
    a | b << 16 | c << 32 | d << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every predicate for every byte at every position.
    struct Answers;

    impl Work for Answers {
        type Output = ();

        fn run<B: Block>(self, load: impl Fn(&[u8; BLOCK]) -> B) {
            for byte in 0..=255_u8 {
                for at in 0..BLOCK {
                    let mut text = [b'a'; BLOCK];
                    text[at] = byte;
                    let block = load(&text);
                    assert_eq!(block.controls(), u64::from(byte < 0x20) << at);
                    if !b"\x0c\x1a".contains(&byte) {
                        assert_eq!(block.operators(), u64::from(b"{}[]:,".contains(&byte)) << at);
                    }
                    assert_eq!(block.spaces(), u64::from(b" \n\r\t".contains(&byte)) << at);
                    assert_eq!(block.is_wide(), byte > 0x7f);
                    assert_eq!(block.or(load(&[0; BLOCK])).is_wide(), byte > 0x7f);
                    assert_eq!(
                        block.quotes_and_controls(),
                        u64::from(byte < 0x20 || byte == b'"') << at
                    );
                    let is_letter = br#""\/bfnrtu"#.contains(&byte);
                    assert_eq!(block.is_text(), byte >= 0x20 && !b"\"\\".contains(&byte));
                    assert_eq!(block.is_ascii_text(), block.is_text() && byte <= 0x7f);
                    let [letters, digits] = block.letters_and_digits();
                    assert_eq!(letters, u64::from(is_letter) << at, "{byte:#x}");
                    // The surrounding text consists of digits.
                    let around = !(1 << at);
                    assert_eq!(digits, around | u64::from(byte.is_ascii_hexdigit()) << at, "{byte:#x}");
                    assert_eq!(block.equal(byte) >> at & 1, 1);
                    assert_eq!(block.equal(b'z'), u64::from(byte == b'z') << at);
                }
            }
        }
    }

    #[test]
    fn bits_are_bytes() {
        run(Answers);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            wide256::run(simd, Answers);
        }
        Answers.run(Narrow::load);
    }

    #[test]
    fn a_block_is_64_bytes() {
        assert!(at(&[0; 64], 0).is_some());
        assert!(at(&[0; 64], 1).is_none());
    }
}
