//! Decimal digits, two at a time.

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        value += 1;
    }
    pairs
};

/// The digits of a number below a hundred, a zero included; of a larger one the last two.
#[inline(always)]
pub(crate) fn pair(value: u64) -> [u8; 2] {
    PAIRS[(value % 100) as usize]
}

/// The digits of a number, most significant first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal {
    digits: [u8; 20],
    from: u8,
}

impl Decimal {
    /// No digits at all.
    pub(crate) const EMPTY: Self = Self {
        digits: [b'0'; 20],
        from: 20,
    };

    /// A number without leading zeros.
    #[inline]
    pub(crate) fn new(value: u64) -> Self {
        // Most of what we write has few digits.
        if value < 100 {
            let mut digits = [b'0'; 20];
            digits[18..].copy_from_slice(&PAIRS[value as usize]);
            let from = if value < 10 { 19 } else { 18 };
            return Self { digits, from };
        }
        Self::long(value)
    }

    fn long(mut value: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut from = digits.len();
        for pair in digits.chunks_exact_mut(2).rev() {
            pair.copy_from_slice(&PAIRS[(value % 100) as usize]);
            from -= if value < 10 { 1 } else { 2 };
            value /= 100;
            if value == 0 {
                break;
            }
        }
        Self {
            digits,
            from: from as u8,
        }
    }

    /// The last three digits, zeros included.
    #[inline]
    pub(crate) fn three(value: u64) -> [u8; 3] {
        let [tens, ones] = PAIRS[(value % 100) as usize];
        [b'0' + (value / 100 % 10) as u8, tens, ones]
    }

    /// They.
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digits.get(usize::from(self.from)..).unwrap_or_default()
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.digits.len() - usize::from(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_display() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let numbers = powers.flat_map(|power| [power - 1, power, power + 1, power.saturating_mul(7)]);
        for number in numbers.chain(0..10_100).chain([u64::MAX]) {
            let decimal = Decimal::new(number);
            assert_eq!(decimal.as_bytes(), number.to_string().as_bytes());
            assert_eq!(decimal.len(), number.to_string().len());
            assert_eq!(&Decimal::three(number)[..], format!("{:03}", number % 1000).as_bytes());
        }
        assert_eq!((Decimal::EMPTY.as_bytes(), Decimal::EMPTY.len()), (&b""[..], 0));
    }
}
