//! Calendar dates in UTC.

use crate::decimal::digits;

/// Formats a second since 1970, with zero milliseconds.
pub(crate) fn timestamp(second: i64) -> [u8; 24] {
    let (days, seconds) = (second.div_euclid(86_400), second.rem_euclid(86_400) as u64);
    let (year, month, day) = civil(days);
    let mut text = *b"YYYY-MM-DDThh:mm:ss.000Z";
    for (range, value) in [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, seconds / 3600),
        (14..16, seconds / 60 % 60),
        (17..19, seconds % 60),
    ] {
        digits(&mut text[range], value);
    }
    text
}

/// The year, month and day of a number of days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (u64, u64, u64) {
    // Counted from 1 March of year 0, in eras of 400 years, so that leap days come last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u64, month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = (1, 1, 1);
        for days in -719_162..2_932_897 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            let leap = u64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
            let length = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (month, day) if day == length => (year, month + 1, 1),
                (month, day) => (year, month, day + 1),
            };
        }
        assert_eq!(expected, (10_000, 1, 1));
    }
}
